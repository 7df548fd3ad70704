"""Whole slides as a source gives them: the files of one pyramid, of which one level is stored."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

from data_connectors.deid.facts import pixel_facts
from data_connectors.dicom.header import Header, guarded, parse_header
from data_connectors.dicom.identity import identity_of
from data_connectors.dicom.image import store_colour, store_grey
from data_connectors.dicom.series import Assembled
from data_connectors.dicom.slide import Level, read_level
from data_connectors.dicom.source import DicomSource
from data_connectors.dicom.volume import Stored
from data_connectors.files import Handle, fetch, refuse
from data_connectors.items import Refused
from medvlp.errors import InputError

_NEAR: Final = 0.5
"""How far a level may be from the resolution that is wanted: half a doubling."""


def group_slides(headers: Sequence[Header]) -> Iterator[tuple[Header, ...]]:
    """The levels of each slide, in the order of their first names: a slide is a series."""
    slides: dict[tuple[str, str, str], list[Header]] = {}
    for header in sorted(headers, key=lambda header: header.name):
        key = (header.patient, header.study, header.series or header.name)
        slides.setdefault(key, []).append(header)
    yield from (tuple(members) for members in slides.values())


def read_slide(source: DicomSource, names: tuple[str, ...]) -> Iterator[Assembled | Refused]:
    """The level of one slide that the source wants, as an image; all its levels are its inputs.

    Yields:
        Refusals of files that cannot be used, and at most one image.
    """
    levels: list[tuple[str, Level]] = []
    for name, handle in fetch(source.path, names):
        try:
            with opened(handle) as file:
                levels.append((name, read_level(file)))
        except InputError as error:
            yield refuse(error, (name,))
    levels.sort(key=lambda entry: entry[0])
    used = tuple(name for name, _ in levels)
    if not used:
        return
    try:
        name, level = levels[choose_level(source, [level for _, level in levels])]
        identity = identity_of(level.header, allow_missing_patient=source.allow_missing_patient)
        header = guarded(lambda: parse_header(level.header, name))
        stored = _read_whole(source, name)
    except InputError as error:
        yield refuse(error, used)
        return
    yield Assembled("image", stored, header, identity, used, pixel_facts(level.header))


def choose_level(source: DicomSource, levels: Sequence[Level]) -> int:
    """Index of the level to store: the nearest to `slide_um`, or the largest that may be.

    Raises:
        InputError: There is none (`slide-no-level`).
    """
    fits = [
        (level.shape[0] * level.shape[1], index)
        for index, level in enumerate(levels)
        if level.shape[0] * level.shape[1] <= source.slide_max_pixels
    ]
    if source.slide_um is None and fits:
        return max(fits)[1]
    if source.slide_um is not None:
        away = [
            (abs(math.log2(microns / source.slide_um)), index)
            for _, index in fits
            if (microns := levels[index].microns)
        ]
        if away and min(away)[0] <= _NEAR:
            return min(away)[1]
    raise InputError(
        "no level of the slide fits", code="slide-no-level",
        got=", ".join(f"{level.shape[0]} x {level.shape[1]}" for level in levels),
        limit=f"{source.slide_max_pixels} pixels"
        + (f", {source.slide_um} microns" if source.slide_um else ""),
        next_step="raise slide_max_pixels, or choose another slide_um",
    )  # fmt: skip


def _read_whole(source: DicomSource, name: str) -> Stored:
    """A whole level as a stored image.

    Raises:
        InputError: A tile cannot be decoded.
    """
    _, handle = next(iter(fetch(source.path, (name,))))
    with opened(handle) as file:
        level = read_level(file)
        rows, columns = level.shape
        pixels = level.read_region(file, 0, 0, columns, rows, max_bytes=source.max_bytes)
    if pixels.ndim == 3:
        return store_colour(pixels, level.spacing_mm)
    return store_grey(pixels, None, level.spacing_mm)


@contextmanager
def opened(handle: Handle) -> Iterator[BinaryIO]:
    """The bytes of an input, open for reading."""
    if isinstance(handle, Path):
        with handle.open("rb") as file:
            yield file
    else:
        yield handle
