from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medvlp.batch import QuestionRole
from medvlp.losses.concepts.config import StreamExistenceConfig
from medvlp.losses.concepts.patch_text import balanced_sigmoid_loss
from medvlp.losses.concepts.stream_existence import (
    SoftTarget,
    StreamExistence,
    concept_targets,
    region_targets,
    relation_targets,
    soft_sigmoid_loss,
)

B, S, R = 3, 2, 3
ROWS = [(QuestionRole.NAME, c) for c in range(S)] + [(QuestionRole.REGION, r) for r in range(R)]


def random(b=B, *, seed=0):
    generator = torch.Generator().manual_seed(seed)
    stated = torch.zeros(b, 3 * S, dtype=torch.long)
    stated[:, ::3] = torch.randint(-1, 2, (b, S), generator=generator)
    return stated.tolist(), torch.randint(-1, 3, (b, S, R), generator=generator).tolist()


@pytest.fixture
def scene_of(make_scene):
    def make(stated, relations, seed=0):
        b = len(stated)
        return make_scene(
            [1] * b, [[0] * 3 * S], [[0]] * b, stated=stated, relations=relations, asked=ROWS,
            seed=seed,
        )  # fmt: skip

    return make


def cost(logit, target):
    """-t log p - (1 - t) log(1 - p)."""
    p = 1 / (1 + math.exp(-logit))
    return -target * math.log(p) - (1 - target) * math.log(1 - p)


def naive_loss(pairs, balanced):
    """Of (logit, target) pairs, unknown ones left out."""
    if not pairs:
        return 0.0
    if not balanced:
        return sum(cost(*pair) for pair in pairs) / len(pairs)
    sides = []
    for side in (1, 0):
        weights = [t if side else 1 - t for _, t in pairs]
        if sum(weights) > 0:
            total = sum(w * cost(s, side) for w, (s, _) in zip(weights, pairs, strict=True))
            sides.append(total / max(1, sum(weights)))
    return sum(sides) / len(sides)


def naive(scene, *, balanced, uncertain, pairs):
    """Triple loop over what is said of visuals, concepts and regions."""
    soft = {1: 1.0, -1: 0.0}
    if uncertain is not None:
        soft[2] = uncertain
    table = scene.batch.asked.relations.tolist()
    concepts, regions, both = [], [], []
    for i, rows in enumerate(table):
        for c, row in enumerate(rows):
            said = int(scene.batch.stated[i, 3 * c])
            if said == 0 and 2 in row and 1 not in row:
                said = 2
            if said in soft:
                concepts.append((float(scene.streams.concept_logits[i, c]), soft[said]))
            both += [
                (float(scene.streams.pair_logits[i, c, r]), soft[value])
                for r, value in enumerate(row)
                if value in soft
            ]
        for r in range(R):
            column = [row[r] for row in rows]
            said = next((value for value in (1, 2, -1) if value in column), 0)
            if said in soft:
                regions.append((float(scene.streams.region_logits[i, r]), soft[said]))
    parts = [concepts, regions, *([both] if pairs else [])]
    return sum(naive_loss(part, balanced) for part in parts)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    seed=st.integers(0, 999),
    balanced=st.booleans(),
    uncertain=st.sampled_from([None, 0.0, 0.3, 0.5, 1.0]),
    pairs=st.booleans(),
)
def test_the_loss_equals_the_naive_loop(scene_of, seed, balanced, uncertain, pairs):
    scene = scene_of(*random(seed=seed), seed=seed)
    options = {"balanced": balanced, "uncertain": uncertain, "pairs": pairs}
    got = StreamExistence(**options)(scene)
    assert got.item() == pytest.approx(naive(scene, **options), abs=1e-6)


