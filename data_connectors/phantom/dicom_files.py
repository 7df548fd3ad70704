"""Write the CT series and the radiograph of a patient as DICOM files (PS3.3 CT and DX images)."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset, write_file_meta_info
from pydicom.pixels.encoders.base import get_encoder
from pydicom.tag import BaseTag
from pydicom.uid import (
    UID,
    CTImageStorage,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from data_connectors.phantom.identity import Person
from data_connectors.phantom.radiograph import BITS, Exposure
from data_connectors.phantom.scanner import Codec, Scan, Stored

CT_SERIES, DX_SERIES = 2, 3
_SYNTAX: dict[Codec, UID] = {
    "implicit": ImplicitVRLittleEndian,
    "explicit": ExplicitVRLittleEndian,
    "rle": RLELossless,
    "jpeg_ls": JPEGLSLossless,
    "jpeg_2000": JPEG2000Lossless,
}
_IMPLEMENTATION = "2.25.113059749145936325402354257176981405696"
Namer = Callable[[], Path]


def write_ct(
    person: Person, scan: Scan, stored: Stored, numbers: NDArray[np.int64],
    name: Namer,
) -> None:  # fmt: skip
    """One file a slice.

    Args:
        person: Whose it is.
        scan: Geometry and storage.
        stored: [D, H, W], feet first.
        numbers: [D] InstanceNumber of every slice; in no order.
        name: Gives the path of the next file.
    """
    dataset = _common(person, "CT", CT_SERIES, CTImageStorage)
    origin, spacing = scan.grid.origin_mm, scan.grid.spacing_mm
    dataset.SeriesDescription = "Chest 11 mm"
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.PatientPosition = "HFS"
    dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    dataset.FrameOfReferenceUID = f"{person.study_uid}.9"
    dataset.PositionReferenceIndicator = ""
    dataset.KVP = "120"
    dataset.AcquisitionNumber = 1
    dataset.PixelSpacing = [spacing[1], spacing[2]]
    dataset.SliceThickness = spacing[0]
    dataset.SpacingBetweenSlices = spacing[0]
    dataset.RescaleIntercept = scan.intercept
    dataset.RescaleSlope = scan.slope
    dataset.RescaleType = "HU"
    dataset.WindowCenter, dataset.WindowWidth = 40, 400
    dataset.PhotometricInterpretation = "MONOCHROME2"
    deep = not (scan.slope == 1 and scan.intercept == -1024)
    _describe(dataset, stored.shape[1:], 16 if deep else 12, scan.signed)
    series = _Series(dataset, scan.codec)
    for d, image in enumerate(stored):
        number, height = int(numbers[d]), round(origin[0] + d * spacing[0], 3)
        own = Dataset()
        own.SOPInstanceUID = person.instance_uid(CT_SERIES, number)
        own.InstanceNumber = number
        own.ImagePositionPatient = [origin[2], origin[1], height]
        own.SliceLocation = height
        series.save(name(), image, own)


def write_radiograph(
    person: Person, exposure: Exposure, image: NDArray[np.uint16], inverse: bool, codec: Codec,
    path: Path,
) -> None:  # fmt: skip
    """One DX image; `inverse` stores it as MONOCHROME1 (white is zero)."""
    dataset = _common(person, "DX", DX_SERIES, DigitalXRayImageStorageForPresentation)
    dataset.SeriesDescription = "Chest PA"
    dataset.ImageType = ["ORIGINAL", "PRIMARY", ""]
    dataset.PresentationIntentType = "FOR PRESENTATION"
    dataset.PatientOrientation = ["L", "F"]
    dataset.ViewPosition = "PA"
    dataset.ImageLaterality = "U"
    dataset.AnatomicRegionSequence = [_chest()]
    dataset.AcquisitionContextSequence = []
    dataset.DetectorType = "DIRECT"
    dataset.PositionerType = ""
    dataset.KVP = "110"
    dataset.ImagerPixelSpacing = [round(exposure.pixel_mm, 5)] * 2
    dataset.PixelIntensityRelationship = "LOG"
    dataset.PixelIntensityRelationshipSign = 1 if inverse else -1
    dataset.RescaleIntercept, dataset.RescaleSlope, dataset.RescaleType = 0, 1, "US"
    dataset.LossyImageCompression = "00"
    dataset.BurnedInAnnotation = "NO"
    full = 2**BITS
    dataset.WindowCenter, dataset.WindowWidth = full // 2, full
    dataset.PhotometricInterpretation = "MONOCHROME1" if inverse else "MONOCHROME2"
    dataset.PresentationLUTShape = "INVERSE" if inverse else "IDENTITY"
    _describe(dataset, image.shape, BITS, signed=False)
    own = Dataset()
    own.SOPInstanceUID = person.instance_uid(DX_SERIES, 1)
    own.InstanceNumber = 1
    _Series(dataset, codec).save(path, (full - 1 - image) if inverse else image, own)


def _chest() -> Dataset:
    """The chest, as SNOMED CT codes it (PS3.16, context group 4009)."""
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "51185008", "SCT", "Chest"
    return code


def _common(person: Person, modality: str, series: int, sop_class: UID) -> Dataset:
    dataset = Dataset()
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.SOPClassUID = sop_class
    dataset.Modality = modality
    dataset.StudyInstanceUID = person.study_uid
    dataset.SeriesInstanceUID = person.series_uid(series)
    dataset.SeriesNumber = series
    dataset.StudyID = person.accession[-4:]
    dataset.AccessionNumber = person.accession
    dataset.PatientName = person.dicom_name
    dataset.PatientID = person.patient_id
    dataset.PatientBirthDate = f"{person.birth:%Y%m%d}"
    dataset.PatientSex = person.sex
    dataset.PatientTelephoneNumbers = person.phone
    dataset.ReferringPhysicianName = f"{person.referring}^Dr"
    dataset.StudyDate = dataset.SeriesDate = dataset.ContentDate = f"{person.examined:%Y%m%d}"
    dataset.StudyTime = dataset.SeriesTime = dataset.ContentTime = person.clock
    dataset.Manufacturer = "Phantom Works"
    dataset.StudyDescription = "Chest"
    dataset.BodyPartExamined = "CHEST"
    # Identifiers also hide where a shallow clean-up does not look.
    request = Dataset()
    request.AccessionNumber = person.accession
    request.RequestedProcedureDescription = f"Chest imaging for {person.name}"
    request.RequestedProcedureID = person.accession
    dataset.RequestAttributesSequence = [request]
    block = dataset.private_block(0x0011, "PHANTOM WORKS 1.0", create=True)
    block.add_new(0x01, "LO", f"{person.family}/{person.patient_id}")
    block.add_new(0x02, "LO", person.phone)
    return dataset


def _describe(dataset: Dataset, shape: tuple[int, ...], bits: int, signed: bool) -> None:
    dataset.SamplesPerPixel = 1
    dataset.Rows, dataset.Columns = shape
    dataset.BitsAllocated = 16
    dataset.BitsStored, dataset.HighBit = bits, bits - 1
    dataset.PixelRepresentation = int(signed)


class _Series:
    """Writes files that differ in a few elements only, and encodes the rest once."""

    def __init__(self, dataset: Dataset, codec: Codec) -> None:
        self._syntax = _SYNTAX[codec]
        self._sop_class = str(dataset.SOPClassUID)
        self._pixels = {
            "rows": dataset.Rows,
            "columns": dataset.Columns,
            "samples_per_pixel": 1,
            "number_of_frames": 1,
            "bits_allocated": dataset.BitsAllocated,
            "bits_stored": dataset.BitsStored,
            "pixel_representation": dataset.PixelRepresentation,
            "photometric_interpretation": dataset.PhotometricInterpretation,
        }
        self._fixed: dict[BaseTag, bytes] = {
            element.tag: self._bytes(element) for element in dataset
        }

    def save(self, path: Path, image: Stored, own: Dataset) -> None:
        """Write one file: the common elements, its own, its pixels."""
        own = copy(own)
        own.add(self._pixel_data(image))
        parts = {**self._fixed, **{element.tag: self._bytes(element) for element in own}}
        meta = FileMetaDataset()
        meta.TransferSyntaxUID = self._syntax
        meta.MediaStorageSOPClassUID = UID(self._sop_class)
        meta.MediaStorageSOPInstanceUID = own.SOPInstanceUID
        meta.ImplementationClassUID = UID(_IMPLEMENTATION)
        meta.ImplementationVersionName = "MEDVLP_PHANTOM"
        file = DicomBytesIO()
        file.write(b"\0" * 128 + b"DICM")
        write_file_meta_info(file, meta)
        for tag in sorted(parts):
            file.write(parts[tag])
        path.write_bytes(file.getvalue())

    def _bytes(self, element: DataElement) -> bytes:
        """One element as it stands in the file."""
        file = DicomBytesIO()
        file.is_little_endian = True
        file.is_implicit_VR = self._syntax == ImplicitVRLittleEndian
        one = Dataset()
        one.add(element)
        write_dataset(file, one, parent_encoding="utf-8")
        return bytes(file.getvalue())

    def _pixel_data(self, image: Stored) -> DataElement:
        raw = np.ascontiguousarray(image, image.dtype.newbyteorder("<"))
        if not self._syntax.is_compressed:
            return DataElement(0x7FE00010, "OW", raw.tobytes())
        encoder = get_encoder(self._syntax)
        frame = encoder.encode(raw, **self._pixels)
        element = DataElement(0x7FE00010, "OB", encapsulate([frame]))
        element.is_undefined_length = True
        return element
