"""Enhanced multi-frame objects: one file, many planes (PS3.3 C.7.6.16)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from pydicom.dataset import Dataset

from data_connectors.dicom.decode import stored_frame
from data_connectors.dicom.geometry import canonical, single, stack
from data_connectors.dicom.header import Plane, guarded, number, plane_of, whole
from data_connectors.dicom.image import store_grey
from data_connectors.dicom.series import check_size
from data_connectors.dicom.source import DicomSource
from data_connectors.dicom.values import Meaning, meaning_of
from data_connectors.dicom.volume import Stored, VolumeBuilder, store_volume
from medvlp.errors import GeometryError, InputError
from medvlp.types import Kind, Unit


class _Frame(NamedTuple):
    plane: Plane | None
    meaning: Meaning
    thickness: float


def read_enhanced(source: DicomSource, dataset: Dataset) -> tuple[Kind, Stored]:
    """The frames of one object as a volume; a single frame that is no axial CT as an image.

    Raises:
        InputError: The frames form no regular grid, or cannot be decoded.
    """
    frames = guarded(lambda: _frames(dataset))
    rows, columns = whole(dataset, "Rows"), whole(dataset, "Columns")
    check_size(source, len(frames), rows, columns)
    units = {frame.meaning.unit for frame in frames}
    if len(units) > 1:
        raise GeometryError("the frames have several units", code="series-mixed-unit")
    unit = units.pop()
    if len(frames) == 1:
        return _read_single(dataset, frames[0], unit)
    if len(frames) < source.min_slices:
        raise GeometryError(
            "too few slices for a volume", code="series-too-short",
            got=len(frames), limit=source.min_slices,
        )  # fmt: skip
    grid = stack(
        [frame.plane for frame in frames],
        tolerance_mm=source.spacing_tolerance_mm,
        keep_tilt=source.tilt == "keep",
    )
    shape = (len(frames), rows, columns)
    builder = VolumeBuilder(canonical(grid.affine, shape), shape)
    for place, index in enumerate(grid.order):
        builder.put(place, _values(dataset, index, frames[index]))
    window = frames[grid.order[len(frames) // 2]].meaning.window
    return "volume", store_volume(builder.finish(unit, window))


def _read_single(dataset: Dataset, frame: _Frame, unit: Unit) -> tuple[Kind, Stored]:
    values = _values(dataset, 0, frame)
    if unit == "HU" and frame.plane is not None:
        grid = single(frame.plane, frame.thickness)
        shape = (1, *values.shape)
        if canonical(grid.affine, shape).axes[0] == 0:
            builder = VolumeBuilder(canonical(grid.affine, shape), shape)
            builder.put(0, values)
            return "volume", store_volume(builder.finish(unit, frame.meaning.window))
    spacing = None if frame.plane is None else frame.plane.spacing
    return "image", store_grey(values, frame.meaning.window, spacing)


def _values(dataset: Dataset, index: int, frame: _Frame) -> np.ndarray:
    stored = stored_frame(dataset, index)
    if stored.ndim != 2:
        raise InputError("a slice is in colour", code="series-mixed-colour")
    return frame.meaning.apply(stored)


def _frames(dataset: Dataset) -> list[_Frame]:
    """One entry a frame; per-frame macros win over shared ones, those over the top level."""
    count = max(1, whole(dataset, "NumberOfFrames"))
    per_frame = list(dataset.get("PerFrameFunctionalGroupsSequence") or [])
    shared = list(dataset.get("SharedFunctionalGroupsSequence") or []) or [Dataset()]
    if per_frame and len(per_frame) != count:
        raise InputError(
            "the functional groups do not match the number of frames", code="dicom-malformed",
            got=len(per_frame), limit=count,
        )  # fmt: skip
    return [
        _frame(dataset, shared[0], per_frame[index] if per_frame else Dataset())
        for index in range(count)
    ]


def _frame(dataset: Dataset, shared: Dataset, own: Dataset) -> _Frame:
    def macro(keyword: str) -> Dataset:
        for group in (own, shared):
            items = group.get(keyword)
            if items:
                return items[0]  # type: ignore[no-any-return]
        return Dataset()

    values = macro("PixelValueTransformationSequence")
    measures = macro("PixelMeasuresSequence")
    plane = plane_of(macro("PlanePositionSequence"), macro("PlaneOrientationSequence"), measures)
    return _Frame(
        plane=plane,
        meaning=meaning_of(dataset, transform=values or None, view=macro("FrameVOILUTSequence")),
        thickness=abs(number(measures, "SliceThickness") or 1.0),
    )
