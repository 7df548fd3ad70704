from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medvlp.batch import TextRole
from medvlp.losses.video.order import (
    ProcedureOrder,
    cost_over_frames,
    cost_over_texts,
    floor_hinge,
    margin_hinge,
    reversed_columns,
)
from medvlp.losses.video.soft_dtw import soft_dtw

relaxed = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def softmin(values, gamma, variant) -> float:
    low = min(values)
    weights = [math.exp(-(v - low) / gamma) for v in values]
    if variant == "paper":
        return low - gamma * math.log(sum(weights))
    return sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights)


def distance(cost, gamma, variant) -> float:
    table = {}
    for i, row in enumerate(cost):
        for j, value in enumerate(row):
            ways = [table[at] for at in ((i, j - 1), (i - 1, j - 1), (i - 1, j)) if at in table]
            table[i, j] = value + (softmin(ways, gamma, variant) if ways else 0.0)
    return table[len(cost) - 1, len(cost[0]) - 1]


def costs(frames, texts, keys, variant):
    """-log of the share of each text among distinct texts, or of each frame among frames."""
    weight = [
        [math.exp(sum(a * c for a, c in zip(f, t, strict=True)) / 0.1) for t in texts]
        for f in frames
    ]
    if variant == "paper":
        first = [keys.index(k) for k in sorted(set(keys))]
        return [[-math.log(w / sum(row[j] for j in first)) for w in row] for row in weight]
    totals = [sum(column) for column in zip(*weight, strict=True)]
    return [[-math.log(w / t) for w, t in zip(row, totals, strict=True)] for row in weight]


def naive(scene, texts_of, variant, hinge="floor") -> float:
    offsets, key = scene.batch.offsets.tolist(), scene.batch.text_key.tolist()
    losses = []
    for i in range(len(scene.batch)):
        children = texts_of(scene, i, TextRole.CHILD)
        frames = scene.embeddings.frames[offsets[i] : offsets[i + 1]].tolist()
        if len(frames) < 2 or len(children) < 2:
            continue
        texts = [scene.embeddings.text[j].tolist() for j in children]
        cost = costs(frames, texts, [key[j] for j in children], variant)
        forth = distance(cost, 0.1, variant)
        back = distance([row[::-1] for row in cost], 0.1, variant)
        if variant == "code":
            losses.append(0.01 * forth + 0.5 * max(0.01 * forth - 0.01 * back, 0))
        elif hinge == "floor":
            losses.append(max(forth - back, 0.1))
        else:
            losses.append(max(forth - back + 0.1, 0))
    return sum(losses) / len(losses) if losses else 0.0


VARIANTS = [("paper", "floor"), ("paper", "margin"), ("code", "floor")]


@relaxed
@given(seed=st.integers(0, 10_000), choice=st.sampled_from(VARIANTS))
def test_both_variants_equal_the_double_loop(lecture, texts_of, seed, choice):
    scene = lecture(seed, keys=4)
    variant, hinge = choice
    loss = ProcedureOrder(variant=variant, hinge=hinge)(scene).item()
    assert loss == pytest.approx(naive(scene, texts_of, variant, hinge), abs=1e-6)


def planted(lecture, with_vectors, steps=5, seed=0, backwards=False):
    """Two frames a step; each looks like its text."""
    scene = lecture(seed, [(2 * steps, 1, steps, 0), (1, 1, 1, 0)], dim=16)
    child = [j for j, r in enumerate(scene.batch.text_role.tolist()) if r == TextRole.CHILD][:steps]
    shown = scene.embeddings.text[child].repeat_interleave(2, 0)
    frames = scene.embeddings.frames.clone()
    frames[: 2 * steps] = shown.flip(0) if backwards else shown
    return with_vectors(scene, frames=frames)


@pytest.mark.parametrize("variant", ["paper", "code"])
def test_the_reversed_order_costs_more_on_a_planted_sequence(lecture, with_vectors, variant):
    objective = ProcedureOrder(variant=variant, hinge="margin")
    for seed in range(5):
        right = objective(planted(lecture, with_vectors, seed=seed))
        wrong = objective(planted(lecture, with_vectors, seed=seed, backwards=True))
        assert wrong > right
    scene = planted(lecture, with_vectors)
    text = scene.embeddings.text[scene.batch.text_role == TextRole.CHILD][:5]
    cosines = (scene.embeddings.frames[:10] @ text.T)[None]
    cost = cost_over_frames(cosines, torch.ones(1, 10, dtype=torch.bool), 0.1)
    lengths = torch.tensor([10]), torch.tensor([5])
    forth = soft_dtw(cost, *lengths, gamma=0.1)
    back = soft_dtw(reversed_columns(cost, lengths[1]), *lengths, gamma=0.1)
    assert back > 2 * forth


