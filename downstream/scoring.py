"""Zero-shot scores: from vectors of visuals and prompts to one number a sample and label."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from downstream.config import ZeroShotTask
from downstream.embedder import Embedder
from downstream.prompting import CONTRASTS, contrast_pair
from medvlp.knowledge.concepts import NORMAL
from medvlp.knowledge.prompts import PromptSet
from medvlp.models.config import AnswerConfig
from medvlp.types import Sample

Floats = npt.NDArray[np.float64]
_UNIT_WORDS = {"sample": "", "study": ", mean over the samples of a study"}


def weights(
    asked: float | Literal["chosen"] | None, answers: AnswerConfig, *, exclusive: bool = False
) -> tuple[float, float]:
    """Weights of the vector's score and of the evidence: the task's, or as the model is asked.

    Exclusive classes are told apart by the vector alone, if it was trained and the task does not
    say otherwise: evidence says that something is there, not that it is rather this than that.
    """
    if asked == "chosen":
        raise ValueError("the weight of the evidence has not been chosen yet")
    if asked is None:
        asked = 0.0 if exclusive and answers.vector else answers.evidence
    return answers.vector, asked


def describe_score(task: ZeroShotTask, answers: AnswerConfig) -> str:
    """The score in words, for the metric card."""
    exclusive = task.mode == "multiclass"
    whole, local = weights(task.evidence, answers, exclusive=exclusive)
    contrast = "none" if exclusive else task.contrast
    minus = CONTRASTS[contrast].format("visual")
    words = f"{whole:g} " * (whole != 1) + f"cos(visual, positive prompts){minus}"
    if local:
        against = CONTRASTS[contrast].format("").replace("cos(, ", "evidence(patches, ")
        against *= answers.source == "patches"
        words += f" + {local:g} (evidence({answers.source}, positive prompts){against})"
    if exclusive:
        words = f"log softmax over the classes at the model's logit scale of {words}"
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
    exclusive = task.mode == "multiclass"
    claims, against = contrast_pair(prompts, embedder, "none" if exclusive else task.contrast)
    whole, local = weights(task.evidence, embedder.answers, exclusive=exclusive)
    scores: Floats = np.zeros((len(samples), len(claims)))
    if local:
        # Evidence first: it keeps the vectors of the samples, which are then not encoded again.
        scores += local * _evidence(embedder, samples, claims, against)
        if exclusive and NORMAL in prompts.labels:
            # Nothing is to be seen of a normal examination: it is what no other class is seen in.
            normal = prompts.labels.index(NORMAL)
            scores[:, normal] = -np.delete(scores, normal, axis=1).max(axis=1)
    visual = embedder.samples(samples)
    scores += whole * (visual @ claims.T)
    if against is not None:
        scores = scores - whole * (visual @ against.T)
    if not exclusive:
        return scores
    logits = embedder.scale * scores
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
    if against is None or embedder.answers.source == "queries":
        return embedder.evidence(samples, claims)  # a denial is no query
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
