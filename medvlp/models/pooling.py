"""Attention pooling of ragged sequences: patches to frames, frames to samples.

Slice pooling after RadCLIP (arXiv 2403.09948, its code does not hold it): a frame counts by what
it shows and by where it lies, in millimetres or seconds relative to the sample's centre. What
counts is decided by gated attention (Ilse et al. 2018, "Attention-based deep multiple instance
learning"), by RadCLIP's self-attention over the slices, by one learned query, or all count alike.
There is no padding and no mask: samples are segments of one packed sequence, so a sample's vector
does not depend on its neighbours in the batch.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from medvlp.models.config import PoolingConfig
from medvlp.models.slices import SliceAttention, rolled_back
from medvlp.types import KINDS

PATCH_SHARE = 0.02
"""Share of a frame's patches that a finding is thought to fill, at least one patch."""


class FrameStats(NamedTuple):
    """What is kept of a frame's patches: a few vectors, however many patches there were."""

    mean: Float[Tensor, "n d"]
    top: Float[Tensor, "n d"]
    """Channel by channel, the mean of the largest values: a lesion fills few patches."""
    attention: Float[Tensor, "n d"]


class Pooled(NamedTuple):
    """One vector a sample, and how much each frame counted in it (sums to 1 over a sample)."""

    vector: Float[Tensor, "b d"]
    weights: Float[Tensor, " n"]


class GatedScore(nn.Module):
    """One attention logit a head: w (tanh(V x) * sigmoid(U x))."""

    def __init__(self, dim: int, hidden: int, heads: int) -> None:
        super().__init__()
        self.value = nn.Linear(dim, hidden)
        self.gate = nn.Linear(dim, hidden)
        self.out = nn.Linear(hidden, heads, bias=False)

    def forward(self, x: Float[Tensor, "*n d"]) -> Float[Tensor, "*n heads"]:
        """Logits of every item."""
        logits: Tensor = self.out(self.value(x).tanh() * self.gate(x).sigmoid())
        return logits


class RaggedPooling(nn.Module):
    """Patches of a frame to a few vectors, frames of a sample to one, in the patches' own space.

    The pooled vector is a sum of averages and peaks of patch tokens as they are; only the scores
    of attention see them normalised. How much is seen in a patch is in the token's length.
    `PoolingConfig.slices` chooses how the attention statistic of frames becomes a sample's.

    Args:
        dim: Width of a patch token.
        config: Heads, position encoding, which statistics are summed, how slices are weighed.
    """

    def __init__(self, dim: int, config: PoolingConfig) -> None:
        super().__init__()
        if dim % config.heads:
            raise ValueError(f"{config.heads} heads do not divide a width of {dim}")
        self.heads = config.heads
        self.statistics = config.statistics
        self.norm = nn.LayerNorm(dim)
        self.patch_score = GatedScore(dim, config.hidden, config.heads)
        self.frame_score = _frame_score(dim, config)
        self.placed = config.slices != "mean"
        if self.placed:
            self.position = nn.Linear(2 * config.frequencies, dim, bias=False)
            # One learned query gives every frame of a sample the same for its kind: no softmax
            # sees that.
            self.kind = nn.Embedding(len(KINDS), dim) if config.slices != "learned" else None
        self.gates = nn.Parameter(torch.ones(len(config.statistics)))
        short, long = config.wavelengths
        waves = torch.logspace(math.log10(short), math.log10(long), config.frequencies)
        self.frequencies: Tensor
        self.register_buffer("frequencies", 2 * math.pi / waves, persistent=False)
        if self.placed:
            if self.kind is not None:
                nn.init.normal_(self.kind.weight, std=0.02)
            nn.init.normal_(self.position.weight, std=0.02)
        self.context: SliceAttention | None = None
        if config.slices == "self_attention":
            scored = self.frame_score is not None
            self.context = SliceAttention(dim, config.heads, config.layers, last_norm=scored)
            # As strong as the sines of a transformer beside a normalised slice: variance 1/2.
            nn.init.normal_(self.position.weight, std=(2 * config.frequencies) ** -0.5)

    def pool_patches(self, tokens: Float[Tensor, "n p d"]) -> FrameStats:
        """A frame's patches to its statistics."""
        weights = self.patch_score(self.norm(tokens)).float().softmax(dim=1)
        by_head = tokens.reshape(*tokens.shape[:2], self.heads, -1)
        attended = torch.einsum("nph,nphc->nhc", weights.to(tokens.dtype), by_head).flatten(1)
        count = max(1, round(PATCH_SHARE * tokens.shape[1]))
        top = tokens.topk(count, dim=1).values.mean(1)
        return FrameStats(tokens.mean(1), top, attended)

    def pool_frames(
        self,
        stats: FrameStats,
        offsets: Int[Tensor, " bounds"],
        positions: Float[Tensor, " n"],
        kind: Int[Tensor, " b"],
    ) -> Pooled:
        """Frames of each sample to its vector.

        Args:
            stats: Of every frame, all samples in a row.
            offsets: Sample i owns frames offsets[i]:offsets[i + 1]; none is empty.
            positions: Millimetres or seconds; only differences within a sample matter.
            kind: Index into `KINDS`.
        """
        b = len(kind)
        owner = segment_ids(offsets)
        attended, weights = self._weighed(stats.attention, owner, offsets, positions, kind)
        parts = {
            "mean": segment_mean(stats.mean.float(), owner, b),
            "top": segment_max(stats.top.float(), owner, b),
            "attention": attended,
        }
        chosen = torch.stack([parts[name] for name in self.statistics])
        vector = (self.gates[:, None, None] * chosen).sum(0) / len(self.statistics)
        return Pooled(vector, weights)

    def _weighed(
        self,
        attention: Float[Tensor, "n d"],
        owner: Int[Tensor, " n"],
        offsets: Int[Tensor, " bounds"],
        positions: Float[Tensor, " n"],
        kind: Int[Tensor, " b"],
    ) -> tuple[Float[Tensor, "b d"], Float[Tensor, " n"]]:
        """The attention statistic of each sample, and how much each frame counts in it."""
        b = len(kind)
        frames = attention.float()
        logits = frames.new_zeros(len(frames), self.heads)
        looks: list[tuple[Tensor, Tensor]] = []
        if self.placed:
            shown = self.norm(attention)
            where = self._where(positions, kind, owner).to(shown.dtype)
            if self.context is not None:
                frames, shown, looks = self.context(frames, shown, where, offsets)
            if self.frame_score is not None:
                logits = self.frame_score(shown + where)
        weights = segment_softmax(logits.float(), owner, b)
        by_head = frames.reshape(len(owner), self.heads, -1)
        attended = segment_sum((weights[:, :, None] * by_head).flatten(1), owner, b)
        return attended, rolled_back(weights.mean(1), looks, offsets) if looks else weights.mean(1)

    def _where(
        self, positions: Float[Tensor, " n"], kind: Int[Tensor, " b"], owner: Int[Tensor, " n"]
    ) -> Float[Tensor, "n d"]:
        """Positions relative to the sample's centre, and what is counted in them (mm or s)."""
        centre = segment_mean(positions.float()[:, None], owner, len(kind))[owner, 0]
        angles = (positions.float() - centre)[:, None] * self.frequencies
        waves = torch.cat([angles.sin(), angles.cos()], 1).to(self.position.weight.dtype)
        where: Tensor = self.position(waves)
        return where if self.kind is None else where + self.kind(kind)[owner]


