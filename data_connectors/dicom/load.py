"""DICOM series as volumes in memory, for users of the library."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from data_connectors.dicom.decode import check_pixels
from data_connectors.dicom.grouping import group_series
from data_connectors.dicom.header import Header, read_dataset, read_header
from data_connectors.dicom.multiframe import load_enhanced
from data_connectors.dicom.series import LoadedSeries, load_series
from data_connectors.dicom.source import DicomSource
from data_connectors.files import Handle, fetch, refuse, scan
from data_connectors.items import Refused
from medvlp.errors import GeometryError, InputError
from medvlp.types import Volume


def load_volume(path: str | Path | Sequence[str | Path], **keys: Any) -> Volume:
    """Read the one volume that a folder, an archive or some files hold.

        from data_connectors.dicom import load_volume

        volume = load_volume("archive/ct-chest")
        volume.array        # int16 [D, H, W], Hounsfield units
        volume.affine       # [d, h, w, 1] -> LPS millimetres
        volume = load_volume("archive/head", tilt="keep")

    Args:
        path: A folder (searched to its bottom), a `.tar`, one file, or the files of a series.
        keys: Keys of `DicomSource`, such as `spacing_tolerance_mm` or `tilt`.

    Raises:
        GeometryError: The slices form no volume; code and message as in the quarantine list.
        InputError: There is none, there are several (`series-several`), or a file is broken.
        ConfigError: A key is wrong.
    """
    series: list[LoadedSeries] = []
    refused: list[Refused] = []
    for part in load_all(path, **keys):
        if isinstance(part, Refused):
            refused.append(part)
        elif part.kind == "volume":
            series.append(part)
    if len(series) > 1:
        raise InputError(
            "there are several volumes", code="series-several", got=len(series), limit=1,
            next_step="give the files of one, or use load_all",
        )  # fmt: skip
    for refusal in refused:
        if not series or refusal.code not in _HARMLESS:
            kind = GeometryError if refusal.code.startswith("series-") else InputError
            raise kind(refusal.reason, code=refusal.code, next_step=refusal.next_step)
    if not series:
        raise InputError("there is no volume", code="series-none")
    return series[0].volume


_HARMLESS = {"not-dicom", "dicom-no-image", "dicom-dicomdir", "dicom-duplicate-instance"}
"""What may lie beside a volume."""


def load_all(
    path: str | Path | Sequence[str | Path], **keys: Any
) -> Iterator[LoadedSeries | Refused]:
    """Every series of a folder, an archive or some files, and every refusal.

    Args:
        path: As for `load_volume`.
        keys: Keys of `DicomSource`.

    Yields:
        One series at a time, so that one volume is in memory at a time.

    Raises:
        InputError: The path does not exist.
        ConfigError: A key is wrong.
    """
    root, names = _root(path)
    known = {"name": "dicom", "allow_missing_patient": True, **keys}
    source = DicomSource(path=root, **known)
    slices: list[Header] = []
    for entry in _entries(source, names):
        if isinstance(entry, Refused):
            yield entry
            continue
        name, handle = entry
        try:
            header = read_header(handle, name)
        except InputError as error:
            yield refuse(error, (name,))
            continue
        if header.stacked:
            slices.append(header)
        elif header.enhanced:
            yield from _enhanced(source, name, handle)
    for group in group_series(slices, source):
        names_of_group = tuple(header.name for header in group.members)
        yield from load_series(source, names_of_group, part=group.part)


def _enhanced(source: DicomSource, name: str, handle: Handle) -> Iterator[LoadedSeries | Refused]:
    try:
        dataset = read_dataset(handle)
        check_pixels(dataset, max_bytes=source.max_bytes, max_frames=source.max_frames)
        yield from load_enhanced(source, dataset, name)
    except InputError as error:
        yield refuse(error, (name,))


def _root(path: str | Path | Sequence[str | Path]) -> tuple[Path, list[str]]:
    """A source's path, and the names in it; no names: all."""
    if isinstance(path, str | Path):
        return Path(path), []
    files = [Path(part).resolve() for part in path]
    if not files:
        raise InputError("no file was given", code="source-missing")
    root = Path(os.path.commonpath([file.parent for file in files]))
    return root, [file.relative_to(root).as_posix() for file in files]


def _entries(source: DicomSource, names: list[str]) -> Iterator[tuple[str, Handle] | Refused]:
    if names:
        yield from fetch(source.path, names)
    else:
        yield from scan(source.path, max_files=source.max_files, max_bytes=source.max_bytes)
