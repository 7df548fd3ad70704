"""Which samples a task evaluates, and what is true of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from downstream.config import Split, Unit, Where
from downstream.interfaces import SampleStore
from medvlp.knowledge.concepts import NORMAL
from medvlp.types import Sample

_ANY_OF = ("present", "uncertain", "absent", "unmentioned")
_ALL_OF = ("absent", "unmentioned", "uncertain", "present")


def select(dataset: SampleStore, where: Where, split: Split) -> tuple[Sample, ...]:
    """The visual samples of a split that a task asks for, ordered by key.

    Args:
        dataset: All samples.
        where: The task's restriction.
        split: Used as given; `where.split` must have been resolved by the caller.
    """
    chosen = (
        sample
        for sample in dataset.samples
        if sample.split == split
        and sample.kind != "text"
        and (not where.kinds or sample.kind in where.kinds)
        and (not where.modality or sample.modality in where.modality)
        and (not where.provenance or _from(sample.provenance, where.provenance))
    )
    return tuple(sorted(chosen, key=lambda sample: sample.key))


def _from(provenance: str, names: Sequence[str]) -> bool:
    """A provenance is a source's name, perhaps followed by how: `nih`, `nih:table`."""
    return any(
        provenance == name or (provenance.startswith(name) and provenance[len(name)] in ":/ ")
        for name in names
    )


@dataclass(frozen=True, slots=True, eq=False)
class Truth:
    """What is true of cases: one row a case (a sample, or a whole study), one column a label."""

    cases: tuple[tuple[Sample, ...], ...]
    labels: tuple[str, ...]
    present: npt.NDArray[np.bool_]
    """[n, k]."""
    known: npt.NDArray[np.bool_]
    """[n, k]: whether the sample takes part for the label."""
    source: str
    """`labels` or `findings`."""

    @property
    def samples(self) -> tuple[Sample, ...]:
        """The first sample of each case, which names it."""
        return tuple(case[0] for case in self.cases)


def has_gold(samples: Sequence[Sample]) -> bool:
    """Whether any of the samples carries gold labels."""
    return any(sample.labels for sample in samples)


def truth_table(
    samples: Sequence[Sample],
    labels: Sequence[str],
    *,
    source: str,
    unmentioned: str,
    unit: Unit = "sample",
) -> Truth:
    """Truth of every label for every case that has any.

    With gold labels, samples without any are left out: nothing says that they were looked at.
    With findings, a sample is a positive of a concept if a text says it is present, a negative
    if texts only say absent; uncertain mentions take no part. A study shows what any of its
    samples shows.

    Args:
        samples: In the order of the rows.
        labels: Concept ids.
        source: `labels` or `findings`.
        unmentioned: `absent` or `ignore`.
        unit: What a row is.
    """
    if source == "labels":
        samples = [sample for sample in samples if sample.labels]
    cases: dict[str, list[Sample]] = {}
    for sample in samples:
        # A sample without a study is a case of its own.
        cases.setdefault((unit == "study" and sample.study) or sample.key, []).append(sample)
    present = np.zeros((len(cases), len(labels)), dtype=bool)
    known = np.zeros_like(present)
    for row, case in enumerate(cases.values()):
        for column, label in enumerate(labels):
            state = _state(case, label, source)
            present[row, column] = state == "present"
            known[row, column] = state in ("present", "absent") or (
                state == "unmentioned" and unmentioned == "absent"
            )
    rows = tuple(tuple(case) for case in cases.values())
    return Truth(rows, tuple(labels), present, known, source)


def _state(case: Sequence[Sample], label: str, source: str) -> str:
    """Of several samples one that shows it decides; a study is normal only if all of it is."""
    of = _gold if source == "labels" else _stated
    states = {of(sample, label) for sample in case}
    return next(state for state in (_ALL_OF if label == NORMAL else _ANY_OF) if state in states)


def _gold(sample: Sample, label: str) -> str:
    return "present" if label in sample.labels else "unmentioned"


def _stated(sample: Sample, concept: str) -> str:
    polarities = {f.polarity for f in sample.findings if f.concept == concept}
    if concept == NORMAL and not polarities:
        # Texts call an examination normal by denying: normal is what states nothing present.
        stated = {f.polarity for f in sample.findings}
        for polarity, state in (("present", "absent"), ("uncertain", "uncertain")):
            if polarity in stated:
                return state
        return "present" if stated else "unmentioned"
    for polarity in ("present", "uncertain", "absent"):
        if polarity in polarities:
            return polarity
    return "unmentioned"


def frequent_labels(samples: Sequence[Sample], *, source: str, at_least: int) -> tuple[str, ...]:
    """Labels with enough positives and at least one sample without, by id.

    Labels of clips that name a phase or step (`phase:...`) are not findings and are left out.
    """
    counts: dict[str, int] = {}
    for sample in samples:
        names = (
            set(sample.labels)
            if source == "labels"
            else {f.concept for f in sample.findings if f.polarity == "present"}
        )
        for name in names:
            counts[name] = counts.get(name, 0) + 1
    total = sum(bool(sample.labels) for sample in samples) if source == "labels" else len(samples)
    return tuple(
        sorted(
            name
            for name, count in counts.items()
            if at_least <= count < total and ":" not in name and name != "out_of_body"
        )
    )
