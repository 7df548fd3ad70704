"""Masked image modelling through the fusion: hidden cells are guessed from visual and text."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor, nn
from torch.nn import functional

from medvlp.errors import ConfigError
from medvlp.losses.fusion.pairs import (
    cells_of,
    frozen_statistics,
    fuse,
    fusion_of,
    model_of,
    own_pairs,
    trimmed,
)
from medvlp.losses.objective import Objective, Scene
from medvlp.models.fusion import cell_code, gather_visual
from medvlp.models.pooling import segment_ids
from medvlp.models.transformer import SelfLayer

_FLAT = 1e-4
"""Variance, in units of the full range squared, below which a cell counts as flat: one hundredth
of the range, so that the noise of black padding is not blown up."""


def draw_cells(
    frames: int, cells: int, rate: float, device: torch.device | str
) -> Bool[Tensor, "n cells"]:
    """round(rate * cells) cells of every frame, at least one, at random."""
    count = min(max(1, round(rate * cells)), cells)
    rank = torch.rand(frames, cells, device=device).argsort(1).argsort(1)
    return rank < count


def paint_over(
    frames: Float[Tensor, "n 3 s s"], masked: Bool[Tensor, "n cells"]
) -> Float[Tensor, "n 3 s s"]:
    """Frames whose masked cells have the frame's mean colour.

    In pixels, so that a convolutional tower can see what is left; a transformer could drop the
    patches.
    """
    side = math.isqrt(masked.shape[1])
    plane = masked.reshape(-1, 1, side, side).to(frames.dtype)
    hole = functional.interpolate(plane, size=frames.shape[-2:], mode="nearest") > 0
    return torch.where(hole, frames.mean((2, 3), keepdim=True), frames)


def cell_pixels(
    frames: Float[Tensor, "n 3 s s"], cells: int, pixels: int
) -> Float[Tensor, "n cells values"]:
    """What is to be predicted of every cell: pixels x pixels colours with mean 0, deviation 1.

        t_c = (x_c - mean(x_c)) / sqrt(var(x_c) + 1e-4)

    Normalised by cell as in MAE (He et al. 2022, section 3).

    Args:
        frames: In [0, 1].
        cells: Of one frame, a square number.
        pixels: Height and width that a cell is averaged to.

    Returns:
        Channel by channel, row by row: 3 * pixels * pixels values.
    """
    side = math.isqrt(cells)
    small = functional.adaptive_avg_pool2d(frames, side * pixels)
    blocks = small.reshape(len(frames), 3, side, pixels, side, pixels)
    values = blocks.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)
    mean = values.mean(2, keepdim=True)
    deviation: Tensor = (values.var(2, correction=0, keepdim=True) + _FLAT).sqrt()
    return (values - mean) / deviation


def masked_cell_error(
    prediction: Float[Tensor, "n cells values"],
    target: Float[Tensor, "n cells values"],
    masked: Bool[Tensor, "n cells"],
) -> Float[Tensor, ""]:
    """Mean squared error of the masked cells; 0 with a zero gradient if there is none.

    L = 1/|M| sum_{c in M} 1/values sum_v (y_cv - t_cv)^2
    """
    if not bool(masked.any()):
        return prediction.sum() * 0
    return (prediction[masked] - target[masked]).square().mean()


class CellDecoder(nn.Module):
    """From the fusion's cells to pixels: a small transformer within each frame."""

    def __init__(self, width: int, inner: int, layers: int, heads: int, values: int) -> None:
        super().__init__()
        self.inner = inner
        self.enter = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, inner))
        self.painted = nn.Parameter(torch.randn(inner) * 0.02)
        self.layers = nn.ModuleList(SelfLayer(inner, heads) for _ in range(layers))
        self.leave = nn.Sequential(nn.LayerNorm(inner), nn.Linear(inner, values))

    def forward(
        self, hidden: Float[Tensor, "n cells d"], masked: Bool[Tensor, "n cells"]
    ) -> Float[Tensor, "n cells values"]:
        """Predicted values of every cell; it is told which cells were painted over."""
        x = self.enter(hidden) + cell_code(hidden.shape[1], self.inner).to(hidden)
        x = x + masked[..., None] * self.painted
        everything = torch.ones_like(masked)
        for layer in self.layers:
            x = layer(x, everything)
        values: Tensor = self.leave(x)
        return values


class MaskedImage(Objective):
    """Masked image modelling with the text beside it (M3AE, Chen et al. 2022, arXiv 2209.07098).

    Frames go through the tower once more with most cells painted over, are fused with the words
    of an own text, and a decoder predicts the hidden cells from an early layer of the fusion:
    pixels are low level, words are read from the last (see `masked_text`). Visuals without a text
    take no part. Draws from torch's generator.

    Args:
        width: Of the fusion.
        rate: Share of a frame's cells that are painted over.
        pixels: A cell is predicted as pixels x pixels colours.
        layer: Layer of the fusion that is read, from 1.
        decoder_layers: Of the decoder.
        decoder_width: Of the decoder, a multiple of 4 and of its heads.
        decoder_heads: Of the decoder.
    """

    needs = frozenset({"patches", "words", "fusion"})

    def __init__(
        self,
        *,
        width: int,
        rate: float = 0.75,
        pixels: int = 4,
        layer: int = 1,
        decoder_layers: int = 1,
        decoder_width: int = 64,
        decoder_heads: int = 4,
    ) -> None:
        super().__init__()
        self.rate, self.pixels, self.layer = rate, pixels, layer
        self.decoder = CellDecoder(
            width, decoder_width, decoder_layers, decoder_heads, 3 * pixels**2
        )

    def forward(self, scene: Scene) -> Float[Tensor, ""]:
        """The loss of one batch; 0 if no visual has a text."""
        batch, words = scene.batch, scene.embeddings.words
        assert words is not None
        fusion, cells = fusion_of(scene), cells_of(scene)
        if self.layer > fusion.config.layers:
            raise ConfigError(
                "masked_image reads a layer that the fusion does not have",
                code="fusion-layer",
                got=self.layer,
                limit=fusion.config.layers,
            )
        visuals, texts = own_pairs(batch)
        if len(visuals) == 0:
            return scene.embeddings.visual.sum() * 0
        kept = torch.isin(segment_ids(batch.offsets), visuals)
        offsets = functional.pad(batch.offsets.diff()[visuals].cumsum(0), (1, 0))
        frames = as_float(batch.frames[kept])
        masked = draw_cells(len(frames), cells, self.rate, frames.device)
        model = model_of(scene)
        with frozen_statistics(model):
            features = model.encode_visual(
                paint_over(frames, masked), offsets, batch.positions[kept], batch.kind[visuals],
                tokens=True,
            )  # fmt: skip
        assert features.patches is not None
        visual = gather_visual(features.patches, offsets, fusion.config.grid)
        text = trimmed(words[texts], batch.token_mask[texts])
        fused = fuse(scene, visual, text, texts)
        # Cells that are there, in order, are the cells of frame after frame.
        hidden = fused.visual_layers[self.layer - 1][visual[1]].reshape(*masked.shape, -1)
        target = cell_pixels(frames, cells, self.pixels)
        return masked_cell_error(self.decoder(hidden, masked), target, masked)


def as_float(
    frames: UInt8[Tensor, "n 3 s s"] | Float[Tensor, "n 3 s s"],
) -> Float[Tensor, "n 3 s s"]:
    """In [0, 1]."""
    return frames.float() / 255 if frames.dtype == torch.uint8 else frames
