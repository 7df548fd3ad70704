"""A series of single-frame slices -> one volume, or refusals that name what is wrong.

`load_series` gives the volume in memory, `read_series` as it goes into the dataset.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import reduce
from operator import or_
from typing import NamedTuple

import numpy as np

from data_connectors.dicom.geometry import Canonical, Grid, canonical, single
from data_connectors.dicom.header import Header, read_dataset
from data_connectors.dicom.identity import identity_of
from data_connectors.dicom.image import store_grey
from data_connectors.dicom.likeness import content
from data_connectors.dicom.quiet import quiet
from data_connectors.dicom.slices import decode_slices
from data_connectors.dicom.slots import Slot, convert_uptake, in_order, read_slots
from data_connectors.dicom.source import DicomSource
from data_connectors.dicom.stacking import Stacked, begin, check_size, finish, grid_of
from data_connectors.dicom.volume import Stored, VolumeBuilder, store_volume
from data_connectors.files import fetch, refuse
from data_connectors.items import Identity, PixelFacts, Refused
from medvlp.errors import GeometryError, InputError
from medvlp.types import Kind, Volume


@dataclass(frozen=True, slots=True, eq=False)
class LoadedSeries:
    """A series in memory."""

    volume: Volume
    """Real values on the patient's axes; a lone slice that is an image is [1, rows, columns]."""
    kind: Kind
    """`image` for a lone slice that is no axial CT, else `volume`."""
    header: Header
    """Of the first slice along the normal."""
    identity: Identity
    names: tuple[str, ...]
    """The files used, one a slice, in their order along the normal of the slices."""
    frames: tuple[int, ...]
    """Which frame of its file each slice is, from 0."""
    frame: Canonical
    """How the stack became the volume: `frame.view(volume.array)[k]` are the pixels, [row,
    column] as they were acquired, of `names[k]` (moved within their plane if resampled)."""
    pixels: PixelFacts
    """What any of the headers says about persons in the pixels."""
    resampled: bool = False
    """Whether a gantry tilt was taken out."""
    part: str = ""
    """What sets it apart from the rest of its series, `EchoTime 2 of 3`; empty: it is all."""


class Assembled(NamedTuple):
    """A visual as it goes into the dataset, with what its first header says."""

    kind: Kind
    stored: Stored
    header: Header
    identity: Identity
    inputs: tuple[str, ...]
    pixels: PixelFacts = PixelFacts()


def load_series(
    source: DicomSource, names: tuple[str, ...], *, part: str = ""
) -> Iterator[LoadedSeries | Refused]:
    """Read the slices of one series.

    A broken slice is refused by itself and the series decided on without it; whatever then forms
    no regular grid is refused as a whole. A series of one slice is an image, or a volume of one
    slice if it is an axial CT, whose Hounsfield units an image file could not hold.

    Args:
        source: Where the files are, and the limits and tolerances that hold.
        names: The files of one group of `group_series`, relative to the source's path.
        part: What sets the group apart from the rest of its series.

    Yields:
        At most one series; every name is in exactly one yielded thing.
    """
    slots, refused, places = read_slots(source, names)
    try:
        convert_uptake(source, slots)
        built = _assemble(source, slots, places == 1, refused)
    except InputError as error:
        yield from refused
        spent = tuple(name for slot in in_order(slots) for name in slot.names)
        if spent:
            found = refuse(error, spent)
            yield replace(found, reason=f"{part}: {found.reason}") if part else found
        return
    yield from refused
    yield from (_copy(name) for slot in built.slots for name in slot.names[1:])
    first = built.slots[0]
    yield LoadedSeries(
        volume=built.stacked.volume,
        kind="image" if built.image else "volume",
        header=first.header,
        identity=_identity(source, first),
        names=tuple(slot.names[0] for slot in built.slots),
        frames=(0,) * len(built.slots),
        frame=built.stacked.frame,
        resampled=built.stacked.resampled,
        part=part,
        pixels=reduce(or_, (slot.pixels for slot in built.slots)),
    )


def read_series(
    source: DicomSource, names: tuple[str, ...], *, part: str = ""
) -> Iterator[Assembled | Refused]:
    """What `load_series` gives, as it goes into the dataset."""
    for loaded in load_series(source, names, part=part):
        yield loaded if isinstance(loaded, Refused) else assembled(loaded)


def assembled(loaded: LoadedSeries) -> Assembled:
    """A loaded series as it goes into the dataset."""
    if loaded.kind == "image":
        plane = loaded.header.plane
        spacing = None if plane is None else plane.spacing
        stored = store_grey(loaded.volume.array[0], loaded.volume.window, spacing)
    else:
        stored = store_volume(loaded.volume, part=loaded.part)
    inputs = tuple(sorted(set(loaded.names)))
    return Assembled(loaded.kind, stored, loaded.header, loaded.identity, inputs, loaded.pixels)


