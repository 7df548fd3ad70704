"""Noise probabilities: a pair that is still not learnt is probably wrong."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int8
from torch import Tensor

from medvlp.losses.objective import LogitScale, Objective, Scene, text_owner
from medvlp.losses.pair_noise import PairNoise, known_mean, pair_losses


def smoothed_nce(
    logits: Float[Tensor, "r c"], target: Int8[Tensor, "r c"], noise: Float[Tensor, " r"]
) -> Float[Tensor, ""]:
    """Cross-entropy with the mass w_i of each row moved from its positives to its negatives.

        L = mean_i - sum_j y_ij log p_ij,   y_ij = (1 - w_i)/|P_i| (j in P_i),  w_i/|N_i| (j in N_i)

    NEVLP (Tao et al. 2024), after NLIP (Huang et al. 2023, eq. 3): with one positive and nothing
    ignored the targets are 1 - w and w / (b - 1). w of 0 is `multi_positive_nce`.

    Args:
        logits: Cosines times the scale.
        target: 1 positive, 0 negative, -1 left out.
        noise: w, in [0, 1].

    Returns:
        The mean over rows with a positive; 0 (with a zero gradient) if there is none.
    """
    positive, negative = target == 1, target == 0
    rows = positive.any(1)
    if not bool(rows.any()):
        return logits.sum() * 0
    logits, positive, negative = logits[rows], positive[rows], negative[rows]
    log_share = logits.masked_fill(~(positive | negative), float("-inf")).log_softmax(1)
    left = negative.sum(1)
    moved = torch.where(left > 0, noise[rows], 0)
    share = positive * ((1 - moved) / positive.sum(1))[:, None]
    share = share + negative * (moved / left.clamp(min=1))[:, None]
    return -(share * log_share.masked_fill(share == 0, 0)).sum(1).mean()


class NoisyPairs(Objective):
    """Contrast with targets smoothed by the probability that a sample's pair is wrong.

    Probabilities are those of `PairNoise`, from the last loss of every sample.

    Args:
        temperature: Start value; learned.
        min_temperature: Its lower bound.
        strength: lambda; w_i = lambda times the probability of noise.
        refit_every: Steps between fits.
        capacity: How many training samples there can be.
    """

    def __init__(
        self,
        *,
        temperature: float = 0.07,
        min_temperature: float = 0.01,
        strength: float = 0.5,
        refit_every: int = 1000,
        capacity: int = 100_000,
    ) -> None:
        super().__init__()
        self.scale = LogitScale(temperature, min_temperature)
        self.strength = strength
        self.pairs = PairNoise(capacity, refit_every)

    def forward(self, scene: Scene) -> Float[Tensor, ""]:
        """The loss of one batch; in training its samples' losses are kept.

        Raises:
            ConfigError: `pair-noise-capacity`, `pair-noise-index`.
        """
        index = self.pairs.index(scene.batch)
        owner = text_owner(scene.batch.text_offsets)
        logits = self.scale() * scene.embeddings.visual @ scene.embeddings.text.T
        moved = (self.strength * self.pairs.noise[index]).to(logits.dtype)
        loss = smoothed_nce(logits, scene.target, moved)
        loss = (loss + smoothed_nce(logits.T, scene.target.T, moved[owner])) / 2
        if self.training:
            losses = pair_losses(logits.detach(), scene.target, owner)
            self.pairs.record(index, known_mean(losses, owner, len(index)))
        return loss
