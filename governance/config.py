"""What a release says of itself. Light: no torch."""

from __future__ import annotations

from pydantic import Field, PositiveFloat, PositiveInt

from medvlp.config import Config
from medvlp.knowledge.prompts import PromptSet

NOT_PROVIDED = "not provided"


class CardConfig(Config):
    """What only people can say. A blank is printed as such, never filled in."""

    summary: str = NOT_PROVIDED
    developer: str = NOT_PROVIDED
    contact: str = NOT_PROVIDED
    licence: str = NOT_PROVIDED
    intended_use: str = NOT_PROVIDED
    intended_users: str = NOT_PROVIDED
    out_of_scope: str = NOT_PROVIDED
    risks: str = NOT_PROVIDED
    ethics: str = NOT_PROVIDED


class ReferenceConfig(Config):
    """Phantom cases that travel in the bundle, to reproduce scores anywhere.

    They are synthetic, so a bundle never carries a patient's image.
    """

    patients: PositiveInt = 3
    lectures: int = Field(default=1, ge=0)
    seed: int = 20260101
    max_cases: PositiveInt = 8
    tolerance: PositiveFloat = 1e-3
    """Largest difference of a reproduced score; covers other processors' rounding."""


class ReleaseConfig(Config):
    """`medvlp release`."""

    name: str = Field(default="medvlp", pattern=r"^[A-Za-z0-9][A-Za-z0-9_.\-]*$")
    """Registered model name."""
    alias: str = Field(default="candidate", pattern=r"^[a-z][a-z0-9\-]*$")
    prompts: PromptSet | None = None
    """Prompts of the reference scores; None: the phantom's eight findings."""
    card: CardConfig = CardConfig()
    reference: ReferenceConfig = ReferenceConfig()
