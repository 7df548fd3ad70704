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
    temperature: PositiveFloat = 0.1
    min_temperature: PositiveFloat = 0.02
    bias: float = 0.3
    """Start value of the evidence at which presence is as likely as absence; learned."""


LossConfig = Annotated[InfoNCEConfig | PatchTextConfig, Field(discriminator="kind")]


def objective_name(config: ObjectiveConfig) -> str:
    """The name an objective is logged under."""
    return config.name or str(getattr(config, "kind"))  # noqa: B009
