"""used + quarantined = found: every input of every source is accounted for, or ingest fails."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from data_connectors.ingest.assemble import Assembled, Entry
from data_connectors.ingest.planning import Plan
from medvlp.errors import IntegrityError


@dataclass(frozen=True, slots=True)
class Account:
    """Counts of inputs (files) and samples."""

    found: int
    used: int
    quarantined: int
    patients: int
    by_source: dict[str, dict[str, int]]
    by_reason: dict[str, int]
    samples: int
    by_kind: dict[str, int]
    by_split: dict[str, int]
    by_source_split: dict[str, dict[str, int]]

    def facts(self) -> dict[str, Any]:
        """As plain values."""
        return {name: getattr(self, name) for name in self.__slots__}


def account(plan: Plan, entries: Sequence[Entry], made: Assembled) -> Account:
    """Count, and check that nothing is missing.

    An input from which anything was taken is used, even when a part of it (a row of a table) was
    refused; one from which nothing was taken is quarantined.

    Raises:
        IntegrityError: An input is neither used nor quarantined, or was never found.
    """
    by_source: dict[str, dict[str, int]] = {}
    reasons: Counter[str] = Counter()
    for source in plan.sources:
        name = source.name
        found = set(plan.files[name])
        taken = {
            path
            for entry in entries
            if entry.source == name
            for item in entry.record.items
            for path in item.inputs
        }
        refused: dict[str, str] = {}
        for owner, refusal in made.refused:
            if owner == name:
                refused.update({p: refusal.code for p in refusal.inputs if p not in refused})
        quarantined = {path: code for path, code in refused.items() if path not in taken}
        used = (found - quarantined.keys()) & (taken | plan.tables[name])
        lost = found - used - quarantined.keys()
        invented = (taken | refused.keys()) - found
        if lost or invented:
            raise IntegrityError(
                f"source {name}: inputs are not accounted for", code="inputs-unaccounted",
                got=f"{len(lost)} neither used nor quarantined, {len(invented)} never found",
                limit=0, next_step="this is a fault of the reader: report it",
            )  # fmt: skip
        reasons.update(quarantined.values())
        by_source[name] = {
            "found": len(found), "used": len(used), "quarantined": len(quarantined),
        }  # fmt: skip
    return _account(by_source, reasons, made)


def _account(
    by_source: dict[str, dict[str, int]], reasons: Counter[str], made: Assembled
) -> Account:
    def total(what: str) -> int:
        return sum(counts[what] for counts in by_source.values())

    table: dict[str, dict[str, int]] = {}
    for sample in made.samples:
        row = table.setdefault(sample.provenance, {})
        row[sample.split] = row.get(sample.split, 0) + 1
    return Account(
        found=total("found"),
        used=total("used"),
        quarantined=total("quarantined"),
        patients=len({sample.patient for sample in made.samples}),
        by_source=by_source,
        by_reason=dict(sorted(reasons.items())),
        samples=len(made.samples),
        by_kind=dict(sorted(Counter(sample.kind for sample in made.samples).items())),
        by_split=dict(sorted(Counter(sample.split for sample in made.samples).items())),
        by_source_split=table,
    )
