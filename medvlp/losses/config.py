"""The objectives a config can name: a closed union. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat

from medvlp.config import Config


class ObjectiveConfig(Config):
    """What every objective has."""

    weight: NonNegativeFloat = 1.0
    name: str | None = Field(default=None, pattern=r"^[a-z][a-z0-9_]*$")
    """How it is logged; its kind, if not given."""


class InfoNCEConfig(ObjectiveConfig):
    """Sample-text contrast with several positives."""

    kind: Literal["infonce"] = "infonce"
    temperature: PositiveFloat = 0.1
    """Start value; learned."""
    min_temperature: PositiveFloat = 0.02
    """The learned temperature is kept at or above it."""


class PatchTextConfig(ObjectiveConfig):
    """Patch-text contrast: a text is somewhere in the visual, or nowhere."""

    kind: Literal["patch_text"] = "patch_text"
    temperature: PositiveFloat = 0.5
    min_temperature: PositiveFloat = 0.02
    bias: float = 1.0
    """Start value of the evidence at which presence is as likely as absence; learned."""


class ExistenceConfig(ObjectiveConfig):
    """Every concept of the book asked of every visual, in words."""

    kind: Literal["existence"] = "existence"
    temperature: PositiveFloat = 0.1
    """Of the vector's logits."""
    local_temperature: PositiveFloat = 0.5
    """Of the evidence's logits."""
    min_temperature: PositiveFloat = 0.02
    bias: float = 1.0
    """Start value of the evidence at which presence is as likely as absence; learned."""


LossConfig = Annotated[
    InfoNCEConfig | PatchTextConfig | ExistenceConfig, Field(discriminator="kind")
]


def objective_name(config: ObjectiveConfig) -> str:
    """The name an objective is logged under."""
    return config.name or str(getattr(config, "kind"))  # noqa: B009
