"""Classification and phase metrics as pure functions; every one states its tie and sign rules.

A higher score means more likely present; a case is called present when score >= threshold.

Shape letters: n samples, r resamples, t distinct scores.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]


def auc(scores: npt.ArrayLike, truth: npt.ArrayLike) -> float:
    """Area under the ROC curve: P(score of a positive > of a negative), a tie counts one half.

    Args:
        scores: [n].
        truth: [n], true for positives.

    Returns:
        nan when one of the two classes is missing.
    """
    ones = np.ones((np.size(truth), 1), dtype=np.int32)
    return float(weighted_auc(np.asarray(scores), np.asarray(truth, dtype=bool), ones)[0])


def weighted_auc(scores: npt.NDArray[Any], truth: Bools, weights: npt.NDArray[np.int32]) -> Floats:
    """AUC of every resample: Mann-Whitney with weights, sorted once for all resamples.

    The distinct scores of the rarer class cut the other class into slots (between two of them, or
    tied with one); summing weights by slot leaves little to do for each resample.

    Args:
        scores: [n].
        truth: [n].
        weights: [n, r] how often each sample counts.

    Returns:
        [r], nan where one of the two classes has no weight.
    """
    few = truth if 2 * int(truth.sum()) <= len(truth) else ~truth
    pivots, own = np.unique(scores[few], return_inverse=True)
    others = scores[~few]
    left = np.searchsorted(pivots, others, side="left")
    # Slot 2 j: below pivot j (and above the one before); slot 2 j + 1: tied with pivot j.
    slot = left + np.searchsorted(pivots, others, side="right")
    rest = _sum_by(slot, 2 * len(pivots) + 1, weights[~few])
    mine = _sum_by(own, len(pivots), weights[few])
    below = np.cumsum(rest, axis=0)[:-1:2]
    wins = np.einsum("gr,gr->r", mine, below + rest[1::2] / 2)
    with np.errstate(invalid="ignore", divide="ignore"):
        area: Floats = wins / (mine.sum(axis=0) * rest.sum(axis=0))
    return area if few is truth else 1 - area


def _sum_by(place: npt.NDArray[np.intp], places: int, weights: npt.NDArray[np.int32]) -> Floats:
    """Sums [places, r] of the rows of weights [n, r] that go to the same place."""
    rows = np.arange(len(place))
    ones = np.ones(len(place), dtype=np.int32)
    gather = csr_array((ones, (place, rows)), shape=(places, len(place)))
    return np.asarray(gather @ weights, dtype=np.float64)


def average_precision(scores: npt.ArrayLike, truth: npt.ArrayLike) -> float:
    """Average precision: sum over distinct thresholds of (recall step) x precision.

    Tied scores enter together; no interpolation. nan when there is no positive.
    """
    ones = np.ones((np.size(truth), 1), dtype=np.int32)
    return float(
        weighted_average_precision(np.asarray(scores), np.asarray(truth, dtype=bool), ones)[0]
    )


def weighted_average_precision(
    scores: npt.NDArray[Any], truth: Bools, weights: npt.NDArray[np.int32]
) -> Floats:
    """Average precision of every resample; arguments as in `weighted_auc`, [r]."""
    pivots, own = np.unique(scores[truth], return_inverse=True)
    reached = np.searchsorted(pivots, scores, side="right")
    # Row j: everything that reaches the j-th distinct score of a positive. Recall steps only there.
    called = np.cumsum(_sum_by(reached, len(pivots) + 1, weights)[::-1], axis=0)[:-1][::-1]
    step = _sum_by(own, len(pivots), weights[truth])
    right = np.cumsum(step[::-1], axis=0)[::-1]
    with np.errstate(invalid="ignore", divide="ignore"):
        precision = np.where(called > 0, right / called, 0.0)
        area: Floats = (step * precision).sum(axis=0) / step.sum(axis=0)
    return area


def _tie_groups(scores: npt.NDArray[Any]) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Ascending order, and where each run of equal scores starts in it."""
    order = np.argsort(scores, kind="stable")
    ascending = scores[order]
    new = np.ones(len(order), dtype=bool)
    new[1:] = ascending[1:] != ascending[:-1]
    return order, np.flatnonzero(new)


