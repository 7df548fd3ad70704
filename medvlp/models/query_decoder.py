"""Query decoder: questions read the patches of ragged samples by cross-attention."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional


class Reading(NamedTuple):
    """What q queries read in b samples of n frames."""

    answers: Float[Tensor, "b q d"]
    attention: Float[Tensor, "n q p"] | None
    """Mean over layers and heads; sums to 1 over the patches of a sample. None unless asked for."""


class Attention(nn.Module):
    """Multi-head attention of queries to a memory of any length.

    Args:
        width: Of queries and memory.
        heads: Must divide it.
        dropout: Of the attention weights, in training.
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def forward(
        self,
        queries: Float[Tensor, "b q d"],
        memory: Float[Tensor, "b k d"],
        shares: bool = False,
    ) -> tuple[Float[Tensor, "b q d"], Float[Tensor, "b q k"] | None]:
        """What was read and, if asked for, how much of each item: the mean over the heads."""
        q = self._split(self.query(queries))
        k, v = self._split(self.key(memory)), self._split(self.value(memory))
        dropout = self.dropout if self.training else 0.0
        if not shares:
            read = functional.scaled_dot_product_attention(q, k, v, dropout_p=dropout)
            return self._join(read), None
        # The fused kernel keeps no weights, so they are computed in full where they are wanted.
        logits = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
        weights = logits.to(torch.promote_types(logits.dtype, torch.float32)).softmax(-1)
        read = functional.dropout(weights, dropout).to(v.dtype) @ v
        return self._join(read), weights.mean(1)

    def _split(self, x: Float[Tensor, "b k d"]) -> Float[Tensor, "b heads k width"]:
        width = x.shape[2] // self.heads
        return x.reshape(*x.shape[:2], self.heads, width).transpose(1, 2)

    def _join(self, x: Float[Tensor, "b heads q width"]) -> Float[Tensor, "b q d"]:
        joined: Tensor = self.out(x.transpose(1, 2).flatten(2))
        return joined


class DecoderLayer(nn.Module):
    """Pre-norm layer: x += SA(LN x) (if wanted), x += CA(LN x, memory), x += FFN(LN x)."""

    def __init__(
        self, width: int, heads: int, ffn: int, dropout: float, *, self_attention: bool
    ) -> None:
        super().__init__()
        self.look_around: Attention | None = None
        if self_attention:
            self.look_around = Attention(width, heads, dropout)
            self.norm_around = nn.LayerNorm(width)
        self.look = Attention(width, heads, dropout)
        self.norm_look = nn.LayerNorm(width)
        self.norm_ffn = nn.LayerNorm(width)
        self.ffn = nn.Sequential(
            nn.Linear(width, ffn), nn.ReLU(), nn.Dropout(dropout), nn.Linear(ffn, width)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x: Float[Tensor, "b q d"], memory: Float[Tensor, "b k d"], shares: bool = False
    ) -> tuple[Float[Tensor, "b q d"], Float[Tensor, "b q k"] | None]:
        """Queries after the layer and, if asked for, how much each looked at each item."""
        if self.look_around is not None:
            normed = self.norm_around(x)
            x = x + self.dropout(self.look_around(normed, normed)[0])
        read, weights = self.look(self.norm_look(x), memory, shares)
        x = x + self.dropout(read)
        return x + self.dropout(self.ffn(self.norm_ffn(x))), weights


class QueryDecoder(nn.Module):
    """Queries read the patches of all frames of a sample, as the objects of DETR read an image.

    After DETR (Carion et al. 2020) and the pathology and anatomy decoders of MeDSLIP (Fan et al.
    2024, arXiv 2403.10635). There is no padding: samples of the same number of frames go through
    together, so that an answer depends neither on the other samples of the batch nor, without
    `self_attention`, on what else is asked. A zero-shot answer must not change with the list of
    labels, hence the default.

    Args:
        width: Of queries and patches.
        layers: How many.
        heads: Must divide the width.
        ffn: Hidden width of the feed-forward parts.
        dropout: In training.
        self_attention: Queries see each other before they look at the patches.

    Raises:
        ValueError: The heads do not divide the width.
    """

    def __init__(
        self,
        width: int,
        *,
        layers: int = 2,
        heads: int = 4,
        ffn: int = 256,
        dropout: float = 0.0,
        self_attention: bool = False,
    ) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"{heads} heads do not divide a width of {width}")
        self.layers = nn.ModuleList(
            DecoderLayer(width, heads, ffn, dropout, self_attention=self_attention)
            for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width)

    def forward(
        self,
        queries: Float[Tensor, "b q d"],
        patches: Float[Tensor, "n p d"],
        offsets: Int[Tensor, " bounds"],
        attention: bool = False,
    ) -> Reading:
        """Answers of every sample to its queries.

        Args:
            queries: Of each sample.
            patches: Of all frames of all samples in a row.
            offsets: Sample i owns frames offsets[i]:offsets[i + 1]; none is empty.
            attention: Also return where each query looked.
        """
        answers, maps, samples, frames = [], [], [], []
        for rows, owned in _same_length(offsets):
            memory = patches[owned].flatten(1, 2)
            read, weights = self._read(queries[rows], memory, attention)
            answers.append(read)
            samples.append(rows)
            frames.append(owned.flatten())
            if weights is not None:
                by_frame = weights.reshape(*weights.shape[:2], owned.shape[1], patches.shape[1])
                maps.append(by_frame.transpose(1, 2).flatten(0, 1))
        return Reading(
            torch.cat(answers)[torch.cat(samples).argsort()],
            torch.cat(maps)[torch.cat(frames).argsort()] if maps else None,
        )

    def _read(
        self, x: Float[Tensor, "b q d"], memory: Float[Tensor, "b k d"], attention: bool
    ) -> tuple[Float[Tensor, "b q d"], Float[Tensor, "b q k"] | None]:
        """All layers, for samples of one length."""
        maps: list[Tensor] = []
        for layer in self.layers:
            x, weights = layer(x, memory, attention)
            maps.append(weights)
        return self.norm(x), torch.stack(maps).mean(0) if attention else None


def _same_length(
    offsets: Int[Tensor, " bounds"],
) -> Iterator[tuple[Int[Tensor, " g"], Int[Tensor, "g length"]]]:
    """Samples of one number of frames at a time, with their frames."""
    lengths = offsets.diff()
    for length in sorted(set(lengths.tolist())):
        rows = (lengths == length).nonzero()[:, 0]
        yield rows, offsets[rows, None] + torch.arange(length, device=offsets.device)
