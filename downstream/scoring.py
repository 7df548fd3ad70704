"""Zero-shot scores: from vectors of visuals and prompts to one number a sample and label."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from downstream.config import ZeroShotTask
from downstream.embedder import Embedder
from downstream.prompting import CONTRASTS, contrast_vectors, prompt_vectors
from medvlp.knowledge.prompts import PromptSet
from medvlp.types import Sample

Floats = npt.NDArray[np.float64]
_UNIT_WORDS = {"sample": "", "study": ", mean over the samples of a study"}


def describe_score(task: ZeroShotTask) -> str:
    """The score in words, for the metric card."""
    if task.mode == "multiclass":
        words = "log softmax over the classes' positive prompts at the model's logit scale"
        return words + _UNIT_WORDS[task.unit]
    words = "cos(visual, positive prompts)" + CONTRASTS[task.contrast].format("visual")
    if task.evidence:
        words += f" + {task.evidence:g} evidence(patches, positive prompts)"
    return words + _UNIT_WORDS[task.unit]


def score_labels(
    task: ZeroShotTask,
    embedder: Embedder,
    cases: Sequence[Sequence[Sample]],
    prompts: PromptSet,
) -> Floats:
    """Scores of cases against prompts; higher means more likely present.

    A case of several samples has the mean of their scores.

    Multi-label: difference of the cosines to what claims and what denies the label (CheXzero's
    softmax over the two ranks alike, but saturates). Multi-class: log softmax over the positive
    prompts of the classes.

    Returns:
        [n, k].
    """
    scores = _score_samples(task, embedder, [one for case in cases for one in case], prompts)
    lengths = np.array([len(case) for case in cases])
    starts = np.concatenate([[0], lengths.cumsum()[:-1]])
    means: Floats = np.add.reduceat(scores, starts, axis=0) / lengths[:, None]
    return means


def _score_samples(
    task: ZeroShotTask, embedder: Embedder, samples: Sequence[Sample], prompts: PromptSet
) -> Floats:
    if task.mode == "multilabel":
        seen: Floats | float = 0.0
        if task.evidence:
            claims, _ = prompt_vectors(prompts, embedder)
            seen = task.evidence * embedder.evidence(samples, claims)
        visual = embedder.samples(samples)
        difference: Floats = visual @ contrast_vectors(prompts, embedder, task.contrast).T + seen
        return difference
    visual = embedder.samples(samples)
    positive, _ = prompt_vectors(prompts, embedder)
    logits = embedder.scale * (visual @ positive.T)
    shifted = logits - logits.max(axis=1, keepdims=True)
    scores: Floats = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return scores


def probabilities(mode: str, scores: Floats, scale: float) -> Floats:
    """What the model's own softmax makes of the scores; [n, k]."""
    if mode == "multiclass":
        return np.exp(scores)
    # The softmax over two logits is the logistic function of their difference.
    probability: Floats = 0.5 * (1 + np.tanh(scale * scores / 2))
    return probability
