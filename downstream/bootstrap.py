"""Bootstrap over patients or lectures: one set of resamples, shared by all that is compared.

A resample draws as many groups as there are, with replacement; it is held as how often each
sample counts, so a metric that takes weights needs no second look at the data. Two estimates
made with the same `Resamples` are paired: the interval of their difference is the percentile
interval of the differences of their draws (Efron and Tibshirani 1993, chapter 13).

Shape letters: n samples, g groups, r resamples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Resamples:
    """How often each sample counts in each resample; never more than its group was drawn."""

    weights: npt.NDArray[np.int32]
    """[n, r]."""
    groups: int
    """Number of distinct groups."""

    def take(self, rows: npt.NDArray[np.intp] | npt.NDArray[np.bool_]) -> Resamples:
        """The same resamples, of some of the samples only."""
        return Resamples(self.weights[rows], self.groups)


@dataclass(frozen=True, slots=True, eq=False)
class Estimate:
    """A value with its draws over the resamples."""

    value: float
    draws: Floats
    """[r]; nan where the metric is undefined in a resample."""

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % percentile interval over the resamples in which the metric is defined."""
        return percentile_interval(self.draws)

    def minus(self, other: Estimate) -> Estimate:
        """The paired difference; both must come from the same resamples."""
        return Estimate(self.value - other.value, self.draws - other.draws)


def resample(groups: Sequence[str], *, n: int, seed: int) -> Resamples:
    """Draw n resamples of the groups.

    Args:
        groups: The group (patient, lecture) of every sample. The draws depend on the sorted
            distinct names, the seed and n alone.
        n: Number of resamples.
        seed: Seed of the draws.
    """
    names, owner = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=n)
    return Resamples(np.ascontiguousarray(counts.T.astype(np.int32)[owner]), len(names))


def percentile_interval(draws: Floats, level: float = 0.95) -> tuple[float, float]:
    """The central share of the defined draws; (nan, nan) if fewer than two are defined."""
    defined = draws[np.isfinite(draws)]
    if len(defined) < 2:
        return float("nan"), float("nan")
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def mean_estimate(values: Floats, resamples: Resamples) -> Estimate:
    """The mean over samples; samples whose value is nan take no part.

    Args:
        values: [n].
        resamples: Of the same n samples.
    """
    return ratio_estimate(values, np.ones_like(values), resamples)


def ratio_estimate(numerator: Floats, denominator: Floats, resamples: Resamples) -> Estimate:
    """A ratio of sums over samples, e.g. right frames over frames; nan numerators take no part."""
    defined = np.isfinite(numerator)
    weights = resamples.weights[defined].astype(np.float64)
    top, bottom = numerator[defined], denominator[defined]
    with np.errstate(invalid="ignore", divide="ignore"):
        draws = (top @ weights) / (bottom @ weights)
        value = float(top.sum() / bottom.sum()) if bottom.sum() else float("nan")
    return Estimate(value, draws)


def macro_estimate(parts: Sequence[Estimate]) -> Estimate:
    """The mean over classes; a class undefined in a resample is left out of that resample's mean.

    Returns:
        nan where no class is defined.
    """
    return Estimate(
        float(_nanmean(np.array([[part.value] for part in parts]))[0]),
        _nanmean(np.stack([part.draws for part in parts])),
    )


def _nanmean(values: Floats) -> Floats:
    """Mean over the first axis of the finite entries, without numpy's warning on none."""
    finite = np.isfinite(values)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean: Floats = np.where(finite, values, 0).sum(axis=0) / finite.sum(axis=0)
    return mean
