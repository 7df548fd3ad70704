"""From zero-shot scores to results: ranking metrics, operating points, accuracy, prompt spread."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from downstream import metrics
from downstream.bootstrap import Estimate, Resamples, macro_estimate, mean_estimate
from downstream.card import MetricCard, split_digest
from downstream.config import ZeroShotTask
from downstream.outcome import Context, PredictionRow, Result, fixed, make_result
from downstream.prompting import single_template, template_count
from downstream.scoring import describe_score, score_labels
from downstream.selection import Truth, select, truth_table
from medvlp.knowledge.prompts import PromptSet

Floats = npt.NDArray[np.float64]
Weighted = Callable[[Floats, npt.NDArray[np.bool_], npt.NDArray[np.int32]], Floats]

RANKING: dict[str, Weighted] = {
    "auc": metrics.weighted_auc,
    "average_precision": metrics.weighted_average_precision,
}


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """Everything that the results of one task are made from."""

    task: ZeroShotTask
    context: Context
    truth: Truth
    prompts: PromptSet
    resamples: Resamples
    scores: dict[str, Floats]
    """[n, k] of the model (`model`) and of each rival."""

    @property
    def columns(self) -> range:
        """The labels, by position."""
        return range(len(self.truth.labels))

    def of(self, column: int) -> tuple[Floats, npt.NDArray[np.bool_]]:
        """The model's scores and the truth of one label, where it is known."""
        rows = self.truth.known[:, column]
        return self.scores["model"][rows, column], self.truth.present[rows, column]

    def estimates(self, metric: str) -> dict[str, list[Estimate]]:
        """One estimate a label, for the model and for each rival."""
        return {
            name: [self._estimate(RANKING[metric], scores, c) for c in self.columns]
            for name, scores in self.scores.items()
        }

    def _estimate(self, weighted: Weighted, scores: Floats, column: int) -> Estimate:
        rows = self.truth.known[:, column]
        values, present = scores[rows, column], self.truth.present[rows, column]
        once = np.ones((len(values), 1), dtype=np.int32)
        return Estimate(
            float(weighted(values, present, once)[0]),
            weighted(values, present, self.resamples.weights[rows]),
        )

    def result(
        self,
        metric: str,
        estimate: Estimate,
        baselines: Mapping[str, Estimate | float] | None = None,
        column: int | None = None,
        **card: Any,
    ) -> Result:
        """An entry of `metrics.json`, for the task or for one label of it."""
        known = self.truth.known
        rows = np.asarray(known.any(axis=1) if column is None else known[:, column])
        patients = [s.patient for s, keep in zip(self.truth.samples, rows, strict=True) if keep]
        return make_result(
            self.task.name,
            metric,
            estimate,
            n=len(patients),
            groups=len(set(patients)),
            card=_card(self, metric, **card),
            baselines=baselines,
        )


def _card(scored: Scored, metric: str, **fields: Any) -> MetricCard:
    task, context, truth = scored.task, scored.context, scored.truth
    gold = "gold labels" if truth.source == "labels" else "findings extracted from the texts"
    rows = (
        (sample.key, label, str(int(truth.present[i, c])))
        for i, sample in enumerate(truth.samples)
        for c, label in enumerate(truth.labels)
        if truth.known[i, c]
    )
    defaults: dict[str, Any] = {
        "aggregation": "unweighted mean over labels",
        "undefined": "a label without both classes is left out of the mean; in a resample, of that "
        "resample's mean",
        "ties": "a tie counts one half (AUC); tied scores enter together (average precision)",
    }
    return MetricCard(
        **{
            **defaults,
            "task": f"zero-shot, {task.mode}",
            "metric": metric,
            "truth": f"{gold}, exact concept ids; not mentioned: {task.unmentioned}",
            "score": f"{describe_score(task, context.model.answers)}; prompts of a label "
            "ensembled (mean of unit vectors)",
            "interval": f"95 % percentile, {context.config.bootstrap} resamples of patients, "
            f"seed {context.config.seed}",
            "split": task.where.split or context.config.split,
            "split_digest": split_digest(rows),
            "prompt_digest": scored.prompts.digest,
            "dataset_digest": context.dataset.digest,
            "model_digest": context.model.digest,
            "labels": truth.labels,
            **fields,
        }
    )


def ranking_results(scored: Scored) -> tuple[list[Result], dict[str, list[Result]]]:
    """Macro AUC and macro average precision, and both for every label."""
    macros: list[Result] = []
    per_label: dict[str, list[Result]] = {}
    truth = scored.truth
    for metric in RANKING:
        estimates = scored.estimates(metric)
        rivals = [name for name in estimates if name != "model"]
        chance = [0.5 if metric == "auc" else float(scored.of(c)[1].mean()) for c in scored.columns]
        defined = [c for c in scored.columns if 0 < scored.of(c)[1].sum() < len(scored.of(c)[1])]
        macro = {name: macro_estimate([e[c] for c in defined]) for name, e in estimates.items()}
        beside = {"chance": float(np.mean([chance[c] for c in defined]))}
        macros.append(
            scored.result(
                f"macro_{metric}", macro["model"], {**beside, **{n: macro[n] for n in rivals}}
            )
        )
        per_label[metric] = [
            scored.result(
                f"{metric}/{truth.labels[c]}",
                estimates["model"][c],
                {"chance": chance[c], **{n: estimates[n][c] for n in rivals}},
                c,
                aggregation="one label",
                undefined="none without both classes; such resamples are left out",
            )
            for c in scored.columns
        ]
    return macros, per_label


