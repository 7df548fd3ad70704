"""What tells several passes over the same positions apart: echo, phase, b-value, acquisition.

Attribute names are those of DICOM PS3.6; private ones are those of the vendors' conformance
statements, read where their block is the usual one.
"""

from __future__ import annotations

import struct
from typing import Any, Final

from data_connectors.dicom.attributes import Attributes

STRONG: Final = (
    "AcquisitionNumber", "TemporalPositionIdentifier", "EchoNumbers", "EchoTime", "InversionTime",
    "DiffusionBValue", "DiffusionGradientOrientation", "SequenceName", "FlipAngle",
    "RepetitionTime", "FrameReferenceTime", "NominalPercentageOfCardiacPhase", "KVP",
    "ConvolutionKernel", "FilterType", "SliceThickness", "ImageType",
)  # fmt: skip
"""Attributes that say what a slice is, in order of trust."""

WEAK: Final = ("TriggerTime", "ContentTime", "AcquisitionTime")
"""Times: they vary within a pass too, so only what agrees with the positions is believed."""

_PRIVATE: Final = {
    "b-value (GE)": (0x0043, 0x1039),
    "b-value (Siemens)": (0x0019, 0x100C),
    "gradient direction (Siemens)": (0x0019, 0x100E),
    "b-value (Philips)": (0x2001, 0x1003),
    "gradient direction (Philips)": (0x2001, 0x1004),
    "gradient direction (GE)": (0x0019, 0x10BB),
    "b-value (United Imaging)": (0x0065, 0x1009),
    "image part (GE)": (0x0043, 0x102F),
}
_GE_B_VALUE_LIMIT: Final = 100_000
"""GE adds multiples of it (1e9, usually) to the b-value."""

PASS_NAMES: Final = (*STRONG, *_PRIVATE, *WEAK)
"""What the values of `pass_values` are."""
PASS_TAGS: Final[tuple[Any, ...]] = (*STRONG, *WEAK, *_PRIVATE.values())
"""What has to be read from a header for them."""
_LONGEST: Final = 200


def pass_values(dataset: Attributes) -> tuple[str, ...]:
    """One text for each of `PASS_NAMES`; empty where the header does not say.

    Numbers are written to five figures, so that `80`, `80.0` and a rounded `80.0000012` are one.
    """
    public = {name: joined(dataset.get(name)) for name in STRONG}
    private = {name: joined(_element(dataset, tag)) for name, tag in _PRIVATE.items()}
    ge = private["b-value (GE)"].split("\\")[0]
    if ge:
        private["b-value (GE)"] = _ge_b_value(ge)
    return (*public.values(), *private.values(), *weak_values(dataset))


def weak_values(dataset: Attributes) -> tuple[str, ...]:
    """Those of `WEAK`, which come last in `PASS_NAMES`."""
    return tuple([joined(dataset.get(name)) for name in WEAK])


def _element(dataset: Attributes, tag: tuple[int, int]) -> Any:
    element = dataset.get(tag)
    if element is None:
        return None
    value = element.value
    return _unknown(value) if isinstance(value, bytes) else value


def _unknown(value: bytes) -> Any:
    """The value of a private element whose representation the file does not give."""
    text = value.rstrip(b"\0 ")
    if text and all(byte in b"0123456789+-.eE\\ ABCDFGHIJKLMNOPQRSTUVWXYZ" for byte in text):
        return text.decode().split("\\")
    if len(value) in (4, 8):
        return struct.unpack("<f" if len(value) == 4 else "<d", value)[0]
    return value.hex()


def joined(value: Any) -> str:
    """The value of an element as one text."""
    if value is None or value == "":
        return ""
    many = not isinstance(value, str | bytes) and hasattr(value, "__iter__")
    return "\\".join(_figure(part) for part in (value if many else (value,)))[:_LONGEST]


def _figure(value: Any) -> str:
    text = str(value).strip(" \0").upper()
    try:
        number = float(text)
    except ValueError:
        return text
    return text if len(text.split(".")[0]) > 5 else f"{number:.5g}"  # a time keeps its figures


def _ge_b_value(text: str) -> str:
    try:
        return str(int(float(text)) % _GE_B_VALUE_LIMIT)
    except (ValueError, OverflowError):
        return text