def _frame_score(dim: int, config: PoolingConfig) -> nn.Module | None:
    """What gives a frame its logit in each head; None: all count alike."""
    if config.slices == "gated":
        return GatedScore(dim, config.hidden, config.heads)
    if config.slices == "learned" or (
        config.slices == "self_attention" and config.readout == "learned"
    ):
        # One learned query: its product with the key projection is one vector a head.
        return nn.Linear(dim, config.heads, bias=False)
    return None


def segment_ids(offsets: Int[Tensor, " bounds"]) -> Int[Tensor, " n"]:
    """Which segment each item belongs to."""
    lengths = offsets.diff()
    return torch.repeat_interleave(torch.arange(len(lengths), device=offsets.device), lengths)


def segment_sum(x: Float[Tensor, "n d"], owner: Int[Tensor, " n"], b: int) -> Float[Tensor, "b d"]:
    """Sum over each segment."""
    return x.new_zeros(b, x.shape[1]).index_add(0, owner, x)


def segment_mean(x: Float[Tensor, "n d"], owner: Int[Tensor, " n"], b: int) -> Float[Tensor, "b d"]:
    """Mean over each segment."""
    count = torch.bincount(owner, minlength=b).to(x.dtype)
    return segment_sum(x, owner, b) / count[:, None]


def segment_max(x: Float[Tensor, "n d"], owner: Int[Tensor, " n"], b: int) -> Float[Tensor, "b d"]:
    """Maximum over each segment, value by value."""
    index = owner[:, None].expand_as(x)
    return x.new_zeros(b, x.shape[1]).scatter_reduce(0, index, x, "amax", include_self=False)


def segment_softmax(
    logits: Float[Tensor, "n h"], owner: Int[Tensor, " n"], b: int
) -> Float[Tensor, "n h"]:
    """Softmax over each segment, head by head."""
    top = segment_max(logits.detach(), owner, b)
    weights = (logits - top[owner]).exp()
    return weights / segment_sum(weights, owner, b)[owner]
