"""Fusion: the cells of one visual and the words of one text read each other."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from medvlp.models.config import FusionConfig
from medvlp.models.knowledge_stream import Knowledge, KnowledgeStream
from medvlp.models.pooling import segment_ids
from medvlp.models.transformer import AttentionStep, FeedForwardStep

_PERIODS = (0.5, 8.0)
"""Fewest and most periods of the position code over a frame."""


class FusionOutput(NamedTuple):
    """What k pairs of a visual and a text become."""

    visual_layers: list[Float[Tensor, "k v d"]]
    """Cells after every layer, first layer first; 0 at padding. Not normalised: a head that reads
    a layer begins with a norm."""
    word_layers: list[Float[Tensor, "k l d"]]
    """Words likewise."""
    visual_cls: Float[Tensor, "k d"]
    """Class token of the visual stream, normalised."""
    word_cls: Float[Tensor, "k d"]
    """Class token of the word stream, normalised."""


def cells_per_side(patches: int, grid: int) -> int:
    """Rows of cells of a frame with so many patches: at most `grid`.

    Raises:
        ValueError: The patches are no square grid (all frames are squares).
    """
    side = math.isqrt(patches)
    if side * side != patches:
        raise ValueError(f"{patches} patches are no square grid")
    return min(side, grid)


def gather_visual(
    patches: Float[Tensor, "n p e"], offsets: Int[Tensor, " bounds"], grid: int
) -> tuple[Float[Tensor, "b v e"], Bool[Tensor, "b v"]]:
    """The cells of all frames of each sample, padded to the sample with the most frames.

    Args:
        patches: Of all frames in a row; a square grid, row by row.
        offsets: Sample i owns frames offsets[i]:offsets[i + 1].
        grid: A frame's patches are averaged to at most grid x grid cells.

    Returns:
        Frame after frame, each row by row, so that cell v is at place v mod (cells of a frame);
        and which of them are there. Padding is 0.
    """
    n, p, e = patches.shape
    side, rows = math.isqrt(p), cells_per_side(p, grid)
    cells = patches
    if rows < side:
        planes = patches.transpose(1, 2).reshape(n, e, side, side)
        cells = functional.adaptive_avg_pool2d(planes, rows).flatten(2).transpose(1, 2)
    lengths = offsets.diff()
    owner = segment_ids(offsets)
    place = torch.arange(n, device=patches.device) - offsets[owner]
    there = torch.arange(int(lengths.max()), device=patches.device) < lengths[:, None]
    tokens = cells.new_zeros(*there.shape, rows * rows, e)
    tokens[owner, place] = cells
    return tokens.flatten(1, 2), there.repeat_interleave(rows * rows, dim=1)


class StreamLayer(nn.Module):
    """One layer of one stream: itself, the other stream, feed-forward; all pre-norm."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.within = AttentionStep(width, heads, dropout)
        self.across = AttentionStep(width, heads, dropout, cross=True)
        self.ffn = FeedForwardStep(width, dropout)


