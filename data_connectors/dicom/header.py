"""What a DICOM header says that matters for grouping and geometry, as plain values.

Attribute names are those of DICOM PS3.6; nothing here touches pixel data.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from typing import Any, Final, TypeVar

import pydicom
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.uid import UID

from data_connectors.dicom.attributes import (
    Attributes,
    Skimmed,
    build_dataset,
    look,
    skim,
    tag_of,
)
from data_connectors.dicom.passes import PASS_TAGS, WEAK, pass_values, weak_values
from data_connectors.dicom.quiet import quiet
from data_connectors.dicom.skim import (
    DEFLATED,
    EXPLICIT,
    MAX_HEADER,
    TRANSFER_SYNTAX,
    Unusual,
    read_meta,
    syntax_of,
    walk,
)
from data_connectors.dicom.sources import Inflated, open_bytes
from data_connectors.files import Handle
from medvlp.errors import InputError, MedvlpError

T = TypeVar("T")

_TAGS: Final = [
    "SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "PatientID",
    "IssuerOfPatientID", "Modality", "ImageType", "Rows", "Columns", "NumberOfFrames",
    "SamplesPerPixel", "BitsAllocated", "PhotometricInterpretation", "ImagePositionPatient",
    "ImageOrientationPatient", "PixelSpacing", "FrameOfReferenceUID", "InstanceNumber",
    *PASS_TAGS,
]  # fmt: skip

_LARGEST_INSTANCE_NUMBER: Final = 100_000

_STACKED: Final = {
    "1.2.840.10008.5.1.4.1.1.2",  # CT
    "1.2.840.10008.5.1.4.1.1.4",  # MR
    "1.2.840.10008.5.1.4.1.1.128",  # PET
}
_ENHANCED: Final = {
    "1.2.840.10008.5.1.4.1.1.2.1",  # enhanced CT
    "1.2.840.10008.5.1.4.1.1.2.2",  # legacy converted enhanced CT
    "1.2.840.10008.5.1.4.1.1.4.1",  # enhanced MR
    "1.2.840.10008.5.1.4.1.1.4.3",  # enhanced MR colour
    "1.2.840.10008.5.1.4.1.1.4.4",  # legacy converted enhanced MR
    "1.2.840.10008.5.1.4.1.1.13.1.1",  # X-ray 3D angiographic
    "1.2.840.10008.5.1.4.1.1.13.1.2",  # X-ray 3D craniofacial
    "1.2.840.10008.5.1.4.1.1.13.1.3",  # breast tomosynthesis
    "1.2.840.10008.5.1.4.1.1.128.1",  # legacy converted enhanced PET
    "1.2.840.10008.5.1.4.1.1.130",  # enhanced PET
}
_NO_IMAGE_MODALITIES: Final = {
    "SR", "SEG", "PR", "KO", "RTDOSE", "RTSTRUCT", "RTPLAN", "RTRECORD", "REG", "FID", "DOC",
    "ECG", "HD", "RWV", "M3D", "PLAN", "STAIN",
}  # fmt: skip
_NO_IMAGE_CLASSES: Final = {
    "1.2.840.10008.5.1.4.1.1.66.4",  # segmentation
    "1.2.840.10008.5.1.4.1.1.66.7",  # label map segmentation
    "1.2.840.10008.5.1.4.1.1.30",  # parametric map
    "1.2.840.10008.5.1.4.1.1.481.2",  # RT dose
}
_DICOMDIR: Final = "1.2.840.10008.1.3.10"
WHOLE_SLIDE: Final = "1.2.840.10008.5.1.4.1.1.77.1.6"
"""One level of a whole-slide image, or its label."""


@dataclass(frozen=True, slots=True)
class Plane:
    """Where the pixels of one frame are in the patient (PS3.3 C.7.6.2), in LPS millimetres."""

    origin: tuple[float, float, float]
    """Centre of the first pixel."""
    along_row: tuple[float, float, float]
    """Direction in which the column index grows."""
    along_column: tuple[float, float, float]
    """Direction in which the row index grows."""
    spacing: tuple[float, float]
    """(between rows, between columns), millimetres."""


@dataclass(frozen=True, slots=True)
class Header:
    """One DICOM object without its pixels."""

    name: str
    sop_class: str
    sop_uid: str
    series: str
    study: str
    patient: str
    modality: str
    image_type: tuple[str, ...]
    rows: int
    columns: int
    frames: int
    samples: int
    bits: int
    plane: Plane | None
    """None where position, orientation or spacing is missing or not a number."""
    frame_of_reference: str
    passes: tuple[str, ...]
    """One text for each of `passes.PASS_NAMES`."""
    number: int | None = None
    """InstanceNumber: what viewers call the slice. Nothing is decided by it."""

    @property
    def stacked(self) -> bool:
        """Whether it is one slice of a cross-sectional series."""
        single = self.frames == 1 and self.samples == 1
        alone = self.localiser or self.mosaic
        return self.sop_class in _STACKED and single and not alone

    @property
    def enhanced(self) -> bool:
        """Whether it is a multi-frame object with functional groups."""
        return self.sop_class in _ENHANCED

    @property
    def mosaic(self) -> bool:
        """Whether it holds the slices of a volume as tiles (Siemens)."""
        return "MOSAIC" in self.image_type

    @property
    def slide(self) -> bool:
        """Whether it is one level of a whole-slide image, or a picture of the slide's label."""
        return self.sop_class == WHOLE_SLIDE

    @property
    def localiser(self) -> bool:
        """Whether it is a scout image, which shares series with slices on some scanners."""
        return "LOCALIZER" in self.image_type


