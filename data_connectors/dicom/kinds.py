"""Which kinds of objects there are besides slices of a series, and how each is read.

What is not read is refused by the name of its kind, because its pixels would mean something else
than a reader of images takes them for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from pydicom.dataset import Dataset

from data_connectors.dicom.cine import frame_times_ms, read_cine
from data_connectors.dicom.header import Header, text, whole
from data_connectors.dicom.image import read_image
from data_connectors.dicom.mosaic import read_mosaic
from data_connectors.dicom.multiframe import read_enhanced
from data_connectors.dicom.nuclear import read_nuclear
from data_connectors.dicom.slide import check_label
from data_connectors.dicom.source import DicomSource
from data_connectors.dicom.volume import Stored
from data_connectors.items import Refused
from medvlp.errors import InputError
from medvlp.types import Kind

_STORAGE: Final = "1.2.840.10008.5.1.4.1.1."
_NUCLEAR: Final = f"{_STORAGE}20"
_NOT_READ: Final[Mapping[str, str]] = {
    f"{_STORAGE}6.2": "enhanced ultrasound volumes, whose positions are not the patient's",
    f"{_STORAGE}13.1.4": "breast projections, which are views of a tomosynthesis and no images",
    f"{_STORAGE}13.1.5": "breast projections, which are views of a tomosynthesis and no images",
}
_PICTURES: Final = tuple(
    f"{_STORAGE}{end}"
    for end in ("7", "7.1", "7.2", "7.3", "7.4", "77.1.4", "77.1.5.1", "77.1.5.2", "77.1.5.4")
)
"""Multi-frame secondary captures, photographs and eye images: each frame is a picture where the
object gives no times."""
_FOR_PROCESSING: Final = tuple(f"{_STORAGE}{end}" for end in ("1.1.1", "1.2.1", "1.3.1"))


def way_of(header: Header) -> str:
    """How one object that is no slice of a series is read: the hint of its unit.

    Raises:
        InputError: Objects of its kind are not read (`dicom-unsupported`, by name), or it shows
            the label of a slide (`burned-in-risk`).
    """
    if header.sop_class in _NOT_READ:
        raise InputError(
            f"this kind of object is not read: {_NOT_READ[header.sop_class]}",
            code="dicom-unsupported", next_step="nothing",
        )  # fmt: skip
    if header.slide:
        check_label(header.image_type, "")
        return "slide"
    if header.enhanced:
        return "enhanced"
    if header.mosaic:
        return "mosaic"
    if header.sop_class == _NUCLEAR and header.frames > 1:
        return "nuclear"
    return "cine" if header.frames > 1 else "image"


def read_object(
    source: DicomSource, dataset: Dataset, way: str
) -> Iterator[tuple[Kind, Stored] | Refused]:
    """The visuals of one object: one, one a frame of a series of pictures, or one a stack.

    A stack of an enhanced object that is no grid is refused by itself.

    Args:
        source: The limits and choices that hold.
        dataset: A whole object that passed `check_pixels`.
        way: What `way_of` said.

    Raises:
        InputError: It cannot be read, or is raw detector data (`dicom-for-processing`).
    """
    _check_intent(source, dataset)
    match way:
        case "enhanced":
            yield from read_enhanced(source, dataset)
        case "mosaic":
            yield "volume", read_mosaic(source, dataset)
        case "nuclear":
            yield "volume", read_nuclear(source, dataset)
        case "cine" if not _has_pictures(dataset):
            yield "clip", read_cine(dataset, quality=source.jpeg_quality)
        case _:
            for index in range(max(1, whole(dataset, "NumberOfFrames"))):
                yield "image", read_image(dataset, index)


def _has_pictures(dataset: Dataset) -> bool:
    """Whether the frames of a multi-frame object are pictures of their own, without times."""
    if text(dataset, "SOPClassUID") not in _PICTURES:
        return False
    try:
        frame_times_ms(dataset)
    except InputError:
        return True
    return False


def _check_intent(source: DicomSource, dataset: Dataset) -> None:
    """Radiographs come twice from some archives: as read, and as the detector gave them."""
    raw = text(dataset, "PresentationIntentType").upper() == "FOR PROCESSING"
    raw = raw or text(dataset, "SOPClassUID") in _FOR_PROCESSING
    if raw and source.for_processing == "refuse":
        raise InputError(
            "the image is raw detector data, for processing and not for reading",
            code="dicom-for-processing",
            next_step="use its version for presentation, or set for_processing: read",
        )
