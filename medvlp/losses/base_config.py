"""What every objective's config has. Imports no torch."""

from __future__ import annotations

from pydantic import Field, NonNegativeFloat

from medvlp.config import Config


class ObjectiveConfig(Config):
    """What every objective has."""

    weight: NonNegativeFloat = 1.0
    name: str | None = Field(default=None, pattern=r"^[a-z][a-z0-9_]*$")
    """How it is logged; its kind, if not given."""


def objective_name(config: ObjectiveConfig) -> str:
    """The name an objective is logged under."""
    return config.name or str(getattr(config, "kind"))  # noqa: B009
