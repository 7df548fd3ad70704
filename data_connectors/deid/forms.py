"""The forms an identifier can take in bytes, and a search for thousands of them at once."""

from __future__ import annotations

import base64
import json
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from urllib.parse import quote

import numpy as np

SHORTEST = 5
"""Characters; anything shorter is found everywhere."""
_TABLE_BITS = 22


class Canaries:
    """A set of identifiers, ready to be searched for."""

    def __init__(self, words: Sequence[str]) -> None:
        kept = [word for word in dict.fromkeys(words) if len(word) >= SHORTEST]
        self.too_short = len(set(words)) - len(kept)
        self._words = kept
        loose: dict[bytes, set[int]] = defaultdict(set)
        exact: dict[bytes, set[int]] = defaultdict(set)
        for number, word in enumerate(kept):
            for text in spellings(word):
                for form in loose_forms(text):
                    loose[form.lower()].add(number)
                for form in exact_forms(text):
                    exact[form].add(number)
        self._loose, self._exact = Search(loose), Search(exact)
        self.longest = max((len(form) for form in (*loose, *exact)), default=0)

    def __len__(self) -> int:
        return len(self._words)

    def find(self, data: bytes) -> set[int]:
        """Numbers of the canaries that occur in some form."""
        return self._loose.find(data.lower()) | self._exact.find(data)

    def mask(self, name: str) -> str:
        """A file name without the canaries in it."""
        if not self.find(name.encode("utf-8", "surrogateescape")):
            return name
        for word in sorted(self._words, key=len, reverse=True):
            for text in spellings(word):
                name = re.sub(re.escape(text), "***", name, flags=re.IGNORECASE)
        if self.find(name.encode("utf-8", "surrogateescape")):  # an encoded one
            return "***"
        return name


def spellings(word: str) -> Iterator[str]:
    """A canary, and how a person would write it: names in other orders, dates in other formats."""
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


def loose_forms(text: str) -> Iterator[bytes]:
    """Forms that are searched whatever the case."""
    for variant in {text, text.lower(), text.upper()}:  # beyond ASCII, bytes.lower() is no help
        yield variant.encode()
        yield variant.encode("utf-16-le")
        yield variant.encode("utf-16-be")
        yield variant.encode("utf-32-le")
        for encoding in ("utf-8", "utf-16-le"):
            yield variant.encode(encoding).hex().encode()
        if not variant.isascii():
            yield json.dumps(variant)[1:-1].encode()
            yield from _latin(variant)
        if (quoted := quote(variant)) != variant:
            yield quoted.encode()


def exact_forms(text: str) -> Iterator[bytes]:
    """Base64, at each of the three alignments, of the usual cases."""
    for variant in {text, text.lower(), text.upper(), text.title()}:
        for encoding in ("utf-8", "utf-16-le"):
            data = variant.encode(encoding)
            for shift in range(3):
                # Only characters that depend on nothing but the identifier itself.
                start = (shift * 8 + 5) // 6
                end = (shift + len(data)) * 8 // 6
                coded = base64.b64encode(bytes(shift) + data)[start:end]
                yield coded
                yield coded.replace(b"+", b"-").replace(b"/", b"_")


def _latin(text: str) -> Iterator[bytes]:
    try:
        yield text.encode("latin-1")
    except UnicodeEncodeError:
        return


class Search:
    """Finds many byte strings at once.

    The first four bytes of every place index a bit table (vectorised); the few places that may
    begin a string are compared in full. Strings are at least four bytes long.
    """

    def __init__(self, forms: dict[bytes, set[int]]) -> None:
        self._by_head: dict[bytes, list[tuple[bytes, set[int]]]] = defaultdict(list)
        for form, numbers in forms.items():
            self._by_head[form[:4]].append((form, numbers))
        self._table = np.zeros(1 << _TABLE_BITS, dtype=bool)
        for head in self._by_head:
            self._table[_slots(np.frombuffer(head, np.uint8))] = True

    def find(self, data: bytes) -> set[int]:
        """Numbers of the strings that occur in the data."""
        found: set[int] = set()
        if len(data) < 4:
            return found
        places = np.flatnonzero(self._table[_slots(np.frombuffer(data, np.uint8))])
        for place in places.tolist():
            for form, numbers in self._by_head.get(data[place : place + 4], ()):
                if data.startswith(form, place):
                    found |= numbers
        return found


def _slots(data: np.ndarray) -> np.ndarray:
    """Table index of the four bytes at every place."""
    wide = data.astype(np.uint32)
    word = wide[:-3] | wide[1:-2] << 8 | wide[2:-1] << 16 | wide[3:] << 24
    slots: np.ndarray = (word * np.uint32(2654435761)) >> np.uint32(32 - _TABLE_BITS)
    return slots
