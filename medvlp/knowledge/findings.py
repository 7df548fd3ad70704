"""What a text states: concepts with polarity, certainty, side, anatomy, severity and span.

Rules over one sentence at a time; the phrases are data (`books/`). A sentence is read once and
remembered, because reports repeat: a quarter of the reports of a public collection are exact
copies of others, and most sentences are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache

from medvlp.knowledge.concepts import NORMAL, Concept, load_concepts
from medvlp.knowledge.mentions import Mention, find_mentions
from medvlp.knowledge.places import Place, Places
from medvlp.knowledge.rules import Rules, build_lexicon, load_rules
from medvlp.knowledge.scope import Judgement, Scope
from medvlp.knowledge.sentences import split_sentences
from medvlp.knowledge.tokens import Tokens, normal, tokenize
from medvlp.types import Finding, Report

ASSERTING_SECTIONS = ("findings", "impression", "addendum")
"""Sections whose sentences are statements about this examination."""

_ASKING = "is are was were does do did what where which how can has have who why"
_QUESTIONS = frozenset(normal(word) for word in _ASKING.split())
_LARGE = frozenset({"moderate", "large", "severe"})
_REMEMBERED = 65_536
_LONGEST = 1_000
"""Characters of a sentence; real ones have a tenth of it."""


class FindingReader:
    """Reads findings with one set of concepts and rules, compiled once."""

    def __init__(self, concepts: Mapping[str, Concept], rules: Rules):
        self.concepts = concepts
        self._group_certainty = rules.group_certainty
        self._lexicon = build_lexicon(concepts, rules)
        normal = concepts.get(NORMAL)
        self._normal = normal.denies if normal else ()
        self._remember = lru_cache(maxsize=_REMEMBERED)(self._sentence)

    def read(self, text: str) -> tuple[Finding, ...]:
        """Findings of any text, sentence by sentence; spans count in `text`."""
        found: list[Finding] = []
        for start, end in split_sentences(text):
            found.extend(self.read_sentence(text[start:end], start))
        return tuple(found)

    def read_sentence(self, sentence: str, start: int = 0) -> tuple[Finding, ...]:
        """Findings of one sentence that begins at `start` of its text."""
        if len(sentence) > _LONGEST:
            return self._read_long(sentence, start)
        found = self._remember(sentence)
        if start == 0 or not found:
            return found
        return tuple(replace(f, start=f.start + start, end=f.end + start) for f in found)

    def _read_long(self, sentence: str, start: int) -> tuple[Finding, ...]:
        """A "sentence" of thousands of characters is none: it is read in pieces.

        The rules look at all words between two places, so their time grows with the square of
        a sentence's length.
        """
        found: list[Finding] = []
        at = 0
        while at < len(sentence):
            end = len(sentence)
            if end - at > _LONGEST:
                space = sentence.rfind(" ", at, at + _LONGEST)
                end = space if space > at else at + _LONGEST
            found.extend(self.read_sentence(sentence[at:end], start + at))
            at = end
        return tuple(found)

    def _sentence(self, sentence: str) -> tuple[Finding, ...]:
        tokens = tokenize(sentence)
        hits = self._lexicon.scan(tokens)
        if not hits or _is_question(tokens):
            return ()
        mentions = find_mentions(tokens, hits)
        if not mentions:
            return ()
        scope = Scope(tokens, hits, [mention.anchor for mention in mentions])
        places = Places(tokens, hits, mentions)
        found: dict[tuple[str, int, int], Finding] = {}
        for mention in mentions:
            judgement = self._judge(mention, scope)
            if judgement is None:
                continue
            for name in mention.concepts or self._normal:
                finding = self._finding(name, judgement, places.of(mention), tokens, mention)
                found.setdefault((name, finding.start, finding.end), finding)
        return tuple(found.values())

    def _judge(self, mention: Mention, scope: Scope) -> Judgement | None:
        judged = scope.judge(*mention.anchor)
        if judged is None or mention.kind == "concept":
            return judged
        if mention.kind == "group":
            if judged.polarity != "absent":
                return None
            return Judgement("absent", self._group_certainty * judged.certainty)
        # "The lungs are clear" denies; "the lungs are not clear" states nothing in particular.
        if judged.polarity == "absent":
            return None
        if judged.polarity == "uncertain" or mention.doubtful:
            return Judgement("uncertain", 0.5)
        return Judgement("absent", self._group_certainty if mention.kind == "normal" else 1.0)

    def _finding(
        self, name: str, judged: Judgement, place: Place, tokens: Tokens, mention: Mention
    ) -> Finding:
        concept = self.concepts[name]
        certainty = judged.certainty
        if judged.polarity == "absent" and place.severity in _LARGE:
            certainty = min(certainty, self._group_certainty)  # a small one may still be there
        if judged.polarity == "present" and place.severity == "borderline":
            certainty = 0.7
        return Finding(
            concept=name,
            name=concept.name,
            polarity=judged.polarity,
            certainty=certainty,
            anatomy=place.anatomy,
            side=place.side if concept.laterality else None,
            severity=place.severity,
            start=tokens.starts[mention.first],
            end=tokens.ends[mention.last - 1],
        )


def _is_question(tokens: Tokens) -> bool:
    return tokens.norms[-1] == "?" and tokens.norms[0] in _QUESTIONS


@lru_cache(maxsize=1)
def default_reader() -> FindingReader:
    """The reader with the shipped books; compiled at the first call."""
    return FindingReader(load_concepts(), load_rules())


def extract_findings(text: str) -> tuple[Finding, ...]:
    """Findings of a text with the shipped books; spans count in `text`."""
    return default_reader().read(text)


def report_findings(report: Report, reader: FindingReader | None = None) -> tuple[Finding, ...]:
    """Findings of a report: of its findings and impression sections where it has any.

    What stands under indication, comparison or technique says nothing about this examination.
    """
    reader = reader or default_reader()
    asserting = [s for s in report.sentences if s.section in ASSERTING_SECTIONS]
    found: list[Finding] = []
    for sentence in asserting or report.sentences:
        found.extend(reader.read_sentence(sentence.text, sentence.start))
    return tuple(found)
