from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import (
    average_precision_score,
    confusion_matrix,
    f1_score,
    precision_score,
    recall_score,
    roc_auc_score,
)
from sklearn.metrics import roc_curve as sklearn_roc

from downstream import metrics


def cases(seed: int, n: int = 200, levels: int = 12) -> tuple[np.ndarray, np.ndarray]:
    """Scores with many ties, and a truth that depends on them."""
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, levels, n) / levels
    return scores, rng.random(n) < 0.2 + 0.5 * scores


@pytest.mark.parametrize("levels", [1, 2, 12, 10**6])
@pytest.mark.parametrize("seed", range(5))
def test_auc_and_average_precision_match_scikit_learn_with_ties(seed: int, levels: int) -> None:
    scores, truth = cases(seed, levels=levels)
    assert metrics.auc(scores, truth) == pytest.approx(roc_auc_score(truth, scores), abs=1e-12)
    assert metrics.average_precision(scores, truth) == pytest.approx(
        average_precision_score(truth, scores), abs=1e-12
    )


@pytest.mark.parametrize("seed", range(3))
def test_weighted_metrics_match_scikit_learn_on_repeated_samples(seed: int) -> None:
    scores, truth = cases(seed, n=80)
    weights = np.random.default_rng(seed).integers(0, 4, size=(80, 7)).astype(np.int32)
    areas = metrics.weighted_auc(scores, truth, weights)
    precisions = metrics.weighted_average_precision(scores, truth, weights)
    for r in range(7):
        index = np.repeat(np.arange(80), weights[:, r])
        assert areas[r] == pytest.approx(roc_auc_score(truth[index], scores[index]), abs=1e-12)
        assert precisions[r] == pytest.approx(
            average_precision_score(truth[index], scores[index]), abs=1e-12
        )


@given(
    st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=2, max_size=30).filter(
        lambda rows: len({truth for _, truth in rows}) == 2
    )
)
@settings(max_examples=100, deadline=None)
def test_auc_is_the_share_of_ordered_pairs(rows: list[tuple[int, bool]]) -> None:
    positive = [score for score, truth in rows if truth]
    negative = [score for score, truth in rows if not truth]
    pairs = [(p > n) + 0.5 * (p == n) for p in positive for n in negative]
    scores, truth = zip(*rows, strict=True)
    assert metrics.auc(np.array(scores), np.array(truth)) == pytest.approx(np.mean(pairs))


def test_auc_of_one_class_is_undefined() -> None:
    assert np.isnan(metrics.auc([0.1, 0.2], [True, True]))
    assert np.isnan(metrics.auc([0.1, 0.2], [False, False]))
    assert np.isnan(metrics.average_precision([0.1, 0.2], [False, False]))
    weights = np.array([[1, 0], [1, 2]], dtype=np.int32)
    areas = metrics.weighted_auc(np.array([0.1, 0.9]), np.array([False, True]), weights)
    assert areas[0] == 1
    assert np.isnan(areas[1])


def test_roc_curve_has_the_points_of_scikit_learn() -> None:
    scores, truth = cases(4)
    fpr, tpr = metrics.roc_curve(scores, truth)
    expected = sklearn_roc(truth, scores, drop_intermediate=False)
    np.testing.assert_allclose(fpr, expected[0])
    np.testing.assert_allclose(tpr, expected[1])


@pytest.mark.parametrize("rule", ["youden", "f1"])
@pytest.mark.parametrize("seed", range(4))
def test_best_threshold_matches_a_search_over_all_scores(seed: int, rule: str) -> None:
    scores, truth = cases(seed)

    def gain(threshold: float) -> float:
        called = scores >= threshold
        if rule == "f1":
            return float(f1_score(truth, called))
        return float(recall_score(truth, called) + recall_score(~truth, ~called) - 1)

    best = metrics.best_threshold(scores, truth, rule)  # type: ignore[arg-type]
    assert best in scores
    assert gain(best) == pytest.approx(max(gain(t) for t in np.unique(scores)))


def test_operating_point_counts_what_reaches_the_threshold() -> None:
    scores, truth = np.array([0.1, 0.5, 0.5, 0.9]), np.array([False, True, False, True])
    point = metrics.operate(scores, truth, 0.5)
    assert (point.sensitivity, point.specificity) == (1.0, 0.5)
    assert point.f1 == pytest.approx(f1_score(truth, scores >= 0.5))
    assert np.isnan(metrics.operate(scores, truth, float("nan")).sensitivity)