class FusionLayer(nn.Module):
    """One layer of both streams; each reads the other as it is after its self-attention."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.visual = StreamLayer(width, heads, dropout)
        self.words = StreamLayer(width, heads, dropout)

    def forward(
        self,
        x: Float[Tensor, "k v d"],
        x_mask: Bool[Tensor, "k v"],
        y: Float[Tensor, "k l d"],
        y_mask: Bool[Tensor, "k l"],
    ) -> tuple[Float[Tensor, "k v d"], Float[Tensor, "k l d"]]:
        """Cells x and words y after the layer."""
        x, y = self.visual.within(x, x_mask), self.words.within(y, y_mask)
        x, y = self.visual.across(x, y_mask, y), self.words.across(y, x_mask, x)
        return self.visual.ffn(x), self.words.ffn(y)


class FusionEncoder(nn.Module):
    """Two streams of co-attention layers, as in METER, which M3AE and ARL build on.

        x' = x + A(n(x)),  y' = y + A(n(y))        each stream by itself
        x" = x' + C(n(x'), n(y')),  y" = y' + C(n(y'), n(x'))     the other one
        x  = x" + F(n(x")),  y = y" + F(n(y"))

    x are cells, y words, each after a class token; A and C are attention, F feed-forward, n layer
    norm (Dou et al. 2022, arXiv 2111.02387; Chen et al. 2022, arXiv 2209.07098). Cells have a
    sine-cosine code of row and column; frames of a sample have no order here, and words bring
    theirs from the text tower. Padding is never looked at.

    Args:
        embed_dim: Width of cells and words in the joint space.
        config: Layers, heads, width.
    """

    def __init__(self, embed_dim: int, config: FusionConfig) -> None:
        super().__init__()
        self.config = config
        width, heads, dropout = config.width, config.heads, config.dropout
        self.visual_in = nn.Sequential(nn.Linear(embed_dim, width), nn.LayerNorm(width))
        self.word_in = nn.Sequential(nn.Linear(embed_dim, width), nn.LayerNorm(width))
        self.visual_start = nn.Parameter(torch.randn(width) * 0.02)
        self.word_start = nn.Parameter(torch.randn(width) * 0.02)
        self.knowledge = (
            KnowledgeStream(embed_dim, width, heads, dropout) if config.knowledge else None
        )
        self.layers = nn.ModuleList(
            FusionLayer(width, heads, dropout) for _ in range(config.layers)
        )
        self.visual_norm = nn.LayerNorm(width)
        self.word_norm = nn.LayerNorm(width)

    def forward(
        self,
        visual: Float[Tensor, "k v e"],
        visual_mask: Bool[Tensor, "k v"],
        words: Float[Tensor, "k l e"],
        word_mask: Bool[Tensor, "k l"],
        *,
        cells: int | None = None,
        knowledge: Knowledge | None = None,
    ) -> FusionOutput:
        """Fuse visual i with text i.

        Args:
            visual: Cells as `gather_visual` gives them.
            visual_mask: Which cells are there.
            words: Vectors of tokens.
            word_mask: Which tokens are there.
            cells: Cells of one frame, a square number; None: grid x grid of the config.
            knowledge: Of the concepts that the texts name; ignored without a knowledge stream.
        """
        dtype = self.visual_start.dtype
        code = cell_code(cells or self.config.grid**2, self.config.width).to(visual.device, dtype)
        place = torch.arange(visual.shape[1], device=visual.device) % len(code)
        x, y = self.visual_in(visual.to(dtype)) + code[place], self.word_in(words.to(dtype))
        if self.knowledge is not None and knowledge is not None:
            y = y + self.knowledge(knowledge, x, visual_mask)
        x, x_mask = _with_start(self.visual_start, x, visual_mask)
        y, y_mask = _with_start(self.word_start, y, word_mask)
        seen = [x.new_zeros(x.shape) for _ in self.layers]
        read = [y.new_zeros(y.shape) for _ in self.layers]
        for rows, length in rows_by_length(x_mask):
            x_part, y_part = x[rows, :length], y[rows]
            x_there, y_there = x_mask[rows, :length], y_mask[rows]
            for number, layer in enumerate(self.layers):
                x_part, y_part = layer(x_part, x_there, y_part, y_there)
                seen[number][rows, :length] = x_part
                read[number][rows] = y_part
        return FusionOutput(
            [layer[:, 1:] * visual_mask[..., None] for layer in seen],
            [layer[:, 1:] * word_mask[..., None] for layer in read],
            self.visual_norm(seen[-1][:, 0]),
            self.word_norm(read[-1][:, 0]),
        )


def rows_by_length(mask: Bool[Tensor, "k v"]) -> list[tuple[Int[Tensor, " n"], int]]:
    """Rows of about the same length together, so that an image is not padded to a volume.

    Args:
        mask: What is there; the first position of every row is.

    Returns:
        Row numbers and the length of the longest of them, at most twice that of the shortest. Every
        row is in one group; nothing beyond its group's length is there.
    """
    places = torch.arange(1, mask.shape[1] + 1, device=mask.device)
    lengths = (mask * places).amax(1)
    doublings = lengths.double().log2().floor().long()
    groups = []
    for doubling in sorted(set(doublings.tolist())):
        rows = (doublings == doubling).nonzero()[:, 0]
        groups.append((rows, int(lengths[rows].max())))
    return groups


def cell_code(cells: int, width: int) -> Float[Tensor, "cells width"]:
    """Sine and cosine of row and column, relative to the frame's side, [cells, width].

    Relative, so that a place has about the same code on a coarser grid.

    Args:
        cells: Of one frame, a square number.
        width: A multiple of 4.
    """
    side = math.isqrt(cells)
    low, high = (math.log2(periods) for periods in _PERIODS)
    periods = torch.logspace(low, high, width // 4, base=2.0, dtype=torch.float64)
    centre = (torch.arange(side, dtype=torch.float64) + 0.5) / side
    angle = 2 * math.pi * centre[:, None] * periods
    line = torch.cat([angle.sin(), angle.cos()], 1)
    rows = line[:, None].expand(side, side, -1)
    columns = line[None].expand(side, side, -1)
    return torch.cat([rows, columns], -1).flatten(0, 1).float()


def _with_start(
    start: Float[Tensor, " d"], x: Float[Tensor, "k v d"], mask: Bool[Tensor, "k v"]
) -> tuple[Tensor, Tensor]:
    """Tokens after a class token, and their mask."""
    first = start.expand(len(x), 1, -1)
    return torch.cat([first, x], 1), functional.pad(mask, (1, 0), value=True)
