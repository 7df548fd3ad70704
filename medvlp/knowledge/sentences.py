"""Sentences of clinical text, as exact character spans.

Reports are hard-wrapped, numbered, abbreviated and full of measurements; a general splitter
breaks "1.5 cm" and glues lines that are sentences of their own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

_STOP = re.compile(r"[.!?]+(?=[\"')\]]*(?:\s|$|[A-Z]))|\n")
_SHORT = (
    "dr mr mrs ms prof st vs approx ca fig figs e.g i.e cf etc inc nos resp incl max min "
    "a.p p.a post ant lat inf sup bilat temp hx dx tx rt lt a.m p.m dept ext ref est"
)
_ABBREVIATIONS = frozenset(_SHORT.split())
_LONGEST_SHORT = 12
"""No abbreviation is longer, so nobody looks further back."""
_LIST_ITEM = re.compile(r"[ \t]*(?:\(?\d{1,2}[.)]|[-*•–—])[ \t]+")
_LABEL = re.compile(r"[ \t]*[A-Z][A-Za-z/,&' -]{1,40}:")
_SOFT_WRAP = 50


def split_sentences(text: str, start: int = 0, end: int | None = None) -> list[tuple[int, int]]:
    """Spans of the sentences of `text[start:end]`, in order, trimmed of space and list numbers.

    Args:
        text: Any text.
        start: Where to begin.
        end: Where to stop; None is the end of the text.

    Returns:
        Half-open spans in `text`; they never overlap, and every letter or digit that is not a
        list number lies in exactly one.
    """
    end = len(text) if end is None else end
    spans = []
    begin = start
    for cut in (*_cuts(text, start, end), end):
        first, last = _trim(text, begin, cut)
        if any(char.isalnum() for char in text[first:last]):
            spans.append((first, last))
        begin = cut
    return spans


def _cuts(text: str, start: int, end: int) -> Iterator[int]:
    """Positions after which a new sentence begins."""
    line_start = start
    for match in _STOP.finditer(text, start, end):
        at = match.end()
        if match.group() == "\n":
            if _breaks_line(text, line_start, match.start(), at, end):
                yield at
            line_start = at
        elif not _goes_on(text, start, match):
            while at < end and text[at] in "\"')]":
                at += 1
            yield at


def _goes_on(text: str, start: int, match: re.Match[str]) -> bool:
    """Whether a full stop is part of an abbreviation, an initial or a list number."""
    if match.group() != ".":
        return False
    left = match.start()
    floor = max(start, left - _LONGEST_SHORT)
    while left > floor and not text[left - 1].isspace() and text[left - 1] not in "([":
        left -= 1
    token = text[left : match.start()].lower()
    after = text[match.end() : match.end() + 1]
    if token.isdigit():
        # "2." at the head of a line or right after a sentence is a list number, not an end.
        before = left
        while before > start and text[before - 1] in " \t":
            before -= 1
        return len(token) <= 2 and (before == start or text[before - 1] in ".:;\n)?!")
    if after.isupper() and not token[-1:].isalnum():
        return True
    if after.isupper():
        # Glued sentences ("seen.The heart") end here, "U.S" and "e.g" style initials do not.
        return len(token) < 2 or "." in token
    if token == "no":
        at = match.end()
        while at < len(text) and text[at].isspace():
            at += 1
        return text[at : at + 1].isdigit()
    return token in _ABBREVIATIONS or (len(token) == 1 and token.isalpha())


def _breaks_line(text: str, line_start: int, line_end: int, at: int, end: int) -> bool:
    """Whether a line break ends a sentence, or only wraps it."""
    next_end = text.find("\n", at, end)
    following = text[at : end if next_end < 0 else next_end]
    if not following.strip():
        return True
    if _LIST_ITEM.match(following) or _LABEL.match(following):
        return True
    line = text[line_start:line_end].rstrip()
    if not line or line[-1] in ".!?:;":
        return True
    # A short line followed by a capital is a line of its own ("No effusion\nNo pneumothorax").
    return len(line) < _SOFT_WRAP and following.lstrip()[:1].isupper() and line[-1] != ","


def _trim(text: str, first: int, last: int) -> tuple[int, int]:
    while first < last and text[first].isspace():
        first += 1
    while last > first and text[last - 1].isspace():
        last -= 1
    item = _LIST_ITEM.match(text, first, last)
    if item and item.end() < last:
        first = item.end()
        while text[first].isspace():  # the item's own line may be empty
            first += 1
    return first, last
