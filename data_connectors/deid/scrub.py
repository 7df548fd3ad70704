"""Takes a patient's identifiers out of texts, and keeps the places of everything else known.

Two sources of knowledge: what the files say about this patient (names, numbers, dates, from DICOM
headers, HL7 and FHIR fields), and what looks like an identifier on its own (a titled name, a full
date, a telephone number). Clinical words are protected: a patient called Heart does not lose the
word "heart" from the report, only the full name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files

import yaml

from data_connectors.deid import patterns
from data_connectors.deid.generic import NEUTRAL, find_generic
from data_connectors.deid.patterns import fold
from medvlp.types import Report, Sentence


@dataclass(frozen=True, slots=True)
class Scrubbed:
    """A text without identifiers, and where the places of the old text are in the new one."""

    text: str
    count: int
    """How many stretches were replaced."""
    edits: tuple[tuple[int, int, int], ...] = ()
    """(start, end, new length) in the old text, ascending, not overlapping."""

    def place(self, old: int) -> int:
        """The place in the new text of a place in the old one."""
        shift = 0
        for start, end, length in self.edits:
            if old < start:
                break
            if old < end:
                return start + shift + min(old - start, length)
            shift += length - (end - start)
        return old + shift


class Scrubber:
    """Knows one patient's identifiers.

    Args:
        phi: Strings that identify the person, in any form: `DOE^JANE`, `19630412`, `MRN-0042`.
        protected: Single words that are never an identifier alone (lower case).
        generic: Also remove what looks like an identifier on its own.
    """

    def __init__(
        self, phi: Iterable[str], *, protected: frozenset[str] = frozenset(), generic: bool = True
    ) -> None:
        found: dict[str, list[str]] = {"name": [], "date": [], "number": [], "titled": []}
        for text in sorted(set(phi)):
            for kind, pattern in patterns.of_identifier(text, protected):
                found[kind].append(pattern)
        # Longer patterns first, so that a full name goes as one piece.
        arms = [
            f"(?P<{kind}>{'|'.join(sorted(set(some), key=lambda p: (-len(p), p)))})"
            for kind, some in found.items()
            if some
        ]
        self._known = re.compile("|".join(arms), re.IGNORECASE) if arms else None
        self._generic = generic

    def scrub(self, text: str) -> Scrubbed:
        """Replace every identifier by a neutral word."""
        folded = fold(text)
        spans: list[tuple[int, int, str]] = []
        if self._known is not None:
            spans += [
                (match.start(), match.end(), NEUTRAL.get(match.lastgroup or "", NEUTRAL["name"]))
                for match in self._known.finditer(folded)
            ]
        if self._generic:
            spans += find_generic(text)
        return _replace(text, _merge(spans, text))

    def report(self, report: Report) -> tuple[Report, int]:
        """A report without identifiers, sections and sentences in their new places."""
        scrubbed = self.scrub(report.text)
        if not scrubbed.count:
            return report, 0
        text, place = scrubbed.text, scrubbed.place
        sentences = tuple(
            Sentence(text[place(s.start) : place(s.end)], place(s.start), place(s.end), s.section)
            for s in report.sentences
        )
        sections = {name: (place(a), place(b)) for name, (a, b) in report.sections.items()}
        return Report(text, sections, sentences), scrubbed.count


def _merge(spans: list[tuple[int, int, str]], text: str) -> list[tuple[int, int, str]]:
    """Join overlapping stretches, and stretches of one kind with nothing but space between."""
    merged: list[tuple[int, int, str]] = []
    for start, end, word in sorted(spans, key=lambda span: (span[0], -span[1])):
        if merged:
            first, last, before = merged[-1]
            touching = word == before and not text[last:start].strip(" ,")
            if start < last or touching:
                merged[-1] = (first, max(last, end), before)
                continue
        merged.append((start, end, word))
    return merged


def _replace(text: str, spans: Sequence[tuple[int, int, str]]) -> Scrubbed:
    pieces: list[str] = []
    edits: list[tuple[int, int, int]] = []
    cursor = 0
    for start, end, word in spans:
        pieces += (text[cursor:start], word)
        edits.append((start, end, len(word)))
        cursor = end
    pieces.append(text[cursor:])
    return Scrubbed("".join(pieces), len(edits), tuple(edits))


@lru_cache(maxsize=1)
def protected_words() -> frozenset[str]:
    """Every single word of the knowledge books, and the words that reports are made of."""
    from medvlp.knowledge.concepts import load_concepts

    book = files("data_connectors.deid").joinpath("report_words.yaml").read_text(encoding="utf-8")
    words = set(str(yaml.safe_load(book)["words"]).split())
    for concept in load_concepts().values():
        for phrase in (concept.name, *concept.synonyms):
            words.update(re.findall(r"[a-z]+", fold(phrase).lower()))
    return frozenset(words)