def test_with_hard_targets_it_is_the_balanced_sigmoid_loss():
    logits = torch.randn(4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    said = torch.randint(-1, 2, (4, 5), generator=torch.Generator().manual_seed(1))
    got = soft_sigmoid_loss(logits, relation_targets(said, None), balanced=True)
    assert got.item() == pytest.approx(
        balanced_sigmoid_loss(logits, said == 1, said == -1).item(), abs=1e-12
    )


@pytest.mark.parametrize("balanced", [False, True])
def test_the_loss_passes_gradcheck(balanced):
    logits = torch.randn(
        2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    ).requires_grad_()
    target = relation_targets(torch.tensor([[1, -1, 2, 0], [2, 0, 1, -1]]), 0.3)
    assert torch.autograd.gradcheck(
        lambda x: soft_sigmoid_loss(x, target, balanced=balanced), (logits,)
    )


@pytest.mark.parametrize("balanced", [False, True])
def test_a_lone_soft_target_is_where_the_loss_is_least(balanced):
    target = SoftTarget(torch.tensor([0.3]), torch.tensor([True]))
    logit = torch.tensor([math.log(0.3 / 0.7)], requires_grad=True)
    soft_sigmoid_loss(logit, target, balanced=balanced).backward()
    assert logit.grad.item() == pytest.approx(0, abs=1e-6)


def test_one_uncertain_finding_does_not_count_as_a_certain_one():
    logits = torch.zeros(9, requires_grad=True)
    said = torch.tensor([2] + 8 * [-1])
    soft_sigmoid_loss(logits, relation_targets(said, 0.25), balanced=True).backward()
    certain = torch.zeros(9, requires_grad=True)
    said = torch.tensor([1] + 8 * [-1])
    soft_sigmoid_loss(certain, relation_targets(said, 0.25), balanced=True).backward()
    assert abs(logits.grad[0]) < 0.3 * abs(certain.grad[0])


def test_concepts_are_uncertain_only_where_nothing_is_known():
    # One concept of three visuals: in doubt, in doubt but present elsewhere, in doubt but absent.
    relations = torch.tensor([[[2, 0]], [[2, 1]], [[2, -1]], [[0, -1]]], dtype=torch.int8)
    none = torch.zeros(4, 1, dtype=torch.bool)
    absent = torch.tensor([[False], [False], [True], [False]])
    target = concept_targets(none, absent, relations, 0.4)
    assert target.known[:, 0].tolist() == [True, False, True, False]
    assert target.value[:, 0].tolist() == pytest.approx([0.4, 0, 0, 0])
    ignored = concept_targets(none, absent, relations, None)
    assert ignored.known[:, 0].tolist() == [False, False, True, False]


@pytest.mark.parametrize(
    ("column", "value", "known"),
    [([1, -1], 1, True), ([1, 2], 1, True), ([-1, 0], 0, True), ([0, 0], 0, False),
     ([2, 0], 0.4, True), ([2, -1], 0.4, True)],
)  # fmt: skip
def test_a_region_is_what_the_strongest_says(column, value, known):
    relations = torch.tensor(column, dtype=torch.int8)[None, :, None]
    target = region_targets(relations, 0.4)
    assert target.known.tolist() == [[known]]
    assert target.value.item() == pytest.approx(value)


def test_a_region_in_doubt_is_not_called_clear():
    relations = torch.tensor([2, -1], dtype=torch.int8)[None, :, None]
    assert region_targets(relations, None).known.tolist() == [[False]]


def _moved(scene, **fields):
    return replace(scene, streams=scene.streams._replace(**fields))


@pytest.mark.parametrize("balanced", [False, True])
def test_nothing_mentioned_gives_zero_and_no_gradient(scene_of, balanced):
    scene = scene_of([[0] * 6] * 2, [[[0] * R] * S] * 2)
    logits = scene.streams.concept_logits.clone().requires_grad_()
    loss = StreamExistence(balanced=balanced, pairs=True, uncertain=0.5)(
        _moved(scene, concept_logits=logits)
    )
    loss.backward()
    assert loss.item() == 0
    assert logits.grad.abs().max() == 0


def test_without_streams_or_questions_the_loss_is_zero(make_scene):
    scene = make_scene([1, 1], [[0]], [[0], [0]])
    assert StreamExistence()(scene).item() == 0


def test_no_concept_gives_zero(make_scene):
    scene = make_scene([1, 1], [[0, 0, 0]], [[0], [0]], asked=[(QuestionRole.REGION, 0)])
    assert scene.batch.asked.relations.shape == (2, 0, 1)
    assert StreamExistence(pairs=True)(scene).item() == 0


def test_a_batch_of_one_and_permuted_samples(scene_of):
    stated, relations = random(seed=3)
    scene = scene_of(stated, relations)
    order = [2, 0, 1]
    moved = scene_of([stated[i] for i in order], [relations[i] for i in order])
    moved = replace(moved, streams=type(scene.streams)(*(
        None if value is None else value[order] for value in scene.streams
    )))  # fmt: skip
    objective = StreamExistence(pairs=True, uncertain=0.5)
    assert objective(moved).item() == pytest.approx(objective(scene).item(), abs=1e-12)
    alone = scene_of(stated[:1], relations[:1])
    expected = naive(alone, balanced=True, uncertain=0.5, pairs=True)
    assert objective(alone).item() == pytest.approx(expected, abs=1e-6)


def test_what_is_unknown_takes_no_part(scene_of):
    scene = scene_of([[1, 0, 0, 0, 0, 0]] * 2, [[[1, 0, 0], [0, 0, 0]]] * 2)
    concepts = scene.streams.concept_logits.clone().requires_grad_()
    regions = scene.streams.region_logits.clone().requires_grad_()
    StreamExistence()(_moved(scene, concept_logits=concepts, region_logits=regions)).backward()
    assert (concepts.grad != 0).tolist() == [[True, False]] * 2
    assert (regions.grad != 0).tolist() == [[True, False, False]] * 2
    assert (concepts.grad[:, 0] < 0).all()


def test_huge_logits_are_finite(scene_of):
    scene = scene_of(*random(seed=1))
    logits = (1e6 * scene.streams.concept_logits).requires_grad_()
    loss = StreamExistence(uncertain=0.5)(_moved(scene, concept_logits=logits))
    loss.backward()
    assert loss.isfinite()
    assert logits.grad.isfinite().all()


def test_the_table_of_relations_is_not_edited(scene_of):
    scene = scene_of(*random(seed=2))
    before, stated = scene.batch.asked.relations.clone(), scene.batch.stated.clone()
    StreamExistence(pairs=True, uncertain=0.5)(scene)
    assert torch.equal(scene.batch.asked.relations, before)
    assert torch.equal(scene.batch.stated, stated)


def test_the_config_holds_the_arguments():
    config = StreamExistenceConfig(uncertain=0.5)
    options = config.model_dump(exclude={"kind", "weight", "name"})
    assert StreamExistence(**options).uncertain == 0.5
    assert StreamExistence(**options).balanced
