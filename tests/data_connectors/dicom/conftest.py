"""DICOM files with known pixels and known geometry, written with pydicom."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    CTImageStorage,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from data_connectors.dicom.reader import find, read
from data_connectors.dicom.source import DicomSource
from data_connectors.items import Refused, VisualItem
from data_connectors.source import Consulted, Unit

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
ENCODERS = {RLELossless: "pylibjpeg", JPEGLSLossless: "pyjpegls", JPEG2000Lossless: "pylibjpeg"}
"""Named, because GDCM's encoders, which come first where it is installed, may abort the process."""
WriteDicom = Callable[..., Path]
WriteSeries = Callable[..., list[Path]]


def dataset_of(pixels: np.ndarray, **changes: Any) -> Dataset:
    """A CT slice around stored values; a change to None removes the attribute."""
    dataset = Dataset()
    dataset.SOPClassUID = CTImageStorage
    dataset.SOPInstanceUID = "2.25.1"
    dataset.StudyInstanceUID = "2.25.2"
    dataset.SeriesInstanceUID = "2.25.3"
    dataset.FrameOfReferenceUID = "2.25.4"
    dataset.PatientID = "P-0815"
    dataset.PatientName = "Doe^Jane"
    dataset.AccessionNumber = "ACC-4711"
    dataset.Modality = "CT"
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.InstanceNumber = 1
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    grey = pixels if pixels.ndim == 2 else pixels[..., 0] if pixels.shape[-1] == 3 else pixels[0]
    dataset.Rows, dataset.Columns = grey.shape
    dataset.BitsAllocated = pixels.dtype.itemsize * 8
    dataset.BitsStored = dataset.BitsAllocated
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    dataset.RescaleSlope, dataset.RescaleIntercept = 1, -1024
    dataset.PixelSpacing = [0.8, 0.6]
    dataset.SliceThickness = 2
    dataset.ImageOrientationPatient = list(AXIAL)
    dataset.ImagePositionPatient = [-10.0, -20.0, 30.0]
    for keyword, value in changes.items():
        if value is None:
            delattr(dataset, keyword)
        else:
            setattr(dataset, keyword, value)
    dataset.PixelData = pixels.tobytes()
    return dataset


def save(dataset: Dataset, path: Path, *, syntax: str = ExplicitVRLittleEndian) -> Path:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta = meta
    if syntax != ExplicitVRLittleEndian:
        dataset.compress(syntax, encoding_plugin=ENCODERS[syntax])
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return path


@pytest.fixture
def write_dicom() -> WriteDicom:
    """`write_dicom(path, pixels, syntax=..., **changes)` writes one object."""

    def write(path: Path, pixels: np.ndarray, *, syntax: str = "", **changes: Any) -> Path:
        return save(dataset_of(pixels, **changes), path, syntax=syntax or ExplicitVRLittleEndian)

    return write


@pytest.fixture
def write_series() -> WriteSeries:
    """`write_series(folder, volume, positions=..., names=..., numbers=..., **changes)`.

    A change that is a list of as many values as slices gives one value a slice.
    """

    def write(
        folder: Path,
        volume: np.ndarray,
        *,
        positions: Sequence[Sequence[float]] | None = None,
        names: Sequence[str] | None = None,
        numbers: Sequence[int] | None = None,
        syntax: str = "",
        each: Sequence[dict[str, Any]] | None = None,
        **changes: Any,
    ) -> list[Path]:
        count = len(volume)
        places = positions or [(-10.0, -20.0, 30.0 + 2.0 * k) for k in range(count)]
        paths = []
        for k in range(count):
            slice_changes: dict[str, Any] = {
                "SOPInstanceUID": f"2.25.1{k:04d}",
                "InstanceNumber": (numbers or range(1, count + 1))[k],
                "ImagePositionPatient": [float(value) for value in places[k]],
                **changes,
                **(each[k] if each else {}),
            }
            name = (names or [f"{k:03d}.dcm" for k in range(count)])[k]
            dataset = dataset_of(volume[k], **slice_changes)
            paths.append(save(dataset, folder / name, syntax=syntax or ExplicitVRLittleEndian))
        return paths

    return write


@pytest.fixture
def noise() -> np.ndarray:
    """int16 [10, 6, 5]: stored values of a small CT, no two slices alike."""
    return np.random.default_rng(0).integers(0, 3000, (10, 6, 5)).astype(np.int16)


class Ingested(NamedTuple):
    """Everything that a source gave."""

    visuals: list[VisualItem]
    refused: list[Refused]

    @property
    def only(self) -> VisualItem:
        assert [item.code for item in self.refused] == []
        assert len(self.visuals) == 1
        return self.visuals[0]

    @property
    def refusal(self) -> Refused:
        assert not self.visuals
        assert len(self.refused) == 1, [item.code for item in self.refused]
        return self.refused[0]

    @property
    def codes(self) -> dict[str, int]:
        """Refusal code -> number of inputs."""
        counts: Counter[str] = Counter()
        for item in self.refused:
            counts[item.code] += len(item.inputs)
        return dict(counts)


Ingest = Callable[..., Ingested]


@pytest.fixture
def ingest() -> Ingest:
    """`ingest(path, **keys)` finds and reads a source, and checks that all inputs come out once."""

    def run(path: Path, **keys: Any) -> Ingested:
        source = DicomSource(name="test", path=path, **keys)
        everything = Ingested([], [])
        for found in find(source):
            if isinstance(found, Consulted):
                continue
            items = [found] if isinstance(found, Refused) else list(read(source, found))
            named = sorted(name for item in items for name in item.inputs)
            several = isinstance(found, Unit) and found.hint == "enhanced"  # volumes of one file
            assert (sorted(set(named)) if several else named) == sorted(found.inputs)
            everything.refused.extend(item for item in items if isinstance(item, Refused))
            everything.visuals.extend(item for item in items if isinstance(item, VisualItem))
        return everything

    return run
