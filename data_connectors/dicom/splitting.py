"""Splits one series into stacks that prove themselves, or finds that it cannot be done.

Three slices in a row at even steps are evidence of a stack; two are not, unless another pass
visits the same two places.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from data_connectors.dicom.geometry import axes_of, stack
from data_connectors.dicom.header import Header, Plane
from data_connectors.dicom.likeness import Parts, another_view, by_kind, labelled
from data_connectors.dicom.passes import PASS_NAMES, WEAK
from medvlp.errors import GeometryError

_PROOF = 3
"""Fewest slices whose even steps mean something."""
_DEPTH = 3
"""Most attributes that are combined (b-value, direction, time)."""
_APART_MM = 1e-2
_MOST_KINDS = 100
"""Series of more views than this (radial acquisitions) are not split."""
_MOST_LOOKED_AT = 200_000
"""Slices looked at over all ways of splitting a series; a clean one needs a few times its own."""


@dataclass(frozen=True, slots=True)
class Leaf:
    """Slices that form one stack, or one slice that stands alone."""

    members: tuple[Header, ...]
    part: str = ""


@dataclass(frozen=True, slots=True)
class _Rules:
    tolerance_mm: float
    keep_irregular: bool
    names: Sequence[str]
    """What the values of `Header.passes` are."""
    looked_at: list[int]
    """One number: slices looked at so far."""


def split_series(
    members: list[Header],
    *,
    tolerance_mm: float,
    keep_irregular: bool,
    names: Sequence[str] = PASS_NAMES,
) -> list[Leaf] | None:
    """One leaf if the series is a stack as it is, several if it splits cleanly, else None.

    Args:
        members: One header an instance.
        tolerance_mm: How far a slice may lie from a regular grid.
        keep_irregular: Whether an uneven stack is one, too.
        names: What the values of `Header.passes` are, in order of trust.
    """
    if len(members) == 1:
        return [Leaf(tuple(members))]
    rules = _Rules(tolerance_mm, keep_irregular, names, [0])
    kinds = by_kind(members)
    if len(kinds) > _MOST_KINDS:
        return None
    if len(kinds) > 1:
        return _kinds_apart(kinds, rules)
    return _passes_apart(members, rules, _DEPTH, fewest=2)


def _kinds_apart(kinds: Parts, rules: _Rules) -> list[Leaf] | None:
    """Stacks of slices that can never share one, and lone slices that are another view."""
    leaves = []
    for label, part in kinds:
        if len(part) == 1:
            others = [header for _, other in kinds for header in other if other is not part]
            if not all(another_view(part[0], other) for other in others):
                return None
            leaves.append(Leaf(tuple(part), label))
            continue
        found = _passes_apart(part, rules, _DEPTH, fewest=_PROOF)
        if found is None:
            return None
        leaves += [Leaf(leaf.members, _joined(label, leaf.part)) for leaf in found]
    return leaves


def _passes_apart(
    members: list[Header], rules: _Rules, depth: int, *, fewest: int
) -> list[Leaf] | None:
    """One leaf a pass over the same places; one in all if nothing repeats."""
    rules.looked_at[0] += len(members)
    if rules.looked_at[0] > max(_MOST_LOOKED_AT, 10 * len(members)):
        return None
    if len(members) >= fewest and _is_stack(members, rules, irregular=False):
        return [Leaf(tuple(members))]
    if depth > 0 and all(member.plane is not None for member in members):
        for parts, enough in _partitions(members, rules):
            leaves = []
            for label, part in parts:
                found = _passes_apart(part, rules, depth - 1, fewest=enough)
                if found is None:
                    break
                leaves += [Leaf(leaf.members, _joined(label, leaf.part)) for leaf in found]
            else:
                return leaves
    if (
        rules.keep_irregular
        and len(members) >= fewest
        and _is_stack(members, rules, irregular=True)
    ):
        return [Leaf(tuple(members))]
    return None


def _is_stack(members: list[Header], rules: _Rules, *, irregular: bool) -> bool:
    try:
        stack(
            [member.plane for member in members],
            tolerance_mm=rules.tolerance_mm,
            keep_tilt=True,
            keep_irregular=irregular,
        )
    except GeometryError:
        return False
    return True


def _partitions(members: list[Header], rules: _Rules) -> Iterator[tuple[Parts, int]]:
    """Ways to split slices of one kind, and how many slices each part needs for a proof.

    Passes over the same places come first, then ranks in time, then passes over other places.
    """
    along = _along(members)
    elsewhere: list[Parts] = []
    seen: set[frozenset[frozenset[str]]] = set()
    for number, name in enumerate(rules.names):
        groups: dict[str, list[Header]] = {}
        for member in members:
            groups.setdefault(member.passes[number], []).append(member)
        shape = frozenset(frozenset(m.name for m in part) for part in groups.values())
        if shape in seen or len(groups) < 2 or min(map(len, groups.values())) < 2:
            continue
        seen.add(shape)
        parts = labelled(name, groups)
        places = [sorted(along[m.name] for m in part) for _, part in parts]
        if _same_places(places):
            yield parts, 2
        elif name not in WEAK and _told_apart(places, rules):
            elsewhere.append(parts)
    for name in WEAK:
        ranked = _by_rank(members, along, rules.names.index(name), name)
        if ranked is not None:
            yield ranked, 2
    yield from ((parts, _PROOF) for parts in elsewhere)


def _same_places(places: list[list[float]]) -> bool:
    """Whether all parts visit the same places, of which there are several."""
    first = _distinct(places[0])
    return len(first) > 1 and all(
        len(other) == len(first) and float(np.abs(other - first).max()) < _APART_MM
        for other in (_distinct(part) for part in places)
    )


def _told_apart(places: list[list[float]], rules: _Rules) -> bool:
    """Whether parts that visit different places are passes, and not one stack with a gap.

    Parts whose ranges overlap were different passes. Parts that lie one behind the other are
    told apart only by their spacing, and only where no slice can be missing between them.
    """
    if _has_gap(_distinct(sorted(place for part in places for place in part)), rules):
        return False  # nothing that was sent closes it
    chains: list[list[list[float]]] = []
    for part in sorted(places):
        if chains and part[0] < max(other[-1] for other in chains[-1]) - _APART_MM:
            chains[-1].append(part)
        else:
            chains.append([part])
    if len(chains) > 1 and rules.keep_irregular:
        return False  # one uneven stack says more than its pieces
    for lower, upper in pairwise(chains):
        below, above = _spacing(lower), _spacing(upper)
        between = upper[0][0] - max(part[-1] for part in lower)
        slack = rules.tolerance_mm
        mean = (below + above) / 2
        near = between <= min(below, above) + slack or abs(between - mean) <= slack
        if abs(below - above) <= max(slack, 0.05 * min(below, above)) or not near:
            return False
    return True


def _has_gap(places: np.ndarray, rules: _Rules) -> bool:
    """Whether places are those of a regular grid of which some are missing."""
    step = float(np.median(np.diff(places))) if len(places) > 1 else 0.0
    if step <= 0:
        return False
    number = np.rint((places - places[0]) / step)
    centred = number - number.mean()
    step = float(centred @ places / (centred @ centred))
    off = np.abs(places - places.mean() - centred * step).max()
    return bool(number[-1] + 1 > len(places) and off <= min(rules.tolerance_mm, step / 8))


def _spacing(chain: list[list[float]]) -> float:
    """Median distance of neighbouring places in a chain of parts; 0 where there is one place."""
    places = [_distinct(part) for part in chain]
    steps = [float(np.median(np.diff(part))) for part in places if len(part) > 1]
    return float(np.median(steps)) if steps else 0.0


def _by_rank(
    members: list[Header], along: dict[str, float], number: int, name: str
) -> Parts | None:
    """The k-th in time at every place together, if every place is visited equally often.

    Trigger times are phases of one cycle, so their rank decides (cycles vary in length); for
    times of day all of one pass must have been before all of the next.
    """
    times: dict[str, float] = {}
    for member in members:
        try:
            times[member.name] = float(member.passes[number])
        except ValueError:
            return None
    ordered = sorted(members, key=lambda member: along[member.name])
    places: list[list[Header]] = []
    for member in ordered:
        if places and along[member.name] - along[places[-1][0].name] < _APART_MM:
            places[-1].append(member)
        else:
            places.append([member])
    count = len(places[0])
    if count < 2 or len(places) < 2 or any(len(place) != count for place in places):
        return None
    for place in places:
        place.sort(key=lambda member: times[member.name])
        if any(times[a.name] == times[b.name] for a, b in pairwise(place)):
            return None
    ranks = [[place[rank] for place in places] for rank in range(count)]
    if name != "TriggerTime":
        spans = [sorted(times[member.name] for member in rank) for rank in ranks]
        if any(a[-1] >= b[0] for a, b in pairwise(spans)):
            return None
    return [
        (f"{name} {rank + 1} of {count}", sorted(part, key=lambda member: member.name))
        for rank, part in enumerate(ranks)
    ]


def _along(members: list[Header]) -> dict[str, float]:
    """Where each slice lies along the normal, by name."""
    planes = {member.name: member.plane for member in members if member.plane is not None}
    first = min(planes.values(), key=lambda plane: (plane.along_row, plane.along_column))
    normal = _normal(first)
    return {name: float(normal @ np.array(plane.origin)) for name, plane in planes.items()}


def _normal(plane: Plane) -> np.ndarray:
    try:
        return axes_of(plane)[2]
    except GeometryError:
        return np.array([0.0, 0.0, 1.0])  # no stack will come of it


def _distinct(places: list[float]) -> np.ndarray:
    """Sorted places without repeats."""
    values = np.array(places)
    keep = np.concatenate([[True], np.diff(values) >= _APART_MM])
    found: np.ndarray = values[keep]
    return found


def _joined(first: str, second: str) -> str:
    return ", ".join(part for part in (first, second) if part)
