"""The usual spellings of an identifier, and a search for thousands of byte strings at once."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Final

import numpy as np

HEAD: Final = 4
"""Bytes of the shortest string that `Search` finds."""
_WIDEST_TABLE: Final = 22
_GOLDEN: Final = np.uint32(2654435761)


def spellings(word: str) -> Iterator[str]:
    """An identifier, and how a person would write it: names in other orders, dates otherwise."""
    yield word
    if "^" in word:
        parts = [part for part in word.split("^") if part]
        yield " ".join(parts)
        if len(parts) > 1:
            last, first = parts[0], parts[1]
            yield from (f"{last}, {first}", f"{first} {last}", f"{first}_{last}", f"{last}_{first}")
    if match := re.fullmatch(r"((?:19|20)\d\d)(\d\d)(\d\d)", word):
        year, month, day = match.groups()
        yield from (f"{year}-{month}-{day}", f"{day}/{month}/{year}", f"{month}/{day}/{year}",
                    f"{day}.{month}.{year}", f"{year}/{month}/{day}")  # fmt: skip


class Search:
    """Finds many byte strings at once.

    The first four bytes of every place index a bit table (vectorised), the next one a second
    table; the few places that may begin a string are compared in full.

    Args:
        forms: Byte strings of at least four bytes -> numbers to answer with.
    """

    def __init__(self, forms: Mapping[bytes, set[int]]) -> None:
        self._forms = dict(forms)
        self._by_head: dict[bytes, list[bytes]] = defaultdict(list)
        for form in forms:
            self._by_head[form[:HEAD]].append(form)
        # Sixty-four slots a head keep chance hits rare; a small search builds a small table.
        self._bits = min(_WIDEST_TABLE, max(12, (64 * len(self._by_head)).bit_length()))
        self._table = np.zeros(1 << self._bits, dtype=bool)
        self._second = np.zeros(1 << self._bits, dtype=bool)
        heads = np.array([int.from_bytes(head, "little") for head in self._by_head], np.uint32)
        self._table[self._slots(heads)] = True
        for head, found in self._by_head.items():
            word = np.array([int.from_bytes(head, "little")], np.uint32)
            following = {form[HEAD] if len(form) > HEAD else -1 for form in found}
            every = range(256) if -1 in following else following
            fifth = np.array(sorted(every), np.uint32)
            self._second[self._slots(word ^ (fifth + 1) * np.uint32(0x01000193))] = True

    def find(self, data: bytes) -> set[int]:
        """Numbers of the strings that occur in the data."""
        return {number for _, form in self.places(data) for number in self._forms[form]}

    def places(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """(place, string) of every string that occurs, in no order."""
        if not self._by_head:
            return
        for phase in range(min(HEAD, max(0, len(data) - HEAD + 1))):
            count = (len(data) - phase) // HEAD
            words = np.frombuffer(data, "<u4", count, phase)
            hits = np.flatnonzero(self._table[self._slots(words)])
            for place in self._likely(data, words, hits, phase).tolist():
                for form in self._by_head.get(data[place : place + HEAD], ()):
                    if data.startswith(form, place):
                        yield place, form

    def _likely(self, data: bytes, words: np.ndarray, hits: np.ndarray, phase: int) -> np.ndarray:
        """Places of hits whose fifth byte fits too; a hit at the very end always stays."""
        places = hits * HEAD + phase
        inside = places + HEAD < len(data)
        fifth = np.frombuffer(data, np.uint8)[places[inside] + HEAD].astype(np.uint32)
        mixed = words[hits[inside]] ^ (fifth + np.uint32(1)) * np.uint32(0x01000193)
        fits = self._second[self._slots(mixed)]
        return np.concatenate([places[inside][fits], places[~inside]])

    def _slots(self, words: np.ndarray) -> np.ndarray:
        slots: np.ndarray = (words * _GOLDEN) >> np.uint32(32 - self._bits)
        return slots
