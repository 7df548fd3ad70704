from __future__ import annotations

import pytest
import torch

from medvlp.losses.objectives import Objectives
from medvlp.models.vlp import VLP
from pretrain.config import OptimConfig
from pretrain.datamodule import PretrainData
from pretrain.module import PretrainModule, first_of_each, lr_factor, parameter_groups
from pretrain.samples import train_samples
from pretrain.texts import build_tokenizer


@pytest.fixture
def parts(dataset, smoke):
    config = smoke()
    samples = train_samples(dataset, config)
    tokenizer = build_tokenizer(config.model.text, samples)
    data = PretrainData(config, dataset, samples, tokenizer)
    torch.manual_seed(0)
    objectives = Objectives(config.objectives, config.model, tokenizer)
    return PretrainModule(VLP(config.model, len(tokenizer)), config, objectives), data


def test_first_of_each_finds_every_distinct_key_once():
    keys = torch.tensor([7, 3, 7, 9, 3])
    first, where = first_of_each(keys)
    assert keys[first].tolist() == [3, 7, 9]
    assert first.tolist() == [1, 0, 3]
    assert torch.equal(keys[first][where], keys)


def test_encoding_distinct_texts_once_equals_encoding_all(parts):
    module, data = parts
    module.eval()
    batch = data.batch(0)
    assert len(first_of_each(batch.text_key)[0]) < len(batch.text_key)
    with torch.no_grad():
        expected = module.model.encode_text(batch.tokens, batch.token_mask)
        assert torch.allclose(module.scene(batch).embeddings.text, expected, atol=1e-5)


def test_every_configured_objective_is_reported(parts):
    module, data = parts
    loss = module.training_step(data.batch(0), 0)
    assert set(module.last_losses) == {"loss", "infonce", "patch_text"}
    loss.backward()
    dead = [n for n, p in module.named_parameters() if p.grad is None]
    assert dead == []


def test_every_parameter_is_in_one_group_and_scales_do_not_decay(parts):
    module, _ = parts
    groups = parameter_groups(module, OptimConfig(lr=1e-3, text_lr=1e-4, weight_decay=0.1))
    grouped = [p for group in groups for p in group["params"]]
    assert {id(p) for p in grouped} == {id(p) for p in module.parameters()}
    assert len(grouped) == len(list(module.parameters()))
    for group in groups:
        assert group["weight_decay"] == (0.1 if group["params"][0].ndim >= 2 else 0.0)
    text = {id(p) for p in module.model.text.parameters()}
    for group in groups:
        for parameter in group["params"]:
            assert group["lr"] == (1e-4 if id(parameter) in text | {
                id(module.model.text_projection.weight)} else 1e-3)  # fmt: skip


def test_the_learning_rate_rises_then_falls():
    optim = OptimConfig(warmup=0.1, final_lr=0.01)
    factors = [lr_factor(step, 100, optim) for step in range(101)]
    assert factors[0] == pytest.approx(0.1)
    assert factors[10] == 1.0
    assert factors[55] == pytest.approx(0.505, abs=0.001)
    assert factors[100] == pytest.approx(0.01)
    assert factors[:10] == sorted(factors[:10])
    assert factors[10:] == sorted(factors[10:], reverse=True)
