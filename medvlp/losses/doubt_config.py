"""Config of `Doubt`. Imports no torch."""

from __future__ import annotations

from pydantic import Field, PositiveFloat, PositiveInt

from medvlp.config import Config
from medvlp.types import Kind


class DoubtConfig(Config):
    """Pairs whose loss stays high are taken for wrong, and left out."""

    kinds: tuple[Kind, ...] = Field(default=("clip",), min_length=1)
    """Whose pairs are judged. Narration often speaks of something else than is seen; but a report
    that is hard to learn may be that of a rare disease, and is no error for that."""
    temperature: PositiveFloat = 0.1
    """Of the contrastive loss that is watched; fixed, so that losses compare over the run."""
    refit_every: PositiveInt = 50
    """Steps between judgements; nothing is doubted before the first."""
    momentum: float = Field(default=0.5, ge=0, lt=1)
    """Of a sample's loss over its visits: one batch is a noisy judge."""
    threshold: float = Field(default=0.5, ge=0, lt=1)
    """Probability of noise above which a pair is doubted."""
    capacity: PositiveInt = 100_000
    """Training samples there can be."""
