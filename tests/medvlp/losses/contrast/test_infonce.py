from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medvlp.losses.contrast.infonce import InfoNCE, multi_positive_nce, symmetric_nce
from medvlp.losses.objective import LogitScale


def naive(logits, target) -> float:
    """Row by row, term by term."""
    rows = []
    for scores, marks in zip(logits.tolist(), target.tolist(), strict=True):
        seen = [s for s, t in zip(scores, marks, strict=True) if t >= 0]
        positive = [s for s, t in zip(scores, marks, strict=True) if t == 1]
        if positive:
            total = sum(math.exp(s) for s in seen)
            rows.append(sum(-math.log(math.exp(s) / total) for s in positive) / len(positive))
    return sum(rows) / len(rows) if rows else 0.0


def case(seed: int, b: int, m: int):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(b, m, generator=generator, dtype=torch.float64) * 5
    target = torch.randint(-1, 2, (b, m), generator=generator).to(torch.int8)
    return logits, target


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), b=st.integers(1, 7), m=st.integers(1, 9))
def test_both_directions_equal_the_naive_loop(seed, b, m):
    logits, target = case(seed, b, m)
    expected = (naive(logits, target) + naive(logits.T, target.T)) / 2
    assert symmetric_nce(logits, target).item() == pytest.approx(expected, abs=1e-9)


def test_one_positive_on_the_diagonal_is_clip():
    logits = torch.randn(6, 6, dtype=torch.float64)
    labels = torch.arange(6)
    cross_entropy = torch.nn.functional.cross_entropy
    expected = (cross_entropy(logits, labels) + cross_entropy(logits.T, labels)) / 2
    assert torch.allclose(symmetric_nce(logits, torch.eye(6, dtype=torch.int8)), expected)


@pytest.mark.parametrize("seed", range(4))
def test_gradients_pass_gradcheck(seed):
    logits, target = case(seed, 4, 5)
    logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: symmetric_nce(x, target), (logits,))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_the_order_of_the_batch_does_not_matter(seed):
    logits, target = case(seed, 5, 6)
    rows, columns = torch.randperm(5), torch.randperm(6)
    shuffled = symmetric_nce(logits[rows][:, columns], target[rows][:, columns])
    assert torch.allclose(symmetric_nce(logits, target), shuffled)


def test_an_ignored_pair_has_no_gradient_and_no_effect():
    logits, target = case(1, 4, 5)
    target[0] = torch.tensor([1, -1, 0, 0, -1])
    logits.requires_grad_()
    multi_positive_nce(logits, target)[None].sum().backward()
    assert logits.grad[0, 1] == 0
    changed = logits.detach().clone()
    changed[0, 1] += 100
    assert torch.allclose(
        multi_positive_nce(changed, target), multi_positive_nce(logits.detach(), target)
    )


def test_a_batch_of_one_is_zero():
    one = torch.ones(1, 1, dtype=torch.int8)
    assert symmetric_nce(torch.tensor([[3.0]]), one).item() == 0


def test_all_duplicates_pull_nothing_apart():
    logits = torch.zeros(4, 4, requires_grad=True)
    loss = symmetric_nce(logits, torch.ones(4, 4, dtype=torch.int8))
    assert loss.item() == pytest.approx(math.log(4))
    loss.backward()
    assert logits.grad.abs().max() < 1e-7


def test_without_a_positive_the_loss_and_gradient_are_zero():
    for mark in (0, -1):
        logits = torch.randn(3, 4, requires_grad=True)
        loss = symmetric_nce(logits, torch.full((3, 4), mark, dtype=torch.int8))
        loss.backward()
        assert loss.item() == 0
        assert logits.grad.abs().max() == 0


def test_huge_logits_stay_finite():
    logits = torch.randn(4, 4) * 1e4
    assert torch.isfinite(symmetric_nce(logits, torch.eye(4, dtype=torch.int8)))


def test_the_scale_can_fall_again_after_the_bound():
    scale = LogitScale(0.1, 0.02)
    with torch.no_grad():
        scale.log_scale.fill_(10.0)
    scale.clamp_()
    assert scale().item() == pytest.approx(50, rel=1e-5)
    (scale() * 2).backward()
    assert scale.log_scale.grad > 0  # a clamp inside forward would give 0 here
    objective = InfoNCE(temperature=0.1)
    assert objective.scale().item() == pytest.approx(10, rel=1e-5)