def accuracy_results(scored: Scored) -> tuple[list[Result], npt.NDArray[np.int64] | None]:
    """Multi-class only: share of samples whose best class is right, and the confusion matrix."""
    if scored.task.mode != "multiclass":
        return [], None
    truth = scored.truth.present.argmax(axis=1).astype(np.int64)
    right = {
        name: mean_estimate((scores.argmax(axis=1) == truth).astype(np.float64), scored.resamples)
        for name, scores in scored.scores.items()
    }
    counts = np.bincount(truth, minlength=len(scored.truth.labels))
    baselines: dict[str, Estimate | float] = {
        "chance": 1 / len(scored.truth.labels),
        "majority (oracle)": float(counts.max() / counts.sum()),
        **{name: estimate for name, estimate in right.items() if name != "model"},
    }
    result = scored.result(
        "accuracy", right["model"], baselines, aggregation="mean over samples",
        ties="the first of equal classes", undefined="always defined",
    )  # fmt: skip
    predicted = scored.scores["model"].argmax(axis=1).astype(np.int64)
    return [result], metrics.confusion(truth, predicted, len(scored.truth.labels))


def operating_results(
    scored: Scored,
) -> tuple[list[Result], list[metrics.Operating], list[metrics.Operating]]:
    """Sensitivity and specificity at thresholds chosen on validation; the oracle apart.

    Returns:
        Results, then per label the operating point, and what the evaluated split's own best
        threshold would have given.
    """
    thresholds = _validation_thresholds(scored)
    results, points, oracles = [], [], []
    rule = scored.task.threshold
    for column, label in enumerate(scored.truth.labels):
        values, present = scored.of(column)
        point = metrics.operate(values, present, thresholds[column])
        points.append(point)
        oracles.append(
            metrics.operate(values, present, metrics.best_threshold(values, present, rule))
        )
        if not np.isfinite(point.threshold):
            continue
        weights = scored.resamples.take(scored.truth.known[:, column])
        called = values >= point.threshold
        for name, right, of in (
            ("sensitivity", called, present),
            ("specificity", ~called, ~present),
        ):
            estimate = mean_estimate(np.where(of, right.astype(np.float64), np.nan), weights)
            best = getattr(oracles[-1], name)
            results.append(
                scored.result(
                    f"{name}/{label}", estimate, {"oracle threshold": best}, column,
                    aggregation="one label",
                    undefined="resamples without such samples are left out",
                    ties="present when score >= threshold",
                    selection=f"threshold: highest {rule} on the validation split",
                )
            )  # fmt: skip
    return results, points, oracles


def _validation_thresholds(scored: Scored) -> list[float]:
    """One threshold a label; nan where the validation split cannot tell."""
    task, context = scored.task, scored.context
    nothing = [float("nan")] * len(scored.truth.labels)
    if (task.where.split or context.config.split) == "val":
        return nothing
    samples = select(context.dataset, task.where, "val")
    truth = truth_table(
        samples,
        scored.truth.labels,
        source=scored.truth.source,
        unmentioned=task.unmentioned,
        unit=task.unit,
    )
    if not truth.cases:
        return nothing
    scores = score_labels(task, context.model, truth.cases, scored.prompts)
    return [
        metrics.best_threshold(
            scores[truth.known[:, c], c], truth.present[truth.known[:, c], c], task.threshold
        )
        for c in scored.columns
    ]


def template_results(scored: Scored) -> tuple[list[Result], tuple[float, float] | None]:
    """How far macro AUC moves when a single prompt template is used instead of the ensemble."""
    count = template_count(scored.prompts)
    if count < 2:
        return [], None
    truth, values = scored.truth, []
    for index in range(count):
        single = single_template(scored.prompts, index)
        scores = score_labels(scored.task, scored.context.model, truth.cases, single)
        areas = [
            metrics.auc(scores[truth.known[:, c], c], truth.present[truth.known[:, c], c])
            for c in scored.columns
        ]
        values.append(float(np.nanmean(areas)))
    spread = min(values), max(values)
    results = [
        scored.result(
            f"macro_auc_one_template_{name}",
            fixed(value),
            score=f"{describe_score(scored.task, scored.context.model.answers)}; "
            f"one template at a time: the {name} over them",
            interval="none",
        )
        for name, value in zip(("min", "max"), spread, strict=True)
    ]
    return results, spread


def prediction_rows(scored: Scored, probability: Floats) -> list[PredictionRow]:
    """Score, the model's own probability and the truth, of every sample and label."""
    truth, scores = scored.truth, scored.scores["model"]
    return [
        PredictionRow(
            key=sample.key,
            task=scored.task.name,
            label=label,
            score=float(scores[row, column]),
            truth=float(truth.present[row, column]) if truth.known[row, column] else None,
            probability=float(probability[row, column]),
        )
        for row, sample in enumerate(truth.samples)
        for column, label in enumerate(truth.labels)
    ]
