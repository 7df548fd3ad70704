"""Which slices belong together: by series, split only where one attribute does it cleanly."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from data_connectors.dicom.header import Header


def group_series(headers: Sequence[Header]) -> Iterator[tuple[Header, ...]]:
    """Group slices by series, in the order of their first names.

    A series that visits the same positions several times (echoes, phases, b-values) is split if
    one attribute gives groups that each visit every position once; otherwise it stays whole and
    is refused when it is assembled. Slices without a series UID stand alone.
    """
    series: dict[tuple[str, str], list[Header]] = {}
    for header in sorted(headers, key=lambda header: header.name):
        key = (header.sop_class, header.series or header.name)
        series.setdefault(key, []).append(header)
    for members in series.values():
        yield from _split(members)


def _split(members: list[Header]) -> list[tuple[Header, ...]]:
    if len({member.patient for member in members}) == 1 and _repeats(members):
        for index in range(len(members[0].split)):
            groups: dict[str, list[Header]] = {}
            for member in members:
                groups.setdefault(member.split[index], []).append(member)
            if len(groups) > 1 and _clean(list(groups.values())):
                return [tuple(group) for group in groups.values()]
    return [tuple(members)]


def _clean(groups: list[list[Header]]) -> bool:
    """Whether every group visits the same several positions, each once."""
    places = [_positions(group) for group in groups]
    same = all(place == places[0] for place in places)
    return same and len(places[0]) > 1 and not any(_repeats(group) for group in groups)


def _positions(members: list[Header]) -> set[tuple[float, ...]]:
    """Places visited, to a hundredth of a millimetre; empty if any is unknown."""
    if any(member.plane is None for member in members):
        return set()
    return {
        tuple(round(value, 2) for value in member.plane.origin)
        for member in members
        if member.plane is not None
    }


def _repeats(members: list[Header]) -> bool:
    """Whether different instances share a position."""
    instances = {(member.sop_uid or member.name) for member in members}
    positions = _positions(members)
    return bool(positions) and len(positions) < len(instances)
