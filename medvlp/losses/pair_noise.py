"""Which samples are probably paired wrongly: those whose pair is still not learnt."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int, Int8
from torch import Tensor, nn
from torch.nn import functional

from medvlp.errors import ConfigError
from medvlp.models.pooling import segment_sum
from medvlp.types import Batch

FEWEST = 10
"""Losses below which a mixture is not worth fitting."""


class PairNoise(nn.Module):
    """The loss of every training sample's own pairs, and how probably they are wrong.

    Every so many steps a mixture of two Gaussians is fitted to the known losses; until then nothing
    is noise. Losses and probabilities are buffers and resume with a checkpoint; the probabilities
    are worth keeping for an audit.

    Args:
        capacity: How many training samples there can be.
        refit_every: Steps between fits.
        momentum: Of a sample's loss over its visits; 0: the last one counts alone.
    """

    def __init__(self, capacity: int, refit_every: int, momentum: float = 0.0) -> None:
        super().__init__()
        self.refit_every = refit_every
        self.momentum = momentum
        self.losses: Tensor
        self.noise: Tensor
        self.steps: Tensor
        self.register_buffer("losses", torch.full((capacity,), float("nan")))
        self.register_buffer("noise", torch.zeros(capacity))
        self.register_buffer("steps", torch.tensor(0))

    def index(self, batch: Batch) -> Int[Tensor, " b"]:
        """Numbers of a batch's samples, checked.

        Raises:
            ConfigError: `pair-noise-capacity`, `pair-noise-index`.
        """
        index = batch.index
        if index is None:
            raise ConfigError(
                "wrong pairs are told by the number of each sample, which these batches have not",
                code="pair-noise-index",
                next_step="train from a data module that sets Batch.index",
            )
        most = int(index.max())
        if batch.text_index is not None and len(batch.text_index):
            most = max(most, int(batch.text_index.max()))
        if most >= len(self.noise):
            raise ConfigError(
                "a loss of every training sample is kept, and there are more of them",
                code="pair-noise-capacity",
                got=f"sample {most}",
                limit=len(self.noise),
                next_step="raise `capacity` above the number of samples",
            )
        return index.long()

    @torch.no_grad()
    def record(self, index: Int[Tensor, " b"], losses: Float[Tensor, " b"]) -> None:
        """Keep the known losses; every so many steps judge all samples anew."""
        known = losses.isfinite()
        where, new = index[known], losses[known].to(self.losses.dtype)
        old = self.losses[where]
        moved = self.momentum * old + (1 - self.momentum) * new
        self.losses[where] = torch.where(old.isnan(), new, moved)
        self.steps += 1
        if int(self.steps) % self.refit_every == 0:
            judged = (~self.losses.isnan()).nonzero()[:, 0]
            noise = noise_probability(self.losses[judged].cpu())
            self.noise[judged] = noise.to(self.noise)


@torch.no_grad()
def pair_losses(
    logits: Float[Tensor, "b m"], target: Int8[Tensor, "b m"], owner: Int[Tensor, " m"]
) -> Float[Tensor, " m"]:
    """How badly each text and its own visual are told from negatives, both ways, averaged.

        l_ij = 1/2 ( log(1 + sum_{k in N_i} exp(s_ik - s_ij))
                   + log(1 + sum_{k in N_j} exp(s_kj - s_ij)) )

    The contrastive loss of one pair; other positives are left out of the fraction, or a visual
    with many texts would look noisy for that alone.

    Returns:
        nan where neither has a negative.
    """
    hidden = logits.masked_fill(target != 0, float("-inf"))
    own = logits[owner, torch.arange(len(owner), device=owner.device)]
    of_row, of_column = hidden.logsumexp(1)[owner], hidden.logsumexp(0)
    both = torch.stack([of_row, of_column])
    return functional.softplus(both - own).masked_fill(both.isinf(), float("nan")).nanmean(0)


@torch.no_grad()
def known_mean(
    losses: Float[Tensor, " m"], owner: Int[Tensor, " m"], count: int
) -> Float[Tensor, " count"]:
    """The mean of the known losses of each owner; nan where it has none."""
    known = ~losses.isnan()
    total = segment_sum(losses.nan_to_num(0.0)[:, None], owner, count)[:, 0]
    return total / torch.bincount(owner[known], minlength=count).to(total.dtype)


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
