"""Noise probabilities: a pair that is still not learnt is probably wrong."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int, Int8
from torch import Tensor
from torch.nn import functional

from medvlp.errors import ConfigError
from medvlp.losses.objective import LogitScale, Objective, Scene, text_owner
from medvlp.models.pooling import segment_sum

FEWEST = 10
"""Losses below which a mixture is not worth fitting."""


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


@torch.no_grad()
def sample_losses(
    logits: Float[Tensor, "b m"], target: Int8[Tensor, "b m"], owner: Int[Tensor, " m"]
) -> Float[Tensor, " b"]:
    """How badly each sample's own pairs are told from negatives, both ways, averaged.

        l_ij = 1/2 ( log(1 + sum_{k in N_i} exp(s_ik - s_ij))
                   + log(1 + sum_{k in N_j} exp(s_kj - s_ij)) )

    The contrastive loss of one pair; other positives are left out of the fraction, or a visual
    with many texts would look noisy for that alone.

    Returns:
        nan for a sample without texts, or without any negative.
    """
    hidden = logits.masked_fill(target != 0, float("-inf"))
    own = logits[owner, torch.arange(len(owner), device=owner.device)]
    of_row, of_column = hidden.logsumexp(1)[owner], hidden.logsumexp(0)
    both = torch.stack([of_row, of_column])
    pair = functional.softplus(both - own).masked_fill(both.isinf(), float("nan")).nanmean(0)
    there = ~pair.isnan()
    b = len(logits)
    total = segment_sum(pair.nan_to_num(0.0)[:, None], owner, b)[:, 0]
    return total / torch.bincount(owner[there], minlength=b).to(total.dtype)


def noise_probability(losses: Float[Tensor, " known"]) -> Float[Tensor, " known"]:
    """Posterior of the worse of two Gaussians fitted to the losses.

    A network learns what is regular before what is wrong, so that for a time wrong pairs have a
    loss of their own (memorisation effect; Arpit et al. 2017). The posterior is made to rise with
    the loss: two Gaussians of unlike width cross twice, and the second crossing would call the
    very best pairs noisy or the very worst clean.

    Args:
        losses: Finite, on the CPU.

    Returns:
        In [0, 1]; all 0 where there are too few losses or they do not differ.
    """
    spread = losses.std() if len(losses) >= FEWEST else losses.new_zeros(())
    if not bool(spread > 1e-6 * (1 + losses.abs().max() if len(losses) else 1)):
        return torch.zeros_like(losses)
    from sklearn.mixture import GaussianMixture  # slow to import

    standard = ((losses - losses.mean()) / spread).double()
    # The floor of the variance is that of DivideMix (Li et al. 2020).
    mixture = GaussianMixture(2, reg_covar=5e-4, max_iter=200, random_state=0)
    column = standard[:, None].numpy()
    mixture.fit(column)
    worse = int(mixture.means_[:, 0].argmax())
    posterior = torch.from_numpy(mixture.predict_proba(column))[:, worse]
    posterior = posterior.masked_fill(standard <= float(mixture.means_[1 - worse, 0]), 0)
    order = standard.argsort()
    rising = torch.empty_like(posterior)
    rising[order] = posterior[order].cummax(0).values
    return rising.to(losses.dtype)


class NoisyPairs(Objective):
    """Contrast with targets smoothed by the probability that a sample's pair is wrong.

    The last known loss of every training sample is kept, and every so many steps a mixture of two
    Gaussians is fitted to them; until the first fit nothing is smoothed. Losses and probabilities
    are buffers and resume with a checkpoint; the probabilities are worth keeping for an audit.

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
        self.refit_every = refit_every
        self.last_loss: Tensor
        self.noise: Tensor
        self.steps: Tensor
        self.register_buffer("last_loss", torch.full((capacity,), float("nan")))
        self.register_buffer("noise", torch.zeros(capacity))
        self.register_buffer("steps", torch.tensor(0))

    def forward(self, scene: Scene) -> Float[Tensor, ""]:
        """The loss of one batch; in training its samples' losses are kept.

        Raises:
            ConfigError: `noisy-pairs-capacity`, `noisy-pairs-index`.
        """
        index = self._index(scene)
        owner = text_owner(scene.batch.text_offsets)
        logits = self.scale() * scene.embeddings.visual @ scene.embeddings.text.T
        moved = (self.strength * self.noise[index]).to(logits.dtype)
        loss = smoothed_nce(logits, scene.target, moved)
        loss = (loss + smoothed_nce(logits.T, scene.target.T, moved[owner])) / 2
        if self.training:
            self._record(index, sample_losses(logits.detach(), scene.target, owner))
        return loss

    def _index(self, scene: Scene) -> Int[Tensor, " b"]:
        """Numbers of the samples, checked."""
        index = scene.batch.index
        if index is None:
            raise ConfigError(
                "noisy_pairs needs the number of each sample, which these batches do not have",
                code="noisy-pairs-index",
                next_step="train from a data module that sets Batch.index",
            )
        if int(index.max()) >= len(self.noise):
            raise ConfigError(
                "noisy_pairs keeps a loss of every training sample, and there are more of them",
                code="noisy-pairs-capacity",
                got=f"sample {int(index.max())}",
                limit=len(self.noise),
                next_step="raise the capacity of the objective above the number of samples",
            )
        return index.long()

    @torch.no_grad()
    def _record(self, index: Int[Tensor, " b"], losses: Float[Tensor, " b"]) -> None:
        """Keep the known losses; every so many steps judge all samples anew."""
        known = losses.isfinite()
        self.last_loss[index[known]] = losses[known].to(self.last_loss.dtype)
        self.steps += 1
        if int(self.steps) % self.refit_every == 0:
            judged = (~self.last_loss.isnan()).nonzero()[:, 0]
            noise = noise_probability(self.last_loss[judged].cpu())
            self.noise[judged] = noise.to(self.noise)
