from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck

from medvlp.losses.contrast.views import Views, nt_xent


def unit(b: int, seed: int) -> torch.Tensor:
    x = torch.randn(b, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return x / x.norm(dim=1, keepdim=True)


def naive(first, second, temperature) -> float:
    z = [*first.tolist(), *second.tolist()]
    b, total = len(first), 0.0

    def s(i, k):
        return math.exp(sum(x * y for x, y in zip(z[i], z[k], strict=True)) / temperature)

    for i in range(2 * b):
        other = i + b if i < b else i - b
        total += -math.log(s(i, other) / sum(s(i, k) for k in range(2 * b) if k != i))
    return total / (2 * b)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), b=st.integers(1, 6), temperature=st.sampled_from([0.1, 0.5]))
def test_the_loss_equals_the_naive_loop(seed, b, temperature):
    first, second = unit(b, seed), unit(b, seed + 1)
    expected = naive(first, second, temperature)
    assert nt_xent(first, second, temperature).item() == pytest.approx(expected, abs=1e-9)


def test_gradients_pass_gradcheck():
    views = unit(3, 0).requires_grad_(), unit(3, 1).requires_grad_()
    assert gradcheck(lambda x, y: nt_xent(x, y, 0.5), views)


def test_the_second_view_is_the_positive_and_not_the_first_again(make_scene):
    scene = make_scene([1, 1, 1], [[0]], [[1], [0], [0]])
    same = replace(scene.embeddings, second=scene.embeddings.visual.clone())
    turned = replace(scene.embeddings, second=scene.embeddings.visual.roll(1, 0))
    objective = Views()
    right = objective(replace(scene, embeddings=same))
    wrong = objective(replace(scene, embeddings=turned))
    assert right < wrong


def test_the_second_view_has_a_gradient(make_scene):
    scene = make_scene([1, 1], [[0]], [[1], [0]])
    second = scene.embeddings.second.clone().requires_grad_()
    Views()(replace(scene, embeddings=replace(scene.embeddings, second=second))).backward()
    assert second.grad.abs().max() > 0


def test_the_order_of_samples_and_of_views_does_not_matter():
    first, second, order = unit(4, 2), unit(4, 3), torch.tensor([2, 0, 3, 1])
    loss = nt_xent(first, second, 0.1)
    assert torch.allclose(loss, nt_xent(first[order], second[order], 0.1))
    assert torch.allclose(loss, nt_xent(second, first, 0.1))


def test_equal_vectors_give_the_chance_level():
    same = torch.ones(4, 2, dtype=torch.float64) / math.sqrt(2)
    assert nt_xent(same, same, 0.1).item() == pytest.approx(math.log(7))


def test_a_batch_of_one_is_zero():
    first = unit(1, 0).requires_grad_()
    loss = nt_xent(first, unit(1, 1), 0.1)
    loss.backward()
    assert loss.item() == 0
    assert first.grad.abs().max() == 0


def test_a_tiny_temperature_stays_finite():
    first = unit(4, 0).float().requires_grad_()
    loss = nt_xent(first, unit(4, 1).float(), 1e-6)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(first.grad).all()


def test_without_second_views_the_loss_is_zero(make_scene):
    scene = make_scene([1, 1], [[0]], [[1], [0]])
    assert Views()(replace(scene, embeddings=replace(scene.embeddings, second=None))).item() == 0
