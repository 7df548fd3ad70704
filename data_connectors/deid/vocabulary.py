"""Which words are no identifiers: everything else in a text is treated as one.

A list of what is forbidden never ends; a list of what is known does. Known are the words of the
DICOM dictionary, the meanings of its coded concepts (without words that only occur capitalised:
eponyms), the knowledge books, and `code_words.txt`. Names that are such words ("Brown") are
found by other means: the object's own header names its patient (`clean.py`, `residual.py`).
"""

from __future__ import annotations

import re
from functools import lru_cache
from importlib.resources import files
from itertools import chain
from typing import Any, Final

from pydicom._dicom_dict import DicomDictionary
from pydicom._uid_dict import UID_dictionary
from pydicom.sr._concepts_dict import concepts

from data_connectors.deid.scrub import protected_words

_LONGEST: Final = 64
"""Characters; longer texts tell stories, whatever their words."""
_MOST_DIGITS: Final = 6
"""In one text: a date has eight, a telephone number more."""
_LETTERS = re.compile(r"[A-Za-z]+")
_TOKEN = re.compile(r"[^\W_]+")
_CASE = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_CODE_LETTERS: Final = 4
"""A run of so few letters in a code string (CS) names nobody."""


@lru_cache(maxsize=1)
def coded_concepts() -> tuple[tuple[str, str, str], ...]:
    """(scheme, value, meaning) of every concept that pydicom's dictionary of PS3.16 has."""
    table: dict[str, Any] = concepts
    return tuple(
        (scheme, value, meaning)
        for scheme, keywords in table.items()
        for codes in keywords.values()
        for value, (meaning, _) in codes.items()
    )


@lru_cache(maxsize=1)
def known_words() -> frozenset[str]:
    """Every known word, lower case."""
    text = files("data_connectors.deid").joinpath("code_words.txt").read_text(encoding="ascii")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    common = {
        word
        for _, _, meaning in coded_concepts()
        for word in _LETTERS.findall(meaning)
        if word.islower()
    }
    names = chain(
        (row[2] for row in DicomDictionary.values()), (row[0] for row in UID_dictionary.values())
    )
    official = {word.lower() for text in names for word in _LETTERS.findall(text)}
    return frozenset(chain(" ".join(lines).split(), common, official, protected_words()))


def is_safe(text: str, more: frozenset[str] = frozenset()) -> bool:
    """Whether a short text consists of known words, short tokens and few digits."""
    if len(text) > _LONGEST or sum(map(str.isdigit, text)) > _MOST_DIGITS:
        return False
    return all(is_safe_token(token, more, digits=4) for token in _TOKEN.findall(text))


def is_safe_code(text: str) -> bool:
    """Whether a code string (CS) consists of known words and short runs of letters."""
    if len(text) > 16 or not text.isascii() or sum(map(str.isdigit, text)) > 4:
        return False
    return all(
        len(run) <= _CODE_LETTERS or run.lower() in known_words() for run in _LETTERS.findall(text)
    )


def is_safe_token(token: str, more: frozenset[str], *, digits: int) -> bool:
    """Whether one run of letters and digits is known, or too short to name anybody.

    Args:
        token: Letters and digits only.
        more: Further known words, lower case.
        digits: Most digits of a token of digits.
    """
    if token.isdigit():
        return token.isascii() and len(token) <= digits
    if token.isalpha():
        return (len(token) <= 2 and token.isascii()) or _known(token, more)
    if not token.isascii():
        return False
    few = sum(map(str.isdigit, token)) <= 3
    return few and (len(token) <= 6 or all(_known(run, more) for run in _LETTERS.findall(token)))


def _known(word: str, more: frozenset[str]) -> bool:
    words = known_words()
    lower = word.lower()
    if lower in words or lower in more:
        return True
    parts = _CASE.findall(word)  # LightSpeed
    return len(parts) > 1 and all(part.lower() in words or part.lower() in more for part in parts)
