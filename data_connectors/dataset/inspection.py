"""`medvlp inspect`: what is in a dataset folder, in numbers and in pictures."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from data_connectors.dataset.leakage import find_leakage
from data_connectors.dataset.store import Dataset
from medvlp.types import Sample

SPLITS = ("train", "val", "test")


def inspect_dataset(dataset: Path, html: Path | None = None) -> dict[str, Any]:
    """Describe a dataset folder; check that nothing leaks between its splits.

    Args:
        dataset: The folder.
        html: Also write a self-contained page with pictures.

    Returns:
        Counts by kind, split, source, modality and licence; findings by concept, split and
        polarity; repeated texts; quarantine by reason; leakage between splits.
    """
    data = Dataset.open(dataset)
    facts = describe(data)
    if html is not None:
        from data_connectors.dataset.inspection_page import write_page

        write_page(data, facts, html)
    data.close()
    return facts


def describe(data: Dataset) -> dict[str, Any]:
    """The facts alone."""
    samples = data.samples
    return {
        "samples": len(samples),
        "patients": len({sample.patient for sample in samples}),
        "digest": data.digest,
        "by_kind": _table(samples, "kind"),
        "by_source": _table(samples, "provenance"),
        "by_modality": _table(samples, "modality"),
        "by_licence": _table(samples, "licence"),
        "patients_by_split": {
            split: len({s.patient for s in samples if s.split == split}) for split in SPLITS
        },
        "texts": _texts(samples),
        "findings": _findings(samples),
        "labels": _labels(samples),
        "inputs": data.info.get("by_source", {}),
        "quarantine": _quarantine(data.quarantine()),
        "leakage": find_leakage(samples, data.path),
    }


def _table(samples: Iterable[Sample], column: str) -> dict[str, dict[str, int]]:
    """Value of a column -> split -> number of samples, most frequent first."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for sample in samples:
        counts[getattr(sample, column) or "not given"][sample.split] += 1
    return _by_size(counts)


def _by_size(counts: dict[str, Counter[str]]) -> dict[str, dict[str, int]]:
    ordered = sorted(counts.items(), key=lambda item: (-item[1].total(), item[0]))
    return {name: {split: count[split] for split in SPLITS} for name, count in ordered}


def _texts(samples: Iterable[Sample]) -> dict[str, Any]:
    """Texts by level, and how many are copies of another sample's."""
    levels: Counter[str] = Counter()
    owners: dict[tuple[str, str], set[str]] = defaultdict(set)
    words = 0
    without = 0
    for sample in samples:
        without += not sample.texts
        for text in sample.texts:
            levels[text.level] += 1
            words += len(text.text.split())
            owners[text.level, normal(text.text)].add(sample.key)
    repeated: Counter[str] = Counter()
    for (level, _), keys in owners.items():
        if len(keys) > 1:
            repeated[level] += len(keys)
    distinct = Counter(level for level, _ in owners)
    return {
        "samples_without_text": without,
        "words": words,
        "by_level": {
            level: {"texts": n, "distinct": distinct[level], "repeated": repeated[level]}
            for level, n in sorted(levels.items(), key=lambda item: -item[1])
        },
    }


def _findings(samples: Iterable[Sample]) -> dict[str, dict[str, dict[str, int]]]:
    """Concept -> split -> polarity -> number of samples that say so."""
    counts: dict[str, dict[str, Counter[str]]] = defaultdict(lambda: defaultdict(Counter))
    for sample in samples:
        for concept, polarity in sorted({(f.concept, f.polarity) for f in sample.findings}):
            counts[concept][sample.split][polarity] += 1
    size = {name: sum(c.total() for c in by.values()) for name, by in counts.items()}
    return {
        name: {split: dict(counts[name][split]) for split in SPLITS}
        for name in sorted(counts, key=lambda name: (-size[name], name))
    }


def _labels(samples: Iterable[Sample]) -> dict[str, dict[str, int]]:
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for sample in samples:
        for label in sample.labels:
            counts[label][sample.split] += 1
    return _by_size(counts)


def _quarantine(rows: list[dict[str, str]]) -> list[dict[str, Any]]:
    """One entry a (source, code), with an example of reason and next step."""
    groups: dict[tuple[str, str], list[dict[str, str]]] = defaultdict(list)
    for row in rows:
        groups[row["source"].partition("/")[0], row["code"]].append(row)
    ordered = sorted(groups.items(), key=lambda item: (-len(item[1]), item[0]))
    return [
        {
            "source": source, "code": code, "inputs": len(some),
            "example": some[0]["reason"], "next_step": some[0]["next_step"],
        }
        for (source, code), some in ordered
    ]  # fmt: skip


def normal(text: str) -> str:
    """A text for comparison: case and spaces do not count."""
    return " ".join(text.lower().split())