def test_calibration_error_is_zero_for_true_probabilities_and_large_for_wrong_ones() -> None:
    truth = np.array([True] * 8 + [False] * 2)
    assert metrics.calibration_error(np.full(10, 0.8), truth) == pytest.approx(0)
    assert metrics.calibration_error(np.full(10, 0.1), truth) == pytest.approx(0.7)
    _, _, count = metrics.reliability(np.array([0.0, 0.05, 1.0]), np.array([False, True, True]))
    assert count.tolist() == [2, 0, 0, 0, 0, 0, 0, 0, 0, 1]


@pytest.mark.parametrize("seed", range(5))
def test_macro_f1_is_scikit_learns_over_labels_in_truth_or_prediction(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth, said = rng.integers(0, 4, 50), rng.integers(1, 6, 50)
    assert metrics.macro_f1(truth, said) == pytest.approx(f1_score(truth, said, average="macro"))
    assert (
        metrics.confusion(truth, said, 6).tolist()
        == confusion_matrix(truth, said, labels=range(6)).tolist()
    )
    for label in range(4):
        assert metrics.f1(truth == label, said == label) == pytest.approx(
            f1_score(truth == label, said == label)
        )


def test_f1_of_a_label_in_neither_is_undefined() -> None:
    nothing = np.zeros(3, dtype=bool)
    assert np.isnan(metrics.f1(nothing, nothing))
    assert precision_score([0], [0], zero_division=1.0) == 1.0  # what others fill in instead


def read_labels(path: Path) -> np.ndarray:
    return np.loadtxt(path, dtype=int)[:, 1]


def test_phase_metrics_give_the_published_values_on_real_predictions(shared_data: Path) -> None:
    folder = shared_data / "phase_oracle"
    expected = json.loads((folder / "expected.json").read_text())
    pairs = [
        (read_labels(folder / f"gt_video{v}.txt"), read_labels(folder / f"pred_video{v}.txt"))
        for v in range(41, 61)
    ]
    assert sum(len(truth) for truth, _ in pairs) == expected["frames"]

    def mean(metric: Callable[[np.ndarray, np.ndarray], float]) -> float:
        return 100 * float(np.mean([metric(truth, said) for truth, said in pairs]))

    truth, said = (np.concatenate(part) for part in zip(*pairs, strict=True))
    per_phase = [
        np.nanmean([metrics.f1(t == phase, s == phase) for t, s in pairs]) for phase in range(7)
    ]
    assert mean(metrics.frame_accuracy) == pytest.approx(expected["accuracy_video_mean"], abs=1e-3)
    assert mean(metrics.macro_f1) == pytest.approx(expected["f1_per_video_gt_or_pred"], abs=1e-3)
    assert 100 * metrics.frame_accuracy(truth, said) == pytest.approx(
        expected["accuracy_pooled"], abs=1e-3
    )
    assert 100 * metrics.macro_f1(truth, said) == pytest.approx(expected["f1_pooled"], abs=1e-3)
    assert 100 * np.mean(per_phase) == pytest.approx(expected["f1_per_phase_over_videos"], abs=1e-3)


def test_bootstrapped_auc_is_at_least_forty_times_faster_than_the_naive_loop() -> None:
    rng = np.random.default_rng(0)
    n, resamples, looped = 5000, 400, 40
    scores, truth = np.round(rng.random(n), 3), rng.random(n) < 0.1
    index = rng.integers(0, n, size=(resamples, n))
    weights = np.stack([np.bincount(row, minlength=n) for row in index], 1).astype(np.int32)

    def seconds_each(run: Callable[[], np.ndarray]) -> tuple[float, np.ndarray]:
        runs = []
        for _ in range(3):
            started = time.process_time()
            values = run()
            runs.append((time.process_time() - started) / len(values))
        return min(runs), values

    slow, expected = seconds_each(
        lambda: np.array([roc_auc_score(truth[row], scores[row]) for row in index[:looped]])
    )
    fast, values = seconds_each(lambda: metrics.weighted_auc(scores, truth, weights))
    np.testing.assert_allclose(values[:looped], expected, atol=1e-12)
    assert slow / fast > 40
