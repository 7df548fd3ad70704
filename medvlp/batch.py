"""The nouns that hold tensors.

Shape letters: b samples, n frames (all samples of a batch in a row), m texts (likewise), l tokens,
c channels, h w pixels, bounds b + 1, k claim slots, e joint embedding, p patches of one frame.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Ragged frames and texts of b samples, packed without padding between samples.

    `claims` and `stated` say what a text claims and what is known of a visual, one slot a
    (concept, side): 1 present, -1 absent, 0 not mentioned. `medvlp.knowledge.positives` turns
    them into which pairs match.
    """

    frames: Float[Tensor, "n c h w"] | UInt8[Tensor, "n c h w"]
    """Bytes as cached, or float in [0, 1] after augmentation."""
    offsets: Int[Tensor, " bounds"]
    """Sample i owns frames offsets[i]:offsets[i + 1]."""
    positions: Float[Tensor, " n"]
    kind: Int[Tensor, " b"]
    """Index into `KINDS`."""
    tokens: Int[Tensor, "m l"]
    token_mask: Bool[Tensor, "m l"]
    text_offsets: Int[Tensor, " bounds"]
    """Sample i owns texts text_offsets[i]:text_offsets[i + 1]."""
    text_key: Int[Tensor, " m"]
    """Hash of the normalised text: equal texts have equal keys."""
    claims: Int[Tensor, "m k"]
    stated: Int[Tensor, "b k"]
    statement_tokens: Int[Tensor, "s l2"] | None = None
    """A claim of each of c concepts, then a denial of each (s = 2 c)."""
    statement_mask: Bool[Tensor, "s l2"] | None = None
    statement_slots: Int[Tensor, " concepts"] | None = None
    """Which slot of `stated` answers for each concept."""
    keys: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.kind)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """The same batch on another device."""
        moved: dict[str, Any] = {
            f.name: value.to(device, non_blocking=non_blocking)
            if isinstance(value := getattr(self, f.name), Tensor)
            else value
            for f in fields(self)
        }
        return Batch(**moved)


@dataclass(frozen=True, slots=True, eq=False)
class Embeddings:
    """Unit vectors of samples and texts; patch vectors when they were asked for."""

    visual: Float[Tensor, "b e"]
    text: Float[Tensor, "m e"]
    patches: Float[Tensor, "n p e"] | None = None
    """Vectors of the patches of every frame, row by row, not of unit length."""
    slice_weights: Float[Tensor, " n"] | None = None
    """How much each frame counts in its sample; sums to 1 over a sample."""


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """Zero-shot scores of b samples."""

    keys: tuple[str, ...]
    labels: tuple[str, ...]
    scores: Float[Tensor, "b k"]
    model_digest: str
