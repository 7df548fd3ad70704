from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck

from medvlp.errors import ConfigError
from medvlp.losses.contrast.infonce import multi_positive_nce, symmetric_nce
from medvlp.losses.contrast.noisy_pairs import (
    NoisyPairs,
    smoothed_nce,
)


def naive(logits, target, noise) -> float:
    rows = []
    for scores, marks, w in zip(logits.tolist(), target.tolist(), noise.tolist(), strict=True):
        total = sum(math.exp(s) for s, t in zip(scores, marks, strict=True) if t >= 0)
        hits, misses = marks.count(1), marks.count(0)
        if not hits:
            continue
        w = w if misses else 0.0
        loss = 0.0
        for s, t in zip(scores, marks, strict=True):
            if t >= 0:
                share = (1 - w) / hits if t == 1 else w / misses
                loss -= share * math.log(math.exp(s) / total)
        rows.append(loss)
    return sum(rows) / len(rows) if rows else 0.0


def case(seed: int, b: int, m: int):
    draw = torch.Generator().manual_seed(seed)
    logits = torch.randn(b, m, generator=draw, dtype=torch.float64) * 4
    target = torch.randint(-1, 2, (b, m), generator=draw).to(torch.int8)
    return logits, target, torch.rand(b, generator=draw, dtype=torch.float64)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), b=st.integers(1, 6), m=st.integers(1, 7))
def test_the_loss_equals_the_naive_loop(seed, b, m):
    logits, target, noise = case(seed, b, m)
    expected = naive(logits, target, noise)
    assert smoothed_nce(logits, target, noise).item() == pytest.approx(expected, abs=1e-9)


def test_one_positive_and_nothing_ignored_has_the_published_targets():
    logits, _, noise = case(1, 5, 5)
    soft = torch.full((5, 5), 0.0, dtype=torch.float64)
    soft += noise[:, None] / 4
    soft[range(5), range(5)] = 1 - noise
    expected = torch.nn.functional.cross_entropy(logits, soft)
    assert torch.allclose(smoothed_nce(logits, torch.eye(5, dtype=torch.int8), noise), expected)


def test_without_noise_it_is_the_plain_loss():
    logits, target, noise = case(2, 5, 6)
    plain = multi_positive_nce(logits, target)
    assert torch.allclose(smoothed_nce(logits, target, noise * 0), plain)


def test_gradients_pass_gradcheck():
    logits, target, noise = case(3, 4, 5)
    assert gradcheck(lambda x: smoothed_nce(x, target, noise), (logits.requires_grad_(),))


def test_the_order_of_the_batch_does_not_matter():
    logits, target, noise = case(4, 5, 6)
    i, j = torch.tensor([3, 1, 4, 0, 2]), torch.tensor([5, 2, 0, 1, 4, 3])
    turned = smoothed_nce(logits[i][:, j], target[i][:, j], noise[i])
    assert torch.allclose(smoothed_nce(logits, target, noise), turned)


def test_degenerate_targets_and_huge_logits():
    logits, target, noise = case(5, 3, 4)
    none = logits.clone().requires_grad_()
    smoothed_nce(none, target.clamp(max=0), noise).backward()
    assert none.grad.abs().max() == 0
    everything = torch.ones(3, 4, dtype=torch.int8)
    assert torch.allclose(
        smoothed_nce(logits, everything, noise), multi_positive_nce(logits, everything)
    )
    one = torch.ones(1, 1, dtype=torch.int8)
    assert smoothed_nce(logits[:1, :1], one, noise[:1]).item() == 0
    assert torch.isfinite(smoothed_nce(logits * 1e6, target, noise))


def run(objective, narrated, bad, steps, b=20):
    pair = [0.0 if i in bad else 0.8 + 0.005 * i for i in range(b)]
    for _ in range(steps):
        loss = objective(narrated(pair))
    return loss


def test_corrupted_pairs_get_a_higher_probability_of_noise(narrated):
    objective = NoisyPairs(refit_every=3, capacity=30).double()
    bad = {1, 4, 8, 9, 13, 17}
    run(objective, narrated, bad, 2)
    assert objective.pairs.noise.abs().max() == 0
    run(objective, narrated, bad, 1)
    noise = objective.pairs.noise
    assert min(float(noise[i]) for i in bad) > 0.9
    assert max(float(noise[i]) for i in range(20) if i not in bad) < 0.1
    assert noise[20:].abs().max() == 0
    assert objective.pairs.losses[20:].isnan().all()


def test_smoothing_is_strength_times_noise_for_rows_and_texts(narrated):
    scene = narrated([0.5, 0.7, 0.2], [0.3, None, 0.4])
    objective = NoisyPairs(temperature=0.1, strength=0.5, capacity=3).double().eval()
    objective.pairs.noise.copy_(torch.tensor([0.2, 0.0, 1.0]))
    logits = 10 * scene.embeddings.visual @ scene.embeddings.text.T
    rows = torch.tensor([0.1, 0.0, 0.5], dtype=torch.float64)
    there = naive(logits, scene.target, rows)
    back = naive(logits.T, scene.target.T, rows[torch.tensor([0, 0, 1, 2, 2])])
    assert objective(scene).item() == pytest.approx((there + back) / 2, rel=1e-6)


def test_a_resumed_run_goes_on_exactly(narrated):
    bad = {1, 4, 8, 9, 13, 17}
    straight = NoisyPairs(refit_every=4, capacity=25).double()
    run(straight, narrated, bad, 6)
    first = NoisyPairs(refit_every=4, capacity=25).double()
    run(first, narrated, bad, 3)
    resumed = NoisyPairs(refit_every=4, capacity=25).double()
    resumed.load_state_dict(first.state_dict())
    run(resumed, narrated, bad, 3)
    for name, value in straight.state_dict().items():
        assert torch.equal(value.nan_to_num(), resumed.state_dict()[name].nan_to_num()), name
    assert straight.pairs.noise.max() > 0.9


def test_outside_of_training_nothing_is_kept(narrated):
    objective = NoisyPairs(capacity=10).double().eval()
    objective(narrated([0.5, 0.7]))
    assert objective.pairs.losses.isnan().all()
    assert int(objective.pairs.steps) == 0


def test_more_samples_than_places_are_refused(narrated):
    scene = narrated([0.5, 0.7])
    with pytest.raises(ConfigError, match="capacity"):
        NoisyPairs(capacity=1)(scene)
    beyond = replace(scene, batch=replace(scene.batch, index=torch.tensor([0, 10])))
    with pytest.raises(ConfigError, match="sample 10"):
        NoisyPairs(capacity=10)(beyond)
    NoisyPairs(capacity=11).double()(beyond)
    with pytest.raises(ConfigError, match="number of each sample"):
        NoisyPairs()(replace(scene, batch=replace(scene.batch, index=None)))


def test_before_the_first_fit_it_is_infonce(narrated):
    scene = narrated([0.5, 0.7, 0.2], [0.3, None, 0.4])
    logits = 10 * scene.embeddings.visual @ scene.embeddings.text.T
    loss = NoisyPairs(temperature=0.1).double()(scene)
    assert loss.item() == pytest.approx(symmetric_nce(logits, scene.target).item(), rel=1e-6)


def test_a_batch_of_one_is_zero(narrated):
    objective = NoisyPairs(capacity=5).double()
    assert objective(narrated([0.5])).item() == 0
    assert objective.pairs.losses.isnan().all()
