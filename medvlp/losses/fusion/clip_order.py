"""Clip order: which of two shuffled frames of a visual comes first."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from medvlp.losses.objective import Objective, Scene
from medvlp.models.pooling import segment_ids
from medvlp.models.transformer import SelfLayer

_FEWEST = 3
"""Frames below which there is hardly an order."""


def pairwise_order_loss(
    logits: Float[Tensor, "k f f"], position: Float[Tensor, "k f"], mask: Bool[Tensor, "k f"]
) -> Float[Tensor, ""]:
    """Binary cross-entropy of "i comes before j" over all pairs of a sample, mean over samples.

        L = mean_k 1/|P_k| sum_{(i, j) in P_k} -log sigma(+-z_kij),  + if i comes before j
        P_k: pairs i < j that are both there and at different positions

    Each sample counts the same, however many frames it has. Clip-order prediction of CliPPER
    (arXiv 2603.24539) and VidLPRO (arXiv 2409.04732) as a decision for each pair.

    Args:
        logits: z, above 0 if i comes before j.
        position: Of each frame, millimetres or seconds.
        mask: Which frames are there.

    Returns:
        0 with a zero gradient if no sample has a pair.
    """
    f = logits.shape[1]
    upper = torch.ones(f, f, dtype=torch.bool, device=logits.device).triu(1)
    known = mask[:, :, None] & mask[:, None] & upper & (position[:, :, None] != position[:, None])
    count = known.sum((1, 2))
    before = position[:, :, None] < position[:, None]
    each = functional.softplus(torch.where(before, -logits, logits)).masked_fill(~known, 0)
    if not bool(count.any()):
        return logits.sum() * 0
    return (each.sum((1, 2)) / count.clamp(min=1))[count > 0].mean()


def shuffled_places(offsets: Int[Tensor, " bounds"]) -> Int[Tensor, " n"]:
    """A random place for every frame among those of its sample, from 0."""
    owner = segment_ids(offsets)
    order = torch.rand(len(owner), device=owner.device, dtype=torch.float64).argsort()
    order = order[owner[order].argsort(stable=True)]
    place = torch.empty_like(owner)
    place[order] = torch.arange(len(owner), device=owner.device) - offsets[owner]
    return place


class OrderHead(nn.Module):
    """Logits of "i comes before j" for a set of frames, equivariant to their order.

        h = transformer without positions,  z_ij = (a_i . b_j - a_j . b_i) / sqrt(d)

    z_ji = -z_ij, so that it cannot answer by the place a frame was given.
    """

    def __init__(self, embed_dim: int, width: int, layers: int, heads: int) -> None:
        super().__init__()
        self.enter = nn.Linear(embed_dim, width)
        self.layers = nn.ModuleList(SelfLayer(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.first = nn.Linear(width, width)
        self.second = nn.Linear(width, width)

    def forward(
        self, frames: Float[Tensor, "k f e"], mask: Bool[Tensor, "k f"]
    ) -> Float[Tensor, "k f f"]:
        """One logit a pair."""
        x = self.enter(frames)
        for layer in self.layers:
            x = layer(x, mask)
        x = self.norm(x)
        z: Tensor = self.first(x) @ self.second(x).transpose(1, 2) / x.shape[2] ** 0.5
        return z - z.transpose(1, 2)


class ClipOrder(Objective):
    """Order of the frames of a visual from their vectors alone, in shuffled order.

    Samples with fewer than three frames take no part; frames at the same position have no order.
    Nothing of a frame's position may be in its vector. Draws from torch's generator.

    Args:
        embed_dim: Of the joint space.
        width: Of the head.
        layers: Of the head.
        heads: Of the head.
    """

    needs = frozenset({"frames"})

    def __init__(self, *, embed_dim: int, width: int = 64, layers: int = 1, heads: int = 4) -> None:
        super().__init__()
        self.head = OrderHead(embed_dim, width, layers, heads)

    def forward(self, scene: Scene) -> Float[Tensor, ""]:
        """The loss of one batch; 0 if no sample has three frames."""
        batch, frames = scene.batch, scene.embeddings.frames
        assert frames is not None
        lengths = batch.offsets.diff()
        enough = lengths >= _FEWEST
        if not bool(enough.any()):
            return frames.sum() * 0
        owner, place = segment_ids(batch.offsets), shuffled_places(batch.offsets)
        size = int(lengths.max())
        padded = frames.new_zeros(len(lengths), size, frames.shape[1])
        padded[owner, place] = frames
        position = batch.positions.new_zeros(len(lengths), size)
        position[owner, place] = batch.positions
        mask = torch.arange(size, device=frames.device) < lengths[:, None]
        logits = self.head(padded[enough], mask[enough])
        return pairwise_order_loss(logits, position[enough], mask[enough])
