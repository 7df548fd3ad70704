"""The rule book and the lexicon compiled from it: every phrase of every kind in one trie.

One pass over a sentence finds the longest phrase at each place, whatever its kind, so that
"bacterial pneumonia" is not also "pneumonia" and "no change in" is no negation.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.resources import files
from typing import Any, cast

import yaml

from medvlp.errors import ConfigError
from medvlp.knowledge.concepts import Concept
from medvlp.knowledge.tokens import Tokens, tokenize
from medvlp.types import Side

Phrase = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Statement:
    """Subjects with what their predicates mean: "the heart is enlarged"."""

    denies: tuple[str, ...]
    """Concepts that a normal predicate denies."""
    states: Mapping[Phrase, str]
    """Predicate -> the concept it states."""


@dataclass(slots=True)
class Entry:
    """Everything one phrase can mean; most phrases mean one thing."""

    phrase: Phrase
    concept: str | None = None
    group: tuple[str, ...] | None = None
    """Concepts that denying this phrase denies."""
    normal_exam: bool = False
    normal_alone: bool = False
    """The same, if it is the whole sentence."""
    subject: Statement | None = None
    predicate: bool = False
    normal: bool = False
    doubtful: bool = False
    borderline: bool = False
    deny_before: float = 0.0
    """Certainty; 0 where the phrase is no such trigger. So for the next three."""
    deny_after: float = 0.0
    doubt_before: float = 0.0
    doubt_after: float = 0.0
    ignore: bool = False
    terminates: bool = False
    links: bool = False
    change: bool = False
    change_adjective: bool = False
    opens: bool = False
    barrier: bool = False
    verb: bool = False
    side: Side | None = None
    anatomy: str | None = None
    severity: str | None = None


@dataclass(frozen=True, slots=True)
class Hit:
    """A phrase found in a text: tokens first..last (half open)."""

    entry: Entry
    first: int
    last: int


_Node = dict[str, Any]
_END = ""


@dataclass(slots=True)
class Lexicon:
    """All phrases as a trie over normal tokens."""

    _root: _Node = field(default_factory=dict)
    size: int = 0

    def entry(self, text: object) -> Entry:
        """The entry of a phrase, made when it is new."""
        phrase = tokenize(text).norms if isinstance(text, str) else ()
        if not phrase:
            raise ConfigError(
                "a rule phrase is empty or no text", code="rules-invalid", got=repr(text)
            )
        node = self._root
        for token in phrase:
            node = node.setdefault(token, {})
        if _END not in node:
            node[_END] = Entry(phrase)
            self.size += 1
        return cast(Entry, node[_END])

    def scan(self, tokens: Tokens) -> list[Hit]:
        """The longest phrase at each place, from left to right, without overlaps."""
        norms, count = tokens.norms, len(tokens.norms)
        hits: list[Hit] = []
        at = 0
        while at < count:
            node, ahead = self._root, at
            best: Hit | None = None
            while ahead < count:
                child = node.get(norms[ahead])
                if child is None:
                    break
                node = child
                ahead += 1
                entry = node.get(_END)
                if entry is not None:
                    best = Hit(entry, at, ahead)
            if best is None:
                at += 1
            else:
                hits.append(best)
                at = best.last
        return hits


@dataclass(frozen=True, slots=True)
class Rules:
    """The rule book as read from YAML, with how sure a denied group is."""

    tree: Mapping[str, Any]

    @property
    def group_certainty(self) -> float:
        """Certainty of a concept that is denied by denying its group."""
        return float(self.tree["group_certainty"])


@lru_cache(maxsize=1)
def load_rules() -> Rules:
    """The shipped rule book."""
    text = files("medvlp.knowledge").joinpath("books", "rules.yaml").read_text(encoding="utf-8")
    return Rules(yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)))


def build_lexicon(concepts: Mapping[str, Concept], rules: Rules) -> Lexicon:
    """Compile concepts and rules.

    Raises:
        ConfigError: `rules-invalid`: a rule names an unknown concept or a key is missing.
    """
    lexicon = Lexicon()
    try:
        for concept in concepts.values():
            for phrase in concept.phrases if concept.id != "normal" else ():
                lexicon.entry(phrase).concept = concept.id
        _add_triggers(lexicon, rules.tree)
        _add_places(lexicon, rules.tree)
        _add_statements(lexicon, rules.tree, concepts)
    except (KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            "the rule book lacks a key", code="rules-invalid", got=str(error)
        ) from error
    return lexicon


def _add_triggers(lexicon: Lexicon, tree: Mapping[str, Any]) -> None:
    for kind, name in (("negation", "deny"), ("doubt", "doubt")):
        for place in ("before", "after"):
            for certainty, phrases in tree[kind][place].items():
                for phrase in phrases:
                    setattr(lexicon.entry(phrase), f"{name}_{place}", float(certainty))
    for phrase in tree["ignored"]["before"]:
        lexicon.entry(phrase).ignore = True
    for flag, key in (
        ("terminates", "terminates"),
        ("links", "links"),
        ("change", "changes"),
        ("change_adjective", "change_adjectives"),
        ("opens", "opens"),
        ("barrier", "barriers"),
        ("verb", "verbs"),
    ):
        for phrase in tree[key]:
            setattr(lexicon.entry(phrase), flag, True)
    for phrase in (*tree["pseudo"], *tree["neutral"]):
        lexicon.entry(phrase)


def _add_places(lexicon: Lexicon, tree: Mapping[str, Any]) -> None:
    for attribute, key in (("side", "sides"), ("anatomy", "anatomy"), ("severity", "severity")):
        for value, phrases in tree[key].items():
            for phrase in phrases:
                setattr(lexicon.entry(phrase), attribute, value)
    for phrase, (side, anatomy) in tree["abbreviations"].items():
        entry = lexicon.entry(phrase)
        entry.side, entry.anatomy = side, anatomy


def _add_statements(
    lexicon: Lexicon, tree: Mapping[str, Any], concepts: Mapping[str, Concept]
) -> None:
    for row in tree["statements"]:
        states = {
            tokenize(phrase).norms: _known(name, concepts)
            for name, phrases in row["states"].items()
            for phrase in phrases
        }
        statement = Statement(_all_known(row["denies"], concepts), states)
        for phrase in row["subjects"]:
            lexicon.entry(phrase).subject = statement
        for phrases in row["states"].values():
            for phrase in phrases:
                lexicon.entry(phrase).predicate = True
    for flag in ("normal", "doubtful", "borderline"):
        for phrase in tree[f"{flag}_predicates"]:
            entry = lexicon.entry(phrase)
            entry.predicate = True
            setattr(entry, flag, True)
    for row in tree["groups"]:
        denies = _all_known(row["denies"], concepts)
        for phrase in row["phrases"]:
            lexicon.entry(phrase).group = denies
    for phrase in tree["normal_phrases"]:
        lexicon.entry(phrase).normal_exam = True
    for phrase in tree["normal_sentences"]:
        lexicon.entry(phrase).normal_alone = True


def _known(name: str, concepts: Mapping[str, Concept]) -> str:
    if name not in concepts:
        raise ConfigError("a rule names an unknown concept", code="rules-invalid", got=name)
    return name


def _all_known(names: Iterable[str], concepts: Mapping[str, Concept]) -> tuple[str, ...]:
    return tuple(_known(name, concepts) for name in names)
