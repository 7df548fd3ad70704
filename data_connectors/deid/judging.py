"""Attributes that the table does not name: kept only when their value can hold no identity.

A perfect implementation of the table still leaks (Overlay Description, an operator's name in
Manufacturer): here text has to consist of known words, UIDs have to be registered, numbers have
to be numbers and no longer than a count, bulk data has to be pixels or colour tables.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from pydicom._uid_dict import UID_dictionary

from data_connectors.deid.vocabulary import is_safe, is_safe_code

_TYPES: Final = {
    "FL": "<f4", "FD": "<f8", "SS": "<i2", "US": "<u2", "SL": "<i4", "UL": "<u4", "SV": "<i8",
    "UV": "<u8", "AT": "<u4",
}  # fmt: skip
NUMBERS: Final = frozenset(_TYPES)
_SPELT: Final = 6
"""Bytes; fewer may be letters by chance."""
_LARGEST: Final = 1e12
BULK: Final = {"OB", "OW", "OF", "OD", "OL", "OV", "UN"}
TEXTS: Final = {"SH", "LO", "ST", "LT", "UT", "UC"}
DATES: Final = {"DA", "DT", "TM"}

_COUNTS: Final = {
    "CountsAccumulated", "PrimaryPromptsCountsAccumulated", "SecondaryCountsAccumulated",
    "ActualFrameDuration", "FrameReferenceTime", "RadionuclideTotalDose", "ExposureInuAs",
    "ExposureTimeInuS", "XRayTubeCurrentInuA", "CountRate", "SliceSensitivityFactor",
    "NominalInterval", "WindowCenter", "WindowWidth", "RescaleIntercept", "RescaleSlope",
    "DecayFactor", "DoseGridScaling", "TableOfYBreakPoints", "TableOfPixelValues",
    "FrameTimeVector", "RadionuclideHalfLife", "SmallestImagePixelValue", "TriggerTime",
}  # fmt: skip
"""Whole numbers that may well be above a million."""
_MOST_DIGITS: Final = 6
_NUMBER = re.compile(r"[+\-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+\-]?\d{1,3})?", re.ASCII)


def keeps_uid(uid: str) -> bool:
    """Whether a UID is registered in PS3.6 or PS3.16: it names a class, not an instance."""
    return uid.strip(" \0") in UID_dictionary


def plain_number(keyword: str, text: str) -> str:
    """A number string (IS, DS) that is no record number.

    A whole number of more than six digits becomes 0; in attributes that count or measure large
    things it keeps six significant digits. What is no number becomes 0, too.

    Args:
        keyword: Of the attribute.
        text: One value.
    """
    plain = text.strip(" \0")
    if _NUMBER.fullmatch(plain) is None:
        return "0"
    digits = plain.lstrip("+-")
    if not digits.isdigit() or len(digits.lstrip("0")) <= _MOST_DIGITS:
        return text
    if keyword not in _COUNTS:
        return "0"
    return str(round(int(plain), _MOST_DIGITS - len(digits.lstrip("0"))))


def spells_text(vr: str, values: Sequence[Any]) -> bool:
    """Whether the bytes of binary numbers are all printable, and one is no measured number.

    Args:
        vr: FL, FD, SS, US, SL, UL, SV, UV or AT.
        values: The numbers.
    """
    numbers = np.asarray([int(one) for one in values] if vr == "AT" else values, _TYPES[vr])
    text = numbers.tobytes().rstrip(b"\0")
    if len(text) < _SPELT or not all(0x20 <= byte < 0x7F for byte in text):
        return False
    if numbers.dtype.kind != "f":
        return True
    # "gfff:;y?" is 0.00616, a pixel spacing; but what ends in a letter or digit is no size at all.
    size = np.abs(numbers)
    return bool(np.any((size > _LARGEST) | ((size < 1 / _LARGEST) & (size > 0))))


def keeps_text(vr: str, text: str, words: frozenset[str]) -> bool:
    """Whether a text or code string consists of known words.

    Args:
        vr: Its value representation.
        text: One value.
        words: Further words that are no identifiers, lower case.
    """
    text = text.strip(" \0")
    return is_safe_code(text) if vr == "CS" else is_safe(text, words)
