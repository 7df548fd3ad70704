"""The nouns that hold tensors.

Shape letters: b samples, n frames (all samples of a batch in a row), m texts (likewise), l tokens,
c channels, h w pixels, bounds b + 1, k claim slots, e joint embedding, p patches of one frame,
q questions, s concepts asked about, r regions asked about.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import IntEnum
from typing import Any

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor


class TextRole(IntEnum):
    """What a text is to its visual."""

    PLAIN = 0
    """A sentence or a caption."""
    DOCUMENT = 1
    """A whole report or a section of one."""
    LEAD = 2
    """The text of a clip's own level: its narration, key step, phase or abstract."""
    CHILD = 3
    """A text one or more levels below the clip's own, spoken or written within it."""
    HEARD = 4
    """What another recogniser heard at the time of the lead."""
    PARENT = 5
    """The text of the step or phase that a clip lies in."""


class QuestionRole(IntEnum):
    """What a text of the knowledge book asks."""

    CLAIM = 0
    """Says that a concept is there."""
    DENIAL = 1
    """Says that it is not."""
    NAME = 2
    """Names or defines a concept: a query."""
    FACET = 3
    """Describes one radiographic aspect of a concept."""
    REGION = 4
    """Names or defines a region of the body: a query."""


def _moved(record: Any, device: torch.device | str, non_blocking: bool) -> dict[str, Any]:
    """Fields of a record, on another device."""
    return {
        f.name: value.to(device, non_blocking=non_blocking)
        if isinstance(value := getattr(record, f.name), Tensor | Asked | FrameFeatures)
        else value
        for f in fields(record)
    }


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """What the knowledge book asks of every visual of a batch, in words.

    s concepts and r regions, in a fixed order; each has one or more of the q texts.
    """

    tokens: Int[Tensor, "q l2"]
    mask: Bool[Tensor, "q l2"]
    role: Int[Tensor, " q"]
    """Of each text, a `QuestionRole`."""
    subject: Int[Tensor, " q"]
    """Which concept (or, for REGION, which region) each text is about."""
    slots: Int[Tensor, " s"]
    """Which slot of `Batch.stated` answers for each concept."""
    relations: Int[Tensor, "b s r"]
    """Of each visual, concept and region: 1 present there, -1 absent there, 2 uncertain, 0 not
    mentioned."""

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Asked:
        """The same questions on another device."""
        return Asked(**_moved(self, device, non_blocking))

    def rows(self, role: QuestionRole) -> Int[Tensor, " rows"]:
        """Which texts have a role, in order of their subjects."""
        return (self.role == role).nonzero()[:, 0]


@dataclass(frozen=True, slots=True, eq=False)
class FrameFeatures:
    """What a frozen tower saw in the frames of a batch (`medvlp.models.slice_features`)."""

    mean: Float[Tensor, "n d"]
    """Over the patches of each frame; with `top` and `attention` the `FrameStats` of pooling."""
    top: Float[Tensor, "n d"]
    attention: Float[Tensor, "n d"]
    grid: tuple[int, int]
    """(gh, gw) of the patches."""
    tokens: Float[Tensor, "n p c"] | None = None
    """Of every patch, as the tower gave them; None unless objectives need patches."""

    def to(self, device: torch.device | str, non_blocking: bool = False) -> FrameFeatures:
        """The same features on another device."""
        return FrameFeatures(**_moved(self, device, non_blocking))


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Ragged frames and texts of b samples, packed without padding between samples.

    `claims` and `stated` say what a text claims and what is known of a visual, one slot a
    (concept, side): 1 present, -1 absent, 0 not mentioned. `medvlp.knowledge.positives` turns
    them into which pairs match.
    """

    frames: Float[Tensor, "n c h w"] | UInt8[Tensor, "n c h w"]
    """Bytes as cached, or float in [0, 1] after augmentation; of no height and width where the
    batch has `features` instead."""
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
    text_role: Int[Tensor, " m"] | None = None
    """Of each text, a `TextRole`. Children come in order of time."""
    text_index: Int[Tensor, " m"] | None = None
    """Number of the training sample whose text it is; of a PARENT text the parent's."""
    mentions: Int[Tensor, "mentions 5"] | None = None
    """Named concepts: text, first token, token after the last, concept (its slot is three times
    that), polarity (1 present, -1 absent, 0 uncertain)."""
    asked: Asked | None = None
    second: Float[Tensor, "n c h w"] | None = None
    """The same frames after other random changes."""
    index: Int[Tensor, " b"] | None = None
    """Number of each sample in the training set."""
    features: FrameFeatures | None = None
    """Takes the place of the pixels where the tower is frozen."""
    keys: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.kind)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """The same batch on another device."""
        return Batch(**_moved(self, device, non_blocking))


@dataclass(frozen=True, slots=True, eq=False)
class Embeddings:
    """Unit vectors of samples and texts; what is finer when it was asked for."""

    visual: Float[Tensor, "b e"]
    text: Float[Tensor, "m e"]
    patches: Float[Tensor, "n p e"] | None = None
    """Vectors of the patches of every frame, row by row, not of unit length."""
    slice_weights: Float[Tensor, " n"] | None = None
    """How much each frame counts in its sample; sums to 1 over a sample."""
    frames: Float[Tensor, "n e"] | None = None
    """Unit vector of every frame."""
    words: Float[Tensor, "m l e"] | None = None
    """Vectors of the tokens of every text, not of unit length; 0 where `token_mask` is false."""
    second: Float[Tensor, "b e"] | None = None
    """Unit vectors of `Batch.second`."""
    raw_visual: Float[Tensor, "b e"] | None = None
    """`visual` before it was brought to unit length."""
    raw_text: Float[Tensor, "m e"] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """Zero-shot scores of b samples."""

    keys: tuple[str, ...]
    labels: tuple[str, ...]
    scores: Float[Tensor, "b k"]
    model_digest: str
