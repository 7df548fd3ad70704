"""From a grid and its slices to a volume in the patient's axes, tilt taken out where asked."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from data_connectors.dicom.geometry import Canonical, Grid, as_acquired, canonical, stack
from data_connectors.dicom.header import Plane
from data_connectors.dicom.source import DicomReading
from data_connectors.dicom.tilt import straighten, straightened
from data_connectors.dicom.values import AIR_HU
from data_connectors.dicom.volume import VolumeBuilder
from medvlp.errors import GeometryError
from medvlp.types import Unit, Volume


class Stacked(NamedTuple):
    """A volume, and how the stack became it."""

    volume: Volume
    frame: Canonical
    resampled: bool


def grid_of(reading: DicomReading, planes: list[Plane | None], labels: list[str]) -> Grid:
    """The grid of several planes, as the keys of reading allow.

    Raises:
        GeometryError: They form none, or too few.
    """
    if len(planes) < reading.min_slices:
        raise GeometryError(
            "too few slices for a volume", code="series-too-short",
            got=len(planes), limit=reading.min_slices,
        )  # fmt: skip
    return stack(
        planes,
        tolerance_mm=reading.spacing_tolerance_mm,
        keep_tilt=reading.tilt != "refuse",
        keep_irregular=reading.irregular == "keep",
        labels=labels,
    )


def check_size(reading: DicomReading, slices: int, rows: int, columns: int) -> None:
    """Refuse a volume that is larger than the source allows, before it is allocated.

    Raises:
        GeometryError: `dicom-too-large`.
    """
    size = slices * rows * columns * 2
    if slices > reading.max_frames or size > reading.max_bytes:
        raise GeometryError(
            "the volume would be too large", code="dicom-too-large",
            got=f"{slices} slices, {size} bytes",
            limit=f"{reading.max_frames} slices, {reading.max_bytes} bytes",
            next_step="raise max_frames or max_bytes if it is genuine",
        )  # fmt: skip


def begin(
    reading: DicomReading, grid: Grid, shape: tuple[int, int, int], *, image: bool = False
) -> VolumeBuilder:
    """Room for the slices of a grid; an image, and what is to be resampled, stays as acquired."""
    if image or _resampled(reading, grid):
        return VolumeBuilder(as_acquired(grid.affine), shape)
    return VolumeBuilder(canonical(grid.affine, shape, grid.positions_mm), shape)


def finish(
    reading: DicomReading,
    builder: VolumeBuilder,
    grid: Grid,
    unit: Unit,
    window: tuple[float, float] | None,
) -> Stacked:
    """The volume of the slices that were put."""
    volume = builder.finish(unit, window)
    if not _resampled(reading, grid):
        return Stacked(volume, builder.frame, False)
    shape = (volume.array.shape[0], volume.array.shape[1], volume.array.shape[2])
    straight, room = straightened(grid, shape)
    check_size(reading, *room)
    outside = AIR_HU if unit == "HU" else float(volume.array.min())
    moved = straighten(volume.array, grid, outside)
    frame = canonical(straight.affine, room, straight.positions_mm)
    array: np.ndarray = frame.reorient(moved)
    changed = replace(volume, array=array, affine=frame.affine, positions_mm=frame.positions_mm)
    return Stacked(changed, frame, True)


def _resampled(reading: DicomReading, grid: Grid) -> bool:
    return reading.tilt == "resample" and grid.tilted
