"""A trained model for use: visuals and texts to unit vectors, one visual to its heat map."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from medvlp.models.config import PreprocessConfig
from medvlp.models.evidence import patch_evidence
from medvlp.models.preprocess import preprocess
from medvlp.models.tokens import TextTokenizer
from medvlp.models.vlp import VLP, VisualFeatures
from medvlp.types import KINDS, Visual

FRAMES_AT_ONCE = 64
TEXTS_AT_ONCE = 128


class Grounding(NamedTuple):
    """What a similarity map is made of."""

    vector: Float[Tensor, " e"]
    patches: Float[Tensor, "n gh gw e"]
    """Not of unit length; (patch . text) is a heat map, see `preprocess.heat_to_original`."""
    slice_weights: Float[Tensor, " n"]


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
    def dim(self) -> int:
        """Width of the joint space."""
        return self.model.config.embed_dim

    @torch.inference_mode()
    def visuals(self, visuals: Sequence[Visual]) -> Float[Tensor, "b e"]:
        """Unit vectors of visuals of any kinds and lengths, on the CPU."""
        parts = [self._features(group).vector.cpu() for group in _groups(visuals)]
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
            features = self._features(group, tokens=True)
            assert features.patches is not None
            lengths = torch.tensor([0, *(len(visual.frames) for visual in group)])
            vectors.append(features.vector.cpu())
            seen = patch_evidence(features.patches, texts.to(self.device), lengths.cumsum(0))
            evidence.append(seen.cpu())
        if not vectors:
            return torch.zeros(0, self.dim), torch.zeros(0, len(texts))
        return torch.cat(vectors), torch.cat(evidence)

    @torch.inference_mode()
    def grounding(self, visual: Visual) -> Grounding:
        """The vector of one visual with the vectors of all its patches, on the CPU."""
        features = self._features([visual], tokens=True)
        assert features.patches is not None
        return Grounding(
            features.vector[0].cpu(),
            features.patches.reshape(len(features.patches), *features.grid, -1).cpu(),
            features.slice_weights.cpu(),
        )

    def _features(self, visuals: Sequence[Visual], *, tokens: bool = False) -> VisualFeatures:
        frames = [preprocess(visual, self.preprocess) for visual in visuals]
        lengths = torch.tensor([0, *(len(part) for part in frames)])
        positions = torch.cat([torch.from_numpy(v.positions.astype("float32")) for v in visuals])
        kind = torch.tensor([KINDS.index(visual.kind) for visual in visuals])
        return self.model.encode_visual(
            torch.cat(frames).to(self.device),
            lengths.cumsum(0).to(self.device),
            positions.to(self.device),
            kind.to(self.device),
            tokens,
            chunk=FRAMES_AT_ONCE,
        )


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
