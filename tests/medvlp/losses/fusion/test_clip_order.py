from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck

from medvlp.losses.fusion.clip_order import (
    ClipOrder,
    OrderHead,
    pairwise_order_loss,
    shuffled_places,
)


def random(*shape, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=draw, dtype=torch.float64)


def antisymmetric(*shape, seed=0):
    z = random(*shape, seed=seed)
    return z - z.transpose(1, 2)


def slow_loss(logits, position, mask):
    samples = []
    for k in range(len(logits)):
        terms = []
        for i in range(logits.shape[1]):
            for j in range(i + 1, logits.shape[1]):
                if not (mask[k][i] and mask[k][j]) or position[k][i] == position[k][j]:
                    continue
                sign = 1 if position[k][i] < position[k][j] else -1
                terms.append(math.log1p(math.exp(-sign * float(logits[k, i, j]))))
        if terms:
            samples.append(sum(terms) / len(terms))
    return sum(samples) / len(samples) if samples else 0.0


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 4), st.integers(1, 6), st.integers(0, 1000))
def test_the_loss_equals_the_naive_loop(k, f, seed):
    torch.manual_seed(seed)
    position, mask = torch.randint(0, 4, (k, f)).double(), torch.rand(k, f) < 0.7
    logits = random(k, f, f, seed=seed)
    got = pairwise_order_loss(logits, position, mask)
    wanted = slow_loss(logits, position.tolist(), mask.tolist())
    assert got.item() == pytest.approx(wanted, abs=1e-12)


def test_gradcheck():
    position, mask = torch.tensor([[2.0, 0, 1], [0, 0, 5]]).double(), torch.ones(2, 3).bool()
    z = random(2, 3, 3).requires_grad_()
    assert gradcheck(lambda x: pairwise_order_loss(x, position, mask), (z,))


def test_huge_logits_are_finite():
    z = (1e30 * antisymmetric(1, 3, 3)).requires_grad_()
    loss = pairwise_order_loss(z, torch.arange(3.0).double()[None], torch.ones(1, 3).bool())
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(z.grad).all()


def test_frames_at_one_position_have_no_order():
    z = random(1, 3, 3).requires_grad_()
    loss = pairwise_order_loss(z, torch.zeros(1, 3), torch.ones(1, 3).bool())
    loss.backward()
    assert loss.item() == 0
    assert (z.grad == 0).all()


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.permutations(range(5)))
def test_the_loss_of_an_antisymmetric_score_is_the_same_in_any_order(seed, order):
    z, position = antisymmetric(1, 5, 5, seed=seed), random(1, 5, seed=seed + 1)
    mask = torch.tensor([[True, True, True, True, False]])
    one = pairwise_order_loss(z, position, mask)
    other = pairwise_order_loss(z[:, order][:, :, order], position[:, order], mask[:, order])
    assert one.item() == pytest.approx(other.item(), abs=1e-12)


@torch.no_grad()
def test_the_head_is_antisymmetric_and_equivariant():
    torch.manual_seed(0)
    head = OrderHead(4, 8, 2, 2).double()
    frames, mask = random(2, 5, 4), torch.tensor([[1] * 5, [1, 1, 1, 0, 0]]).bool()
    z = head(frames, mask)
    assert torch.allclose(z, -z.transpose(1, 2))
    assert z.abs().max() > 0.01
    order = [3, 1, 4, 0, 2]
    other = head(frames[:, order], mask[:, order])
    assert torch.allclose(z[:, order][:, :, order], other, atol=1e-12)
    alone = head(frames[1:, :3], mask[1:, :3])
    assert torch.allclose(z[1:, :3, :3], alone, atol=1e-12)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=5), st.integers(0, 100))
def test_places_are_a_permutation_within_each_sample(lengths, seed):
    torch.manual_seed(seed)
    places = shuffled_places(torch.tensor([0, *lengths]).cumsum(0))
    start = 0
    for length in lengths:
        assert sorted(places[start : start + length].tolist()) == list(range(length))
        start += length


def test_every_place_is_drawn_equally_often():
    torch.manual_seed(0)
    offsets = torch.tensor([0, 1, 4])
    places = torch.stack([shuffled_places(offsets) for _ in range(2000)])
    share = torch.bincount(places[:, 2], minlength=3) / 2000
    assert torch.allclose(share, torch.full((3,), 1 / 3), atol=0.05)


def build(dtype=torch.float64) -> ClipOrder:
    torch.manual_seed(3)
    return ClipOrder(embed_dim=4, width=8, layers=1, heads=2).to(dtype)


@torch.no_grad()
def test_the_objective_does_not_depend_on_shuffle_padding_or_neighbours(make_scene):
    scene, objective = make_scene([3, 5, 2], [[0]], [[1], [0], [0]]), build()
    values = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        values.append(objective(scene).item())
    wanted = []
    for i in range(2):
        start, end = scene.batch.offsets[i : i + 2]
        frames = scene.embeddings.frames[start:end][None]
        mask = torch.ones(1, end - start, dtype=torch.bool)
        z = objective.head(frames, mask)
        wanted.append(slow_loss(z, [list(range(end - start))], mask.tolist()))
    assert values[0] == pytest.approx(sum(wanted) / 2, abs=1e-12)
    assert values[1] == pytest.approx(values[0], abs=1e-12)


def test_time_counts_and_not_the_order_in_the_batch(make_scene):
    scene, objective = make_scene([4], [[0]], [[1]]), build()
    e, batch = scene.embeddings, scene.batch
    frames, positions = replace(e, frames=e.frames.flip(0)), batch.positions.flip(0)
    both = replace(scene, embeddings=frames, batch=replace(batch, positions=positions))
    one = replace(scene, batch=replace(batch, positions=positions))
    assert objective(both).item() == pytest.approx(objective(scene).item(), abs=1e-12)
    assert objective(one).item() != pytest.approx(objective(scene).item(), abs=1e-6)


@pytest.mark.parametrize("lengths", [[1], [2, 2], [1, 2]])
def test_too_few_frames_give_zero_with_a_zero_gradient(make_scene, lengths):
    scene = make_scene(lengths, [[0]], [[1]] * len(lengths))
    frames = scene.embeddings.frames.clone().requires_grad_()
    scene = replace(scene, embeddings=replace(scene.embeddings, frames=frames))
    loss = build()(scene)
    loss.backward()
    assert loss.item() == 0
    assert (frames.grad == 0).all()


def test_order_is_learnt(make_scene):
    scene = make_scene([6, 6, 6], [[0]], [[1]] * 3)
    objective = build()
    time = scene.batch.positions.double() / 6
    frames = torch.cat([time[:, None], scene.embeddings.frames[:, 1:]], 1)
    scene = replace(scene, embeddings=replace(scene.embeddings, frames=frames))
    optimizer = torch.optim.Adam(objective.parameters(), lr=1e-2)
    for step in range(40):
        torch.manual_seed(step)
        loss = objective(scene)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.3