def _identity(source: DicomSource, slot: Slot) -> Identity:
    """Who the slice belongs to, by its whole header."""
    [(_, handle)] = fetch(source.path, slot.names[:1])
    dataset = read_dataset(handle)
    return identity_of(dataset, allow_missing_patient=source.allow_missing_patient)


class _Built(NamedTuple):
    stacked: Stacked
    slots: list[Slot]
    """In the order of the stack."""
    image: bool


def _assemble(
    source: DicomSource, slots: list[Slot], alone: bool, refused: list[Refused]
) -> _Built:
    """Decide on a grid and fill it; slices that do not decode are left out and it starts again.

    `slots` shrinks and `refused` grows by what was left out, so that the caller knows what an
    error covers.
    """
    while True:
        grid = _grid(source, slots, alone)
        ordered = [slots[index] for index in grid.order]
        first = ordered[0].header
        shape = (len(ordered), first.rows, first.columns)
        unit = ordered[0].meaning.unit
        image = alone and (
            unit != "HU" or first.plane is None or canonical(grid.affine, shape).axes[0] != 0
        )
        builder = begin(source, grid, shape, image=image)
        broken = _fill(source, builder, ordered)
        refused += [refuse(error, (name,)) for name, error in sorted(broken.items())]
        for slot in slots:
            slot.names = [name for name in slot.names if name not in broken]
        if all(slot.names for slot in slots):
            window = ordered[len(ordered) // 2].meaning.window
            return _Built(finish(source, builder, grid, unit, window), ordered, image)
        slots[:] = [slot for slot in slots if slot.names]


def _grid(source: DicomSource, slots: list[Slot], alone: bool) -> Grid:
    """The grid of the slots.

    Raises:
        GeometryError: They form none.
    """
    if not slots:
        raise GeometryError("no slice of the series is left", code="series-empty")
    _check_uniform(slots)
    header = slots[0].header
    if alone:
        if header.plane is None:
            return Grid((0,), np.eye(4))
        return single(header.plane, slots[0].thickness)
    check_size(source, len(slots), header.rows, header.columns)
    planes = [slot.header.plane for slot in slots]
    return grid_of(source, planes, [slot.label for slot in slots])


def _check_uniform(slots: list[Slot]) -> None:
    """One size, unit, meaning, frame of reference and patient in a series."""
    ordered = in_order(slots)
    facts: tuple[tuple[str, str, list[object]], ...] = (
        ("patients", "series-mixed-patient", [s.header.patient for s in ordered]),
        ("studies", "series-mixed-study", [s.header.study for s in ordered]),
        ("image sizes", "series-mixed-size", [(s.header.rows, s.header.columns) for s in ordered]),
        ("units", "series-mixed-unit", [s.meaning.unit for s in ordered]),
        ("image types", "series-mixed-image-type", [content(s.header) for s in ordered]),
        (
            "frames of reference",
            "series-mixed-frame-of-reference",
            [s.header.frame_of_reference for s in ordered],
        ),
    )
    for what, code, values in facts:
        if len(set(values)) > 1:
            most = Counter(values).most_common(1)[0][0]
            odd = [index for index, value in enumerate(values) if value != most]
            named = ", ".join(f"{index + 1} ({ordered[index].label})" for index in odd[:10])
            raise GeometryError(
                f"the series has several {what}", code=code,
                got=f"{len(set(values))}; slices {named}{', ...' if len(odd) > 10 else ''} of "
                f"{len(ordered)} differ from most",
                next_step="split the series, or export it again from the archive",
            )  # fmt: skip


def _fill(
    source: DicomSource, builder: VolumeBuilder, ordered: list[Slot]
) -> dict[str, InputError]:
    """Decode every file into its place; return what did not decode.

    Raises:
        GeometryError: Two copies of one instance show different pixels.
    """
    place = {name: index for index, slot in enumerate(ordered) for name in slot.names}
    broken: dict[str, InputError] = {}
    filled: set[int] = set()
    with quiet():
        for name, values in decode_slices(source, ordered):
            index = place[name]
            if isinstance(values, InputError):
                broken[name] = values
                continue
            if index in filled and not np.array_equal(builder.get(index), values):
                raise GeometryError(
                    "two files claim to be one image but differ", code="series-conflicting-copies",
                    got=f"slice {index + 1} of {len(ordered)} ({ordered[index].label})",
                    next_step="export the series again from the archive",
                )  # fmt: skip
            filled.add(index)
            builder.put(index, values)
    return broken


def _copy(name: str) -> Refused:
    return Refused(
        "dicom-duplicate-instance",
        "the same image is in the source more than once",
        "nothing; one copy was used",
        (name,),
    )
