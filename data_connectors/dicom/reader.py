"""Finds the units of a DICOM source and reads them (see `data_connectors.source`)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace

from data_connectors.deid.facts import pixel_facts
from data_connectors.dicom.decode import check_pixels
from data_connectors.dicom.dicomdir import check_dicomdir
from data_connectors.dicom.grouping import group_series
from data_connectors.dicom.header import (
    Header,
    guarded,
    parse_header,
    read_dataset,
)
from data_connectors.dicom.identity import identity_of
from data_connectors.dicom.index import index
from data_connectors.dicom.kinds import read_object, way_of
from data_connectors.dicom.pyramid import group_slides, read_slide
from data_connectors.dicom.series import Assembled, read_series
from data_connectors.dicom.source import DicomSource
from data_connectors.dicom.tables import Tables, load_tables, read_region
from data_connectors.files import fetch, refuse
from data_connectors.items import Item, Refused, Region, VisualItem
from data_connectors.source import Consulted, Spread, Unit, directly
from medvlp.errors import InputError
from medvlp.types import Text

_SERIES = "series"
"""Hint of a unit of slices; what sets it apart from the rest of its series may follow."""
_SLIDE = "slide"
"""Hint of a unit of the levels of a whole-slide image."""


def find(source: DicomSource, spread: Spread = directly) -> Iterator[Unit | Refused | Consulted]:
    """One unit a series of slices and one for every other object with pixels.

    Reads headers only. Everything that is no DICOM image is refused with its reason.

    Raises:
        ConfigError: A side table cannot be read.
        InputError: The source's path does not exist.
    """
    tables = load_tables(source)
    slices: list[Header] = []
    levels: list[Header] = []
    present: set[str] = set()
    indexes: list[str] = []
    for entry in index(source, spread):
        if isinstance(entry, Refused):
            present.update(entry.inputs)
            if entry.code == "dicom-dicomdir":
                indexes += entry.inputs
            else:
                yield entry
            continue
        present.add(entry.name)
        if entry.stacked:
            slices.append(entry)
            continue
        try:
            way = way_of(entry)
        except InputError as error:
            yield refuse(error, (entry.name,))
            continue
        if way == _SLIDE:
            levels.append(entry)
        else:
            yield _unit([entry], way, tables)
    for group in group_series(slices, source):
        yield _unit(group.members, f"{_SERIES} {group.part}".strip(), tables)
    for slide in group_slides(levels):
        yield _unit(slide, _SLIDE, tables)
    for name, handle in fetch(source.path, indexes):
        wrong = check_dicomdir(handle, name, present)
        yield from wrong
        if not wrong:
            yield Consulted((name,))


def read(source: DicomSource, unit: Unit) -> Iterator[Item]:
    """Decode one unit: a volume, an image or a clip, and refusals of what is broken in it.

    Raises:
        ConfigError: A side table cannot be read.
    """
    try:
        items = guarded(lambda: list(_read(source, unit)))
    except InputError as error:
        items = [refuse(error, unit.inputs)]
    yield from items


def _read(source: DicomSource, unit: Unit) -> Iterator[Item]:
    way, _, rest = unit.hint.partition(" ")
    if way in (_SERIES, _SLIDE):
        parts = (
            read_series(source, unit.inputs, part=rest)
            if way == _SERIES
            else read_slide(source, unit.inputs)
        )
        for part in parts:
            yield from [part] if isinstance(part, Refused) else _item(source, part)
        return
    for name, handle in fetch(source.path, unit.inputs):
        dataset = read_dataset(handle)
        check_pixels(dataset, max_bytes=source.max_bytes, max_frames=source.max_frames)
        identity = identity_of(dataset, allow_missing_patient=source.allow_missing_patient)
        header = parse_header(dataset, name)
        facts = pixel_facts(dataset)
        inputs: tuple[str, ...] = (name,)
        for found in read_object(source, dataset, way):
            if isinstance(found, Refused):
                yield replace(found, inputs=(name,))
                continue
            yield from _item(source, Assembled(*found, header, identity, inputs, facts))
            inputs = ()  # the first picture of an object stands for its file


def _item(source: DicomSource, part: Assembled) -> Iterator[Item]:
    """The item of a stored visual, with what the side tables say about it."""
    tables = load_tables(source)
    # A series stands for its slices; one instance alone may also be named by its own UID.
    uids = (part.header.series, part.header.sop_uid if len(part.inputs) < 2 else "")
    regions: list[Region] = []
    for row in tables.regions_of(*uids) if part.inputs else ():
        if part.stored.geometry.part:
            yield Refused(
                "region-of-split-series",
                "a region names a series that was split, so it fits several volumes",
                "name the region by an instance, or export the series in its parts",
            )
            continue
        try:
            regions.append(read_region(row, part.stored.geometry.shape or ()))
        except InputError as error:
            yield refuse(error, ())
    caption = Text("caption", "caption", source.caption)
    yield VisualItem(
        identity=part.identity,
        kind=part.kind,
        modality=part.header.modality,
        payload=part.stored.payload,
        geometry=part.stored.geometry,
        inputs=part.inputs,
        digest=part.stored.digest,
        texts=(caption,) if source.caption else (),
        labels=tables.labels_of(*uids),
        regions=tuple(regions),
        licence=source.licence,
        provenance=source.name,
        pixels=part.pixels,
    )


def _unit(headers: Sequence[Header], hint: str, tables: Tables) -> Unit:
    """A unit whose id changes when its files or what the side tables say about it change."""
    digest = hashlib.sha256(hint.encode())
    for header in headers:
        facts = (header.series, header.sop_uid, header.name, _said(tables, header.sop_uid))
        digest.update(repr(facts).encode("utf-8", "surrogateescape"))
    digest.update(repr(_said(tables, headers[0].series)).encode())
    return Unit(digest.hexdigest(), tuple(sorted(header.name for header in headers)), hint)


def _said(tables: Tables, uid: str) -> tuple[object, ...]:
    """What the tables say about a series or instance, independent of where they lie."""
    regions = [(row.concept, row.side, row.mask.name) for row in tables.regions_of(uid)]
    return tables.labels_of(uid), regions