def read_header(handle: Handle, name: str) -> Header:
    """Read the header of one input.

    Raises:
        InputError: It is no DICOM file (`not-dicom`), cannot be parsed (`dicom-malformed`), or
            holds no image that this connector reads (`dicom-no-image`, `dicom-dicomdir`, ...).
    """

    def skimmed() -> Header:
        with open_bytes(handle) as source:
            return _parse_skimmed(skim(walk(source, _wanted()), handle), name)

    def parsed() -> Header:
        found = _by_pydicom(handle, MAX_HEADER, stop_before_pixels=True, specific_tags=_TAGS)
        return parse_header(found, name)

    try:
        return explained(skimmed)
    except Unusual:
        return guarded(parsed)


_VARYING: Final = frozenset(
    tag_of(keyword)
    for keyword in ("SOPInstanceUID", "ImagePositionPatient", "InstanceNumber", *WEAK)
)
"""What differs from slice to slice of a series; `_parse_skimmed` reads just these."""
_MOST_ALIKE: Final = 64
_alike: Final[dict[object, Header]] = {}
"""Headers by all that their files say but `_VARYING`: most of an archive is the same again."""


def _parse_skimmed(found: Skimmed, name: str) -> Header:
    """As `parse_header`; what another slice said in the same words is not parsed again."""
    said = found.said(_VARYING)
    like = _alike.get(said)
    if like is None:
        if len(_alike) >= _MOST_ALIKE:
            _alike.clear()
        header = _alike[said] = parse_header(found, name)
        return header
    origin = numbers(found, "ImagePositionPatient", 3)
    plane = like.plane
    if plane is None:
        plane = plane_of(found, found, found)
    elif origin is None:
        plane = None
    else:
        at = (origin[0], origin[1], origin[2])
        plane = Plane(at, plane.along_row, plane.along_column, plane.spacing)
    weak = weak_values(found)
    values = {field: getattr(like, field) for field in Header.__slots__}
    values |= {
        "name": name,
        "sop_uid": text(found, "SOPInstanceUID"),
        "plane": plane,
        "passes": (*like.passes[: -len(weak)], *weak),
        "number": _instance_number(found),
    }
    return Header(**values)


@cache
def _wanted() -> frozenset[int]:
    meta = ("TransferSyntaxUID", "MediaStorageSOPClassUID", "SpecificCharacterSet")
    return frozenset(tag_of(key) for key in (*_TAGS, *meta))


