"""Sections and sentences of a report, with exact places in its text.

Headings come in any order, case and spelling, on a line of their own or in line; several may be
missing. Organ headings ("LUNGS:") stay inside the section they stand in.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from types import MappingProxyType

from medvlp.errors import InputError
from medvlp.knowledge.sentences import split_sentences
from medvlp.types import Report, Sentence

HEADINGS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "findings": (
            "findings", "finding", "report", "description", "results", "result", "observations",
            "body of report", "findings and impression", "findings/impression", "fndings",
            "findngs", "findigs", "radiographic findings", "imaging findings",
            "findings are as follows", "narrative",
        ),
        "impression": (
            "impression", "impressions", "conclusion", "conclusions", "summary", "opinion",
            "interpretation", "final impression", "final report impression", "impresion",
            "impresssion", "impressoin", "imression", "impression and recommendation",
            "impression and recommendations", "impression/recommendation", "conclusion/impression",
            "diagnosis", "preliminary impression", "result summary", "assessment",
        ),
        "comparison": (
            "comparison", "comparisons", "comparision", "comparison studies", "comparison study",
            "comparison exam", "prior studies", "prior study", "previous examination",
            "previous studies", "compared to", "priors", "prior exams",
        ),
        "indication": (
            "indication", "indications", "clinical indication", "clinical indications", "history",
            "clinical history", "clinical information", "clinical data", "reason for exam",
            "reason for examination", "reason for study", "reason for the exam", "patient history",
            "reason for this examination", "clinical statement", "clinical question", "symptoms",
            "history and indication", "indication/history", "clinical notes", "chief complaint",
        ),
        "technique": (
            "technique", "procedure", "method", "methods", "exam", "examination", "exam type",
            "study", "protocol", "contrast", "views", "procedure description", "type of exam",
            "examination performed", "scan technique", "imaging technique", "tecnique", "techniqe",
            "exam description", "number of views",
        ),
        "addendum": ("addendum", "addenda", "addendum report"),
        "other": (
            "recommendation", "recommendations", "notification", "comment", "comments", "note",
            "notes", "signed", "electronically signed by", "dictated by", "transcribed by",
            "attestation", "signed by", "approved by", "end of report", "critical results",
            "communication", "reported by", "wet read", "follow-up", "disclaimer",
        ),
    }
)  # fmt: skip
_SECTION_OF = {variant: name for name, variants in HEADINGS.items() for variant in variants}
_VARIANTS = "|".join(
    re.escape(variant).replace(r"\ ", r"[ \t]+")
    for variant in sorted(_SECTION_OF, key=len, reverse=True)
)
# A heading at the start of a line ends with a colon, a spaced dash, or the line; one inside a line
# follows the end of a sentence and ends with a colon. Repetitions are bounded, so that no text
# takes more than linear time.
_HEADING = re.compile(
    rf"^[ \t>*#_\d.)]{{0,20}}(?P<line>{_VARIANTS})"
    rf"(?:[ \t*_]{{0,9}}:|[ \t]{{1,9}}[-–—][ \t]|[ \t*_]{{0,20}}$)[*_]{{0,4}}"
    r"|(?:(?<=[.!?:;)\]])|(?<=[.!?:;)\]]\s)|(?<=[.!?:;)\]]\s\s))"
    rf"(?P<inline>{_VARIANTS})[ \t]{{0,9}}:",
    re.IGNORECASE | re.MULTILINE,
)


def parse_report(text: str) -> Report:
    """Find the sections and sentences of a report.

    A section that occurs again gets a number (`findings_2`); its sentences keep the plain name.
    What precedes the first heading, and a report without headings, is `other`.

    Args:
        text: The whole report, without its administrative header.

    Raises:
        InputError: `report-empty` when there is no letter or digit in it.
    """
    if not any(char.isalnum() for char in text):
        raise InputError("the report is empty", code="report-empty")
    sections: dict[str, tuple[int, int]] = {}
    sentences: list[Sentence] = []
    seen: Counter[str] = Counter()
    for name, start, end in _spans(text):
        start, end = _strip(text, start, end)
        if start >= end:
            continue
        seen[name] += 1
        sections[name if seen[name] == 1 else f"{name}_{seen[name]}"] = (start, end)
        for first, last in split_sentences(text, start, end):
            sentences.append(Sentence(text[first:last], first, last, name))
    return Report(text=text, sections=sections, sentences=tuple(sentences))


def _spans(text: str) -> list[tuple[str, int, int]]:
    """(section, start, end) of the contents, in order; headings belong to none."""
    spans = []
    name, begin = "other", 0
    for match in _HEADING.finditer(text):
        found = match["line"] or match["inline"]
        if match["inline"] and not found[0].isupper():
            continue  # "... of note: nothing": prose, no heading
        marked = match.group().rstrip("*_").endswith((":", "-", "–", "—", " "))
        if match["line"] and not marked and not found[0].isupper():
            continue  # a wrapped line that happens to be one of the words
        spans.append((name, begin, match.start()))
        name = _SECTION_OF[re.sub(r"[ \t]+", " ", found.lower())]
        begin = match.end()
    spans.append((name, begin, len(text)))
    return spans


def _strip(text: str, start: int, end: int) -> tuple[int, int]:
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    return start, end
