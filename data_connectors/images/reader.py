"""Finds the images of a source and reads them (see `data_connectors.source`)."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import PurePosixPath

from data_connectors.dicom.volume import Stored, store_volume
from data_connectors.files import Handle, fetch, refuse, scan
from data_connectors.images.nifti import is_nifti, read_nifti
from data_connectors.images.pixels import looks_like_image, read_picture
from data_connectors.images.source import ImagesSource
from data_connectors.images.table import Matched, Row, cell, match_rows, read_table, table_path
from data_connectors.images.texts import describe
from data_connectors.items import Identity, Item, Payload, Refused, VisualItem
from data_connectors.source import Spread, Unit, directly
from medvlp.errors import InputError
from medvlp.types import Geometry
from medvlp.types import Unit as DataUnit

_SUFFIXES = {".png", ".jpg", ".jpeg", ".jpe", ".gif"}
_START = 16
_UNITS = ("HU", "raw")


def find(source: ImagesSource, spread: Spread = directly) -> Iterator[Unit | Refused]:
    """One unit an image, with the numbers of its rows.

    Raises:
        ConfigError: The table cannot be read.
        InputError: The source's path does not exist.
    """
    rows = read_table(source)
    table = table_path(source)
    names: list[str] = []
    found = scan(
        source.path,
        max_files=source.max_files,
        max_bytes=source.max_bytes,
        skip=() if table is None else (table,),
        expand=False,
    )
    for entry in found:
        if isinstance(entry, Refused):
            yield entry
        elif is_nifti(entry[0]) or looks_like_image(_start(entry[1])):
            names.append(entry[0])
        else:
            yield _no_image(entry[0])
    if table is None:
        yield from (_unit(name, (), ()) for name in names)
        return
    matched = match_rows(source, rows, names)
    for name in names:
        if name in matched.rows:
            yield _unit(name, matched.rows[name], rows)
        else:
            reason = "no row of the table names this image"
            yield Refused("row-missing", reason, "add a row, or remove the image", (name,))
    yield from _bad_rows(matched)


def read(source: ImagesSource, unit: Unit) -> Iterator[Item]:
    """Decode one image and read its rows.

    Raises:
        ConfigError: The table cannot be read.
    """
    try:
        yield _read(source, unit)
    except InputError as error:
        yield refuse(error, unit.inputs)


def _read(source: ImagesSource, unit: Unit) -> VisualItem:
    table = read_table(source)
    rows: list[Row] = [table[number] for number in json.loads(unit.hint)]
    first: Row = rows[0] if rows else {}
    (name,) = unit.inputs
    identity = _identity(source, name, rows)
    said = describe(source, rows)
    _, handle = next(fetch(source.path, unit.inputs, expand=False))
    volume = is_nifti(name)
    stored = _volume(source, handle, name, rows) if volume else _picture(source, handle)
    return VisualItem(
        identity=identity,
        kind="volume" if volume else "image",
        modality=cell(first, source.modality_column) or source.modality,
        payload=stored.payload,
        geometry=stored.geometry,
        inputs=unit.inputs,
        digest=stored.digest,
        texts=said.texts,
        findings=said.findings,
        labels=said.labels,
        licence=cell(first, source.licence_column) or source.licence,
        provenance=source.name,
    )


def _picture(source: ImagesSource, handle: Handle) -> Stored:
    data = handle.getvalue() if isinstance(handle, BytesIO) else handle.read_bytes()
    picture = read_picture(data, max_pixels=source.max_pixels)
    geometry = Geometry(shape=picture.shape, unit="rgb" if len(picture.shape) == 3 else "raw")
    return Stored(Payload(((picture.extension, picture.data),)), geometry, picture.digest)


def _volume(source: ImagesSource, handle: Handle, name: str, rows: Sequence[Row]) -> Stored:
    units = {cell(row, source.unit_column) or source.volume_unit for row in rows}
    units = units or {source.volume_unit}
    if len(units) > 1 or not units <= set(_UNITS):
        raise InputError(
            "the table names no unit, or several", code="unit-unknown",
            limit=" or ".join(_UNITS), next_step="correct unit_column",
        )  # fmt: skip
    unit: DataUnit = "HU" if units == {"HU"} else "raw"
    volume = read_nifti(handle, name, max_bytes=source.max_bytes, unit=unit)
    return store_volume(volume)


def _identity(source: ImagesSource, name: str, rows: Sequence[Row]) -> Identity:
    """The patient: from the table, else from the file's path, else the image itself."""
    patients = {cell(row, source.patient_column) for row in rows} - {""}
    if len(patients) > 1:
        raise InputError("the rows of one image name several patients", code="patient-ambiguous")
    patient = patients.pop() if patients else ""
    if not patient and source.patient_pattern:
        match = re.search(source.patient_pattern, name)
        patient = (match[1] or "") if match else ""
    if not patient and source.patient_per_image:
        patient = name
    if not patient:
        raise InputError(
            "nothing names the patient of this image", code="patient-id-missing",
            next_step="fill patient_column, or fit patient_pattern to the file names",
        )  # fmt: skip
    study = next((study for row in rows if (study := cell(row, source.study_column))), "")
    return Identity(patient=patient, study=study)


def _bad_rows(matched: Matched) -> Iterator[Refused]:
    for code, reason, numbers in (
        ("image-missing", "the image that a row names is not there", matched.missing),
        ("image-ambiguous", "the name in a row fits several images", matched.ambiguous),
        ("row-without-image", "a row names no image", matched.nameless),
    ):
        for number in numbers:
            yield Refused(code, f"{reason} (row {number + 1})", "correct the table")


def _no_image(name: str) -> Refused:
    if PurePosixPath(name).suffix.lower() in _SUFFIXES:
        reason = "the file is named like an image but does not begin like one"
        return Refused("image-not-decodable", reason, "copy it again", (name,))
    return Refused("not-image", "the file is no PNG, JPEG, GIF or NIfTI", "nothing", (name,))


def _start(handle: Handle) -> bytes:
    if isinstance(handle, BytesIO):
        return handle.getvalue()[:_START]
    try:
        with handle.open("rb") as file:
            return file.read(_START)
    except OSError:
        return b""


def _unit(name: str, numbers: Sequence[int], rows: Sequence[Row]) -> Unit:
    """A unit whose id changes when a row of the image changes."""
    said = json.dumps([sorted(rows[number].items()) for number in numbers])
    digest = hashlib.sha256(f"{name}\0{said}".encode("utf-8", "surrogateescape"))
    return Unit(digest.hexdigest(), (name,), json.dumps(list(numbers)))
