"""Which report describes which visuals.

A report is linked by what both carry: accession number, else study identifier, else the patient
when nothing else is possible. Whatever is ambiguous is not linked: a wrong pair teaches a wrong
meaning, a missing one costs one pair. Nothing is linked across patients.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from data_connectors.config import LinkBy
from data_connectors.ingest.records import Stored
from data_connectors.items import Identity, ReportItem


@dataclass(frozen=True, slots=True)
class Links:
    """The outcome: for every visual its reports, in order; and what became of the reports."""

    of_visual: dict[int, tuple[int, ...]]
    """Index of a visual -> indices of its reports."""
    outcome: tuple[str, ...]
    """One a report: `accession`, `study`, `patient` (how it was linked), `ambiguous`,
    `patient-differs`, or `none`."""

    @property
    def counts(self) -> dict[str, int]:
        """How many reports had each outcome."""
        return dict(sorted(Counter(self.outcome).items()))


def link(visuals: Sequence[Stored], reports: Sequence[ReportItem], by: Sequence[LinkBy]) -> Links:
    """Link reports to visuals.

    Args:
        visuals: What was read, in order. Lectures take no reports.
        reports: What was read, in order.
        by: Which rules to try, in order.
    """
    index = _Index(visuals, reports)
    of_visual: dict[int, list[int]] = defaultdict(list)
    outcomes = []
    for number, report in enumerate(reports):
        outcome, chosen = index.find(report.identity, by)
        outcomes.append(outcome)
        for visual in chosen:
            of_visual[visual].append(number)
    return Links({v: tuple(numbers) for v, numbers in of_visual.items()}, tuple(outcomes))


class _Index:
    """Visuals and reports by the identifiers they carry."""

    def __init__(self, visuals: Sequence[Stored], reports: Sequence[ReportItem]) -> None:
        self.visuals = visuals
        self.by: dict[tuple[LinkBy, str], list[int]] = defaultdict(list)
        for number, visual in enumerate(visuals):
            if visual.item.spans:
                continue
            for rule in ("accession", "study", "patient"):
                if name := _name(visual.item.identity, rule):
                    self.by[rule, name].append(number)
        self.reports_of = Counter(_name(report.identity, "patient") for report in reports)

    def find(self, identity: Identity, by: Sequence[LinkBy]) -> tuple[str, list[int]]:
        """How a report is linked, and to which visuals."""
        for rule in by:
            name = _name(identity, rule)
            candidates = self.by.get((rule, name), []) if name else []
            if not candidates:
                continue
            patient = _name(identity, "patient")
            owners = {_name(self.visuals[i].item.identity, "patient") for i in candidates}
            if len(owners) > 1:
                return "ambiguous", []
            if owners != {patient}:
                return "patient-differs", []
            if rule == "patient" and not self._only_choice(identity, candidates):
                return "ambiguous", []
            return rule, candidates
        return "none", []

    def _only_choice(self, identity: Identity, candidates: list[int]) -> bool:
        """One report and one study of this patient, and nothing that speaks against the pair."""
        if self.reports_of[_name(identity, "patient")] != 1:
            return False
        others = [self.visuals[i].item.identity for i in candidates]
        if len({(o.study.strip(), o.accession.strip()) for o in others}) != 1:
            return False
        # Both name a study (or an order) and the names differ: they are two studies.
        rules: tuple[LinkBy, ...] = ("accession", "study")
        pairs = [(_name(identity, rule), _name(others[0], rule)) for rule in rules]
        return not any(mine and theirs and mine != theirs for mine, theirs in pairs)


def _name(identity: Identity, rule: LinkBy) -> str:
    match rule:
        case "accession":
            return identity.accession.strip()
        case "study":
            return identity.study.strip()
        case "patient":
            return identity.patient.strip().upper()
