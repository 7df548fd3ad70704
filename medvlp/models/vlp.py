"""The vision-language model: every visual is a sequence of frames, every text a token row."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor, nn
from torch.nn import functional

from medvlp.errors import ConfigError
from medvlp.models.config import ModelConfig
from medvlp.models.frames import FrameTower
from medvlp.models.fusion import FusionEncoder
from medvlp.models.parts import Packed, Seen, checkpointed, in_parts
from medvlp.models.pooling import FrameStats, RaggedPooling, segment_ids
from medvlp.models.preprocess import normalise
from medvlp.models.start import load_start, text_projection
from medvlp.models.streams import DualStream, StreamOutput
from medvlp.models.text import build_text

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
    frames: Float[Tensor, "n e"] | None = None
    """Unit vector of every frame by itself. None unless asked for."""
    tokens: Float[Tensor, "n p d"] | None = None
    """What the tower gave, where there are streams to read it. None unless patches were asked
    for."""
    raw: Float[Tensor, "b e"] | None = None
    """The vectors before they were brought to unit length."""


class TextFeatures(NamedTuple):
    """Texts in the joint space."""

    vector: Float[Tensor, "m e"]
    """Of unit length."""
    words: Float[Tensor, "m l e"] | None
    """Of every token, not of unit length; 0 at padding. None unless asked for."""
    raw: Float[Tensor, "m e"]
    """The vectors before they were brought to unit length."""


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
        own = self.frames.has_vector
        width = self.frames.vector_dim if own else self.frames.dim
        if own and width != config.embed_dim:
            raise ConfigError(
                "the tower's own vectors are not as wide as the joint space",
                code="tower-width", got=width, limit=f"model.embed_dim {config.embed_dim}",
            )  # fmt: skip
        self.pooling = RaggedPooling(width, config.pooling)
        # Averages and peaks have their own range in each channel; a contrast needs them comparable.
        self.visual_norm = None if own else nn.BatchNorm1d(width)
        self.visual_projection: nn.Module = (
            nn.Identity() if own else nn.Linear(width, config.embed_dim, bias=False)
        )
        self.patch_projection = nn.Linear(self.frames.dim, config.embed_dim, bias=False)
        self.text = build_text(config.text, vocabulary, architecture=text_architecture)
        # Any two short texts start with a cosine near 1: they share most of their words. What they
        # share is taken out, so that a contrast begins with what differs.
        normed = config.text.projection == "normed"
        self.text_norm = nn.BatchNorm1d(self.text.dim, affine=False) if normed else None
        self.text_projection = text_projection(config.text, self.text.dim, config.embed_dim)
        self.word_projection = (
            nn.Linear(self.text.dim, config.embed_dim, bias=False) if config.words else None
        )
        dim = config.embed_dim
        self.streams = DualStream(self.frames.dim, dim, config.streams) if config.streams else None
        self.fusion = FusionEncoder(dim, config.fusion) if config.fusion else None
        if pretrained and config.start is not None:
            load_start(self)

    def encode_visual(
        self,
        frames: UInt8[Tensor, "n 3 s s"] | Float[Tensor, "n 3 s s"],
        offsets: Int[Tensor, " bounds"],
        positions: Float[Tensor, " n"],
        kind: Int[Tensor, " b"],
        tokens: bool = False,
        *,
        by_frame: bool = False,
        chunk: int | None = None,
    ) -> VisualFeatures:
        """Samples to unit vectors.

        Args:
            frames: Of all samples in a row; bytes, or float in [0, 1].
            offsets: Sample i owns frames offsets[i]:offsets[i + 1].
            positions: Millimetres or seconds.
            kind: Index into `KINDS`.
            tokens: Also return every patch's vector.
            by_frame: Also return every frame's vector.
            chunk: Frames through the tower at once; None: all. Under `no_grad` this bounds the
                memory of a long series; the result is the same. A 3D tower sees whole samples.
        """
        packed = Packed(frames, offsets, positions)
        by_sample = self.frames.by_sample
        again = self.config.pooling.checkpoint_frames
        see = partial(self.see, patches=tokens, raw=tokens and self.streams is not None)
        if again is not None and chunk is None and self.training and torch.is_grad_enabled():
            seen = checkpointed(see, packed, again, self.frames, by_sample=by_sample)
        else:
            seen = in_parts(see, packed, chunk, by_sample=by_sample)
        return self._pooled(seen, offsets, positions, kind, by_frame=by_frame)

    def pool_cached(
        self,
        stats: FrameStats,
        offsets: Int[Tensor, " bounds"],
        positions: Float[Tensor, " n"],
        kind: Int[Tensor, " b"],
        *,
        tokens: Float[Tensor, "n p d"] | None = None,
        grid: tuple[int, int] = (0, 0),
        by_frame: bool = False,
    ) -> VisualFeatures:
        """Samples whose frames went through the tower before (see `slice_features`).

        Args:
            stats: Of every frame, all samples in a row.
            offsets: Sample i owns frames offsets[i]:offsets[i + 1].
            positions: Millimetres or seconds.
            kind: Index into `KINDS`.
            tokens: What the tower gave; with them, patches are returned.
            grid: Of the tokens.
            by_frame: Also return every frame's vector.
        """
        patches = None if tokens is None else self.patch_projection(tokens)
        raw = tokens if self.streams is not None else None
        seen = Seen(*stats, grid, patches, raw)
        return self._pooled(seen, offsets, positions, kind, by_frame=by_frame)

    def see(self, part: Packed, *, patches: bool = False, raw: bool = False) -> Seen:
        """Some frames through the tower: what is kept of them.

        Args:
            part: Frames of whole samples where the tower sees a sample together.
            patches: Also their patches in the joint space.
            raw: Also what the tower gave.
        """
        frames = normalise(part.frames, self.config.preprocess)
        features = self.frames(frames, part.offsets, part.positions)
        # A frame's own vector is pooled as if it were the frame's only patch.
        own = features.vector
        stats = self.pooling.pool_patches(features.tokens if own is None else own[:, None])
        # Not of unit length: how much is seen in a patch is in its length, and most patches of a
        # healthy lung have nothing to say.
        projected = self.patch_projection(features.tokens) if patches else None
        return Seen(*stats, features.grid, projected, features.tokens if raw else None)

    def _pooled(
        self,
        seen: Seen,
        offsets: Int[Tensor, " bounds"],
        positions: Float[Tensor, " n"],
        kind: Int[Tensor, " b"],
        *,
        by_frame: bool,
    ) -> VisualFeatures:
        pooled = self.pooling.pool_frames(seen.stats, offsets, positions, kind)
        raw = self.visual_projection(self._normed(self.visual_norm, pooled.vector)).float()
        frames = self._frame_vectors(seen.stats, offsets, positions, kind) if by_frame else None
        return VisualFeatures(
            _unit(raw), pooled.weights, seen.patches, seen.grid, frames, seen.tokens, raw
        )

    def _frame_vectors(
        self,
        stats: FrameStats,
        offsets: Int[Tensor, " bounds"],
        positions: Float[Tensor, " n"],
        kind: Int[Tensor, " b"],
    ) -> Float[Tensor, "n e"]:
        """Every frame as if it were a sample of its own."""
        alone = torch.arange(len(positions) + 1, device=kind.device)
        pooled = self.pooling.pool_frames(stats, alone, positions, kind[segment_ids(offsets)])
        return _unit(self.visual_projection(_by_running(self.visual_norm, pooled.vector)))

    def read_streams(
        self,
        features: VisualFeatures,
        offsets: Int[Tensor, " bounds"],
        positions: Float[Tensor, " n"],
        concepts: Float[Tensor, "s e"],
        regions: Float[Tensor, "r e"],
        *,
        attention: bool = False,
    ) -> StreamOutput:
        """What knowledge queries read in the patches of visuals.

        Args:
            features: With tokens.
            offsets: Sample i owns frames offsets[i]:offsets[i + 1].
            positions: Millimetres or seconds.
            concepts: Unit vectors of texts that name or define concepts.
            regions: Likewise of regions.
            attention: Also return where each concept's query looks.
        """
        assert self.streams is not None
        assert features.tokens is not None
        output: StreamOutput = self.streams(
            features.tokens, features.grid, offsets, positions, concepts, regions, attention
        )
        return output

    def encode_text(
        self, tokens: Int[Tensor, "m l"], mask: Bool[Tensor, "m l"]
    ) -> Float[Tensor, "m e"]:
        """Texts to unit vectors; in training, relative to the other texts of the call."""
        return self.read_text(tokens, mask).vector

    def encode_words(
        self, tokens: Int[Tensor, "m l"], mask: Bool[Tensor, "m l"]
    ) -> Float[Tensor, "m l e"]:
        """Every token's vector, not of unit length; 0 at padding."""
        words = self.read_text(tokens, mask, words=True).words
        assert words is not None
        return words

    def read_text(
        self, tokens: Int[Tensor, "m l"], mask: Bool[Tensor, "m l"], *, words: bool = False
    ) -> TextFeatures:
        """Texts to unit vectors and, if asked for, to vectors of their tokens.

        Short texts do not pay for long ones: texts go through the tower in groups of about the
        same length, each as wide as its longest. The result is the same in any grouping.
        """
        lengths = mask.sum(1)
        order = lengths.argsort(stable=True)
        longest = lengths[order].tolist()
        parts, finer = [], []
        for start in range(0, len(order), TEXT_GROUP):
            rows = order[start : start + TEXT_GROUP]
            width = longest[min(start + TEXT_GROUP, len(order)) - 1]
            vector, hidden = self.text(tokens[rows, :width], mask[rows, :width])
            parts.append(vector)
            if words:
                assert self.word_projection is not None
                projected = self.word_projection(hidden) * mask[rows, :width, None]
                finer.append(functional.pad(projected, (0, 0, 0, mask.shape[1] - width)))
        back = order.argsort()
        features = torch.cat(parts)[back].float()
        raw = self.text_projection(self._normed(self.text_norm, features)).float()
        return TextFeatures(_unit(raw), torch.cat(finer)[back].float() if words else None, raw)

    def _normed(
        self, norm: nn.BatchNorm1d | None, features: Float[Tensor, "m d"]
    ) -> Float[Tensor, "m d"]:
        """In training by the statistics of the call, if it has any: one item has none."""
        if norm is not None and self.training and len(features) > 1:
            inner: Tensor = norm(features)
            return inner
        return _by_running(norm, features)


def _by_running(
    norm: nn.BatchNorm1d | None, features: Float[Tensor, "m d"]
) -> Float[Tensor, "m d"]:
    """Normalised by the running statistics, which stay as they are; None: as they come."""
    if norm is None:
        return features
    mean, variance = norm.running_mean, norm.running_var
    return functional.batch_norm(features, mean, variance, norm.weight, norm.bias, eps=norm.eps)


def _unit(x: Float[Tensor, "*n e"]) -> Float[Tensor, "*n e"]:
    return functional.normalize(x.float(), dim=-1)
