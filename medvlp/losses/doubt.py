"""Pairs that are doubted are unknown to every objective that reads the target."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from medvlp.losses.doubt_config import DoubtConfig
from medvlp.losses.objective import Scene, text_owner
from medvlp.losses.pair_noise import PairNoise, known_mean, pair_losses
from medvlp.types import KINDS


class Doubt(nn.Module):
    """What a sample's own texts say of it is unknown while its pair is probably wrong.

    A network learns what is regular before what is wrong (Arpit et al. 2017), so that for a time
    wrong pairs have the larger loss. NEVLP and Norton soften the targets of their own loss by that.
    Here every positive of a doubted visual becomes unknown (-1): no contrast learns from it, none
    takes it for a negative, and one setting serves all objectives at once. The sample's loss is
    still watched, so that it can be taken back. The text of a step or phase is judged by its own
    frames and by those of every clip within it that is trained on it, and is doubted for all of
    them: many witnesses. Other visuals keep a doubted text where it
    holds for them, and as a negative where it does not.

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
        batch = scene.batch
        index, owner = self.pairs.index(batch), text_owner(batch.text_offsets)
        source = index[owner] if batch.text_index is None else batch.text_index
        doubted = self.doubted[source]
        if self.training:
            self._watch(scene, owner, source)
        mine = owner == torch.arange(len(index), device=owner.device)[:, None]
        # A doubted text is doubted wherever it stands in the batch.
        same = batch.text_key[:, None] == batch.text_key
        hidden = (mine & doubted).float() @ same.float() > 0
        return replace(scene, target=scene.target.masked_fill(hidden, -1))

    @torch.no_grad()
    def _watch(self, scene: Scene, owner: Int[Tensor, " m"], source: Int[Tensor, " m"]) -> None:
        """Keep, for every sample whose texts are there, how badly they are learnt."""
        judged = torch.isin(scene.batch.kind, self._kinds)[owner]
        logits = scene.embeddings.visual @ scene.embeddings.text[judged].T
        losses = pair_losses(
            logits / self.config.temperature, scene.target[:, judged], owner[judged]
        )
        sources, place = torch.unique(source[judged], return_inverse=True)
        self.pairs.record(sources, known_mean(losses, place, len(sources)))

    @property
    def doubted(self) -> Bool[Tensor, " capacity"]:
        """Which training samples are doubted now."""
        return self.pairs.noise > self.config.threshold

    def share(self) -> float:
        """Of the samples judged so far, how many are doubted."""
        seen = ~self.pairs.losses.isnan()
        return float(self.doubted[seen].float().mean()) if bool(seen.any()) else 0.0
