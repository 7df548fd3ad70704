"""What an objective sees and what it is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int, Int8
from torch import Tensor, nn

from medvlp.batch import QuestionRole
from medvlp.models.streams import StreamOutput
from medvlp.models.vlp import VLP
from medvlp.types import Batch, Embeddings

Need = Literal["patches", "frames", "words", "questions", "streams", "second", "fusion"]
"""What an objective can ask for beyond the vectors of samples and texts."""


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """One training batch as the objectives see it."""

    embeddings: Embeddings
    batch: Batch
    target: Int8[Tensor, "b m"]
    """1: text j holds for visual i; 0: it does not; -1: unknown, takes no part."""
    questions: Float[Tensor, "q e"] | None = None
    """Unit vectors of the texts of `batch.asked`."""
    streams: StreamOutput | None = None
    """What the knowledge queries read in the visuals."""
    model: VLP | None = None
    """For objectives that encode something else than the batch as it is, such as masked tokens."""

    def asked(self, role: QuestionRole) -> Float[Tensor, "rows e"]:
        """Vectors of the questions of one role, in order of their subjects."""
        assert self.batch.asked is not None
        assert self.questions is not None
        return self.questions[self.batch.asked.rows(role)]

    def known(self) -> tuple[Bool[Tensor, "b s"], Bool[Tensor, "b s"]]:
        """Which of the concepts asked about are known to be present, and to be absent."""
        assert self.batch.asked is not None
        stated = self.batch.stated[:, self.batch.asked.slots]
        return stated == 1, stated == -1


class Objective(nn.Module, ABC):
    """Base of the objectives: a scalar of a scene."""

    needs: frozenset[Need] = frozenset()
    """What must be in the scene beside the vectors of samples and texts."""
    asks: frozenset[QuestionRole] = frozenset()
    """Which texts of the knowledge book it needs."""

    @abstractmethod
    def forward(self, scene: Scene) -> Float[Tensor, ""]:
        """The loss, float32, 0 with a zero gradient where the scene says nothing about it."""

    def after_step(self) -> None:
        """Called after every optimiser step: learned scales are kept in bounds."""
        for part in self.modules():
            if isinstance(part, LogitScale):
                part.clamp_()


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