def test_the_hinge_as_written_is_no_margin():
    """A known fault of the formula: a wrong order within phi has no gradient."""
    lead = torch.tensor([-1.0, 0.05, 0.2], requires_grad=True)
    floor_hinge(lead, 0.1).sum().backward()
    assert lead.grad.tolist() == [0, 0, 1]
    assert floor_hinge(lead, 0.1).min().item() == pytest.approx(0.1)
    lead.grad = None
    margin_hinge(lead, 0.1).sum().backward()
    assert lead.grad.tolist() == [0, 1, 1]
    assert margin_hinge(lead, 0.1).min().item() == 0


@pytest.mark.parametrize(("variant", "hinge"), VARIANTS)
def test_gradients_pass_gradcheck(lecture, with_vectors, variant, hinge):
    scene = lecture(4, [(3, 1, 2, 0), (2, 0, 2, 0), (1, 1, 2, 0)], dim=3)
    objective = ProcedureOrder(variant=variant, hinge=hinge, margin=0.03)

    def loss(frames, text):
        return objective(with_vectors(scene, frames=frames, text=text))

    leaves = (
        scene.embeddings.frames.clone().requires_grad_(),
        scene.embeddings.text.clone().requires_grad_(),
    )
    assert torch.autograd.gradcheck(loss, leaves)


@pytest.mark.parametrize("variant", ["paper", "code"])
def test_the_order_of_the_batch_and_its_padding_do_not_matter(lecture, reorder, variant):
    scene = lecture(5, [(4, 1, 3, 0), (2, 0, 2, 1), (3, 1, 1, 0), (2, 1, 5, 0)], keys=9)
    objective = ProcedureOrder(variant=variant, hinge="margin")
    loss = objective(scene)
    assert torch.allclose(loss, objective(reorder(scene, [3, 1, 0, 2])))
    alone = [objective(reorder(scene, [i])) for i in (0, 1, 3)]
    assert torch.allclose(loss, torch.stack(alone).mean())


def test_reversing_keeps_padding_last_and_is_its_own_inverse():
    cost = torch.arange(8.0).reshape(2, 1, 4)
    columns = torch.tensor([4, 2])
    assert reversed_columns(cost, columns).tolist() == [[[3, 2, 1, 0]], [[5, 4, 6, 7]]]
    assert torch.equal(reversed_columns(reversed_columns(cost, columns), columns), cost)


def test_identical_texts_are_one_answer():
    cosines = torch.zeros(1, 1, 3, dtype=torch.float64)
    texts = torch.ones(1, 3, dtype=torch.bool)
    copies = torch.tensor([[2.0, 2, 1]], dtype=torch.float64)
    assert cost_over_texts(cosines, texts, copies, 0.1).flatten().tolist() == pytest.approx(
        [math.log(2)] * 3
    )


def test_identical_steps_have_no_order(lecture, with_vectors):
    scene = lecture(6, [(3, 1, 3, 0)])
    text = scene.embeddings.text.clone()
    text[1:] = text[1]
    key = scene.batch.text_key.clone()
    key[1:] = key[1]
    scene = with_vectors(replace(scene, batch=replace(scene.batch, text_key=key)), text=text)
    loss = ProcedureOrder(hinge="margin")(scene)
    assert loss.item() == pytest.approx(0.1, abs=1e-9)


@pytest.mark.parametrize("samples", [[(1, 1, 3, 0)], [(3, 1, 1, 0), (2, 1, 0, 2)]])
def test_without_two_frames_and_two_texts_loss_and_gradient_are_zero(
    lecture, with_vectors, samples
):
    scene = lecture(7, samples)
    frames = scene.embeddings.frames.clone().requires_grad_()
    text = scene.embeddings.text.clone().requires_grad_()
    loss = ProcedureOrder()(with_vectors(scene, frames=frames, text=text))
    loss.backward()
    assert loss.item() == 0
    assert frames.grad.abs().max() == 0
    assert text.grad.abs().max() == 0


@pytest.mark.parametrize("variant", ["paper", "code"])
def test_huge_logits_stay_finite(lecture, with_vectors, variant):
    scene = lecture(8, [(4, 1, 3, 0), (2, 1, 2, 0)])
    frames = scene.embeddings.frames.clone().requires_grad_()
    objective = ProcedureOrder(variant=variant, temperature=1e-5, hinge="margin")
    loss = objective(with_vectors(scene, frames=frames))
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(frames.grad).all()


def test_it_asks_for_frames():
    assert ProcedureOrder().needs == {"frames"}
