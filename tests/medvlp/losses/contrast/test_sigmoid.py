from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck

from medvlp.losses.contrast.sigmoid import Sigmoid, sigmoid_loss


def naive(logits, target) -> float:
    total = 0.0
    for scores, marks in zip(logits.tolist(), target.tolist(), strict=True):
        for s, t in zip(scores, marks, strict=True):
            if t == 1:
                total += -math.log(1 / (1 + math.exp(-s)))
            elif t == 0:
                total += -math.log(1 - 1 / (1 + math.exp(-s)))
    return total / len(target)


def case(seed: int, b: int, m: int):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(b, m, generator=generator, dtype=torch.float64) * 3
    return logits, torch.randint(-1, 2, (b, m), generator=generator).to(torch.int8)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), b=st.integers(1, 6), m=st.integers(1, 8))
def test_the_loss_equals_the_naive_loop(seed, b, m):
    logits, target = case(seed, b, m)
    assert sigmoid_loss(logits, target).item() == pytest.approx(naive(logits, target), abs=1e-9)


def test_gradients_pass_gradcheck():
    logits, target = case(3, 4, 5)
    assert gradcheck(lambda x: sigmoid_loss(x, target), (logits.requires_grad_(),))


def test_the_order_of_the_batch_does_not_matter():
    logits, target = case(4, 5, 6)
    rows, columns = torch.tensor([2, 0, 4, 1, 3]), torch.tensor([5, 0, 3, 1, 2, 4])
    shuffled = sigmoid_loss(logits[rows][:, columns], target[rows][:, columns])
    assert torch.allclose(sigmoid_loss(logits, target), shuffled)


def test_an_ignored_pair_has_no_gradient():
    logits, target = case(5, 3, 4)
    target[1, 2] = -1
    logits.requires_grad_()
    sigmoid_loss(logits, target).backward()
    assert ((logits.grad == 0) == (target == -1)).all()


def test_the_sum_is_divided_by_visuals_and_not_by_pairs():
    logits, target = torch.zeros(2, 8), torch.zeros(2, 8, dtype=torch.int8)
    assert sigmoid_loss(logits, target).item() == pytest.approx(8 * math.log(2), rel=1e-6)


def test_huge_logits_stay_finite():
    logits, target = case(6, 4, 4)
    assert torch.isfinite(sigmoid_loss(logits.float() * 1e6, target))


def test_nothing_known_gives_zero_and_a_zero_gradient(make_scene):
    for normalise in ("rows", "pairs"):
        objective = Sigmoid(normalise=normalise)
        loss = objective(make_scene([1, 1], [[0], [0]], [[-1, -1], [-1, -1]]))
        loss.backward()
        assert loss.item() == 0
        assert objective.scale.log_scale.grad.item() == 0


def test_the_objective_is_the_loss_of_scaled_cosines(make_scene):
    scene = make_scene([1, 2], [[0], [0], [0]], [[1, 0, -1], [0, 1, 1]])
    cosines = scene.embeddings.visual @ scene.embeddings.text.T
    objective = Sigmoid(temperature=0.2, bias=-1.5).double()
    expected = naive(5 * cosines - 1.5, scene.target)
    assert objective(scene).item() == pytest.approx(expected, rel=1e-6)


def test_published_start_values():
    objective = Sigmoid()
    assert objective.scale().item() == pytest.approx(1 / 0.07)
    assert objective.bias.item() == -10


def test_balanced_pairs_count_positives_as_much_as_negatives(make_scene):
    scene = make_scene([1, 1], [[0]] * 5, [[1, 0, 0, 0, 0], [0] * 5])
    flat = replace(scene.embeddings, visual=torch.zeros_like(scene.embeddings.visual))
    objective = Sigmoid(bias=2.0, normalise="pairs").double()
    expected = (math.log1p(math.exp(-2)) + math.log1p(math.exp(2))) / 2
    assert objective(replace(scene, embeddings=flat)).item() == pytest.approx(expected)
