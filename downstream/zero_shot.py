"""Zero-shot classification: is a label present, judged by prompts that claim and deny it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from downstream import metrics
from downstream.bootstrap import resample
from downstream.config import ZeroShotTask
from downstream.evidence_weight import with_chosen_weight
from downstream.outcome import Context, Outcome, Result, SkipTask
from downstream.prompting import label_prompts
from downstream.scoring import probabilities, score_labels
from downstream.selection import Truth, frequent_labels, has_gold, select, truth_table
from downstream.zero_shot_results import (
    Scored,
    accuracy_results,
    operating_results,
    prediction_rows,
    ranking_results,
    template_results,
)
from medvlp.knowledge.prompts import PromptSet

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class LabelView:
    """One label, as the report shows it."""

    label: str
    positives: int
    n: int
    auc: Result
    average_precision: Result
    operating: metrics.Operating
    """At the threshold chosen on the validation split."""
    oracle: metrics.Operating
    """At the threshold chosen on the evaluated split itself: not a result, an upper bound."""
    roc: tuple[Floats, Floats]


@dataclass(frozen=True, slots=True, eq=False)
class ZeroShotView:
    """What the report shows of one zero-shot task."""

    mode: str
    labels: tuple[LabelView, ...]
    reliability: tuple[Floats, Floats, npt.NDArray[np.int64]]
    calibration_error: float
    prompts: PromptSet
    template_spread: tuple[float, float] | None
    confusion: npt.NDArray[np.int64] | None
    """Multi-class only: rows truth, columns prediction."""


def run_zero_shot(task: ZeroShotTask, context: Context) -> Outcome:
    """Evaluate one task: macro AUC and average precision, per label, operating points.

    Raises:
        SkipTask: No sample, or no label with both classes.
    """
    truth, notes = _truth(task, context)
    task, chosen = with_chosen_weight(task, context, truth, _truth)
    prompts = label_prompts(task.prompts, truth.labels, exclusive=task.mode == "multiclass")
    patients = [sample.patient for sample in truth.samples]
    scored = Scored(
        task=task,
        context=context,
        truth=truth,
        prompts=prompts,
        resamples=resample(patients, n=context.config.bootstrap, seed=context.config.seed),
        scores={
            name: score_labels(task, embedder, truth.cases, prompts)
            for name, embedder in context.embedders.items()
        },
    )
    macros, per_label = ranking_results(scored)
    accuracy, table = accuracy_results(scored)
    templates, spread = template_results(scored)
    operating, points, oracles = operating_results(scored)
    probability = probabilities(task.mode, scored.scores["model"], context.model.scale)
    asked, present = probability[truth.known], truth.present[truth.known]
    view = ZeroShotView(
        mode=task.mode,
        labels=tuple(
            LabelView(
                label=label,
                positives=int(scored.of(column)[1].sum()),
                n=len(scored.of(column)[1]),
                auc=per_label["auc"][column],
                average_precision=per_label["average_precision"][column],
                operating=points[column],
                oracle=oracles[column],
                roc=metrics.roc_curve(*scored.of(column)),
            )
            for column, label in enumerate(truth.labels)
        ),
        reliability=metrics.reliability(asked, present),
        calibration_error=metrics.calibration_error(asked, present),
        prompts=prompts,
        template_spread=spread,
        confusion=table,
    )
    ranked = [*macros, *accuracy, *per_label["auc"], *per_label["average_precision"]]
    return Outcome(
        task=task.name,
        kind="zero_shot",
        results=[*ranked, *operating, *templates],
        predictions=prediction_rows(scored, probability),
        headline=_headline(macros, accuracy),
        view=view,
        notes=[*notes, *chosen],
    )


def _truth(task: ZeroShotTask, context: Context) -> tuple[Truth, list[str]]:
    """The table of what is true, and what a reader must know about it."""
    samples = select(context.dataset, task.where, task.where.split or context.config.split)
    if not samples:
        raise SkipTask("no sample of this split fits `where`")
    source = task.truth
    if source == "auto":
        source = "labels" if has_gold(samples) else "findings"
    labels = task.labels
    if isinstance(labels, str):
        labels = frequent_labels(samples, source=source, at_least=task.min_positives)
    if not labels:
        raise SkipTask(f"no label has {task.min_positives} positive samples in this split")
    truth = truth_table(
        samples, labels, source=source, unmentioned=task.unmentioned, unit=task.unit
    )
    if task.mode == "multiclass":
        truth = _one_class_each(truth)
    positive, negative = truth.present & truth.known, ~truth.present & truth.known
    both = np.asarray(positive.any(axis=0) & negative.any(axis=0))
    if not both.any():
        raise SkipTask("no label has both positive and negative samples in this split")
    notes = []
    if not both.all():
        missing = [label for label, defined in zip(labels, both, strict=True) if not defined]
        notes.append(f"Undefined, for want of both classes in this split: {', '.join(missing)}.")
    if left := len(samples) - sum(len(case) for case in truth.cases):
        why = "they have no label" + " or several classes" * (task.mode == "multiclass")
        notes.append(f"{left} samples take no part: {why}.")
    return truth, notes


def _one_class_each(truth: Truth) -> Truth:
    """Multi-class truth is exclusive: samples with another number of classes take no part."""
    rows = truth.present.sum(axis=1) == 1
    if not rows.any():
        raise SkipTask("no sample has exactly one of the classes")
    cases = tuple(case for case, keep in zip(truth.cases, rows, strict=True) if keep)
    present = truth.present[rows]
    return Truth(cases, truth.labels, present, np.ones_like(present), truth.source)


def _headline(macros: list[Result], accuracy: list[Result]) -> dict[str, float | None]:
    macro = macros[0]
    headline = {
        "macro_auc": macro["value"],
        "low": macro["low"],
        "high": macro["high"],
        **{name: value["value"] for name, value in macro["baselines"].items()},
        "macro_average_precision": macros[1]["value"],
    }
    if accuracy:
        headline["accuracy"] = accuracy[0]["value"]
    return headline