def roc_curve(scores: npt.NDArray[Any], truth: Bools) -> tuple[Floats, Floats]:
    """False and true positive rate at every distinct threshold, from (0, 0) to (1, 1)."""
    order, starts = _tie_groups(-np.asarray(scores, dtype=np.float64))
    ends = np.append(starts[1:], len(order)) - 1
    positive = np.cumsum(truth[order])[ends]
    called = ends + 1
    return (
        np.append(0.0, (called - positive) / max(int((~truth).sum()), 1)),
        np.append(0.0, positive / max(int(truth.sum()), 1)),
    )


@dataclass(frozen=True, slots=True)
class Operating:
    """What a threshold gives; nan where there is no case to count."""

    threshold: float
    sensitivity: float
    specificity: float
    f1: float


def operate(scores: npt.NDArray[Any], truth: Bools, threshold: float) -> Operating:
    """Call present what reaches the threshold, and count."""
    if not np.isfinite(threshold):
        return Operating(float("nan"), float("nan"), float("nan"), float("nan"))
    called = scores >= threshold
    hits, positives, negatives = int((called & truth).sum()), int(truth.sum()), int((~truth).sum())
    return Operating(
        float(threshold),
        hits / positives if positives else float("nan"),
        int((~called & ~truth).sum()) / negatives if negatives else float("nan"),
        2 * hits / (int(called.sum()) + positives) if positives else float("nan"),
    )


def best_threshold(scores: npt.NDArray[Any], truth: Bools, rule: Literal["youden", "f1"]) -> float:
    """The observed score that maximises the rule; of equals the highest; nan for one class."""
    if truth.all() or not truth.any():
        return float("nan")
    order, starts = _tie_groups(-np.asarray(scores, dtype=np.float64))
    ends = np.append(starts[1:], len(order)) - 1
    right = np.cumsum(truth[order])[ends].astype(np.float64)
    called = (ends + 1).astype(np.float64)
    positives, negatives = float(truth.sum()), float((~truth).sum())
    if rule == "youden":
        gain = right / positives - (called - right) / negatives
    else:
        gain = 2 * right / (called + positives)
    return float(scores[order[ends[int(np.argmax(gain))]]])


def reliability(
    probabilities: npt.NDArray[Any], truth: Bools, bins: int = 10
) -> tuple[Floats, Floats, Ints]:
    """Mean probability, observed rate and count in bins of equal width; nan in empty bins."""
    index = np.minimum((np.asarray(probabilities) * bins).astype(int), bins - 1)
    count = np.bincount(index, minlength=bins).astype(np.int64)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.bincount(index, weights=probabilities, minlength=bins) / count
        rate = np.bincount(index, weights=truth, minlength=bins) / count
    return mean, rate, count


def calibration_error(probabilities: npt.NDArray[Any], truth: Bools, bins: int = 10) -> float:
    """Expected calibration error: count-weighted |mean probability - observed rate|."""
    mean, rate, count = reliability(probabilities, truth, bins)
    used = count > 0
    if not used.any():
        return float("nan")
    return float((np.abs(mean - rate)[used] * count[used]).sum() / count.sum())


def frame_accuracy(truth: npt.NDArray[Any], predicted: npt.NDArray[Any]) -> float:
    """Share of frames that are right; nan for none."""
    return float(np.mean(truth == predicted)) if len(truth) else float("nan")


def macro_f1(truth: npt.NDArray[Any], predicted: npt.NDArray[Any]) -> float:
    """Mean F1 over the labels in truth or prediction of one video (the CAMMA protocol).

    A label that occurs in only one of the two has F1 0. nan for no frames.
    """
    labels = np.union1d(truth, predicted)
    scores = [f1(truth == label, predicted == label) for label in labels]
    return float(np.mean(scores)) if scores else float("nan")


def f1(truth: Bools, predicted: Bools) -> float:
    """2 TP / (2 TP + FP + FN); nan when the label is in neither."""
    denominator = int(truth.sum()) + int(predicted.sum())
    return 2 * int((truth & predicted).sum()) / denominator if denominator else float("nan")


def confusion(truth: Ints, predicted: Ints, classes: int) -> Ints:
    """Counts [classes, classes]: row truth, column prediction."""
    flat = np.bincount(truth * classes + predicted, minlength=classes * classes)
    return flat.reshape(classes, classes).astype(np.int64)