def read_dataset(handle: Handle, *, max_bytes: int = 2_000_000_000) -> Dataset:
    """Read an object up to its pixel data, which stays in the file until it is asked for.

    What follows the pixel data (padding, signatures) is left out: this is for reading, not for
    writing the object again.

    Args:
        handle: The input.
        max_bytes: Most bytes that a deflated object may inflate to.

    Raises:
        InputError: As `read_header`.
    """

    def read() -> Dataset:
        try:
            with open_bytes(handle) as source:
                return build_dataset(walk(source), handle, limit=max_bytes)
        except Unusual:
            return _by_pydicom(handle, max_bytes)

    return guarded(read)


def read_object(handle: Handle, *, max_bytes: int = 2_000_000_000) -> Dataset:
    """Read a whole object with everything that is in it: for writing it again.

    Args:
        handle: The input.
        max_bytes: Most bytes that a deflated object may inflate to.

    Raises:
        InputError: As `read_header`.
    """

    def read() -> Dataset:
        deflated = False
        with open_bytes(handle) as source, suppress(Unusual):
            deflated = syntax_of(read_meta(source)[0]) == DEFLATED
        dataset = _by_pydicom(handle, max_bytes)
        if deflated:  # `_inflated` has said otherwise
            dataset.file_meta.TransferSyntaxUID = UID(DEFLATED)
        return dataset

    return guarded(read)


def _by_pydicom(handle: Handle, limit: int, **options: Any) -> Dataset:
    """What the walk leaves to pydicom; a deflated object is inflated within the limit first."""
    try:
        return pydicom.dcmread(_inflated(handle, limit), **options)
    except InvalidDicomError:
        raise InputError(
            "there is no DICOM preamble and file meta information",
            code="not-dicom",
            next_step="nothing, if it is no DICOM file",
        ) from None


def _inflated(handle: Handle, limit: int) -> Handle:
    """The same object, in memory and not deflated, if it was deflated."""
    with open_bytes(handle) as source, suppress(Unusual):
        meta, start = read_meta(source)
        if syntax_of(meta) == DEFLATED:
            place, length = meta[TRANSFER_SYNTAX].at, meta[TRANSFER_SYNTAX].length
            head = bytearray(source.read(0, start))
            head[place : place + length] = EXPLICIT.encode().ljust(length, b"\0")
            return BytesIO(bytes(head) + Inflated(source, start, limit).read(0, limit + 1))
    return handle


def guarded(action: Callable[[], T]) -> T:
    """Run pydicom code on untrusted bytes: whatever it raises becomes an `InputError`.

    The error's own text is dropped, because it may quote header values.
    """
    with quiet():
        return explained(action)


def explained(action: Callable[[], T]) -> T:
    """As `guarded`, for code that keeps pydicom quiet itself."""
    try:
        return action()
    except (MedvlpError, Unusual):
        raise
    except MemoryError:
        raise InputError("it does not fit into memory", code="dicom-too-large") from None
    except RecursionError:
        raise InputError("its sequences are nested too deeply", code="dicom-malformed") from None
    except Exception as error:  # pydicom raises nearly every built-in type on broken input
        raise InputError(
            f"the file cannot be parsed ({type(error).__name__})",
            code="dicom-malformed",
            next_step="export it again from the archive",
        ) from None


