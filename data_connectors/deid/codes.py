"""Coded concepts: a meaning is kept where the dictionary has it, or where every word is known."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Final

from pydicom.sr._snomed_dict import mapping

from data_connectors.deid.vocabulary import coded_concepts, is_safe

REMOVED: Final = ("REMOVED", "99MEDVLP", "Removed")
"""Value, scheme and meaning of what stands for a concept that is not kept."""
_PATTERNS: Final[Mapping[str, re.Pattern[str]]] = {
    "SCT": re.compile(r"\d{6,18}", re.ASCII),
    "SRT": re.compile(r"[A-Z]-[0-9A-F]{4,5}"),
    "SNM3": re.compile(r"[A-Z]-[0-9A-F]{4,5}"),
    "99SDM": re.compile(r"[A-Z]-[0-9A-F]{4,5}"),
    "DCM": re.compile(r"\d{6}", re.ASCII),
    "LN": re.compile(r"\d{1,5}-\d", re.ASCII),
    "RADLEX": re.compile(r"RID\d{1,5}", re.ASCII),
    "UCUM": re.compile(r"(?:[A-Za-z]{1,4}|[0-9]{1,3}|[\[\]{}'/.*%^+\-()]){1,12}"),
    "FMA": re.compile(r"\d{4,6}", re.ASCII),
}
"""What codes of a scheme look like, where the dictionary does not have them."""


def clean_code(value: str, scheme: str, meaning: str) -> tuple[str, str, str]:
    """A concept as it may stay: itself, or `REMOVED`.

    Local codes stay where value, scheme and meaning consist of known words.
    """
    known = _dictionary().get((scheme, value))
    if known is not None:
        same = meaning.casefold() == known.casefold() or is_safe(meaning)
        return value, scheme, meaning if same else known
    pattern = _PATTERNS.get(scheme)
    fits = pattern.fullmatch(value) is not None if pattern else is_safe(value) and is_safe(scheme)
    if scheme == "SCT":
        fits = fits and has_check_digit(value)
    return (value, scheme, meaning) if fits and is_safe(meaning) else REMOVED


@lru_cache(maxsize=1)
def _dictionary() -> dict[tuple[str, str], str]:
    """(scheme, value) -> meaning; SNOMED in its old codes, too."""
    found = {(scheme, value): meaning for scheme, value, meaning in coded_concepts()}
    for old, new in mapping["SRT"].items():
        meaning = found.get(("SCT", new))
        if meaning is not None:
            found.update({(scheme, old): meaning for scheme in ("SRT", "SNM3", "99SDM")})
    return found


_TIMES: Final = (
    "0123456789", "1234067895", "2340178956", "3401289567", "4012395678",
    "5987604321", "6598710432", "7659821043", "8765932104", "9876543210",
)  # fmt: skip
_TURN: Final = (
    "0123456789", "1576283094", "5803796142", "8916043527",
    "9453126870", "4286573901", "2793806415", "7046913258",
)  # fmt: skip


def has_check_digit(code: str) -> bool:
    """Whether a SNOMED CT identifier ends in the right digit (Verhoeff, dihedral group of ten)."""
    check = 0
    for place, digit in enumerate(reversed(code)):
        check = int(_TIMES[check][int(_TURN[place % 8][int(digit)])])
    return check == 0
