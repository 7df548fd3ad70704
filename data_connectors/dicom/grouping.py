"""Which slices belong together: a series, or the parts of it that its headers set apart cleanly.

A series whose slices form one stack is one group. One that does not is split where that is
unambiguous: by what can never share a grid (frame of reference, orientation, size, spacing, what
the pixels mean), or by what tells passes over the same places apart (`passes.py`). Every part
must then prove itself; if none of the ways holds, the series stays whole and is refused by name
when it is assembled. Nothing depends on the order or the names of the files.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from data_connectors.dicom.header import Header
from data_connectors.dicom.source import DicomReading
from data_connectors.dicom.splitting import Leaf, split_series


@dataclass(frozen=True, slots=True)
class Group:
    """Slices that are assembled together."""

    members: tuple[Header, ...]
    """Sorted by name."""
    part: str = ""
    """What sets it apart from the rest of its series, `EchoTime 2 of 3`; empty: it is all."""


def group_series(headers: Sequence[Header], reading: DicomReading | None = None) -> Iterator[Group]:
    """Group slices by series, in the order of their first names.

    Slices without a series UID stand alone. The folder a file lies in says nothing: slices of one
    series may be spread over several, and whole copies may lie in others.

    Args:
        headers: Of single slices.
        reading: Its tolerance, and whether uneven stacks are kept, so that they need no split.
    """
    reading = reading or DicomReading()
    series: dict[tuple[str, str], list[Header]] = {}
    for header in sorted(headers, key=lambda header: header.name):
        key = (header.sop_class, header.series or header.name)
        series.setdefault(key, []).append(header)
    for members in series.values():
        instances = _instances(members)
        leaves = (
            None
            if instances is None
            else split_series(
                [copies[0] for copies in instances],
                tolerance_mm=reading.spacing_tolerance_mm,
                keep_irregular=reading.irregular == "keep",
            )
        )
        if instances is None or leaves is None:
            yield Group(tuple(members))
        else:
            yield from _groups(leaves, instances)


def _groups(leaves: list[Leaf], instances: list[list[Header]]) -> list[Group]:
    """Leaves with the copies of their slices."""
    copies = {same[0].name: same for same in instances}
    groups = []
    for leaf in leaves:
        members = [header for one in leaf.members for header in copies[one.name]]
        members.sort(key=lambda header: header.name)
        groups.append(Group(tuple(members), leaf.part))
    return sorted(groups, key=lambda group: group.members[0].name)


def _instances(members: list[Header]) -> list[list[Header]] | None:
    """Files by the instance they are copies of; None where a series must not be split at all.

    That is so where it has several patients or studies, or files that claim to be one instance
    but differ in what the headers say.
    """
    same: defaultdict[str, list[Header]] = defaultdict(list)
    for member in members:
        same[member.sop_uid or f"name {member.name}"].append(member)
    facts = {(member.patient, member.study) for member in members}
    agree = all(
        (copy.plane, copy.passes, copy.rows, copy.columns)
        == (copies[0].plane, copies[0].passes, copies[0].rows, copies[0].columns)
        for copies in same.values()
        for copy in copies
    )
    return list(same.values()) if len(facts) == 1 and agree else None
