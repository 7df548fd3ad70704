"""How much the evidence in the patches counts beside the vector, chosen on the validation split."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from downstream import metrics
from downstream.config import ZeroShotTask
from downstream.outcome import Context, SkipTask
from downstream.prompting import label_prompts
from downstream.scoring import score_labels
from downstream.selection import Truth

WEIGHTS = (0.0, 0.1, 0.3, 1.0, 3.0)
"""Of which one is chosen; the smallest of equals."""


def with_chosen_weight(
    task: ZeroShotTask,
    context: Context,
    truth: Truth,
    truth_of: Callable[[ZeroShotTask, Context], tuple[Truth, list[str]]],
) -> tuple[ZeroShotTask, list[str]]:
    """The task with the weight that has the highest macro AUC on the validation split.

    Where that split cannot tell, the model is asked as it says itself.

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
    if (task.where.split or context.config.split) == "val":
        return unchosen, ["The weight of the evidence cannot be chosen on the evaluated split."]
    where = task.where.model_copy(update={"split": "val"})
    trial = unchosen.model_copy(update={"where": where, "labels": truth.labels})
    try:
        seen, _ = truth_of(trial, context)
    except SkipTask:
        return unchosen, ["The validation split cannot choose the weight of the evidence."]
    macro = [_macro_auc(trial.model_copy(update={"evidence": w}), context, seen) for w in WEIGHTS]
    best = WEIGHTS[int(np.argmax(macro))]
    listed = ", ".join(f"{w:g}: {value:.3f}" for w, value in zip(WEIGHTS, macro, strict=True))
    note = f"Weight of the evidence, by macro AUC on the validation split: {best:g} ({listed})."
    return task.model_copy(update={"evidence": best}), [note]


def _macro_auc(task: ZeroShotTask, context: Context, truth: Truth) -> float:
    """Over the labels that have both classes."""
    prompts = label_prompts(task.prompts, truth.labels, exclusive=task.mode == "multiclass")
    scores = score_labels(task, context.model, truth.cases, prompts)
    values = []
    for column in range(len(truth.labels)):
        known = truth.known[:, column]
        present = truth.present[known, column]
        if present.any() and not present.all():
            values.append(metrics.auc(scores[known, column], present))
    return float(np.mean(values))
