"""Descriptions word by word: the patient's identifiers go, then every word that is not known."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cached_property

from data_connectors.deid.scrub import Scrubber
from data_connectors.deid.vocabulary import is_safe_token

_PIECES = re.compile(r"[^\W_]+(?:\.[0-9]+)?|[\W_]+")
_DECIMAL = re.compile(r"\d{1,3}\.\d{1,3}", re.ASCII)
_GAP = re.compile(r"\s+")
_UID = re.compile(r"\d+(?:\.\d+){3,}", re.ASCII)


class Cleaner:
    """Knows one patient's identifiers, and which words are none.

    Args:
        identifiers: Strings that identify the person, as in `Scrubber`.
        words: Further words that are no identifiers.
    """

    def __init__(self, identifiers: Iterable[str], words: Iterable[str] = ()) -> None:
        self._identifiers = frozenset(identifiers)
        self._words = frozenset(word.lower() for word in words)

    @cached_property
    def _scrubber(self) -> Scrubber:
        # No word is protected here: a patient called Heart loses it from the description, too.
        return Scrubber(self._identifiers, generic=True)

    def clean(self, text: str) -> str:
        """The known words of a text, with what stands between them; maybe empty."""
        lines = (self._line(line) for line in text.splitlines())
        return "\n".join(line for line in lines if line)

    def _line(self, text: str) -> str:
        text = _UID.sub(" ", text.replace("^", " "))
        pieces: list[str] = []
        kept = False
        for piece in _PIECES.findall(self._scrubber.scrub(text).text):
            if piece[0].isalnum():
                decimal = _DECIMAL.fullmatch(piece) is not None
                kept = decimal or is_safe_token(piece, self._words, digits=3)
                pieces.append(piece if kept else " ")
            else:
                pieces.append(piece if kept and piece.isascii() else " ")
        return _GAP.sub(" ", "".join(pieces)).strip(" ,;:-_/.^")
