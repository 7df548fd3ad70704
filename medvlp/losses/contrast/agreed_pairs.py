"""Plausibility weights: a narration that others heard otherwise counts less."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from medvlp.losses.contrast.weighted import moved_average, narration_agreement, weighted_nce
from medvlp.losses.objective import LogitScale, Objective, Scene, text_owner


class AgreedPairs(Objective):
    """Contrast weighted linearly by the plausibility of each text.

        w_j = w_min + (1 - w_min) clip( (q_j - low) / (high - low), 0, 1 )
        low = mean - k dev,   high = min(1, mean + k dev)

    After SurgLIME (arXiv 2604.18134), whose plausibility is a language model's loss of the text,
    scaled by the smallest and largest of the data set. Here it is what the recognisers tell: q_j
    is the mean cosine of a narration with the other narrations of its moment, and 1 (so that
    w_j = 1) where nobody else heard anything or the text is not heard at all. mean and dev are
    exponential averages over the batches: with the extremes of a batch the weight of a text would
    depend on its neighbours, and one broken text would lift all others.

    Args:
        temperature: Start value; learned.
        min_temperature: Its lower bound.
        min_weight: w_min.
        momentum: Of the averages.
        width: k.
    """

    def __init__(
        self,
        *,
        temperature: float = 0.07,
        min_temperature: float = 0.01,
        min_weight: float = 0.1,
        momentum: float = 0.99,
        width: float = 2.0,
    ) -> None:
        super().__init__()
        self.scale = LogitScale(temperature, min_temperature)
        self.min_weight = min_weight
        self.momentum = momentum
        self.width = width
        self.mean: Tensor
        self.variance: Tensor
        self.register_buffer("mean", torch.tensor(float("nan")))
        self.register_buffer("variance", torch.tensor(float("nan")))

    def forward(self, scene: Scene) -> Float[Tensor, ""]:
        """The loss of one batch; in training its plausibilities enter the averages first."""
        logits = self.scale() * scene.embeddings.visual @ scene.embeddings.text.T
        weights = self.weights(scene)[None, :]
        return weighted_nce(logits, scene.target, weights.expand_as(logits), weights)

    @torch.no_grad()
    def weights(self, scene: Scene) -> Float[Tensor, " m"]:
        """How much each text counts, in [min_weight, 1]."""
        batch, text = scene.batch, scene.embeddings.text
        agreement = narration_agreement(
            text, batch.text_role, text_owner(batch.text_offsets), len(batch)
        )
        momentum = self.momentum if self.training else 1.0
        mean = moved_average(self.mean, agreement.nanmean(), momentum)
        distance = (agreement.to(mean.dtype) - mean).square().nanmean()
        variance = moved_average(self.variance, distance, momentum)
        if self.training:
            self.mean.copy_(mean)
            self.variance.copy_(variance)
        return self._linear(agreement, mean.to(text.dtype), variance.sqrt().to(text.dtype))

    def _linear(
        self, agreement: Float[Tensor, " m"], mean: Float[Tensor, ""], dev: Float[Tensor, ""]
    ) -> Float[Tensor, " m"]:
        """From plausibility to weight."""
        reach = self.width * dev.clamp(min=1e-3)  # where all agree alike, a hair is no reason
        high = (mean + reach).clamp(max=1)
        low = torch.minimum(mean, high) - reach
        place = ((agreement - low) / (high - low)).clamp(0, 1).nan_to_num(nan=1.0)
        return self.min_weight + (1 - self.min_weight) * place
