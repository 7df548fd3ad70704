"""A series anywhere in the patient, every voxel of it with a value of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    CTImageStorage,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
)

from downstream.dicom_out.codes import Algorithm

WriteStack = Callable[..., Path]


def _base(sop_class: str, uid: str, pixels: np.ndarray) -> Dataset:
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = sop_class, uid
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = "2.25.7", "2.25.8"
    dataset.PatientID, dataset.PatientName = "P-0815", "Zyxwv^Quillon"
    dataset.PatientBirthDate, dataset.PatientSex = "19420719", "F"
    dataset.StudyDate, dataset.StudyTime, dataset.StudyID = "20240102", "101112", "1"
    dataset.AccessionNumber, dataset.ReferringPhysicianName = "ACC-4711", "Doc^Tor"
    dataset.Manufacturer, dataset.SeriesNumber, dataset.InstanceNumber = "Works", 3, 1
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit, dataset.PixelRepresentation = 15, 0
    dataset.PixelData = pixels.astype("<u2").tobytes()
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = sop_class, uid
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta = meta
    return dataset


@pytest.fixture
def write_stack() -> WriteStack:
    """`write_stack(folder, values, axes, spacing)`: a CT whose first slice lies at (-30, 20, 7).

    `axes` are the unit vectors along row, column and from slice to slice; `spacing` is (between
    slices, rows, columns).
    """

    def write(
        folder: Path, values: np.ndarray, axes: np.ndarray, spacing: tuple[float, float, float]
    ) -> Path:
        folder.mkdir(parents=True)
        for k, pixels in enumerate(values):
            dataset = _base(CTImageStorage, f"2.25.9{k:03d}", pixels)
            dataset.Modality, dataset.FrameOfReferenceUID = "CT", "2.25.10"
            dataset.PositionReferenceIndicator = ""
            dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
            dataset.RescaleSlope, dataset.RescaleIntercept = 1, -1024
            dataset.PixelSpacing, dataset.SliceThickness = [spacing[1], spacing[2]], spacing[0]
            dataset.ImageOrientationPatient = [f"{v:.9f}" for v in (*axes[0], *axes[1])]
            place = np.array([-30.0, 20.0, 7.0]) + k * spacing[0] * axes[2]
            dataset.ImagePositionPatient = [f"{v:.9f}" for v in place]
            dataset.save_as(folder / f"{(k * 7) % 101:03d}.dcm", enforce_file_format=True)
        return folder

    return write


@pytest.fixture
def write_film() -> Callable[..., Path]:
    """`write_film(path, pixels)`: a radiograph, which has no place in the patient."""

    def write(path: Path, pixels: np.ndarray) -> Path:
        dataset = _base(DigitalXRayImageStorageForPresentation, "2.25.99", pixels)
        dataset.Modality, dataset.PatientOrientation = "DX", ["L", "F"]
        dataset.ImagerPixelSpacing, dataset.BodyPartExamined = [0.2, 0.2], "CHEST"
        dataset.WindowCenter, dataset.WindowWidth = 128, 256
        dataset.save_as(path, enforce_file_format=True)
        return path

    return write


@pytest.fixture
def algorithm() -> Algorithm:
    return Algorithm("a" * 64, "b" * 16)
