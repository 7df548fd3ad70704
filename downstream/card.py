"""The metric card: everything that must be equal for two numbers to be comparable.

Only the model may differ: comparing models is what cards are for.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from medvlp.errors import MedvlpError

_MODEL = "model_digest"


@dataclass(frozen=True, slots=True)
class MetricCard:
    """How a number was made. Every field is a plain sentence or value."""

    task: str
    """Kind of task."""
    metric: str
    aggregation: str
    undefined: str
    """What happens where the metric has no value."""
    truth: str
    score: str
    """How the model's vectors become the score."""
    ties: str
    interval: str
    split: str
    split_digest: str
    """Over the keys of the samples evaluated, with their truth."""
    prompt_digest: str
    """Over every text the model was asked with."""
    dataset_digest: str
    model_digest: str
    """Which model; the one field that comparable results may differ in."""
    relaxation: str = "none"
    fps: float | None = None
    frames_seen: str = "all frames of the sample"
    """Which frames a score may use, and whether that is causal."""
    selection: str = "none: nothing was chosen on the evaluated split"
    """What was chosen, on which split, by which metric."""
    labels: tuple[str, ...] = field(default=())

    @property
    def digest(self) -> str:
        """Digest of all fields but the model: equal digests, comparable numbers."""
        return digest({name: value for name, value in asdict(self).items() if name != _MODEL})

    def to_dict(self) -> dict[str, Any]:
        """The fields and the digest, ready for JSON."""
        return {**asdict(self), "labels": list(self.labels), "digest": self.digest}


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two results of the same definition."""

    metric: str
    a: float
    b: float
    difference: float
    """a - b."""
    intervals_apart: bool
    """True if the two intervals do not overlap."""


def digest(value: Any) -> str:
    """SHA-256 of a JSON value, first 16 hex digits."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def split_digest(rows: Iterable[tuple[str, ...]]) -> str:
    """Digest of what was evaluated, whatever the order of the rows."""
    return digest(sorted(list(row) for row in rows))


def compare(a: dict[str, Any], b: dict[str, Any]) -> Comparison:
    """Compare two entries of `metrics.json`, of two models, in one definition.

    Raises:
        MedvlpError: `card-mismatch`, naming the fields that differ.
    """
    cards = a["card"], b["card"]
    differing = sorted(
        name
        for name in {*cards[0], *cards[1]} - {"digest", _MODEL}
        if cards[0].get(name) != cards[1].get(name)
    )
    if differing:
        raise MedvlpError(
            "these results do not have the same definition",
            code="card-mismatch",
            got=f"different {', '.join(differing)}",
            limit="equal metric cards",
            next_step="evaluate both models with the same config on the same dataset",
        )
    bounds = (a["low"], a["high"], b["low"], b["high"])
    if None in (*bounds, a["value"], b["value"]):
        raise MedvlpError(
            "one of the results is undefined", code="result-undefined", got=a["metric"]
        )
    return Comparison(
        metric=a["metric"],
        a=a["value"],
        b=b["value"],
        difference=a["value"] - b["value"],
        intervals_apart=a["low"] > b["high"] or b["low"] > a["high"],
    )
