"""The vision-language model: every visual is a sequence of frames, every text a token row."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor, nn
from torch.nn import functional

from medvlp.models.config import ModelConfig
from medvlp.models.frames import FrameTower
from medvlp.models.pooling import FrameStats, RaggedPooling
from medvlp.models.preprocess import normalise
from medvlp.models.text import TextTower

TEXT_GROUP = 64
"""Texts that go through the text tower at once."""


class VisualFeatures(NamedTuple):
    """Unit vectors in the joint space."""

    vector: Float[Tensor, "b e"]
    slice_weights: Float[Tensor, " n"]
    """How much each frame counts in its sample; sums to 1 over a sample."""
    patches: Float[Tensor, "n p e"] | None
    """Vectors of the patches of every frame, row by row, not of unit length: patch . text says how
    strongly the text is seen there. None unless asked for."""
    grid: tuple[int, int]
    """(gh, gw) of the patches."""


class VLP(nn.Module):
    """Frame tower, ragged pooling and text tower with a joint space of unit vectors.

    Args:
        config: What to build.
        vocabulary: Entries of the tokenizer.
        pretrained: Load the weights that the config names; False where a checkpoint follows.
        text_architecture: Of a saved Hugging Face encoder (see `TextTower`).
    """

    def __init__(
        self,
        config: ModelConfig,
        vocabulary: int,
        *,
        pretrained: bool = True,
        text_architecture: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.frames = FrameTower(config.frames, config.preprocess.size, pretrained=pretrained)
        self.pooling = RaggedPooling(self.frames.dim, config.pooling)
        # Averages and peaks have their own range in each channel; a contrast needs them comparable.
        self.visual_norm = nn.BatchNorm1d(self.frames.dim)
        self.visual_projection = nn.Linear(self.frames.dim, config.embed_dim, bias=False)
        self.patch_projection = nn.Linear(self.frames.dim, config.embed_dim, bias=False)
        self.text = TextTower(config.text, vocabulary, architecture=text_architecture)
        # Any two short texts start with a cosine near 1: they share most of their words. What they
        # share is taken out, so that a contrast begins with what differs.
        self.text_norm = nn.BatchNorm1d(self.text.dim, affine=False)
        self.text_projection = nn.Linear(self.text.dim, config.embed_dim, bias=False)

    def encode_visual(
        self,
        frames: UInt8[Tensor, "n 3 s s"] | Float[Tensor, "n 3 s s"],
        offsets: Int[Tensor, " bounds"],
        positions: Float[Tensor, " n"],
        kind: Int[Tensor, " b"],
        tokens: bool = False,
        *,
        chunk: int | None = None,
    ) -> VisualFeatures:
        """Samples to unit vectors.

        Args:
            frames: Of all samples in a row; bytes, or float in [0, 1].
            offsets: Sample i owns frames offsets[i]:offsets[i + 1].
            positions: Millimetres or seconds.
            kind: Index into `KINDS`.
            tokens: Also return every patch's vector.
            chunk: Frames through the tower at once; None: all. Under `no_grad` this bounds the
                memory of a long series; the result is the same.
        """
        stats: list[FrameStats] = []
        patches: list[Tensor] = []
        grid = (0, 0)
        for part in torch.split(frames, chunk or len(frames)):
            features = self.frames(normalise(part, self.config.preprocess))
            grid = features.grid
            stats.append(self.pooling.pool_patches(features.tokens))
            if tokens:
                # Not of unit length: how much is seen in a patch is in its length, and most
                # patches of a healthy lung have nothing to say.
                patches.append(self.patch_projection(features.tokens))
        joined = FrameStats(*(torch.cat(values) for values in zip(*stats, strict=True)))
        pooled = self.pooling.pool_frames(joined, offsets, positions, kind)
        vector = _unit(self.visual_projection(self._normed(self.visual_norm, pooled.vector)))
        return VisualFeatures(vector, pooled.weights, torch.cat(patches) if tokens else None, grid)

    def encode_text(
        self, tokens: Int[Tensor, "m l"], mask: Bool[Tensor, "m l"]
    ) -> Float[Tensor, "m e"]:
        """Texts to unit vectors; in training, relative to the other texts of the call.

        Short texts do not pay for long ones: texts go through the tower in groups of about the
        same length, each as wide as its longest. The result is the same in any grouping.
        """
        lengths = mask.sum(1)
        order = lengths.argsort(stable=True)
        longest = lengths[order].tolist()
        parts = []
        for start in range(0, len(order), TEXT_GROUP):
            rows = order[start : start + TEXT_GROUP]
            width = longest[min(start + TEXT_GROUP, len(order)) - 1]
            parts.append(self.text(tokens[rows, :width], mask[rows, :width]))
        features = torch.cat(parts)[order.argsort()].float()
        return _unit(self.text_projection(self._normed(self.text_norm, features)))

    def _normed(self, norm: nn.BatchNorm1d, features: Float[Tensor, "m d"]) -> Float[Tensor, "m d"]:
        """In training by the statistics of the call, if it has any: one item has none."""
        if self.training and len(features) > 1:
            inner: Tensor = norm(features)
            return inner
        mean, variance = norm.running_mean, norm.running_var
        return functional.batch_norm(features, mean, variance, norm.weight, norm.bias, eps=norm.eps)


def _unit(x: Float[Tensor, "*n e"]) -> Float[Tensor, "*n e"]:
    return functional.normalize(x.float(), dim=-1)
