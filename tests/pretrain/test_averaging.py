from __future__ import annotations

import lightning as L
import pytest
import torch

from medvlp.losses.objectives import Objectives
from medvlp.models.vlp import VLP
from pretrain.averaging import WeightAverage
from pretrain.module import PretrainModule


class AtStep(L.Trainer):
    """A trainer of which only the step is asked."""

    global_step = 0

    def __init__(self, global_step=0):
        self.global_step = global_step


@pytest.fixture
def module(smoke) -> PretrainModule:
    config = smoke()
    objectives = Objectives(config.objectives, config.model)
    return PretrainModule(VLP(config.model, 200), config, objectives)


def test_the_average_follows_its_formula(module):
    average = WeightAverage(0.5)
    trainer = AtStep(0)
    weight = module.model.pooling.norm.weight
    average.on_train_start(trainer, module)
    expected = weight.detach().clone()
    for step in range(1, 30):
        with torch.no_grad():
            weight.fill_(float(step))
        trainer.global_step = step
        average.on_train_batch_end(trainer, module, None, None, step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step
    average.apply(module.model)
    assert torch.allclose(weight.detach(), expected)


def test_running_statistics_are_averaged_too(module):
    names = WeightAverage(0.9)
    names.on_train_start(AtStep(0), module)
    assert any(name.endswith("running_mean") for name in names.average)
    assert not any(name.endswith("num_batches_tracked") for name in names.average)


def test_the_average_survives_a_checkpoint(module, tmp_path):
    average = WeightAverage(0.9)
    average.on_train_start(AtStep(0), module)
    average.average["pooling.norm.weight"] += 1
    torch.save(average.state_dict(), tmp_path / "a.pt")
    again = WeightAverage(0.9)
    again.load_state_dict(torch.load(tmp_path / "a.pt", weights_only=True))
    again.on_train_start(AtStep(5), module)
    assert torch.equal(again.average["pooling.norm.weight"], average.average["pooling.norm.weight"])
