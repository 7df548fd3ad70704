"""Siemens mosaics: the slices of a volume as tiles of one picture.

The position in the header is that of a slice as large as the whole picture, about the same centre
as the tiles' slices (nibabel's documentation of "Siemens mosaic"); which way the slices go is in
the private header only.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from pydicom.dataset import Dataset

from data_connectors.dicom.csa import Csa, read_csa
from data_connectors.dicom.decode import stored_frame
from data_connectors.dicom.geometry import canonical, single
from data_connectors.dicom.header import guarded, number, plane_of, whole
from data_connectors.dicom.source import DicomSource
from data_connectors.dicom.stacking import check_size
from data_connectors.dicom.values import meaning_of
from data_connectors.dicom.volume import Stored, VolumeBuilder, store_volume
from medvlp.errors import GeometryError, InputError
from medvlp.types import Volume

_NEXT = "export it from the scanner as single slices or as enhanced multi-frame"


class Mosaic(NamedTuple):
    """How the tiles of one picture form a volume."""

    tiles: int
    """Tiles a row of the picture, and rows of tiles."""
    shape: tuple[int, int, int]
    """(slices, rows, columns) of the volume."""
    affine: np.ndarray
    """float64 [4, 4]; [slice, row, column, 1] -> LPS mm."""
    time_s: float | None
    """When it was taken, from the first volume of the series; None where it is not known."""


def layout(dataset: Dataset) -> Mosaic:
    """Read the layout and place of a mosaic from its headers.

    Raises:
        GeometryError: The private header is missing or says nothing useful
            (`dicom-mosaic-header`), or the tiles do not fit the picture (`dicom-mosaic-layout`).
    """
    private = guarded(lambda: read_csa(dataset))
    plane = plane_of(dataset, dataset, dataset)
    if plane is None:
        raise _silent("position, orientation or pixel spacing")
    slices = _count(private)
    rows, columns = whole(dataset, "Rows"), whole(dataset, "Columns")
    tiles = math.isqrt(slices - 1) + 1
    if rows % tiles or columns % tiles:
        raise GeometryError(
            "the tiles of a mosaic do not fit its size", code="dicom-mosaic-layout",
            got=f"{slices} slices in {rows} x {columns}", next_step=_NEXT,
        )  # fmt: skip
    height, width = rows // tiles, columns // tiles
    affine = single(plane, abs(number(dataset, "SpacingBetweenSlices") or 0.0)).affine
    affine[:3, 0] *= _sign(private, np.cross(plane.along_row, plane.along_column))
    if not affine[:3, 0].any():
        raise _silent("the spacing between slices")
    off = affine[:3, 1] * (rows - height) / 2 + affine[:3, 2] * (columns - width) / 2
    affine[:3, 3] += off
    return Mosaic(tiles, (slices, height, width), affine, _time_s(dataset))


def load_mosaic(source: DicomSource, dataset: Dataset) -> tuple[Volume, float | None]:
    """The volume in one mosaic, and its time in seconds from the first of its series.

    Args:
        source: The limits that hold.
        dataset: A whole object that passed `check_pixels`.

    Raises:
        InputError: The layout cannot be known, or the pixels cannot be decoded.
    """
    mosaic = layout(dataset)
    slices, height, width = mosaic.shape
    check_size(source, slices, height, width)
    stored = stored_frame(dataset, 0)
    if stored.ndim != 2:
        raise InputError("a mosaic is in colour", code="series-mixed-colour")
    meaning = meaning_of(dataset)
    values = meaning.apply(stored)
    frame = canonical(mosaic.affine, mosaic.shape)
    builder = VolumeBuilder(frame, mosaic.shape)
    for index in range(slices):
        top, left = (index // mosaic.tiles) * height, (index % mosaic.tiles) * width
        builder.put(index, values[top : top + height, left : left + width])
    return builder.finish(meaning.unit, meaning.window), mosaic.time_s


def read_mosaic(source: DicomSource, dataset: Dataset) -> Stored:
    """What `load_mosaic` gives, as it goes into the dataset; `start_s` says when it was taken."""
    volume, time_s = load_mosaic(source, dataset)
    stored = store_volume(volume)
    return replace(stored, geometry=replace(stored.geometry, start_s=time_s))


def _time_s(dataset: Dataset) -> float | None:
    """Siemens counts the volumes of a series in AcquisitionNumber, one a repetition time."""
    count, repetition = number(dataset, "AcquisitionNumber"), number(dataset, "RepetitionTime")
    if count is None or count < 1 or not repetition or repetition <= 0:
        return None
    return (count - 1) * repetition / 1000


def _count(private: Csa) -> int:
    text = (private.get("NumberOfImagesInMosaic") or ("",))[0]
    if not text.isdecimal() or not 0 < int(text[:6]) == int(text):
        raise _silent("how many slices it holds")
    return int(text)


def _sign(private: Csa, normal: np.ndarray) -> float:
    """1 where the slices go along the normal of their pixels, -1 where against it."""
    try:
        given = np.array([float(value) for value in private.get("SliceNormalVector", ())])
    except ValueError:
        given = np.zeros(0)
    along = float(given @ normal) if given.shape == (3,) else math.nan
    if not 0.99 < abs(along) < 1.01:  # also true for nan
        raise _silent("which way its slices go")
    return math.copysign(1.0, along)


def _silent(what: str) -> GeometryError:
    return GeometryError(
        f"a mosaic does not say {what}", code="dicom-mosaic-header", next_step=_NEXT
    )
