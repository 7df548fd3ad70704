"""Scope of negation and doubt inside one sentence.

A trigger reaches over the clause it opens. Lists stay inside ("no effusion, edema or
pneumothorax"); what opens a statement of its own ends it ("no effusion, there is a nodule").
The triggers and the words that end a scope are data (`books/rules.yaml`); the idea is that of
NegEx (Chapman et al. 2001, doi:10.1006/jbin.2001.1029) with clause rules for radiology lists.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from medvlp.knowledge.rules import Hit
from medvlp.knowledge.tokens import Tokens
from medvlp.types import Polarity

_HARD = frozenset(";()[]")
_JOINS = frozenset({"and", ",", "or", "nor", "/", "but"})
_ALTERNATIVES = frozenset({"or", "nor", "versus", "vs"})

_COPULAS = frozenset({"is", "are", "was", "were", "has", "have", "had", "been", "now"})


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the words around a mention make of it."""

    polarity: Polarity
    certainty: float


class Scope:
    """Clause structure of one sentence; answers whether a trigger reaches a mention."""

    def __init__(self, tokens: Tokens, hits: Sequence[Hit], mentions: Sequence[tuple[int, int]]):
        """Prepare one sentence.

        Args:
            tokens: Its tokens.
            hits: The phrases found in it, in order.
            mentions: Token spans (first, last) of everything that is said to be there or not.
        """
        self._norms = tokens.norms
        self._starts = {hit.first: hit for hit in hits}
        self._hard = [token in _HARD for token in tokens.norms]
        self._verb = [False] * len(tokens.norms)
        for at, hit in enumerate(hits):
            # "may be due to" carries its doubt over; "no effusion due to" ends its denial.
            carried = at > 0 and hits[at - 1].entry.doubt_before and hits[at - 1].last == hit.first
            if hit.entry.terminates or (hit.entry.links and not carried):
                self._hard[hit.first] = True
            if hit.entry.verb:
                self._verb[hit.first] = True
        self._mentions = sorted(mentions)
        self._named = [False] * len(tokens.norms)
        for first, last in mentions:
            self._named[first:last] = [True] * (last - first)
        self._before = [
            hit
            for at, hit in enumerate(hits)
            if (hit.entry.deny_before or hit.entry.doubt_before or hit.entry.ignore)
            and not _denies_change(hits, at)
        ]
        self._after = [hit for hit in hits if hit.entry.deny_after or hit.entry.doubt_after]
        self._colons = {at for at, token in enumerate(tokens.norms) if token == ":"}
        self._deny = {hit.first: hit.entry.deny_before for hit in self._before}

    def judge(self, first: int, last: int) -> Judgement | None:
        """Polarity of the mention at tokens first..last; None where it asserts nothing.

        Denial beats doubt ("no opacity to suggest pneumonia"), and both beat presence.
        """
        denied = doubted = 0.0
        for hit in self._before:
            if hit.last > first or not self._reaches(hit, first):
                continue
            if hit.entry.ignore:
                return None
            denied = max(denied, hit.entry.deny_before)
            doubted = max(doubted, hit.entry.doubt_before)
        for hit in self._after:
            if hit.first < last:
                # A trailing trigger with nothing before it works forwards: "Resolved effusion".
                if hit.last <= first and hit.entry.deny_after and self._leads(hit, first):
                    denied = max(denied, hit.entry.deny_after)
                continue
            if self._reached_by(hit, last):
                denied = max(denied, hit.entry.deny_after)
                doubted = max(doubted, hit.entry.doubt_after)
        if self._labelled_no(last):
            denied = 1.0
        if denied:
            return Judgement("absent", denied)
        if doubted:
            return Judgement("uncertain", doubted)
        return Judgement("present", 1.0)

    def _reaches(self, hit: Hit, first: int) -> bool:
        """Whether a leading trigger reaches forward to a mention."""
        listing = "include" in hit.entry.phrase or "differential" in hit.entry.phrase
        soft = not (hit.entry.deny_before or hit.entry.ignore or listing)
        complete = mentioned = False
        at = hit.last
        while at < first:
            if self._hard[at] or at in self._colons:
                return False
            token = self._norms[at]
            if self._named[at]:
                mentioned = True
            elif self._verb[at] and mentioned:
                complete = True
            elif mentioned and token in ("with", "without"):
                return False
            if token in _JOINS and self._closes(at, first, complete=complete, soft=soft):
                return False
            at += 1
        return True

    def _closes(self, at: int, first: int, *, complete: bool, soft: bool) -> bool:
        """Whether the joining word at `at` ends the scope before the mention at `first`."""
        if self._norms[at] == "but" or (complete and self._norms[at] in ("and", ",")):
            return True
        listed = self._list_goes_on(at)
        if soft and self._norms[at] == ",":
            return not listed
        after = at + 1
        while after < first and self._norms[after] in _JOINS:
            after += 1
        if self._norms[at] in ("or", "nor", "/"):
            return False
        following = self._starts.get(after)
        if following is None:
            return False
        entry = following.entry
        if entry.doubt_before and not entry.deny_before:
            return True
        if entry.normal or entry.doubtful or entry.opens:
            return True
        if entry.subject is not None and self._says_something(following):
            return True
        return entry.severity is not None and not listed

    def _says_something(self, subject: Hit) -> bool:
        """Whether a subject is followed by a verb or predicate of its own."""
        for at in range(subject.last, min(subject.last + 4, len(self._norms))):
            hit = self._starts.get(at)
            if hit is not None and (hit.entry.verb or hit.entry.predicate):
                return True
        return False

    def _list_goes_on(self, at: int) -> bool:
        """Whether an "or" follows in the same clause: the list is not over."""
        for token, hard in zip(self._norms[at + 1 :], self._hard[at + 1 :], strict=True):
            if hard:
                return False
            if token in _ALTERNATIVES:
                return True
        return False

    def _reached_by(self, hit: Hit, last: int) -> bool:
        """Whether a trailing trigger reaches back to a mention that ends at `last`."""
        end = hit.first
        while end > last and self._norms[end - 1] in _COPULAS:
            end -= 1  # "is" of "is no longer seen" belongs to the trigger
        if any(self._hard[last:end]) or any(self._verb[last:end]):
            return False
        between = self._norms[last : hit.first]
        if hit.entry.doubt_after and set(hit.entry.phrase) & _ALTERNATIVES:
            # "X versus Y" doubts its nearest neighbour only.
            return not any(last <= span[0] < hit.first for span in self._mentions)
        joined = any(token in ("and", "or", "nor", "/") for token in between)
        if "," in between and not joined:
            return False
        if joined or "," in between:
            # "There is a nodule and effusion is not seen": the nodule has its own verb.
            return "there" not in self._norms[: hit.first]
        return True

    def _leads(self, hit: Hit, first: int) -> bool:
        if any(span[0] < hit.first for span in self._mentions):
            return False
        between = self._norms[hit.last : first]
        return not any(self._hard[hit.last : first]) and not _JOINS & set(between)

    def _labelled_no(self, last: int) -> bool:
        """A label and its value: "pleural effusion: no" at the end of a clause."""
        if last not in self._colons or not self._deny.get(last + 1):
            return False
        return last + 2 >= len(self._norms) or self._norms[last + 2] in ".;,"


def _denies_change(hits: Sequence[Hit], at: int) -> bool:
    """Whether what follows a denial is a change, not a finding: "no significant change in"."""
    end = hits[at].last
    for hit in hits[at + 1 :]:
        if hit.first != end or not (hit.entry.change or hit.entry.change_adjective):
            return False
        if hit.entry.change:
            return True
        end = hit.last
    return False
