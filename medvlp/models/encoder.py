"""A trained model for use: visuals and texts to unit vectors, one visual to its heat map."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from medvlp.models.config import AnswerConfig, PreprocessConfig
from medvlp.models.evidence import patch_evidence
from medvlp.models.parts import FRAMES_AT_ONCE, frames_at_once
from medvlp.models.preprocess import preprocess
from medvlp.models.streams import StreamOutput
from medvlp.models.tokens import TextTokenizer
from medvlp.models.vlp import VLP, VisualFeatures
from medvlp.types import KINDS, Visual

TEXTS_AT_ONCE = 128


class HeatMaps(NamedTuple):
    """How strongly texts are seen in each patch of one visual."""

    maps: Float[Tensor, "m n gh gw"]
    slice_weights: Float[Tensor, " n"]
    """How much each frame counts in the visual's vector; sums to 1."""


class _Packing(NamedTuple):
    """Which frames are whose, and where they lie."""

    offsets: Int[Tensor, " bounds"]
    positions: Float[Tensor, " n"]


class Encoder:
    """Inference on a frozen model, in float32: a visual's vector does not depend on its batch.

    Args:
        model: Put into evaluation mode.
        tokenizer: Its vocabulary.
        digest: Names the model in every result.
        device: Where to compute.
    """

    def __init__(
        self,
        model: VLP,
        tokenizer: TextTokenizer,
        *,
        digest: str,
        device: torch.device | str = "cpu",
    ) -> None:
        self.device = torch.device(device)
        self.model = model.to(self.device).eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.digest = digest

    @property
    def preprocess(self) -> PreprocessConfig:
        """How a visual becomes the tower's input."""
        return self.model.config.preprocess

    @property
    def answers(self) -> AnswerConfig:
        """How the model is to be asked."""
        return self.model.config.answers

    @property
    def dim(self) -> int:
        """Width of the joint space."""
        return self.model.config.embed_dim

    @torch.inference_mode()
    def visuals(self, visuals: Sequence[Visual]) -> Float[Tensor, "b e"]:
        """Unit vectors of visuals of any kinds and lengths, on the CPU."""
        parts = [self._features(group)[0].vector.cpu() for group in _groups(visuals)]
        return torch.cat(parts) if parts else torch.zeros(0, self.dim)

    @torch.inference_mode()
    def texts(self, texts: Sequence[str]) -> Float[Tensor, "m e"]:
        """Unit vectors of texts, on the CPU."""
        parts = []
        for start in range(0, len(texts), TEXTS_AT_ONCE):
            tokens = self.tokenizer(texts[start : start + TEXTS_AT_ONCE])
            vectors = self.model.encode_text(
                tokens.ids.to(self.device), tokens.mask.to(self.device)
            )
            parts.append(vectors.cpu())
        return torch.cat(parts) if parts else torch.zeros(0, self.dim)

    @torch.inference_mode()
    def compare(
        self, visuals: Sequence[Visual], texts: Float[Tensor, "m e"]
    ) -> tuple[Float[Tensor, "b e"], Float[Tensor, "b m"]]:
        """The vectors of visuals, and how strongly each text vector is seen in their patches.

        Args:
            visuals: Of any kinds and lengths.
            texts: Unit vectors, such as `texts` returns or their ensembles.
        """
        vectors, evidence = [], []
        for group in _groups(visuals):
            features, where = self._features(group, tokens=True)
            vectors.append(features.vector.cpu())
            evidence.append(self._evidence(features, where, texts.to(self.device)).cpu())
        if not vectors:
            return torch.zeros(0, self.dim), torch.zeros(0, len(texts))
        return torch.cat(vectors), torch.cat(evidence)

    @torch.inference_mode()
    def heat(self, visual: Visual, texts: Float[Tensor, "m e"]) -> HeatMaps:
        """Where texts are seen in one visual, on the CPU; see `preprocess.heat_to_original`.

        Args:
            visual: Of any kind and length.
            texts: Unit vectors, such as `texts` returns or their ensembles.
        """
        features, where = self._features([visual], tokens=True)
        texts = texts.to(self.device)
        if self.answers.source == "queries":
            read = self._read(features, where, texts, attention=True)
            assert read.concept_attention is not None
            by_patch = read.concept_attention
        else:
            assert features.patches is not None
            by_patch = (features.patches @ texts.to(features.patches.dtype).T).transpose(1, 2)
        maps = by_patch.transpose(0, 1)
        maps = maps.reshape(*maps.shape[:2], *features.grid)
        return HeatMaps(maps.cpu(), features.slice_weights.cpu())

    def _evidence(
        self, features: VisualFeatures, where: _Packing, texts: Float[Tensor, "m e"]
    ) -> Float[Tensor, "b m"]:
        if self.answers.source == "queries":
            return self._read(features, where, texts).concept_logits.sigmoid()
        assert features.patches is not None
        return patch_evidence(features.patches, texts, where.offsets)

    def _read(
        self,
        features: VisualFeatures,
        where: _Packing,
        texts: Float[Tensor, "m e"],
        *,
        attention: bool = False,
    ) -> StreamOutput:
        return self.model.read_streams(
            features, where.offsets, where.positions, texts, texts[:0], attention=attention
        )

    def _features(
        self, visuals: Sequence[Visual], *, tokens: bool = False
    ) -> tuple[VisualFeatures, _Packing]:
        frames = [preprocess(visual, self.preprocess) for visual in visuals]
        lengths = torch.tensor([0, *(len(part) for part in frames)])
        positions = torch.cat([torch.from_numpy(v.positions.astype("float32")) for v in visuals])
        kind = torch.tensor([KINDS.index(visual.kind) for visual in visuals])
        where = _Packing(lengths.cumsum(0).to(self.device), positions.to(self.device))
        features = self.model.encode_visual(
            (frames[0] if len(frames) == 1 else torch.cat(frames)).to(self.device),
            where.offsets,
            where.positions,
            kind.to(self.device),
            tokens,
            chunk=frames_at_once(self.preprocess.size),
        )
        return features, where


def _groups(visuals: Sequence[Visual]) -> Iterator[list[Visual]]:
    """Consecutive visuals with few enough frames to go together; a long one goes alone."""
    group: list[Visual] = []
    frames = 0
    for visual in visuals:
        if group and frames + len(visual.frames) > 2 * FRAMES_AT_ONCE:
            yield group
            group, frames = [], 0
        group.append(visual)
        frames += len(visual.frames)
    if group:
        yield group
