"""Received = what the archive says it has, series by series; anything else is refused."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

from data_connectors.items import Refused
from data_connectors.pacs.ledger import STORED, WANTED, Entry

_REASONS = {
    "pacs-wrong-series": "the archive sent a file that belongs to another series",
    "pacs-wrong-patient": "the file names another patient than the archive does",
    "pacs-uid-conflict": "the archive sent different files under one SOPInstanceUID",
}
_NEXT = "have the archive's record corrected; the next run fetches it again"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one series."""

    instances: int
    """How many are read: all of them, or none."""
    missing: dict[str, int]
    """Inputs of a refused series -> bytes that came."""
    refused: tuple[Refused, ...]
    """Every missing input is in exactly one."""


def lacks(entry: Entry) -> int:
    """How many instances of a series have not come and were not refused."""
    if entry.listed:
        return len(entry.wanted)
    return max(0, (entry.counted or 0) - len(entry.stored))


def judge(entry: Entry, name: Callable[[str], str], *, trust_counts: bool) -> Verdict:
    """Decide on a series: read whole or refused whole.

    A series that lacks a slice at its end looks like a smaller whole one, so what is there of it
    is not read either.

    Args:
        entry: Its ledger.
        name: SOPInstanceUID -> name of the input.
        trust_counts: Whether NumberOfSeriesRelatedInstances must agree.
    """
    came = len(entry.stored)
    listed = sum(instance.listed for instance in entry.instances) if entry.listed else None
    counted = entry.counted if trust_counts or listed is None else None
    said = [number for number in (listed, counted) if number is not None]
    if said and all(number == came for number in said) and not entry.refused:
        return Verdict(came, {}, ())
    missing = {name(i.uid): i.size if i.state == STORED else 0 for i in entry.instances}
    for number in range(len(missing), max(said, default=0)):
        missing[name(f"missing {number}")] = 0
    by_code: dict[str, list[str]] = defaultdict(list)
    for instance in entry.refused:
        by_code[instance.state].append(name(instance.uid))
    spent = {one for names in by_code.values() for one in names}
    refused = [
        Refused(code, _REASONS.get(code, "the archive sent a file that cannot be used"), _NEXT,
                tuple(names))
        for code, names in sorted(by_code.items())
    ]  # fmt: skip
    rest = tuple(one for one in missing if one not in spent)
    if rest:
        refused.append(_incomplete(entry, came, listed, counted, rest))
    return Verdict(0, missing, tuple(refused))


def _incomplete(
    entry: Entry, came: int, listed: int | None, counted: int | None, inputs: tuple[str, ...]
) -> Refused:
    if listed is None and counted is None:
        return Refused(
            "pacs-uncounted", f"the archive does not say how many instances it has; {came} came",
            "nothing can show that they are all; pull it by another protocol", inputs,
        )  # fmt: skip
    said = [f"lists {listed}"] * (listed is not None) + [f"counts {counted}"] * (
        counted is not None
    )
    lost = sum(instance.state == WANTED for instance in entry.instances)
    return Refused(
        "pacs-incomplete",
        f"the archive {' and '.join(said)} instances of the series; {came} came, {lost} did not, "
        f"{len(entry.refused)} were refused",
        "run the same command later, or ask the archive's administrator for this series", inputs,
    )  # fmt: skip
