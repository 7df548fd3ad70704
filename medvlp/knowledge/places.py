"""Side, anatomy and severity of a mention: which of the sentence's modifiers belong to it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

from medvlp.knowledge.mentions import Mention
from medvlp.knowledge.rules import Hit
from medvlp.knowledge.tokens import Tokens
from medvlp.types import Side

_REACH = 6


@dataclass(frozen=True, slots=True)
class Place:
    """Where a mention is, and how much of it there is."""

    side: Side | None = None
    anatomy: str | None = None
    severity: str | None = None


class Places:
    """Assigns the modifiers of one sentence to its mentions.

    A modifier in the noun phrase before the mention is its own ("small left effusion"). What is
    left over goes to the mention it follows ("effusion on the left"), and at last to mentions
    after it ("left lung: consolidation").
    """

    def __init__(self, tokens: Tokens, hits: Sequence[Hit], mentions: Sequence[Mention]):
        self._norms = tokens.norms
        self._hits = [hit for hit in hits if _modifies(hit)]
        self._all = hits
        self._named = [mention for mention in mentions if mention.kind == "concept"]
        self._blocked = [token in (",", ";", ":", "(", ")", "-") for token in tokens.norms]
        self._stop = [token == ";" for token in tokens.norms]
        for hit in hits:
            if _separates(hit):
                self._blocked[hit.first] = True
            if hit.entry.terminates:
                self._stop[hit.first] = True
        self._mentions = sorted({(mention.first, mention.last) for mention in mentions})
        self._owner: dict[int, tuple[int, int]] = {}
        for span in self._mentions:
            for hit in self._hits:
                if self._own(hit, span):
                    self._owner.setdefault(hit.first, span)
        for span in self._mentions:
            for hit in self._following(span):
                self._owner.setdefault(hit.first, span)

    def of(self, mention: Mention) -> Place:
        """The place of one mention."""
        place = self._stated(mention)
        source = None if place.side or place.anatomy else self._explained(mention)
        if source is None:
            return place
        other = self._stated(source)
        return Place(other.side, other.anatomy, place.severity)

    def _stated(self, mention: Mention) -> Place:
        span = (mention.first, mention.last)
        owned = [hit for hit in self._hits if self._owner.get(hit.first) == span]
        free = [hit for hit in self._hits if hit.first not in self._owner]
        ahead = [hit for hit in free if hit.last <= span[0] and not self._cut(hit.last, span[0])]
        sides = [hit for hit in owned if hit.entry.side] or [hit for hit in ahead if hit.entry.side]
        return Place(
            side=_one_side([cast(Side, hit.entry.side) for hit in sides]),
            anatomy=_first(owned, lambda hit: hit.entry.anatomy)
            or _first(ahead, lambda hit: hit.entry.anatomy),
            severity=_first(owned, lambda hit: hit.entry.severity),
        )

    def _explained(self, mention: Mention) -> Mention | None:
        """The mention that this one explains: "right basal opacity, possibly pneumonia"."""
        earlier = [other for other in self._named if other.last <= mention.first]
        if not earlier:
            return None
        nearest = max(earlier, key=lambda other: other.last)
        gap = [hit for hit in self._all if nearest.last <= hit.first < mention.first]
        if any(hit.entry.terminates or hit.entry.deny_before for hit in gap):
            return None
        linked = any(hit.entry.links or hit.entry.doubt_before for hit in gap)
        return nearest if linked and ";" not in self._norms[nearest.last : mention.first] else None

    def _own(self, hit: Hit, span: tuple[int, int]) -> bool:
        """Whether a modifier lies inside a mention or in the noun phrase right before it."""
        if span[0] <= hit.first < span[1]:
            return not hit.entry.normal  # "the trachea is midline" is no side
        if hit.last > span[0] or span[0] - hit.last > _REACH:
            return False
        blocked = self._blocked[hit.last : span[0]]
        if hit.entry.severity:
            gap = zip(self._norms[hit.last : span[0]], blocked, strict=True)
            blocked = [flag for token, flag in gap if token != ","]
        return not any(blocked)

    def _following(self, span: tuple[int, int]) -> list[Hit]:
        """Free modifiers after a mention and before the next one."""
        later = [other[0] for other in self._mentions if other[0] >= span[1]]
        limit = min(later, default=len(self._norms))
        for at in range(span[1], limit):
            if self._stop[at]:
                limit = at
                break
        found = []
        for hit in self._hits:
            if not span[1] <= hit.first < limit or hit.first in self._owner:
                continue
            if hit.entry.severity and not hit.entry.side and not self._predicative(hit, span):
                continue
            found.append(hit)
        return found

    def _predicative(self, hit: Hit, span: tuple[int, int]) -> bool:
        """A verb and at most one more word in between: "the effusion is small"."""
        gap = range(span[1], hit.first)
        verbs = [other for other in self._all if other.entry.verb and other.first in gap]
        return bool(verbs) and len(gap) <= 2

    def _cut(self, first: int, last: int) -> bool:
        return any(self._stop[first:last])


def _separates(hit: Hit) -> bool:
    """Whether a phrase cannot stand between a modifier and its noun."""
    entry = hit.entry
    trigger = entry.deny_before or entry.doubt_before or entry.deny_after or entry.doubt_after
    return bool(entry.barrier or entry.terminates or entry.verb or trigger)


def _modifies(hit: Hit) -> bool:
    entry = hit.entry
    if entry.concept is not None or entry.group is not None:
        return False
    return bool(entry.side or entry.anatomy or entry.severity)


def _one_side(sides: Sequence[Side]) -> Side | None:
    distinct = set(sides)
    if "bilateral" in distinct or distinct >= {"left", "right"}:
        return "bilateral"
    return sides[0] if sides else None


def _first(hits: Sequence[Hit], value: Callable[[Hit], str | None]) -> str | None:
    return next((found for hit in hits if (found := value(hit))), None)