def parse_header(dataset: Attributes, name: str) -> Header:
    """Turn a dataset into plain values, and refuse what holds no image.

    Raises:
        InputError: It is not an image.
    """
    sop_class = text(dataset, "SOPClassUID")
    modality = text(dataset, "Modality").upper()
    meta = getattr(dataset, "file_meta", None)
    media_class = text(meta, "MediaStorageSOPClassUID") if meta is not None else ""
    if _DICOMDIR in (sop_class, media_class):
        raise InputError("a DICOMDIR is an index", code="dicom-dicomdir", next_step="nothing")
    rows, columns = whole(dataset, "Rows"), whole(dataset, "Columns")
    no_image = modality in _NO_IMAGE_MODALITIES or sop_class in _NO_IMAGE_CLASSES
    if no_image or rows < 1 or columns < 1:
        raise InputError(
            "the object holds no image to learn from",
            code="dicom-no-image",
            got=modality if modality in _NO_IMAGE_MODALITIES else None,
            next_step="nothing",
        )
    image_type = tuple(part.upper() for part in texts(dataset, "ImageType"))
    if "MOSAIC" in image_type and sop_class in _ENHANCED:
        raise InputError(
            "enhanced mosaic images are not read", code="dicom-unsupported",
            next_step="export it from the scanner as enhanced multi-frame without mosaic",
        )  # fmt: skip
    issuer = text(dataset, "IssuerOfPatientID")
    patient = text(dataset, "PatientID")
    return Header(
        name=name,
        sop_class=sop_class,
        sop_uid=text(dataset, "SOPInstanceUID"),
        series=text(dataset, "SeriesInstanceUID"),
        study=text(dataset, "StudyInstanceUID"),
        patient=f"{patient}@{issuer}" if patient and issuer else patient,
        modality=modality or "OT",
        image_type=image_type,
        rows=rows,
        columns=columns,
        frames=max(1, whole(dataset, "NumberOfFrames")),
        samples=max(1, whole(dataset, "SamplesPerPixel")),
        bits=whole(dataset, "BitsAllocated"),
        plane=plane_of(dataset, dataset, dataset),
        frame_of_reference=text(dataset, "FrameOfReferenceUID"),
        passes=pass_values(dataset),
        number=_instance_number(dataset),
    )


def plane_of(position: Attributes, orientation: Attributes, measures: Attributes) -> Plane | None:
    """The plane that three (possibly equal) datasets describe, or None if any part is missing."""
    origin = numbers(position, "ImagePositionPatient", 3)
    cosines = numbers(orientation, "ImageOrientationPatient", 6)
    spacing = numbers(measures, "PixelSpacing", 2)
    if origin is None or cosines is None or spacing is None or min(spacing) <= 0:
        return None
    return Plane(
        origin=(origin[0], origin[1], origin[2]),
        along_row=(cosines[0], cosines[1], cosines[2]),
        along_column=(cosines[3], cosines[4], cosines[5]),
        spacing=(spacing[0], spacing[1]),
    )


def text(dataset: Attributes, keyword: str) -> str:
    """One value as text, stripped; empty when it is missing."""
    value = look(dataset, keyword)
    return "" if value is None else str(value).strip(" \0")


def texts(dataset: Attributes, keyword: str) -> tuple[str, ...]:
    """All values as text; empty when missing."""
    value = look(dataset, keyword)
    if value is None or value == "":
        return ()
    if type(value) is str:
        return (value.strip(" \0"),)
    many = isinstance(value, Iterable) and not isinstance(value, str | bytes)
    return tuple([str(part).strip(" \0") for part in (value if many else (value,))])


def whole(dataset: Attributes, keyword: str) -> int:
    """One whole number; 0 when it is missing."""
    value = look(dataset, keyword)
    return 0 if value is None or value == "" else int(value)


def number(dataset: Attributes, keyword: str) -> float | None:
    """The first value as a finite number, or None."""
    found = numbers(dataset, keyword, 1, at_least=True)
    return None if found is None else found[0]


def numbers(
    dataset: Attributes, keyword: str, count: int, *, at_least: bool = False
) -> tuple[float, ...] | None:
    """So many finite numbers, or None."""
    try:
        values = tuple(map(float, texts(dataset, keyword)))
    except ValueError:
        return None
    fits = len(values) >= count if at_least else len(values) == count
    finite = all([abs(value) < 1e300 for value in values])  # also false for nan
    return values if fits and finite else None


def _instance_number(dataset: Attributes) -> int | None:
    """InstanceNumber, if it is a small whole number (a long one could be an identifier)."""
    found = number(dataset, "InstanceNumber")
    small = found is not None and found.is_integer() and abs(found) < _LARGEST_INSTANCE_NUMBER
    return int(found) if found is not None and small else None
