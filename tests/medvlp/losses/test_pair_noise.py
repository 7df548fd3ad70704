from __future__ import annotations

import math

import pytest
import torch

from medvlp.losses.pair_noise import PairNoise, known_mean, noise_probability, pair_losses


def case(seed: int, b: int, m: int):
    draw = torch.Generator().manual_seed(seed)
    logits = torch.randn(b, m, generator=draw, dtype=torch.float64) * 4
    return logits, torch.randint(-1, 2, (b, m), generator=draw).to(torch.int8)


def sample_losses(logits, target, owner):
    return known_mean(pair_losses(logits, target, owner), owner, len(logits))


def test_a_samples_loss_is_that_of_its_own_pairs_against_negatives():
    logits, target = case(6, 3, 5)
    owner = torch.tensor([0, 0, 1, 1, 2])
    target[owner, torch.arange(5)] = 1
    target[0, 4] = target[1, 0] = target[2, 1] = target[2, 2] = 0
    expected = [[], [], []]
    s = logits.tolist()
    for j, i in enumerate(owner.tolist()):
        row = sum(math.exp(s[i][k] - s[i][j]) for k in range(5) if target[i, k] == 0)
        column = sum(math.exp(s[k][j] - s[i][j]) for k in range(3) if target[k, j] == 0)
        ways = [math.log(1 + part) for part in (row, column) if part > 0]
        expected[i].append(sum(ways) / len(ways))
    expected = [sum(values) / len(values) for values in expected]
    assert sample_losses(logits, target, owner).tolist() == pytest.approx(expected)


def test_many_texts_do_not_look_noisy_by_their_number():
    logits = torch.zeros(2, 5, dtype=torch.float64)
    owner = torch.tensor([0, 0, 0, 0, 1])
    target = (owner == torch.arange(2)[:, None]).to(torch.int8)
    logits[target == 1] = 30.0
    losses = sample_losses(logits, target, owner)
    assert losses[0] < 1e-9


def test_a_sample_without_texts_or_negatives_has_no_loss():
    logits = torch.zeros(2, 1, dtype=torch.float64)
    owner = torch.tensor([0])
    target = torch.tensor([[1], [-1]], dtype=torch.int8)
    assert sample_losses(logits, target, owner).isnan().all()


def test_the_worse_of_two_heaps_is_noise():
    draw = torch.Generator().manual_seed(0)
    losses = torch.cat(
        [
            1 + 0.2 * torch.randn(70, generator=draw),
            4 + 0.5 * torch.randn(30, generator=draw),
        ]
    )
    noise = noise_probability(losses)
    assert noise[:70].max() < 0.1
    assert noise[70:].min() > 0.9


def test_noise_rises_with_the_loss_where_the_heaps_have_unlike_widths():
    draw = torch.Generator().manual_seed(1)
    for wide, narrow in ((1.0, 0.05), (0.05, 1.0)):
        losses = torch.cat(
            [
                1 + wide * torch.randn(80, generator=draw),
                3 + narrow * torch.randn(40, generator=draw),
            ]
        )
        noise = noise_probability(losses)[losses.argsort()]
        assert (noise.diff() >= 0).all()
        assert noise[0] == 0


def test_too_few_or_equal_losses_are_not_judged():
    assert noise_probability(torch.rand(5)).tolist() == [0] * 5
    assert noise_probability(torch.ones(50)).tolist() == [0] * 50
    assert noise_probability(torch.empty(0)).tolist() == []


def test_a_loss_is_averaged_over_its_visits():
    noise = PairNoise(4, refit_every=100, momentum=0.75)
    noise.record(torch.tensor([0, 2]), torch.tensor([1.0, 4.0]))
    noise.record(torch.tensor([2, 3]), torch.tensor([8.0, float("nan")]))
    assert noise.losses[:3:2].tolist() == [1.0, 0.75 * 4 + 0.25 * 8]
    assert noise.losses[1::2].isnan().all()
    assert int(noise.steps) == 2
