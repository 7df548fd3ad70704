"""Nuclear medicine: reconstructed tomograms are volumes (PS3.3 C.8.4.8, C.8.4.15)."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np
from pydicom.dataset import Dataset

from data_connectors.dicom.decode import stored_frame
from data_connectors.dicom.geometry import canonical, stack
from data_connectors.dicom.header import Plane, guarded, number, numbers, plane_of, texts, whole
from data_connectors.dicom.source import DicomSource
from data_connectors.dicom.stacking import check_size
from data_connectors.dicom.values import meaning_of
from data_connectors.dicom.volume import Stored, VolumeBuilder, store_volume
from medvlp.errors import GeometryError, InputError

_TOMOGRAM: Final = "RECON TOMO"
_OTHERS: Final = {
    "STATIC", "WHOLE BODY", "DYNAMIC", "GATED", "TOMO", "GATED TOMO", "RECON GATED TOMO",
    "RECON TOMO",
}  # fmt: skip


def read_nuclear(source: DicomSource, dataset: Dataset) -> Stored:
    """The slices of a reconstructed tomogram as a volume of counts.

    Raises:
        GeometryError: Its slices have no place in the patient, or form no regular grid.
        InputError: It is another kind of multi-frame object (`dicom-unsupported`, by name), or
            cannot be decoded.
    """
    kind = (*(part.upper() for part in texts(dataset, "ImageType")), "", "", "")[2]
    if kind != _TOMOGRAM:
        raise InputError(
            "of nuclear medicine, only reconstructed tomograms and single frames are read",
            code="dicom-unsupported", got=kind if kind in _OTHERS else None,
            limit=_TOMOGRAM, next_step="nothing",
        )  # fmt: skip
    planes = guarded(lambda: _planes(dataset))
    rows, columns = whole(dataset, "Rows"), whole(dataset, "Columns")
    check_size(source, len(planes), rows, columns)
    grid = stack(planes, tolerance_mm=source.spacing_tolerance_mm)
    shape = (len(planes), rows, columns)
    meaning = meaning_of(dataset)
    builder = VolumeBuilder(canonical(grid.affine, shape), shape)
    for place, index in enumerate(grid.order):
        stored = stored_frame(dataset, index)
        if stored.ndim != 2:
            raise InputError("a slice is in colour", code="series-mixed-colour")
        builder.put(place, meaning.apply(stored))
    return store_volume(builder.finish(meaning.unit, meaning.window))


def _planes(dataset: Dataset) -> list[Plane]:
    """Where each frame is: the first slice's place, and steps along its normal by slice number.

    A positive spacing stacks the slices along the normal of the first, a negative one against it.
    """
    frames = whole(dataset, "NumberOfFrames")
    detector = (list(dataset.get("DetectorInformationSequence") or []) or [Dataset()])[0]
    first = plane_of(detector, detector, dataset)
    apart = number(dataset, "SpacingBetweenSlices")
    slices = numbers(dataset, "SliceVector", frames)
    if first is None or not apart or slices is None:
        raise GeometryError(
            "a tomogram does not say where its slices are", code="series-missing-position",
            next_step="export it from the workstation as single slices",
        )  # fmt: skip
    normal = np.cross(first.along_row, first.along_column)
    origins = np.array(first.origin) + np.outer(np.array(slices) - 1, normal * apart)
    return [replace(first, origin=(float(x), float(y), float(z))) for x, y, z in origins]
