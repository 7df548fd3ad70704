from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medvlp.batch import QuestionRole
from medvlp.losses.concepts.config import IntraImageConfig
from medvlp.losses.concepts.intra_image import IntraImage

S, R = 2, 3
ROWS = [(QuestionRole.NAME, c) for c in range(S)] + [(QuestionRole.REGION, r) for r in range(R)]


@pytest.fixture
def scene_of(make_scene):
    def make(relations, seed=0):
        b = len(relations)
        return make_scene(
            [1] * b, [[0] * 3 * S], [[0]] * b, relations=relations, asked=ROWS, seed=seed
        )

    return make


def tables(b=3):
    cell = st.sampled_from([-1, 0, 1, 2])
    row = st.lists(cell, min_size=R, max_size=R)
    return st.lists(st.lists(row, min_size=S, max_size=S), min_size=1, max_size=b)


def naive(scene, relations, uncertain):
    """Triple loop with probabilities, from the products of the two streams."""
    costs = []
    for i, rows in enumerate(relations):
        for c, row in enumerate(rows):
            for r, value in enumerate(row):
                target = {1: 1.0, -1: 0.0, 2: uncertain, 0: None}[value]
                if target is not None:
                    p = 1 / (1 + math.exp(-float(scene.streams.pair_logits[i, c, r])))
                    costs.append(-target * math.log(p) - (1 - target) * math.log(1 - p))
    return sum(costs) / len(costs) if costs else 0.0


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(relations=tables(), uncertain=st.sampled_from([None, 0.0, 0.3, 0.5]), seed=st.integers(0, 9))
def test_the_loss_equals_the_naive_loop(scene_of, relations, uncertain, seed):
    scene = scene_of(relations, seed)
    got = IntraImage(uncertain=uncertain)(scene)
    assert got.item() == pytest.approx(naive(scene, relations, uncertain), abs=1e-6)


TABLE = [[[1, -1, 2], [0, 1, -1]], [[2, 0, 0], [-1, -1, 1]]]


def with_pairs(scene, pairs):
    return replace(scene, streams=scene.streams._replace(pair_logits=pairs))


@pytest.mark.parametrize("balanced", [False, True])
def test_the_loss_passes_gradcheck(scene_of, balanced):
    scene = scene_of(TABLE)
    pairs = scene.streams.pair_logits.clone().requires_grad_()
    objective = IntraImage(balanced=balanced)
    assert torch.autograd.gradcheck(lambda x: objective(with_pairs(scene, x)), (pairs,))


def test_the_table_of_relations_is_not_edited(scene_of):
    # The published loss turns unmentioned into absent in the labels themselves.
    scene = scene_of(TABLE)
    before = scene.batch.asked.relations.clone()
    first = IntraImage()(scene)
    assert torch.equal(scene.batch.asked.relations, before)
    assert torch.equal(IntraImage()(scene), first)


def test_only_what_is_mentioned_gets_a_gradient(scene_of):
    scene = scene_of(TABLE)
    for uncertain in (0.3, None):
        pairs = scene.streams.pair_logits.clone().requires_grad_()
        IntraImage(uncertain=uncertain)(with_pairs(scene, pairs)).backward()
        table = torch.tensor(TABLE)
        moved = (table == 1) | (table == -1) | ((table == 2) & (uncertain is not None))
        assert torch.equal(pairs.grad != 0, moved)
        assert (pairs.grad[table == 1] < 0).all()
        assert (pairs.grad[table == -1] > 0).all()


def test_presence_and_absence_can_count_the_same(scene_of):
    # Five absent pairs and one present one, at logits of 0.
    scene = scene_of([[[1, -1, -1], [-1, -1, -1]]])
    pairs = torch.zeros(1, S, R, dtype=torch.float64, requires_grad=True)
    IntraImage(balanced=True)(with_pairs(scene, pairs)).backward()
    assert pairs.grad.sum().item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("balanced", [False, True])
def test_nothing_mentioned_gives_zero_and_no_gradient(scene_of, balanced):
    scene = scene_of([[[0] * R] * S] * 2)
    pairs = scene.streams.pair_logits.clone().requires_grad_()
    loss = IntraImage(balanced=balanced)(with_pairs(scene, pairs))
    loss.backward()
    assert loss.item() == 0
    assert pairs.grad.abs().max() == 0


def test_without_streams_or_regions_the_loss_is_zero(make_scene):
    assert IntraImage()(make_scene([1, 1], [[0]], [[0], [0]])).item() == 0
    asked = [(QuestionRole.NAME, 0)]
    scene = make_scene([1, 1], [[0, 0, 0]], [[0], [0]], asked=asked)
    assert scene.batch.asked.relations.shape == (2, 1, 0)
    assert IntraImage()(scene).item() == 0


def test_permuted_samples_give_the_same_loss(scene_of):
    plain, turned = scene_of(TABLE), scene_of(TABLE[::-1])
    turned = with_pairs(turned, plain.streams.pair_logits.flip(0))
    assert IntraImage()(turned).item() == pytest.approx(IntraImage()(plain).item(), abs=1e-12)


def test_huge_logits_are_finite(scene_of):
    scene = scene_of(TABLE)
    pairs = (1e6 * scene.streams.pair_logits).requires_grad_()
    loss = IntraImage()(with_pairs(scene, pairs))
    loss.backward()
    assert loss.isfinite()
    assert pairs.grad.isfinite().all()


def test_the_config_holds_the_arguments():
    options = IntraImageConfig(uncertain=None).model_dump(exclude={"kind", "weight", "name"})
    objective = IntraImage(**options)
    assert objective.uncertain is None
    assert not objective.balanced
