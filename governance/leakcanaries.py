"""A set of identifiers, ready to be searched for in bytes of any kind."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Final

from data_connectors.deid.forms import HEAD, Search
from governance.leakspell import every_spelling
from governance.leakviews import views

SHORTEST: Final = 5
"""Characters; anything shorter is found everywhere."""
LAYERS: Final = 2
"""Encodings inside encodings that are taken off (base64 of UTF-16, percent within JSON)."""
_CODINGS: Final = ("latin-1", "cp1252", "iso8859-2", "iso8859-5", "iso8859-7", "iso8859-8",
                   "iso8859-9", "cp1250", "cp1251", "koi8-r", "shift_jis", "euc_jp",
                   "iso2022_jp", "euc_kr", "gb18030", "big5", "utf-16-le", "utf-16-be",
                   "utf-32-le", "utf-32-be", "utf-7", "cp437", "cp850", "mac-roman")  # fmt: skip
_FRACTION: Final = re.compile(rb"(?:^|[^0-9.])[0-9]{1,3}\.$")
_LONGER: Final = re.compile(rb"(?:[1-9][0-9]+|(?:^|[\t\n\r -~])[1-9])$")
_GOES_ON: Final = re.compile(rb"[0-9](?:[0-9 -~]|[\t\n\r]+(?:[ -~]|$)|$)")
_HEX_END: Final = re.compile(rb"[0-9a-f]*$")
_HEX_START: Final = re.compile(rb"[0-9a-f]*")
_WIDE: Final = 2048
"""Bytes that the encoded form of the longest canary may take, at most."""


class Canaries:
    """Identifiers in all their spellings and encodings.

    Args:
        words: The identifiers; those below five characters are counted, not searched for.
    """

    def __init__(self, words: Sequence[str]) -> None:
        kept = [word for word in dict.fromkeys(words) if _length(word) >= SHORTEST]
        self.too_short = len(set(words)) - len(kept)
        self._spellings = [
            {spelt for spelt in every_spelling(word) if _length(spelt) >= SHORTEST} for word in kept
        ]
        self._numbers: dict[bytes, set[int]] = defaultdict(set)
        for number, spelt in enumerate(self._spellings):
            for form in {form for text in spelt for form in _forms(text)}:
                self._numbers[form].add(number)
        self._search = Search(self._numbers)
        self.longest = min(_WIDE, 12 * max((len(form) for form in self._numbers), default=0))

    def __len__(self) -> int:
        return len(self._spellings)

    def find(self, data: bytes, layers: int = LAYERS) -> set[int]:
        """Numbers of the canaries that occur in some form."""
        found = self._plain(data.lower())
        if layers:
            for view in views(data):
                found |= self.find(view, layers - 1)
        return found

    def mask(self, name: str) -> str:
        """A file name without the canaries in it."""
        if not self.find(name.encode("utf-8", "surrogateescape")):
            return name
        every = {text for spelt in self._spellings for text in spelt}
        for text in sorted(every, key=len, reverse=True):
            if text.lower() in name.lower():
                name = re.sub(re.escape(text), "***", name, flags=re.IGNORECASE)
        if self.find(name.encode("utf-8", "surrogateescape")):  # an encoded one
            return "***"
        return name

    def _plain(self, data: bytes) -> set[int]:
        found: set[int] = set()
        for place, form in self._search.places(data):
            numbers = self._numbers[form]
            if not numbers <= found and (not form.isdigit() or _stands(data, place, form)):
                found |= numbers
        return found


def _stands(data: bytes, place: int, form: bytes) -> bool:
    """Whether digits are a number of their own, not part of a longer one.

    Zeros may stand before it, and a time may follow a date. The digits of a fraction and of a
    digest in hex are chance. A single digit between it and bytes that are no text is no digit
    but a tag or a length of a binary format.
    """
    before = data[max(0, place - 24) : place]
    after = data[place + len(form) : place + len(form) + 24]
    fraction = _FRACTION.search(before) and not after.startswith(b".")
    if fraction or _LONGER.search(before) or _in_digest(before, form, after):
        return False
    dated = len(form) == 8 and re.match(rb"[0-9]{4,14}", after)
    return bool(dated) or not _GOES_ON.match(after)


def _in_digest(before: bytes, form: bytes, after: bytes) -> bool:
    start, end = _HEX_END.search(before), _HEX_START.match(after)
    around = (start[0] if start else b"") + (end[0] if end else b"")
    return len(around) + len(form) >= 20 and not around.isdigit()


def _length(word: str) -> int:
    """Characters; those of East Asian scripts say twice as much."""
    return sum(2 if ord(char) > 0x2E80 else 1 for char in word)


def _forms(text: str) -> Iterator[bytes]:
    """Lower-case bytes of a spelling; what views decode is not repeated here."""
    for variant in {text, text.lower(), text.upper(), text.title()}:
        codings = ("utf-8",) if variant.isascii() else ("utf-8", *_CODINGS)
        for coding in codings:
            try:
                form = variant.encode(coding).lower()
            except UnicodeEncodeError:
                continue
            if len(form) >= HEAD:
                yield form
