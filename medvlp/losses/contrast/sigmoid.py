"""Pairwise sigmoid contrast: every pair of visual and text is a yes or no of its own."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float, Int8
from torch import Tensor, nn
from torch.nn import functional

from medvlp.losses.concepts.patch_text import balanced_sigmoid_loss
from medvlp.losses.objective import LogitScale, Objective, Scene


def sigmoid_loss(logits: Float[Tensor, "b m"], target: Int8[Tensor, "b m"]) -> Float[Tensor, ""]:
    """Logistic loss of all known pairs, summed, by the number of visuals.

        L = - 1/b sum_{ij: z_ij known} log sigma( z_ij s_ij ),   z = +1 positive, -1 negative

    SigLIP (Zhai et al. 2023, eq. 1): the sum over pairs is divided by the visuals, not by the
    pairs, so a positive pair weighs as much in a large batch as in a small one.

    Args:
        logits: s, cosines times the scale plus the bias.
        target: 1 positive, 0 negative, -1 takes no part.
    """
    sign = (target == 1).to(logits.dtype) * 2 - 1
    pairs = functional.softplus(-sign * logits).masked_fill(target < 0, 0)
    return pairs.sum() / len(logits)


class Sigmoid(Objective):
    """SigLIP with several positives and ignored pairs.

    Args:
        temperature: Start value; learned. SigLIP starts at 0.1, ConceptCLIP at 0.07.
        min_temperature: Its lower bound.
        bias: Start value; learned. Most pairs are negative: at -10 they cost nothing at first.
        normalise: `rows` divides the sum over pairs by the number of visuals, as published;
            `pairs` is the mean of positive pairs and the mean of negative ones, halved
            (`balanced_sigmoid_loss`), for which a bias near 0 is the right start.
    """

    def __init__(
        self,
        *,
        temperature: float = 0.07,
        min_temperature: float = 0.01,
        bias: float = -10.0,
        normalise: Literal["rows", "pairs"] = "rows",
    ) -> None:
        super().__init__()
        self.scale = LogitScale(temperature, min_temperature)
        self.bias = nn.Parameter(torch.tensor(float(bias)))
        self.normalise = normalise

    def forward(self, scene: Scene) -> Float[Tensor, ""]:
        """The loss of one batch; 0 if nothing is known of any pair."""
        cosines = scene.embeddings.visual @ scene.embeddings.text.T
        logits = self.scale() * cosines + self.bias
        if self.normalise == "rows":
            return sigmoid_loss(logits, scene.target)
        return balanced_sigmoid_loss(logits, scene.target == 1, scene.target == 0)
