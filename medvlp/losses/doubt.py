"""Pairs that are doubted are unknown to every objective that reads the target."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from medvlp.losses.doubt_config import DoubtConfig
from medvlp.losses.objective import Scene, text_owner
from medvlp.losses.pair_noise import PairNoise, sample_losses
from medvlp.types import KINDS


class Doubt(nn.Module):
    """What a sample's own texts say of it is unknown while its pair is probably wrong.

    A network learns what is regular before what is wrong (Arpit et al. 2017), so that for a time
    wrong pairs have the larger loss. NEVLP and Norton soften the targets of their own loss by that.
    Here every positive of a doubted visual becomes unknown (-1): no contrast learns from it, none
    takes it for a negative, and one setting serves all objectives at once. The sample's loss is
    still watched, so that it can be taken back. Other visuals keep the text where it holds for
    them, and as a negative where it does not.

    Args:
        config: How it is judged.
    """

    def __init__(self, config: DoubtConfig) -> None:
        super().__init__()
        self.config = config
        self.pairs = PairNoise(config.capacity, config.refit_every, config.momentum)
        self._kinds: Tensor
        kinds = torch.tensor([KINDS.index(kind) for kind in config.kinds])
        self.register_buffer("_kinds", kinds, persistent=False)

    def forward(self, scene: Scene) -> Scene:
        """The scene without what is doubted; in training its samples' losses are kept.

        Raises:
            ConfigError: `pair-noise-capacity`, `pair-noise-index`.
        """
        index = self.pairs.index(scene.batch)
        judged = torch.isin(scene.batch.kind, self._kinds)
        doubted = self.doubted[index]
        if self.training:
            owner = text_owner(scene.batch.text_offsets)
            cosines = scene.embeddings.visual.detach() @ scene.embeddings.text.detach().T
            losses = sample_losses(cosines / self.config.temperature, scene.target, owner)
            self.pairs.record(index, losses.masked_fill(~judged, float("nan")))
        hidden = doubted[:, None] & (scene.target == 1)
        return replace(scene, target=scene.target.masked_fill(hidden, -1))

    @property
    def doubted(self) -> Bool[Tensor, " capacity"]:
        """Which training samples are doubted now."""
        return self.pairs.noise > self.config.threshold

    def share(self) -> float:
        """Of the samples judged so far, how many are doubted."""
        seen = ~self.pairs.losses.isnan()
        return float(self.doubted[seen].float().mean()) if bool(seen.any()) else 0.0
