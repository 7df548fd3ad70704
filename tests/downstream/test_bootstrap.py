from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from downstream import metrics
from downstream.bootstrap import (
    Estimate,
    macro_estimate,
    mean_estimate,
    percentile_interval,
    ratio_estimate,
    resample,
)

GROUPS = ["a", "b", "b", "c", "c", "c", "d"]


def expand(weights: np.ndarray) -> np.ndarray:
    """The rows that a resample drew, repeated."""
    return np.repeat(np.arange(len(weights)), weights)


def test_a_resample_draws_whole_groups_as_many_as_there_are() -> None:
    drawn = resample(GROUPS, n=200, seed=3)
    assert drawn.groups == 4
    assert drawn.weights.shape == (7, 200)
    assert (drawn.weights[1] == drawn.weights[2]).all()
    assert (drawn.weights[3] == drawn.weights[5]).all()
    first_of_each = drawn.weights[[0, 1, 3, 6]]
    assert (first_of_each.sum(axis=0) == 4).all()
    assert first_of_each.mean() == pytest.approx(1.0)


def test_the_same_seed_gives_the_same_draws_whatever_the_order_of_the_samples() -> None:
    forward, back = resample(GROUPS, n=50, seed=1), resample(GROUPS[::-1], n=50, seed=1)
    np.testing.assert_array_equal(forward.weights, back.weights[::-1])
    assert (forward.weights != resample(GROUPS, n=50, seed=2).weights).any()


def test_bootstrapped_auc_equals_the_naive_loop_on_the_same_resamples() -> None:
    rng = np.random.default_rng(0)
    groups = [f"p{i // 3}" for i in range(120)]
    scores, truth = np.round(rng.random(120), 1), rng.random(120) < 0.4
    drawn = resample(groups, n=100, seed=7)
    naive = np.array(
        [roc_auc_score(truth[rows], scores[rows]) for rows in map(expand, drawn.weights.T)]
    )
    np.testing.assert_allclose(metrics.weighted_auc(scores, truth, drawn.weights), naive)
    low, high = percentile_interval(naive)
    assert low == pytest.approx(np.percentile(naive, 2.5))
    assert high == pytest.approx(np.percentile(naive, 97.5))


@given(st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_mean_and_ratio_equal_the_naive_loop(seed: int) -> None:
    rng = np.random.default_rng(seed)
    top, bottom = rng.random(7), rng.integers(1, 5, 7).astype(np.float64)
    drawn = resample(GROUPS, n=20, seed=seed)
    for rows, mean, ratio in zip(
        map(expand, drawn.weights.T),
        mean_estimate(top, drawn).draws,
        ratio_estimate(top, bottom, drawn).draws,
        strict=True,
    ):
        assert mean == pytest.approx(top[rows].mean())
        assert ratio == pytest.approx(top[rows].sum() / bottom[rows].sum())


def test_undefined_samples_take_no_part_in_a_mean() -> None:
    values = np.array([1.0, np.nan, 0.0, np.nan, np.nan, np.nan, np.nan])
    drawn = resample(GROUPS, n=300, seed=0)
    estimate = mean_estimate(values, drawn)
    assert estimate.value == 0.5
    neither = (drawn.weights[0] == 0) & (drawn.weights[2] == 0)
    assert neither.any()
    assert np.isnan(estimate.draws[neither]).all()
    assert np.isfinite(estimate.draws[~neither]).all()


def test_a_macro_mean_skips_a_class_only_where_it_is_undefined() -> None:
    parts = [
        Estimate(0.6, np.array([0.5, np.nan, 0.7])),
        Estimate(0.8, np.array([0.9, 0.8, np.nan])),
        Estimate(float("nan"), np.array([np.nan, np.nan, np.nan])),
    ]
    macro = macro_estimate(parts)
    assert macro.value == pytest.approx(0.7)
    np.testing.assert_allclose(macro.draws, [0.7, 0.8, 0.7])
    assert np.isnan(macro_estimate(parts[2:]).value)


def test_paired_differences_are_narrower_than_independent_ones() -> None:
    rng = np.random.default_rng(0)
    groups = [f"p{i}" for i in range(100)]
    base = rng.normal(0, 1, 100)
    drawn, other = resample(groups, n=500, seed=1), resample(groups, n=500, seed=2)
    better = base + 0.1
    paired = mean_estimate(better, drawn).minus(mean_estimate(base, drawn)).interval
    unpaired = mean_estimate(better, drawn).minus(mean_estimate(base, other)).interval
    assert paired == pytest.approx((0.1, 0.1))
    assert unpaired[0] < 0 < unpaired[1]


def test_an_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    """150 datasets of 40 patients with 3 samples each, of which the patient decides most."""
    rng = np.random.default_rng(5)
    groups = [f"p{i // 3}" for i in range(120)]
    covered = 0
    for seed in range(150):
        values = np.repeat(rng.normal(0, 1, 40), 3) + rng.normal(0, 0.1, 120)
        low, high = mean_estimate(values, resample(groups, n=300, seed=seed)).interval
        covered += low <= 0 <= high
    assert 0.88 <= covered / 150 <= 0.99


def test_no_interval_without_defined_draws() -> None:
    assert np.isnan(percentile_interval(np.array([np.nan, 0.5]))).all()
