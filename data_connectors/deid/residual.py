"""The last look: searches the bytes of a de-identified object for what was taken out of it.

What is searched for: every value that was removed or replaced and could name somebody (whole
values of five characters and more, the parts of names, dates in the usual formats, UIDs), as the
bytes it had in the file and in UTF-8, UTF-16 and Latin-1, whatever the case. Shorter strings and
words of the vocabulary would be found everywhere. In pixel data, where any few bytes occur by
chance, only forms of eight bytes and more count.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from typing import Any, Final

from data_connectors.deid.forms import Search, spellings
from data_connectors.deid.judging import keeps_uid
from data_connectors.deid.vocabulary import is_safe, known_words

DESCRIPTION: Final = "description"
"""In place of the VR: text of a description or of a private element. Most of it is words."""
SHORTEST: Final = 5
_SHORTEST_NAME: Final = 4
_LONGEST: Final = 200
_LONG_FORM: Final = 8
_NUMERIC: Final = {"DS", "IS", "FL", "FD", "SS", "US", "SL", "UL", "SV", "UV", "AT", "SQ", "TM"}
_PLAIN_DATE = re.compile(r"((?:18|19|20)\d{2})[.\-/]?(\d{2})[.\-/]?(\d{2})")


class Residual:
    """Knows what an object must not hold any more.

    Args:
        removed: (VR, value) of what was taken out.
        written: What was put in its place: it may stay, even where it equals something taken out
            (a shifted date that is the date of another event).
    """

    def __init__(self, removed: Iterable[tuple[str, Any]], written: Collection[str]) -> None:
        strings = {text for vr, value in removed for text in _telling(vr, value)}
        strings -= set(written)
        forms: dict[bytes, set[int]] = defaultdict(set)
        self._alone: list[re.Pattern[bytes] | None] = []
        for number, text in enumerate(sorted(strings)):
            found = {form.lower() for form in _forms(text)}
            for form in found:
                if len(form) >= 4:
                    forms[form].add(number)
            self._alone.append(_standing_alone(text))
        self._short = Search(forms)
        self._long = Search({form: n for form, n in forms.items() if len(form) >= _LONG_FORM})

    def finds(self, data: bytes, *, pixels: bool = False) -> bool:
        """Whether anything that was taken out is in these bytes."""
        data = data.lower()
        for number in (self._long if pixels else self._short).find(data):
            alone = self._alone[number]
            if alone is None or alone.search(data):
                return True
        return False


def _telling(vr: str, value: Any) -> Iterator[str]:
    """The strings of one value that could name somebody."""
    if vr in _NUMERIC or value is None:
        return
    if isinstance(value, bytes):
        value = value.decode("latin-1")
        if not value.isprintable():
            return
    text = str(value).strip(" \0")
    if vr == "PN":
        yield from _names(text)
    if vr in ("DA", "DT") or _PLAIN_DATE.fullmatch(text):
        match = _PLAIN_DATE.match(text)
        if match is not None:
            yield "".join(match.groups())
        return
    if keeps_uid(text):
        return
    if vr == "UI":
        if len(text) >= 14:
            yield text
        return
    if vr == DESCRIPTION and is_safe(text.rpartition(" ")[0]) and " " in text:
        return  # words to the last one, which is often cut off
    if SHORTEST <= len(text) <= _LONGEST and not is_safe(text):
        yield text


def _names(text: str) -> Iterator[str]:
    """The parts of a person name that are no common words."""
    for group in text.split("="):
        for part in re.split(r"[\^\s,]+", group):
            wide = any(ord(letter) > 0x2E80 for letter in part)
            long = len(part) >= (2 if wide else _SHORTEST_NAME)
            if long and not part.isdigit() and part.lower() not in known_words():
                yield part


def _forms(text: str) -> Iterator[bytes]:
    for spelt in {way for way in spellings(text) if len(way) >= 2}:
        for variant in {spelt, spelt.lower(), spelt.upper()}:
            for encoding in ("utf-8", "utf-16-le", "utf-16-be", "latin-1", "gb18030", "shift_jis",
                             "euc_kr", "iso2022_jp", "iso8859_5", "iso8859_7"):  # fmt: skip
                if encoding not in ("utf-8", "utf-16-le", "utf-16-be") and variant.isascii():
                    continue
                try:
                    yield variant.encode(encoding)
                except UnicodeEncodeError:
                    continue


def _standing_alone(text: str) -> re.Pattern[bytes] | None:
    """For what could be a part of something else by chance: digits, and short names.

    None where a hit anywhere counts.
    """
    if len(text) > 6 and not text.isdigit():
        return None
    if not text.isascii():
        return None
    ways = [re.escape(way.lower().encode()) for way in spellings(text)]
    ways += [re.escape(text.lower().encode(coding)) for coding in ("utf-16-le", "utf-16-be")]
    around = rb"0-9a-z." if text.isdigit() else rb"0-9a-z"
    return re.compile(
        rb"(?<![" + around + rb"])(?:" + rb"|".join(ways) + rb")(?![" + around + rb"])"
    )
