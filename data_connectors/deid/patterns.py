"""What identifiers look like in running text: regular expressions from raw identifiers.

Patterns match the folded text (`fold`): one plain letter for every accented one, same length, so
a place in the folded text is the same place in the original. They are compiled ignoring case.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from datetime import date
from itertools import permutations
from typing import Literal

Kind = Literal["name", "date", "number", "titled"]

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_MONTH_ENDS = (
    "uary",
    "ruary",
    "ch",
    "il",
    "",
    "e",
    "y",
    "ust",
    "t(?:ember)?",
    "ober",
    "ember",
    "ember",
)
_TITLES = {
    "dr",
    "mr",
    "mrs",
    "ms",
    "prof",
    "md",
    "phd",
    "jr",
    "sr",
    "ii",
    "iii",
    "iv",
    "frau",
    "herr",
}
_TITLED = r"(?:(?<=\b(?:mr|ms|dr) )|(?<=\b(?:mr|ms|dr)\. )|(?<=\bmrs )|(?<=\bmrs\. ))"
_LEFT, _RIGHT = r"(?<![a-z0-9])", r"(?![a-z0-9])"


def fold(text: str) -> str:
    """The text with accents taken off, character by character; the length stays."""
    if text.isascii():
        return text
    return "".join(
        char if char.isascii() else unicodedata.normalize("NFKD", char)[0] for char in text
    )


def of_identifier(text: str, protected: frozenset[str]) -> Iterator[tuple[Kind, str]]:
    """Patterns for one raw identifier; none when it is too short to mean anybody."""
    text = text.strip()
    moment = _as_date(text)
    if moment is not None:
        for pattern in _date_patterns(moment):
            yield "date", pattern
        return
    if any(char.isdigit() for char in text):
        yield from _number_patterns(text)
        return
    for group in text.split("="):  # DICOM: alphabetic=ideographic=phonetic
        for variant in {group, _german(group)}:
            yield from _name_patterns(variant, protected)


def _name_patterns(name: str, protected: frozenset[str]) -> Iterator[tuple[Kind, str]]:
    words = [word for word in re.split(r"[\W_]+", fold(name).lower()) if word]
    if words and not all(word.isascii() for word in words):
        yield "name", r"\s*".join(map(re.escape, words))  # scripts without spaces: literally
        return
    words = [word for word in dict.fromkeys(words) if word not in _TITLES]
    strong = [word for word in words if len(word) > 1]
    gap = r"[\s,.^_\-]{1,3}"
    if len(strong) > 1 and all(word in protected for word in strong):
        # "Heart^Clear": only as a name is written, so that "clear heart" keeps its meaning.
        for pair in permutations(strong, 2):
            yield "name", rf"(?-i:\b{gap.join(word.capitalize() for word in pair)}\b)"
    elif 2 <= len(strong) <= 4:
        for order in permutations(strong):
            yield "name", _LEFT + gap.join(order) + _RIGHT
        for pair in permutations(strong, 2):
            # Two of them are enough: a middle name may be left out, or be an initial.
            yield "name", _LEFT + (gap + r"(?:[a-z]\.?\s+)?").join(pair) + _RIGHT
            yield "name", _LEFT + rf"{pair[0][0]}\.\s*{pair[1]}" + _RIGHT
    for word in strong:
        if len(word) > 2 and word not in protected:
            yield "name", _LEFT + word + r"(?:'?s)?" + _RIGHT
        elif len(strong) > 1 or len(words) == 1:
            # A protected or tiny word is a name only behind a title.
            yield "titled", _TITLED + word + _RIGHT


def _number_patterns(text: str) -> Iterator[tuple[Kind, str]]:
    parts = re.findall(r"[a-z]+|[0-9]+", fold(text).lower())
    letters = sum(len(part) for part in parts if part.isalpha())
    digits = "".join(part for part in parts if part.isdigit()).lstrip("0")
    if len(parts) > 2 and letters > len(digits):  # an address: the phrase
        yield "number", _LEFT + r"[\s,.\-]{0,3}".join(map(re.escape, parts)) + _RIGHT
    elif re.fullmatch(r"[0-9.]{20,}", text):  # a UID: literally
        yield "number", _LEFT + re.escape(text) + _RIGHT
    elif letters + len(digits) >= 4 and len(digits) >= 3:
        yield "number", _LEFT + _spaced(parts) + _RIGHT
        numbers = [part for part in parts if part.isdigit()]
        if letters and len(digits) >= 5:  # the prefix may be left out
            yield "number", _LEFT + _spaced(numbers) + _RIGHT


def _spaced(parts: list[str]) -> str:
    """Parts with or without a sign between them; long digit strings may have gaps anywhere."""
    gap = r"[\s\-./_]?"
    spelt = []
    for place, part in enumerate(parts):
        core = part.lstrip("0") or "0" if place == 0 or parts[place - 1].isalpha() else part
        zeros = "0*" if place == 0 or core is not part else ""
        spelt.append(zeros + (gap.join(core) if len(core) >= 7 and part.isdigit() else core))
    return gap.join(spelt)


def _as_date(text: str) -> date | None:
    """A date identifier: DICOM (`19630412`, also with time), ISO."""
    match = re.fullmatch(r"(\d{4})([-./]?)(\d{2})\2(\d{2})(?:[T ]?[\d:.+\-]*Z?)?", text)
    if match is None or len(re.sub(r"\D", "", text)) > 20:
        return None
    try:
        moment = date(int(match[1]), int(match[3]), int(match[4]))
    except ValueError:
        return None
    return moment if 1880 <= moment.year <= 2100 else None


def _date_patterns(moment: date) -> Iterator[str]:
    year, month, day = moment.year, moment.month, moment.day
    y = rf"(?:{year}|'?{year % 100:02d})"
    m, d, s = f"0?{month}", f"0?{day}", r"\s?[-./]\s?"
    end = _MONTH_ENDS[month - 1]
    word = rf"{_MONTHS[month - 1]}(?:{end})?\.?"
    for body in (
        f"{year}{month:02d}{day:02d}(?:\\d{{4,6}})?",
        f"{year}{s}{m}{s}{d}",
        f"{d}{s}{m}{s}{y}",
        f"{m}{s}{d}{s}{y}",
        rf"{d}(?:st|nd|rd|th)?[\s\-.]*(?:of\s+)?{word}[\s\-,]*{y}",
        rf"{word}[\s\-]*{d}(?:st|nd|rd|th)?[\s,\-]+{y}",
        rf"{year}[\s\-]{word}[\s\-]{d}",
    ):
        yield _LEFT + body + _RIGHT


def _german(text: str) -> str:
    """Spelt-out umlauts, as many systems store them."""
    table = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "ß": "ss",
                           "Ä": "AE", "Ö": "OE", "Ü": "UE"})  # fmt: skip
    return text.translate(table)
