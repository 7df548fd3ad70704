"""What an objective sees and what it is."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, Int8
from torch import Tensor, nn

from medvlp.types import Batch, Embeddings


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """One training batch as the objectives see it."""

    embeddings: Embeddings
    batch: Batch
    target: Int8[Tensor, "b m"]
    """1: text j holds for visual i; 0: it does not; -1: unknown, takes no part."""
    statements: Float[Tensor, "s e"] | None = None
    """Unit vectors of the batch's statements: c claims, then c denials."""


class Objective(nn.Module):
    """Base of the objectives: a scalar of a scene."""

    needs_patches: bool = False
    """Whether `Scene.embeddings.patches` must be there."""
    needs_statements: bool = False
    """Whether `Scene.statements` must be there."""

    def forward(self, scene: Scene) -> Float[Tensor, ""]:
        """The loss, float32, 0 with a zero gradient where the scene says nothing about it."""
        raise NotImplementedError

    def after_step(self) -> None:
        """Called after every optimiser step: keeps learned scales in bounds."""


class LogitScale(nn.Module):
    """A learned inverse temperature, as its logarithm.

    The bound is applied in place after the optimiser's step. A clamp inside `forward` would stop
    the gradient once the bound is passed, and the scale could never come back.
    """

    def __init__(self, temperature: float, min_temperature: float) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(1.0 / temperature).log())
        self.log_limit = float(torch.tensor(1.0 / min_temperature).log())

    def forward(self) -> Float[Tensor, ""]:
        """The factor for cosines."""
        return self.log_scale.exp()

    def clamp_(self) -> None:
        """Bring the scale back into [1, 1 / min_temperature]."""
        with torch.no_grad():
            self.log_scale.clamp_(0.0, self.log_limit)


def text_owner(text_offsets: Int[Tensor, " bounds"]) -> Int[Tensor, " m"]:
    """Which sample each text belongs to."""
    lengths = text_offsets.diff()
    return torch.repeat_interleave(torch.arange(len(lengths), device=text_offsets.device), lengths)
