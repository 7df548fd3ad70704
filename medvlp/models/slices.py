"""Self-attention over the slices of a sample, without padding.

RadCLIP (arXiv 2403.09948) turns the slice vectors I of a volume into one by

    V = MHSA(I + PE(P))

with P the slices' physical positions. Its code does not hold this part, nor does its abstract say
how V becomes one vector; here each layer adds to what it was given and is normalised, and the
read-out is `RaggedPooling`'s. Samples of the same length go through attention together: nothing is
padded, and no sample sees another.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

QUERIES_AT_ONCE = 256
"""Rows of an attention matrix that are held at once when it is read out."""


class Context(NamedTuple):
    """Slices that have seen each other."""

    frames: Float[Tensor, "n d"]
    """What came in plus what was attended to, in the space of what came in."""
    shown: Float[Tensor, "n d"]
    """The same, normalised, as the next scores see it."""
    looks: list[tuple[Tensor, Tensor]]
    """Queries and keys [n heads c] of every layer."""


class SliceAttention(nn.Module):
    """V = I + MHSA(norm(I) + PE(P)), once or more often.

    It starts as V = I, so that what a finished tower says of slices is not lost.

    Args:
        dim: Width of a slice vector.
        heads: Of the attention.
        layers: How often.
        last_norm: Whether the last layer's output is normalised for scores that follow.
    """

    def __init__(self, dim: int, heads: int, layers: int, *, last_norm: bool = True) -> None:
        super().__init__()
        self.heads = heads
        self.inputs = nn.ModuleList(nn.Linear(dim, 3 * dim) for _ in range(layers))
        self.outputs = nn.ModuleList(nn.Linear(dim, dim) for _ in range(layers))
        for parameter in self.outputs.parameters():
            nn.init.zeros_(parameter)
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(layers - (not last_norm)))

    def forward(
        self,
        frames: Float[Tensor, "n d"],
        shown: Float[Tensor, "n d"],
        where: Float[Tensor, "n d"],
        offsets: Int[Tensor, " bounds"],
    ) -> Context:
        """Slices in the light of the other slices of their sample.

        Args:
            frames: Slice vectors of all samples in a row.
            shown: The same, normalised.
            where: Encoded positions.
            offsets: Sample i owns slices offsets[i]:offsets[i + 1].
        """
        groups = list(by_length(offsets))
        back = torch.cat([rows.flatten() for rows in groups]).argsort()
        looks = []
        for layer, (into, out) in enumerate(zip(self.inputs, self.outputs, strict=True)):
            wide = into(shown + where).unflatten(1, (3, self.heads, -1))
            query, key, value = wide.unbind(1)
            seen = [attend(query[rows], key[rows], value[rows]) for rows in groups]
            joined = torch.cat([part.flatten(0, 1) for part in seen])[back].flatten(1)
            frames = frames + out(joined).to(frames.dtype)
            if layer < len(self.norms):
                shown = self.norms[layer](frames.to(shown.dtype))
            looks.append((query.detach(), key.detach()))
        return Context(frames, shown, looks)


def by_length(offsets: Int[Tensor, " bounds"]) -> Iterator[Int[Tensor, "g l"]]:
    """Rows of the samples of each length: g samples of l items."""
    lengths = offsets.diff()
    for length in torch.unique(lengths).tolist():
        starts = offsets[:-1][lengths == length]
        yield starts[:, None] + torch.arange(length, device=offsets.device)


def attend(
    query: Float[Tensor, "g l heads c"],
    key: Float[Tensor, "g l heads c"],
    value: Float[Tensor, "g l heads c"],
) -> Float[Tensor, "g l heads c"]:
    """Softmax attention within each of g samples; the matrix is never held as a whole."""
    mixed = functional.scaled_dot_product_attention(
        query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)
    )
    return mixed.transpose(1, 2)


@torch.no_grad()
def rolled_back(
    weights: Float[Tensor, " n"],
    looks: list[tuple[Tensor, Tensor]],
    offsets: Int[Tensor, " bounds"],
) -> Float[Tensor, " n"]:
    """How much each slice counts in a read-out of slices that have seen each other.

    r <- (r + r A) / 2 from the last layer to the first, A the mean attention of the heads
    (attention rollout, Abnar & Zuidema 2020, arXiv 2005.00928). It carries no gradient.

    Args:
        weights: r of the read-out; sums to 1 over a sample.
        looks: Queries and keys of every layer.
        offsets: Sample i owns slices offsets[i]:offsets[i + 1].
    """
    groups = list(by_length(offsets))
    for query, key in reversed(looks):
        passed = torch.zeros_like(weights)
        for rows in groups:
            for part in torch.split(rows, QUERIES_AT_ONCE, dim=1):
                logits = torch.einsum("gqhc,gkhc->ghqk", query[part].float(), key[rows].float())
                share = (logits / query.shape[-1] ** 0.5).softmax(-1).mean(1)
                passed[rows] += torch.einsum("gq,gqk->gk", weights[part], share)
        weights = (weights + passed) / 2
    return weights
