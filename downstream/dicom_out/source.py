"""The images that a prediction is about: their headers, and the way from the model's grid back."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from typing import Final

import numpy as np
import pydicom
from pydicom.dataset import Dataset

from data_connectors.dicom.geometry import Canonical, as_acquired
from data_connectors.dicom.header import guarded
from data_connectors.dicom.series import LoadedSeries
from data_connectors.dicom.source import DicomSource
from data_connectors.files import fetch
from medvlp.errors import InputError

_FILED_UNDER: Final = (
    "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyID", "StudyDate",
    "StudyTime", "AccessionNumber", "ReferringPhysicianName", "Manufacturer",
)  # fmt: skip
"""Attributes that every object has to have, if only empty (type 2)."""


@dataclass(frozen=True, slots=True, eq=False)
class SourceImages:
    """Single-frame DICOM images, and how they became the visual that the model saw."""

    headers: tuple[Dataset, ...]
    """Without pixels; in the order of the frames that `as_acquired` gives."""
    frame: Canonical
    """As in `LoadedSeries`."""

    def as_acquired(self, volume: np.ndarray) -> np.ndarray:
        """A map in the model's grid [d, h, w] as frames [n, rows, columns] of the images.

        Exact: axes are permuted and reversed, nothing is interpolated.

        Raises:
            InputError: It has not the shape of the images (`mask-shape`).
        """
        frames = self.frame.view(volume)
        first = self.headers[0]
        shape = (len(self.headers), int(first.Rows), int(first.Columns))
        if frames.shape != shape:
            raise InputError(
                "the mask has not the shape of its source images", code="mask-shape",
                got=frames.shape, limit=shape,
            )  # fmt: skip
        return frames

    @property
    def placed(self) -> bool:
        """Whether the images say where they lie in the patient."""
        return all(
            header.get("FrameOfReferenceUID") and "ImagePositionPatient" in header
            for header in self.headers
        )


def of_series(source: DicomSource, loaded: LoadedSeries) -> SourceImages:
    """The slices of a series."""
    return SourceImages(_headers(source, loaded.names), loaded.frame)


def of_object(source: DicomSource, name: str) -> SourceImages:
    """One single-frame object."""
    return SourceImages(_headers(source, (name,)), as_acquired(np.eye(4)))


def _headers(source: DicomSource, names: Sequence[str]) -> tuple[Dataset, ...]:
    found: dict[str, Dataset] = {}
    for name, handle in fetch(source.path, names, max_bytes=source.max_bytes):
        found[name] = guarded(lambda here=handle: _complete(here))  # type: ignore[misc]
    return tuple(found[name] for name in names)


def _complete(handle: object) -> Dataset:
    """A header with every attribute that the objects made from it copy."""
    header = copy(pydicom.dcmread(handle, stop_before_pixels=True))  # type: ignore[arg-type]
    for keyword in _FILED_UNDER:
        if keyword not in header:
            setattr(header, keyword, None)
    return header
