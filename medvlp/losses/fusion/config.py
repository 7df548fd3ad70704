"""Configs of the objectives of this folder. Imports no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from medvlp.losses.base_config import ObjectiveConfig


class MatchingConfig(ObjectiveConfig):
    """Does this text belong to this visual, asked of the fusion."""

    kind: Literal["matching"] = "matching"
    negatives: Literal["hard", "random"] = "hard"
    """`hard`: drawn by similarity (ALPRO); `random`: all alike (M3AE)."""
    temperature: PositiveFloat = 0.07
    """Of the draw: the lower, the harder the negatives."""


class MaskedTextConfig(ObjectiveConfig):
    """Masked language modelling with the visual beside it."""

    kind: Literal["masked_text"] = "masked_text"
    rate: float = Field(default=0.15, gt=0, le=1)
    """Share of words (or of named concepts) that are hidden; at least one a text."""
    whole_words: bool = True
    """All pieces of a word are hidden together."""
    entities: Literal["mentions"] | None = None
    """`mentions`: concepts are hidden instead of words, each with all its mentions (ARL); texts
    that name none hide words."""


class MaskedImageConfig(ObjectiveConfig):
    """Masked image modelling with the text beside it."""

    kind: Literal["masked_image"] = "masked_image"
    rate: float = Field(default=0.75, gt=0, le=1)
    """Share of a frame's cells that are painted over."""
    pixels: PositiveInt = 4
    """A cell is predicted as pixels x pixels colours."""
    layer: PositiveInt = 1
    """Layer of the fusion that is read, from 1. M3AE reads the 3rd of 6: pixels are no concepts."""
    decoder_layers: PositiveInt = 1
    """M3AE has 4."""
    decoder_width: PositiveInt = 64
    """M3AE has 384."""
    decoder_heads: PositiveInt = 4
    """M3AE has 6."""

    @model_validator(mode="after")
    def _divides(self) -> MaskedImageConfig:
        if self.decoder_width % self.decoder_heads or self.decoder_width % 4:
            raise ValueError("decoder_width must be a multiple of decoder_heads and of 4")
        return self


class PromptPoolsConfig(ObjectiveConfig):
    """Learned vectors that stand in for a missing report or a missing visual."""

    kind: Literal["prompt_pools"] = "prompt_pools"
    visual_pool: PositiveInt = 2048
    text_pool: PositiveInt = 2048
    visual_prompts: PositiveInt = 49
    """Vectors that stand in for a visual."""
    text_prompts: PositiveInt = 32
    """Vectors that stand in for a text."""
    dropout: float = Field(default=0.5, ge=0, le=1)
    """How often a pair loses one of its halves in matching. Ours: the published data have samples
    with one half only."""
    matching: NonNegativeFloat = 0.5
    """Weight of matching; 0 leaves it out."""
    contrast: NonNegativeFloat = 0.1
    """Weight of the contrast; 0 leaves it out."""
    temperature: PositiveFloat = 0.1
    """Of the contrast, start value; learned."""
    min_temperature: PositiveFloat = 0.02


class ClipOrderConfig(ObjectiveConfig):
    """Which of two shuffled frames comes first."""

    kind: Literal["clip_order"] = "clip_order"
    width: PositiveInt = 64
    layers: PositiveInt = 1
    heads: PositiveInt = 4

    @model_validator(mode="after")
    def _divides(self) -> ClipOrderConfig:
        if self.width % self.heads:
            raise ValueError(f"{self.heads} heads do not divide a width of {self.width}")
        return self
