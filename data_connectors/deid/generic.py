"""What looks like an identifier on its own, whoever the patient is."""

from __future__ import annotations

import re

NEUTRAL: dict[str, str] = {
    "name": "the person",
    "date": "a date",
    "number": "a number",
    "address": "an address",
}
"""What an identifier of each kind is replaced by."""

_NAME = r"(?:[A-Z][\w'\-]+|[A-Z]\.)"
_TITLE = r"\b(?:Dr|Mr|Mrs|Ms|Prof)\b\.?"
_YEAR = r"(?:19|20)\d{2}"
_DAY = r"(?:[0-2]?\d|3[01])"
_NTH = rf"{_DAY}(?:st|nd|rd|th)?"
_MONTH = (
    r"(?:Jan(?:uary)?|Feb(?:ruary)?|Mar(?:ch)?|Apr(?:il)?|May|June?|July?|Aug(?:ust)?"
    r"|Sept?(?:ember)?|Oct(?:ober)?|Nov(?:ember)?|Dec(?:ember)?)\.?"
)
_ALONE = r"(?<![\w./\-])", r"(?![\w/])"
_LABEL = (
    r"\b(?i:mrn|acc|accession(?:\s+(?:number|no))?|medical\s+record(?:\s+number)?|patient\s+id)\b"
)


def _alone(body: str) -> re.Pattern[str]:
    return re.compile(_ALONE[0] + body + _ALONE[1])


_PATTERNS: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("name", re.compile(rf"{_TITLE}\s+{_NAME}(?:\s+{_NAME})?")),
    ("address", re.compile(r"\b[\w.+\-]+@[\w\-]+(?:\.[\w\-]+)+\b")),
    ("address", re.compile(r"\bhttps?://\S+")),
    ("number", _alone(r"(?:\+\d{1,3}[\s\-])?(?:\(\d{3}\)\s?|\d{3}[\s\-.])\d{3}[\-.]\d{4}")),
    ("number", re.compile(_LABEL + r"\s*[#:.]*\s*[A-Za-z]{0,4}-?\d{4,}\b")),
    ("date", _alone(rf"{_YEAR}[-/.](?:0?[1-9]|1[0-2])[-/.]{_DAY}")),
    ("date", _alone(rf"{_DAY}[-/.]{_DAY}[-/.]{_YEAR}")),
    ("date", _alone(rf"{_DAY}/{_DAY}/\d{{2}}")),
    ("date", re.compile(rf"\b{_NTH}\s+(?:of\s+)?{_MONTH},?\s+{_YEAR}\b")),
    ("date", re.compile(rf"\b{_MONTH}\s+{_NTH},?\s+{_YEAR}\b")),
)


def find_generic(text: str) -> list[tuple[int, int, str]]:
    """Titled names, full dates, telephone numbers, addresses, labelled record numbers.

    Returns:
        (start, end, neutral word) of each, in no order; they may overlap.
    """
    return [
        (match.start(), match.end(), NEUTRAL[kind])
        for kind, pattern in _PATTERNS
        for match in pattern.finditer(text)
    ]
