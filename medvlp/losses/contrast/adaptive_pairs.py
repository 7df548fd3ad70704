"""Adaptive gates: a pair that agrees less than usual counts less."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from medvlp.batch import TextRole
from medvlp.losses.contrast.weighted import moved_average, narration_agreement, weighted_nce
from medvlp.losses.objective import LogitScale, Objective, Scene, text_owner


def consistency_gate(
    similarity: Float[Tensor, "*shape"], level: Float[Tensor, "#*shape"], sharpness: float
) -> Float[Tensor, "*shape"]:
    """min(1, exp(sharpness (similarity - level))): 1 from the usual level on.

    ALIP (Yang et al. 2023, eq. 4-6), with sharpness 2. Each gate is bounded by itself.
    """
    return (sharpness * (similarity - level)).clamp(max=0).exp()


class AdaptivePairs(Objective):
    """ALIP: contrast weighted by how well a text fits its visual and the other narration.

        w_ij = min(1, exp(k (s_j^tt' - H^tt'))) min(1, exp(k (s_ij - H^role(j))))

    s_ij is the cosine of visual and text, s_j^tt' that of the lead narration of the text's sample
    with what others heard at the time (the second text; without one only the pair gate remains),
    and H are exponential averages over the batches: H^tt' of s^tt', H^role of s_ij over the texts
    of a role with their own visual, since a long text is never as close as a sentence. The
    averages begin with the first batch; published, they begin at 1, so that the first hundreds of
    steps hardly count.

    Args:
        temperature: Start value; learned.
        min_temperature: Its lower bound.
        momentum: Of the averages.
        sharpness: k.
    """

    def __init__(
        self,
        *,
        temperature: float = 0.07,
        min_temperature: float = 0.01,
        momentum: float = 0.99,
        sharpness: float = 2.0,
    ) -> None:
        super().__init__()
        self.scale = LogitScale(temperature, min_temperature)
        self.momentum = momentum
        self.sharpness = sharpness
        self.text_level: Tensor
        self.pair_level: Tensor
        self.register_buffer("text_level", torch.tensor(float("nan")))
        self.register_buffer("pair_level", torch.full((len(TextRole),), float("nan")))

    def forward(self, scene: Scene) -> Float[Tensor, ""]:
        """The loss of one batch; in training its similarities enter the averages first."""
        cosines = scene.embeddings.visual @ scene.embeddings.text.T
        weights = self.weights(scene, cosines.detach())
        return weighted_nce(self.scale() * cosines, scene.target, weights, weights)

    @torch.no_grad()
    def weights(self, scene: Scene, cosines: Float[Tensor, "b m"]) -> Float[Tensor, "b m"]:
        """How much each pair counts, in (0, 1]."""
        batch = scene.batch
        owner = text_owner(batch.text_offsets)
        role = torch.zeros_like(owner) if batch.text_role is None else batch.text_role
        own = cosines[owner, torch.arange(len(owner), device=owner.device)]
        told = _lead_agreement(scene, owner, len(cosines))
        momentum = self.momentum if self.training else 1.0
        text_level = moved_average(self.text_level, told.nanmean(), momentum)
        pair_level = moved_average(self.pair_level, _role_means(own, role), momentum)
        if self.training:
            self.text_level.copy_(text_level)
            self.pair_level.copy_(pair_level)
        sample = consistency_gate(told, text_level.to(told.dtype), self.sharpness)
        sample = sample.nan_to_num(nan=1.0)
        pair = consistency_gate(cosines, pair_level.to(cosines.dtype)[role], self.sharpness)
        return sample[owner] * pair


def _lead_agreement(scene: Scene, owner: Int[Tensor, " m"], b: int) -> Float[Tensor, " b"]:
    """Of each sample, the cosine of its lead with what others heard; nan if nothing was."""
    batch, text = scene.batch, scene.embeddings.text
    agreement = narration_agreement(text, batch.text_role, owner, b)
    told = torch.full((b,), float("nan"), dtype=text.dtype, device=text.device)
    if batch.text_role is None:
        return told
    lead = batch.text_role == TextRole.LEAD
    return told.index_put((owner[lead],), agreement[lead])


def _role_means(value: Float[Tensor, " m"], role: Int[Tensor, " m"]) -> Float[Tensor, " roles"]:
    """Mean over the texts of each role; nan for a role that no text has."""
    total = value.new_zeros(len(TextRole)).index_add(0, role.long(), value)
    return total / torch.bincount(role.long(), minlength=len(TextRole)).to(value.dtype)
