"""Zero-shot scores: from vectors of visuals and prompts to one number a sample and label."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from downstream.embedder import Embedder
from downstream.prompting import contrast, prompt_vectors
from medvlp.knowledge.prompts import PromptSet
from medvlp.types import Sample

Floats = npt.NDArray[np.float64]

SCORES = {
    "multilabel": "cos(visual, positive prompts) - cos(visual, negative prompts)",
    "multiclass": "log softmax over the classes' positive prompts at the model's logit scale",
}


def score_labels(
    mode: str, embedder: Embedder, samples: Sequence[Sample], prompts: PromptSet
) -> Floats:
    """Scores of samples against prompts; higher means more likely present.

    `multilabel`: difference of the cosines to the positive and the negative prompts (CheXzero's
    softmax over the two ranks alike, but saturates). `multiclass`: log softmax over the positive
    prompts of the classes.

    Returns:
        [n, k].
    """
    visual = embedder.samples(samples)
    if mode == "multilabel":
        difference: Floats = visual @ contrast(prompts, embedder).T
        return difference
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
