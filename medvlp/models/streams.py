"""Dual stream: anatomy and pathology read apart by knowledge queries."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from medvlp.models.config import StreamsConfig
from medvlp.models.pooling import segment_ids, segment_mean
from medvlp.models.query_decoder import QueryDecoder

FRAME_WAVELENGTHS = (0.25, 2.0)
"""Shortest and longest wavelength of a patch's position in its frame, in sides of the frame. The
longest does not repeat within a frame: the left side is told from the right."""


class StreamOutput(NamedTuple):
    """What s concept queries and r region queries read in b samples."""

    concepts: Float[Tensor, "b s d"]
    """Decoder outputs of the pathology stream."""
    regions: Float[Tensor, "b r d"]
    """Decoder outputs of the anatomy stream."""
    concept_logits: Float[Tensor, "b s"]
    """Existence of each concept: above 0 present."""
    region_logits: Float[Tensor, "b r"]
    """Whether anything is found in each region."""
    pair_logits: Float[Tensor, "b s r"]
    """Whether each concept is found in each region."""
    concept_words: Float[Tensor, "b s e"]
    """Outputs of the pathology stream in the joint space, not of unit length: to be compared with
    the vectors of regions."""
    region_words: Float[Tensor, "b r e"]
    """Outputs of the anatomy stream, to be compared with the vectors of concepts."""
    concept_attention: Float[Tensor, "n s p"] | None = None
    """How much each query looks at each patch of each frame; sums to 1 over a sample. None unless
    asked for."""


class PatchPlace(nn.Module):
    """Where a patch lies: a linear map of sines and cosines of its row, its column and its frame.

    Rows and columns are in sides of the frame, so that the encoding does not change with the grid;
    frames are in millimetres or seconds from the mean of their sample.

    Args:
        dim: Width of a patch.
        frequencies: Sine-cosine pairs of each of the three.
        wavelengths: Shortest and longest of the frames, millimetres or seconds.
    """

    def __init__(self, dim: int, frequencies: int, wavelengths: tuple[float, float]) -> None:
        super().__init__()
        self.inside = nn.Linear(4 * frequencies, dim, bias=False)
        self.along = nn.Linear(2 * frequencies, dim, bias=False)
        self.inside_frequencies: Tensor
        self.along_frequencies: Tensor
        for name, (short, long) in (("inside", FRAME_WAVELENGTHS), ("along", wavelengths)):
            waves = torch.logspace(math.log10(long), math.log10(short), frequencies)
            self.register_buffer(f"{name}_frequencies", 2 * math.pi / waves, persistent=False)
        # A place must count beside a normalised patch from the start: both have about unit
        # variance.
        nn.init.normal_(self.inside.weight, std=(2 * frequencies) ** -0.5)
        nn.init.normal_(self.along.weight, std=(4 * frequencies) ** -0.5)

    def forward(
        self,
        grid: tuple[int, int],
        offsets: Int[Tensor, " bounds"],
        positions: Float[Tensor, " n"],
    ) -> Float[Tensor, "n p d"]:
        """The code of every patch of every frame."""
        rows, columns = (self._centres(count) for count in grid)
        y = _waves(rows, self.inside_frequencies)[:, None].expand(-1, grid[1], -1)
        x = _waves(columns, self.inside_frequencies)[None].expand(grid[0], -1, -1)
        inside: Tensor = self.inside(torch.cat([y, x], -1).flatten(0, 1))
        owner, b = segment_ids(offsets), len(offsets) - 1
        exact = positions.to(self.along_frequencies.dtype)[:, None]
        centred = (exact - segment_mean(exact, owner, b)[owner])[:, 0]
        along: Tensor = self.along(_waves(centred, self.along_frequencies))
        return inside + along[:, None]

    def _centres(self, count: int) -> Float[Tensor, " count"]:
        steps = torch.arange(count, device=self.inside_frequencies.device)
        return (steps.to(self.inside_frequencies.dtype) + 0.5) / count


class DualStream(nn.Module):
    """Patches shared out between pathology and anatomy, each stream read by its own queries.

        x = LN(patch) + place           m = sigmoid(W x)
        pathology memory = MLP_p(m * x)        f_s = decoder_p(query_s, pathology memory)
        anatomy memory   = MLP_a((1 - m) * x)  g_r = decoder_a(query_r, anatomy memory)
        exists_s = w . [f_s, query_s] + c      pair_sr = f_s . g_r / sqrt(d) + c'

    MeDSLIP (arXiv 2403.10635). Its code has no sigmoid on m (so that the streams need not share),
    no positions (so that left and right look the same), and queries that see each other; all
    three can be had by the config or are left out here. Queries of concepts and regions come from
    one linear map of the joint space; so any text can be asked for.

    Args:
        dim: Width of the tower's patch tokens.
        embed_dim: Width of the joint space.
        config: Of both streams.
    """

    def __init__(self, dim: int, embed_dim: int, config: StreamsConfig) -> None:
        super().__init__()
        self.grid = config.grid
        self.sigmoid = config.gate == "sigmoid"
        self.norm = nn.LayerNorm(dim)
        self.place = PatchPlace(dim, config.frequencies, config.wavelengths)
        self.gate = nn.Linear(dim, dim) if config.gate != "none" else None
        self.pathology_head = _head(dim, config.width)
        self.anatomy_head = _head(dim, config.width)
        self.query = nn.Linear(embed_dim, config.width)
        self.pathology_decoder = _decoder(config)
        self.anatomy_decoder = _decoder(config)
        self.concept_exists = nn.Linear(2 * config.width, 1)
        self.region_exists = nn.Linear(2 * config.width, 1)
        self.pair_bias = nn.Parameter(torch.zeros(()))
        self.concept_projection = nn.Linear(config.width, embed_dim)
        self.region_projection = nn.Linear(config.width, embed_dim)

    def forward(
        self,
        tokens: Float[Tensor, "n p d"],
        grid: tuple[int, int],
        offsets: Int[Tensor, " bounds"],
        positions: Float[Tensor, " n"],
        concepts: Float[Tensor, "s e"],
        regions: Float[Tensor, "r e"],
        attention: bool = False,
    ) -> StreamOutput:
        """What is seen of every concept and region in every sample.

        Args:
            tokens: Patches as the tower gave them, row by row of the grid.
            grid: (gh, gw) with gh * gw = p.
            offsets: Sample i owns frames offsets[i]:offsets[i + 1]; none is empty.
            positions: Millimetres or seconds; only differences within a sample matter.
            concepts: Unit vectors of the texts that name or define the concepts.
            regions: Likewise of the regions.
            attention: Also return where each concept's query looked.
        """
        cells = (min(grid[0], self.grid), min(grid[1], self.grid))
        x = self.norm(average_patches(tokens, grid, cells))
        x = x + self.place(cells, offsets, positions).to(x.dtype)
        pathology, anatomy = self.share_out(x)
        b = len(offsets) - 1
        asked_s, asked_r = (self.query(asked).expand(b, -1, -1) for asked in (concepts, regions))
        seen_s = self.pathology_decoder(asked_s, self.pathology_head(pathology), offsets, attention)
        seen_r = self.anatomy_decoder(asked_r, self.anatomy_head(anatomy), offsets)
        f, g = seen_s.answers, seen_r.answers
        maps = None
        if seen_s.attention is not None:
            maps = _full(spread_patches(seen_s.attention, grid, cells))
        return StreamOutput(
            concepts=_full(f),
            regions=_full(g),
            concept_logits=_full(self.concept_exists(torch.cat([f, asked_s], -1))[..., 0]),
            region_logits=_full(self.region_exists(torch.cat([g, asked_r], -1))[..., 0]),
            pair_logits=_full(f @ g.transpose(1, 2)) / math.sqrt(f.shape[-1]) + self.pair_bias,
            concept_words=_full(self.concept_projection(f)),
            region_words=_full(self.region_projection(g)),
            concept_attention=maps,
        )

    def share_out(
        self, x: Float[Tensor, "n p d"]
    ) -> tuple[Float[Tensor, "n p d"], Float[Tensor, "n p d"]]:
        """What of each patch the pathology stream gets, and what the anatomy stream gets."""
        if self.gate is None:
            return x, x
        m = self.gate(x)
        if self.sigmoid:
            m = m.sigmoid()
        return m * x, (1 - m) * x


def average_patches(
    tokens: Float[Tensor, "n p d"], grid: tuple[int, int], cells: tuple[int, int]
) -> Float[Tensor, "n cells d"]:
    """Patches averaged to a grid of at most so many cells (adaptive average pooling)."""
    if grid == cells:
        return tokens
    down, across = _averages(grid, cells, tokens)
    return torch.einsum(
        "nhwd,ih,jw->nijd", tokens.reshape(len(tokens), *grid, -1), down, across
    ).flatten(1, 2)


def spread_patches(
    shares: Float[Tensor, "n s cells"], grid: tuple[int, int], cells: tuple[int, int]
) -> Float[Tensor, "n s p"]:
    """How much of each cell's share falls to each patch that was averaged into it.

    The transpose of `average_patches`: sums are kept, and a query that gave a cell the weight w
    has in truth given w / k to each of its k patches.
    """
    if grid == cells:
        return shares
    down, across = _averages(grid, cells, shares)
    return torch.einsum(
        "nsij,ih,jw->nshw", shares.reshape(*shares.shape[:2], *cells), down, across
    ).flatten(2)


def _averages(
    grid: tuple[int, int], cells: tuple[int, int], like: Tensor
) -> tuple[Float[Tensor, "gi gh"], Float[Tensor, "gj gw"]]:
    """Of both axes, which patches each cell averages, with the bounds of adaptive pooling."""
    axes = []
    for size, count in zip(grid, cells, strict=True):
        cell, patch = torch.arange(count)[:, None], torch.arange(size)
        inside = (patch >= cell * size // count) & (patch < -(-(cell + 1) * size // count))
        weights = inside.to(like)
        axes.append(weights / weights.sum(1, keepdim=True))
    return axes[0], axes[1]


def _waves(x: Float[Tensor, " k"], frequencies: Float[Tensor, " f"]) -> Float[Tensor, "k f2"]:
    angles = x[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], 1)


def _head(dim: int, width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(dim, width), nn.ReLU(), nn.Linear(width, width))


def _decoder(config: StreamsConfig) -> QueryDecoder:
    return QueryDecoder(
        config.width,
        layers=config.layers,
        heads=config.heads,
        ffn=config.ffn,
        dropout=config.dropout,
        self_attention=config.self_attention,
    )


def _full(x: Tensor) -> Tensor:
    """In float32 at least: what objectives compute with."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
