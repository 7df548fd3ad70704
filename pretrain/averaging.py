"""Exponential moving average of weights, the model that is kept (Polyak averaging)."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

from pretrain.module import PretrainModule


class WeightAverage(L.Callback):
    """Averages the model's weights and running statistics after every step.

        a <- d a + (1 - d) w,   d = min(decay, (1 + t) / (10 + t))

    The smaller decay of the first steps t keeps the start out of the average.

    Args:
        decay: Of the average.
    """

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self.average: dict[str, Tensor] = {}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start from the weights, unless a checkpoint brought an average."""
        assert isinstance(pl_module, PretrainModule)
        current = _floats(pl_module.model)
        self.average = {
            name: self.average[name].to(value.device) if name in self.average else value.clone()
            for name, value in current.items()
        }

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """One step of the average."""
        assert isinstance(pl_module, PretrainModule)
        current = _floats(pl_module.model)
        step = trainer.global_step
        weight = 1 - min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.average.values()), list(current.values()), weight)

    def apply(self, model: nn.Module) -> None:
        """Put the average into a model."""
        for name, value in _floats(model).items():
            value.copy_(self.average[name])

    def state_dict(self) -> dict[str, Any]:
        """Goes into the resume checkpoint."""
        return {"average": self.average}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Comes back from the resume checkpoint."""
        self.average = dict(state_dict["average"])


def _floats(model: nn.Module) -> dict[str, Tensor]:
    """Weights and running statistics that training may move, detached but not copied."""
    frozen = {name for name, part in model.named_parameters() if not part.requires_grad}
    state: dict[str, Tensor] = model.state_dict()
    return {
        name: value
        for name, value in state.items()
        if value.is_floating_point() and name not in frozen
    }
