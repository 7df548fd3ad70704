"""What a task hands back: results with cards, predictions, a headline, material for the report."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from downstream.bootstrap import Estimate
from downstream.card import MetricCard
from downstream.config import EvalConfig
from downstream.embedder import Embedder
from downstream.interfaces import SampleStore

Result = dict[str, Any]
Number = float | None


class SkipTask(Exception):
    """A task that the dataset has nothing for. Listed in the report; not an error of the user."""


@dataclass(frozen=True, slots=True, eq=False)
class Context:
    """What every task is given."""

    config: EvalConfig
    dataset: SampleStore
    model: Embedder
    rivals: Mapping[str, Embedder]
    """Shown beside the model: `untrained`, `noise`."""

    @property
    def embedders(self) -> dict[str, Embedder]:
        """The model under its name `model`, then its rivals."""
        return {"model": self.model, **self.rivals}


@dataclass(frozen=True, slots=True)
class PredictionRow:
    """One row of `predictions.parquet`."""

    key: str
    task: str
    label: str
    score: float
    truth: float | None
    probability: float | None = None


_FEW = 10
"""A bootstrap over fewer patients than this has too few different resamples to trust."""


@dataclass(slots=True, eq=False)
class Outcome:
    """Everything one task produced."""

    task: str
    kind: str
    results: list[Result]
    predictions: list[PredictionRow]
    headline: dict[str, Any]
    view: Any
    """What the report draws; its type depends on the kind."""
    notes: list[str] = field(default_factory=list)
    """What a reader must know: labels left out, samples without truth, too few patients."""

    def __post_init__(self) -> None:
        groups = min((result["groups"] for result in self.results), default=_FEW)
        if groups < _FEW:
            self.notes.append(f"Only {groups} patients or lectures: the interval says little.")


def make_result(
    task: str,
    metric: str,
    estimate: Estimate,
    *,
    n: int,
    groups: int,
    card: MetricCard,
    baselines: Mapping[str, Estimate | float] | None = None,
) -> Result:
    """One entry of `metrics.json`.

    A baseline that was estimated on the same resamples also gets the paired difference
    (value - baseline) with its interval.

    Args:
        task: The task's name in the config.
        metric: The metric's name.
        estimate: Value and draws.
        n: How many items the value is made of.
        groups: How many patients or lectures they come from.
        card: The definition.
        baselines: Numbers to read the value against.
    """
    low, high = estimate.interval
    return {
        "task": task,
        "metric": metric,
        "value": number(estimate.value),
        "low": number(low),
        "high": number(high),
        "n": n,
        "groups": groups,
        "card": card.to_dict(),
        "baselines": {
            name: _baseline(estimate, value) for name, value in (baselines or {}).items()
        },
    }


def _baseline(estimate: Estimate, value: Estimate | float) -> dict[str, Number]:
    if not isinstance(value, Estimate):
        return {"value": number(value), "low": None, "high": None}
    low, high = value.interval
    difference = estimate.minus(value)
    delta_low, delta_high = difference.interval
    return {
        "value": number(value.value),
        "low": number(low),
        "high": number(high),
        "difference": number(difference.value),
        "difference_low": number(delta_low),
        "difference_high": number(delta_high),
    }


def number(value: float) -> Number:
    """A plain float, or None for what is undefined."""
    return float(value) if math.isfinite(value) else None


def fixed(value: float) -> Estimate:
    """A number without an interval, e.g. a threshold."""
    return Estimate(float(value), np.full(1, np.nan))
