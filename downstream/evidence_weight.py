"""How much the evidence in the patches counts beside the vector, chosen on the validation split."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from downstream.bootstrap import Estimate, Resamples, macro_estimate, resample
from downstream.config import ZeroShotTask
from downstream.metrics import auc, weighted_auc
from downstream.outcome import Context, SkipTask
from downstream.prompting import label_prompts
from downstream.scoring import score_labels
from downstream.selection import Truth

RESAMPLES = 500
WEIGHTS = (0.0, 0.1, 0.3, 1.0, 3.0)
"""Of which one is chosen."""


def with_chosen_weight(
    task: ZeroShotTask,
    context: Context,
    truth: Truth,
    truth_of: Callable[[ZeroShotTask, Context], tuple[Truth, list[str]]],
) -> tuple[ZeroShotTask, list[str]]:
    """The task with a weight that the validation split speaks for, by macro AUC.

    It is the smallest weight whose distance to the best is at most one standard error of that
    distance over patients (Breiman et al. 1984, section 3.4.3): of few patients the best is
    chance, and the vector is the simpler answer. Where the split cannot tell at all, or the model
    has no vector to ask, it is asked as it says itself.

    Args:
        task: With `evidence: chosen`; any other task is given back.
        context: Of the evaluation.
        truth: Of the evaluated split, whose labels are asked.
        truth_of: The truth of a task in its split.

    Returns:
        The task with a number or None, and what a reader must know.
    """
    if task.evidence != "chosen":
        return task, []
    unchosen = task.model_copy(update={"evidence": None})
    if context.model.answers.vector == 0:
        # Without a vector beside it every weight ranks alike, and none of all answers nothing.
        return unchosen, ["The model answers by its evidence alone, so its weight is not chosen."]
    if (task.where.split or context.config.split) == "val":
        return unchosen, ["The weight of the evidence cannot be chosen on the evaluated split."]
    where = task.where.model_copy(update={"split": "val"})
    trial = unchosen.model_copy(update={"where": where, "labels": truth.labels})
    try:
        seen, _ = truth_of(trial, context)
    except SkipTask:
        return unchosen, ["The validation split cannot choose the weight of the evidence."]
    patients = [sample.patient for sample in seen.samples]
    resamples = resample(patients, n=RESAMPLES, seed=context.config.seed)
    macro = [
        _macro_auc(trial.model_copy(update={"evidence": weight}), context, seen, resamples)
        for weight in WEIGHTS
    ]
    chosen = WEIGHTS[_simplest(macro)]
    listed = ", ".join(f"{w:g}: {m.value:.3f}" for w, m in zip(WEIGHTS, macro, strict=True))
    note = (
        f"Weight of the evidence: {chosen:g}, the smallest within one standard error of the best "
        f"macro AUC on the validation split ({listed})."
    )
    return task.model_copy(update={"evidence": chosen}), [note]


def _simplest(macro: Sequence[Estimate]) -> int:
    """The first that is not clearly worse than the best; all must come from the same resamples."""
    best = macro[int(np.argmax([estimate.value for estimate in macro]))]
    behind = (best.minus(estimate) for estimate in macro)
    return next(i for i, gap in enumerate(behind) if gap.value <= np.nanstd(gap.draws))


def _macro_auc(
    task: ZeroShotTask, context: Context, truth: Truth, resamples: Resamples
) -> Estimate:
    """Over the labels that have both classes."""
    prompts = label_prompts(task.prompts, truth.labels, exclusive=task.mode == "multiclass")
    scores = score_labels(task, context.model, truth.cases, prompts)
    parts = []
    for column in range(len(truth.labels)):
        known = truth.known[:, column]
        present = truth.present[known, column]
        if present.any() and not present.all():
            own, weights = scores[known, column], resamples.weights[known]
            parts.append(Estimate(auc(own, present), weighted_auc(own, present, weights)))
    return macro_estimate(parts)
