"""Mentions: where a sentence names a concept, a group of concepts, or a subject's state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from medvlp.knowledge.rules import Hit
from medvlp.knowledge.tokens import Tokens

Kind = Literal["concept", "denied", "group", "normal"]

_SMALL_WORDS = "of the in to both this a an for its size contour and or , / appearance"
_FILLERS = frozenset(_SMALL_WORDS.split())
_FIRST_FILLERS = _FILLERS - {"and", "or", ",", "/"}
_REACH = 8


@dataclass(frozen=True, slots=True)
class Mention:
    """Something a sentence names.

    `kind`: `concept` states it; `denied` denies it in itself ("lungs are clear"); `group` counts
    only when it is denied; `normal` says that the whole examination is normal.
    """

    kind: Kind
    concepts: tuple[str, ...]
    first: int
    last: int
    """Token span of the words that name it."""
    anchor: tuple[int, int]
    """Token span that negation has to reach."""
    doubtful: bool = False


def find_mentions(tokens: Tokens, hits: Sequence[Hit]) -> list[Mention]:
    """All mentions of a sentence, in order of their first word."""
    mentions: list[Mention] = []
    for at, hit in enumerate(hits):
        if hit.entry.predicate:
            for subject in _subjects(tokens, hits, at):
                mentions.extend(_statement(subject, hit))
    if len(hits) == 1 and hits[0].entry.normal_alone and _is_all(tokens, hits[0]):
        span = (hits[0].first, hits[0].last)
        mentions.append(Mention("normal", (), *span, span))
    stated = {mention.anchor for mention in mentions}
    for hit in hits:
        entry, span = hit.entry, (hit.first, hit.last)
        if span in stated:
            continue  # "the aorta is calcified" is not also a calcification
        if entry.concept is not None:
            mentions.append(Mention("concept", (entry.concept,), *span, span))
        elif entry.group is not None:
            mentions.append(Mention("group", entry.group, *span, span))
        elif entry.normal_exam:
            mentions.append(Mention("normal", (), *span, span))
    return sorted(mentions, key=lambda mention: (mention.first, mention.last))


def _is_all(tokens: Tokens, hit: Hit) -> bool:
    """Whether a sentence has no words but these."""
    rest = tokens.norms[: hit.first] + tokens.norms[hit.last :]
    return not any(token[0].isalnum() for token in rest)


def _statement(subject: Hit, predicate: Hit) -> list[Mention]:
    """What one predicate says of one subject."""
    statement, entry = subject.entry.subject, predicate.entry
    if statement is None:
        return []
    first, last = min(subject.first, predicate.first), max(subject.last, predicate.last)
    anchor = (predicate.first, predicate.last)
    concept = statement.states.get(entry.phrase)
    if concept is not None:
        return [Mention("concept", (concept,), first, last, anchor)]
    if entry.borderline and statement.denies:
        return [Mention("concept", statement.denies[:1], first, last, anchor)]
    if (entry.normal or entry.doubtful) and statement.denies:
        return [Mention("denied", statement.denies, first, last, anchor, doubtful=entry.doubtful)]
    return []


def _subjects(tokens: Tokens, hits: Sequence[Hit], at: int) -> list[Hit]:
    """The subjects of the predicate hits[at]: those after it ("normal heart size") or before."""
    ahead = _ahead(tokens, hits, at)
    behind, linked = _behind(tokens, hits, at)
    if ahead and (not behind or not linked):
        return ahead
    return behind


def _ahead(tokens: Tokens, hits: Sequence[Hit], at: int) -> list[Hit]:
    found: list[Hit] = []
    position, fillers = hits[at].last, _FIRST_FILLERS
    for hit in hits[at + 1 :]:
        if any(token not in fillers for token in tokens.norms[position : hit.first]):
            break
        if hit.entry.subject is not None:
            found.append(hit)
            fillers = _FILLERS
        elif not _qualifies(hit) and tokens.norms[hit.first] not in fillers:
            break
        position = hit.last
        if position - hits[at].last > _REACH:
            break
    return found


def _behind(tokens: Tokens, hits: Sequence[Hit], at: int) -> tuple[list[Hit], bool]:
    """Subjects before a predicate, and whether a verb links the nearest one to it."""
    found: list[Hit] = []  # the nearest first
    linked = False
    position = hits[at].first
    for hit in reversed(hits[:at]):
        gap = tokens.norms[hit.last : position]
        if found and any(token not in _FILLERS for token in gap):
            break
        if not found and ("," in gap or ";" in gap or hits[at].first - hit.last > _REACH):
            break
        entry = hit.entry
        if entry.subject is not None:
            found.append(hit)
        elif entry.verb and not found:
            linked = True
        elif entry.terminates or entry.concept is not None or entry.group is not None:
            break
        elif entry.predicate and (found or not entry.severity):
            # Another predicate owns what lies before it, unless both share the subject
            # ("tortuous and calcified").
            if found or any(token not in ("and", ",") for token in gap):
                break
        elif found and not _qualifies(hit) and tokens.norms[hit.first] not in _FILLERS:
            break
        position = hit.first
    return found, linked or (bool(found) and found[0].last == hits[at].first)


def _qualifies(hit: Hit) -> bool:
    entry = hit.entry
    return entry.side is not None or entry.anatomy is not None or entry.severity is not None
