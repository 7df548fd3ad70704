"""From configs to objectives, and their weighted sum."""

from __future__ import annotations

from collections.abc import Sequence
from typing import assert_never

from jaxtyping import Float
from torch import Tensor, nn

from medvlp.losses.config import (
    ExistenceConfig,
    InfoNCEConfig,
    LossConfig,
    PatchTextConfig,
    objective_name,
)
from medvlp.losses.existence import Existence
from medvlp.losses.infonce import InfoNCE
from medvlp.losses.objective import Objective, Scene
from medvlp.losses.patch_text import PatchText


def build_loss(config: LossConfig) -> Objective:
    """The objective a config names."""
    match config:
        case InfoNCEConfig():
            return InfoNCE(temperature=config.temperature, min_temperature=config.min_temperature)
        case PatchTextConfig():
            return PatchText(
                temperature=config.temperature,
                min_temperature=config.min_temperature,
                bias=config.bias,
            )
        case ExistenceConfig():
            return Existence(
                temperature=config.temperature,
                local_temperature=config.local_temperature,
                min_temperature=config.min_temperature,
                bias=config.bias,
            )
        case _:
            assert_never(config)


class Objectives(nn.Module):
    """The configured objectives and their weighted sum.

    Args:
        configs: Names must differ.
    """

    def __init__(self, configs: Sequence[LossConfig]) -> None:
        super().__init__()
        self.weights = {objective_name(config): config.weight for config in configs}
        if len(self.weights) != len(configs):
            raise ValueError("two objectives have the same name")
        self.parts = nn.ModuleDict(
            {objective_name(config): build_loss(config) for config in configs}
        )

    @property
    def needs_patches(self) -> bool:
        """Whether any objective looks at patches."""
        return any(part.needs_patches for part in self.parts.values())

    @property
    def needs_statements(self) -> bool:
        """Whether any objective asks for the concepts' statements."""
        return any(part.needs_statements for part in self.parts.values())

    def forward(self, scene: Scene) -> dict[str, Float[Tensor, ""]]:
        """Every objective by name, unweighted, and their weighted sum as `loss`."""
        losses = {name: part(scene) for name, part in self.parts.items()}
        total = sum(self.weights[name] * value for name, value in losses.items())
        assert isinstance(total, Tensor)
        return {"loss": total, **losses}

    def after_step(self) -> None:
        """Called after every optimiser step."""
        for part in self.parts.values():
            assert isinstance(part, Objective)
            part.after_step()

    def scales(self) -> dict[str, float]:
        """The learned scales by objective, for the log."""
        return {
            f"{name}_scale": float(part.scale().detach())
            for name, part in self.parts.items()
            if isinstance(part, InfoNCE | PatchText | Existence)
        }
