"""Which DICOM objects may show text in their pixels: judged by the header, never by one attribute.

BurnedInAnnotation is written by the machine, before anybody pastes a screen or scans a film:
`YES` always counts, `NO` takes nothing back. The table (`burned_in.yaml`) holds facts of the
standard and of practice; an object of a class that it does not know is at risk.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from importlib.resources import files
from typing import Any, Final

import numpy as np
import yaml
from pydicom.dataset import Dataset

from data_connectors.dicom.header import guarded, text, texts, whole

_SECONDARY_CAPTURE: Final = (
    "SecondaryCaptureDeviceManufacturer", "SecondaryCaptureDeviceManufacturerModelName",
    "SecondaryCaptureDeviceID", "DateOfSecondaryCapture", "HardcopyDeviceManufacturer",
    "DigitizingDeviceTransportDirection", "VideoImageFormatAcquired",
)  # fmt: skip
KEYWORDS: Final = (
    "SOPClassUID", "Modality", "BurnedInAnnotation", "ConversionType", "ImageType",
    "SeriesDescription", "ProtocolName", "SamplesPerPixel", "PhotometricInterpretation",
    "SpecimenLabelInImage", "ImagePositionPatient", *_SECONDARY_CAPTURE,
)  # fmt: skip
"""Every attribute that `text_risk` looks at."""
_OVERLAYS: Final = range(0x6000, 0x6100, 2)
_PIXEL_DATA: Final = 0x7FE00010


def text_risk(dataset: Dataset) -> tuple[str, ...]:
    """Why the pixels of an object may show text; empty where nothing says so.

    Args:
        dataset: The whole header (pixels are not looked at).

    Returns:
        Names of reasons, sorted; free of patient data.

    Raises:
        InputError: The header cannot be parsed.
    """
    return guarded(lambda: tuple(sorted(set(_reasons(dataset)))))


def graphics(dataset: Dataset) -> tuple[str, ...]:
    """What is drawn beside the pixels: `overlay` planes, and bits above the stored ones.

    Readers of pixel values drop both; whoever passes on whole objects must clear them.

    Raises:
        InputError: The header cannot be parsed.
    """
    return guarded(lambda: tuple(_graphics(dataset)))


def _reasons(dataset: Dataset) -> Iterator[str]:
    table = _table()
    sop_class, modality = text(dataset, "SOPClassUID"), text(dataset, "Modality").upper()
    if (kind := table["risky"].get(sop_class)) is not None:
        yield f"class-{kind}"
    elif sop_class not in table["plain"]:
        yield "class-unknown"
    if modality in table["modalities"]:
        yield f"modality-{modality.lower() or 'missing'}"
    if text(dataset, "BurnedInAnnotation").upper() not in ("", "NO"):
        yield "burned-in-annotation"
    if text(dataset, "ConversionType"):
        yield "conversion-type"
    if any(keyword in dataset for keyword in _SECONDARY_CAPTURE):
        yield "secondary-capture-device"
    said = [_plain(value) for value in texts(dataset, "ImageType")]
    yield from (
        f"image-type-{word.lower().replace(' ', '-')}"
        for word in table["image_type"]
        if any(word == value or word in value.split() or f"{word} " in value for value in said)
    )
    described = f"{text(dataset, 'SeriesDescription')} {text(dataset, 'ProtocolName')}"
    if any(word in _plain(described).lower() for word in table["description"]):
        yield "series-description"
    if modality in table["grey"] and _in_colour(dataset):
        yield "colour"
    if text(dataset, "SpecimenLabelInImage").upper() == "YES":
        yield "specimen-label"
    if sop_class in table["placed"] and not texts(dataset, "ImagePositionPatient"):
        yield "no-position"


def _in_colour(dataset: Dataset) -> bool:
    palette = text(dataset, "PhotometricInterpretation") == "PALETTE COLOR"
    return whole(dataset, "SamplesPerPixel") > 1 or palette


def _plain(value: str) -> str:
    return " ".join(re.split(r"[\s_\-]+", value.upper())).strip()


def _graphics(dataset: Dataset) -> Iterator[str]:
    if any(element.tag.group in _OVERLAYS for element in dataset):
        yield "overlay"
    stored, allocated = whole(dataset, "BitsStored"), whole(dataset, "BitsAllocated")
    meta = getattr(dataset, "file_meta", None)
    packed = meta is not None and meta.TransferSyntaxUID.is_compressed
    if _PIXEL_DATA not in dataset or packed or not 0 < stored < allocated or allocated > 16:
        return
    order = "<" if meta is None or meta.TransferSyntaxUID.is_little_endian else ">"
    data = bytes(dataset.PixelData)
    words = np.frombuffer(data[: len(data) & ~1], "u1" if allocated == 8 else f"{order}u2")
    high = words >> (whole(dataset, "HighBit") + 1)
    if whole(dataset, "PixelRepresentation") == 1:  # the sign may be carried on upwards
        carried = (1 << (allocated - whole(dataset, "HighBit") - 1)) - 1
        high = high[high != carried]
    if high.any():
        yield "unused-bits"


@lru_cache(maxsize=1)
def _table() -> dict[str, Any]:
    tree = yaml.safe_load(files("data_connectors.deid").joinpath("burned_in.yaml").read_text())
    return {
        "risky": tree["classes"]["risky"],
        "plain": frozenset(tree["classes"]["plain"]),
        "image_type": tuple(tree["image_type"]),
        "description": tuple(tree["description"]),
        "modalities": frozenset(tree["modalities"]),
        "grey": frozenset(tree["grey_modalities"]),
        "placed": frozenset(tree["placed"]),
    }
