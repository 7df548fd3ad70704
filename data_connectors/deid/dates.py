"""DICOM dates, times and ages (PS3.5 6.2), moved by whole days or replaced.

A shift is in days of the calendar, so intervals between a patient's dates keep their length over
leap days, and a time of day or an offset from UTC is left as it is (there is no daylight saving
in the arithmetic, as there is none in the values).
"""

from __future__ import annotations

import re
from datetime import date, timedelta
from typing import Final

DUMMY: Final = {"DA": "19000101", "DT": "19000101000000", "TM": "000000"}
"""What stands where there has to be a date and none may stay."""
_DATE = re.compile(r"(\d{4})([.\-/]?)(\d{2})\2(\d{2})")  # with separators: ACR-NEMA 2
_MOMENT = re.compile(
    r"(\d{8})((?:\d{2}(?:\d{2}(?:\d{2}(?:\.\d{1,6})?)?)?)?)((?:[+\-]\d{4})?)", re.ASCII
)
_TIME = re.compile(r"\d{2}(?::?\d{2}(?::?\d{2}(?:\.\d{1,6})?)?)?", re.ASCII)
_OFFSET = re.compile(r"[+\-]\d{4}", re.ASCII)
_AGE = re.compile(r"(\d{3})([DWMY])", re.ASCII)
_YEARS: Final = {"D": 1 / 365.25, "W": 7 / 365.25, "M": 1 / 12, "Y": 1.0}
_OLDEST: Final = 89
"""Years; whoever is older is one of few."""


def shift(vr: str, text: str, days: int) -> str | None:
    """A value moved by so many days.

    Args:
        vr: DA, DT, TM, or SH for an offset from UTC.
        text: One value.
        days: How far.

    Returns:
        The moved value; None for what is no valid value, or a month or year alone, which cannot
        be moved by days.
    """
    text = text.strip(" \0")
    if vr == "TM":
        return text if _TIME.fullmatch(text) else None
    if vr == "SH":
        return text if _OFFSET.fullmatch(text) else None
    if vr == "DA":
        return _moved(text, days)
    match = _MOMENT.fullmatch(text)
    moved = _moved(match[1], days) if match else None
    return f"{moved}{match[2]}{match[3]}" if match and moved else None


def cap_age(text: str) -> str | None:
    """An age; `090Y` for everybody over 89; None for what is no age."""
    match = _AGE.fullmatch(text.strip(" \0"))
    if match is None:
        return None
    years = int(match[1]) * _YEARS[match[2]]
    return match[0] if years < _OLDEST + 1 else "090Y"


def _moved(text: str, days: int) -> str | None:
    match = _DATE.fullmatch(text)
    if match is None:
        return None
    try:
        moved = date(int(match[1]), int(match[3]), int(match[4])) + timedelta(days=days)
    except (ValueError, OverflowError):
        return None
    return f"{moved:%Y%m%d}" if moved.year >= 1000 else None
