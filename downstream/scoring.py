"""Zero-shot scores: from vectors of visuals and prompts to one number a sample and label."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from downstream.config import ZeroShotTask
from downstream.embedder import Embedder
from downstream.prompting import CONTRASTS, contrast_pair, prompt_vectors
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
        against = CONTRASTS[task.contrast].format("").replace("cos(, ", "evidence(patches, ")
        words += f" + {task.evidence:g} (evidence(patches, positive prompts){against})"
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
        claims, against = contrast_pair(prompts, embedder, task.contrast)
        # Evidence first: it keeps the vectors of the samples, which are then not encoded again.
        seen = task.evidence and task.evidence * _evidence(embedder, samples, claims, against)
        visual = embedder.samples(samples)
        scores: Floats = visual @ claims.T + seen
        return scores if against is None else scores - visual @ against.T
    visual = embedder.samples(samples)
    positive, _ = prompt_vectors(prompts, embedder)
    logits = embedder.scale * (visual @ positive.T)
    shifted = logits - logits.max(axis=1, keepdims=True)
    scores = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return scores


def _evidence(
    embedder: Embedder, samples: Sequence[Sample], claims: Floats, against: Floats | None
) -> Floats:
    """Evidence in the patches for the claims, less that for what they stand against.

    Peaks over patches are higher for any text in a picture with much in it; the difference takes
    that out, and a model that knows nothing scores at chance.
    """
    if against is None:
        return embedder.evidence(samples, claims)
    seen = embedder.evidence(samples, np.concatenate([claims, against]))
    difference: Floats = seen[:, : len(claims)] - seen[:, len(claims) :]
    return difference


def probabilities(mode: str, scores: Floats, scale: float) -> Floats:
    """What the model's own softmax makes of the scores; [n, k]."""
    if mode == "multiclass":
        return np.exp(scores)
    # The softmax over two logits is the logistic function of their difference.
    probability: Floats = 0.5 * (1 + np.tanh(scale * scores / 2))
    return probability
