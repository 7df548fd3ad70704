from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medvlp.batch import QuestionRole
from medvlp.losses.concepts.config import PrototypesConfig
from medvlp.losses.concepts.prototypes import (
    Prototypes,
    draw_negatives,
    prototype_nce,
    prototype_products,
    query_vectors,
)

S, R = 3, 4
ROWS = [(QuestionRole.NAME, c) for c in range(S)] + [(QuestionRole.REGION, r) for r in range(R)]
ALL = {"negatives": None}
fixtures = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture
def scene_of(make_scene):
    def make(relations, seed=0, asked=ROWS):
        b = len(relations)
        return make_scene(
            [1] * b, [[0] * 3 * S], [[0]] * b, relations=relations, asked=asked, seed=seed, dim=5
        )

    return make


def tables():
    row = st.lists(st.sampled_from([-1, 0, 1, 2]), min_size=R, max_size=R)
    return st.lists(st.lists(row, min_size=S, max_size=S), min_size=1, max_size=3)


def random_table(b, *, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(-1, 3, (b, S, R), generator=draw).tolist()


def length(x):
    return math.sqrt(sum(v * v for v in x))


def dot(x, y):
    return sum(a * b for a, b in zip(x, y, strict=True))


def naive_direction(words, vectors, table, *, absent, published, temperature=0.1):
    """Prototype by prototype, as a vector; negatives one after the other."""
    costs = []
    for sample, rows in zip(words.tolist(), table, strict=True):
        for z, row in zip(sample, rows, strict=True):
            members = [t for t, value in zip(vectors.tolist(), row, strict=True) if value == 1]
            others = [t for t, value in zip(vectors.tolist(), row, strict=True) if value in absent]
            if not members or not others:
                continue
            centre = [sum(values) / len(members) for values in zip(*members, strict=True)]
            products = [dot(z, t) for t in (centre, *others)]
            if not published:
                sizes = [length(z) * length(t) * temperature for t in (centre, *others)]
                products = [p / size for p, size in zip(products, sizes, strict=True)]
            top = max(products)
            mass = sum(math.exp(p - top) for p in products)
            costs.append(top + math.log(mass) - products[0])
    return sum(costs) / len(costs) if costs else 0.0


def naive(scene, relations, **options):
    mirrored = [[list(column) for column in zip(*rows, strict=True)] for rows in relations]
    names, regions = scene.questions[:S], scene.questions[S:]
    return naive_direction(
        scene.streams.concept_words, regions, relations, **options
    ) + naive_direction(scene.streams.region_words, names, mirrored, **options)


@fixtures
@given(
    relations=tables(),
    unknown=st.sampled_from(["ignored", "negative"]),
    uncertain=st.sampled_from(["ignored", "negative"]),
    published=st.booleans(),
    seed=st.integers(0, 9),
)
def test_the_loss_equals_the_naive_loop(scene_of, relations, unknown, uncertain, published, seed):
    scene = scene_of(relations, seed)
    absent = [
        -1,
        *([0] if unknown == "negative" else []),
        *([2] if uncertain == "negative" else []),
    ]
    objective = Prototypes(
        negatives=None, unknown=unknown, uncertain=uncertain, published=published
    ).double()
    expected = naive(scene, relations, absent=absent, published=published)
    assert objective(scene).item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("published", [False, True])
def test_the_loss_passes_gradcheck(scene_of, published):
    scene = scene_of(random_table(2))
    objective = Prototypes(published=published, **ALL).double()

    def loss(words, regions, questions):
        streams = scene.streams._replace(concept_words=words, region_words=regions)
        return objective(replace(scene, streams=streams, questions=questions))

    inputs = (scene.streams.concept_words, scene.streams.region_words, scene.questions)
    inputs = tuple(x.clone().requires_grad_() for x in inputs)
    assert torch.autograd.gradcheck(loss, inputs)


@pytest.mark.parametrize("unit", [False, True])
def test_the_product_with_a_mean_is_the_mean_of_the_products(unit):
    draw = torch.Generator().manual_seed(0)
    words = torch.randn(3, S, 6, generator=draw, dtype=torch.float64)
    vectors = torch.nn.functional.normalize(
        torch.randn(R, 6, generator=draw, dtype=torch.float64), dim=-1
    )
    members = torch.rand(3, S, R, generator=draw) < 0.5
    own, products = prototype_products(words, vectors, members, unit=unit)
    for i in range(3):
        for s in range(S):
            if not members[i, s].any():
                assert own[i, s].item() == 0
                continue
            z, centre = words[i, s], vectors[members[i, s]].mean(0)
            by = (lambda x, y: torch.cosine_similarity(x, y, dim=0)) if unit else torch.dot
            assert own[i, s].item() == pytest.approx(by(z, centre).item(), abs=1e-9)
            assert products[i, s, 1].item() == pytest.approx(by(z, vectors[1]).item(), abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(count=st.integers(1, 6), size=st.integers(1, 6), seed=st.integers(0, 999))
def test_negatives_are_drawn_without_replacement_from_the_candidates(count, size, seed):
    torch.manual_seed(seed)
    candidates = torch.rand(4, 3, size) < 0.5
    drawn = draw_negatives(candidates, count)
    assert not (drawn & ~candidates).any()
    assert torch.equal(drawn.sum(-1), candidates.sum(-1).clamp(max=count))


def test_all_negatives_are_drawn_equally_often_and_by_the_seed():
    candidates = torch.tensor([True, False, True, True]).expand(3000, 1, 4)
    torch.manual_seed(0)
    drawn = draw_negatives(candidates, 1)
    share = drawn.double().mean((0, 1))
    assert share.tolist() == pytest.approx([1 / 3, 0, 1 / 3, 1 / 3], abs=0.04)
    torch.manual_seed(0)
    assert torch.equal(draw_negatives(candidates, 1), drawn)
    assert torch.equal(draw_negatives(candidates, None), candidates)


def test_the_seed_of_a_step_decides_the_loss(scene_of):
    scene, objective = scene_of(random_table(3)), Prototypes(negatives=1).double()
    values = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        values.append(objective(scene).item())
    assert values[0] == values[1] != values[2]


TABLE = [[[1, 0, -1, 2], [0, 0, 0, 0], [1, 1, 0, -1]]]


@pytest.mark.parametrize(
    ("unknown", "uncertain", "pushed"),
    [("negative", "ignored", [True, True, False]), ("ignored", "ignored", [False, True, False]),
     ("negative", "negative", [True, True, True])],
)  # fmt: skip
def test_what_is_a_negative(scene_of, unknown, uncertain, pushed):
    scene = scene_of([[TABLE[0][0], [0] * 4, [0] * 4]])
    questions = scene.questions.clone().requires_grad_()
    objective = Prototypes(negatives=None, unknown=unknown, uncertain=uncertain, published=True)
    own = replace(
        scene,
        questions=questions,
        streams=scene.streams._replace(region_words=torch.zeros_like(scene.streams.region_words)),
    )
    objective(own).backward()
    # Regions 1, 2 and 3 are unmentioned, absent and uncertain.
    assert (questions.grad[S + 1 :].abs().sum(1) > 1e-12).tolist() == pushed


def test_an_output_that_was_not_found_takes_no_part(scene_of):
    scene = scene_of(TABLE)
    words = scene.streams.concept_words.clone().requires_grad_()
    streams = scene.streams._replace(concept_words=words)
    Prototypes(**ALL).double()(replace(scene, streams=streams)).backward()
    assert (words.grad[0].abs().sum(1) > 0).tolist() == [True, False, True]


def test_an_output_is_pulled_to_its_prototype_whatever_its_length(scene_of):
    scene = scene_of(TABLE)
    objective = Prototypes(**ALL).double()
    centre = scene.questions[S : S + 2].sum(0)
    toward = scene.streams.concept_words.clone()
    toward[0, 2] = centre
    away = toward.clone()
    away[0, 2] = -centre
    losses = [
        objective(replace(scene, streams=scene.streams._replace(concept_words=w))).item()
        for w in (toward, 100 * toward, away)
    ]
    assert losses[0] == pytest.approx(losses[1], abs=1e-9)
    assert losses[0] < losses[2]


@pytest.mark.parametrize(
    "relations",
    [[[[0] * R] * S] * 2, [[[-1] * R] * S] * 2, [[[2] * R] * S] * 2, [[[1] * R] * S] * 2],
)
@pytest.mark.parametrize("published", [False, True])
def test_without_a_prototype_or_a_negative_the_loss_and_gradient_are_zero(
    scene_of, relations, published
):
    scene = scene_of(relations)
    words = scene.streams.concept_words.clone().requires_grad_()
    streams = scene.streams._replace(concept_words=words)
    loss = Prototypes(published=published).double()(replace(scene, streams=streams))
    loss.backward()
    assert loss.item() == 0
    assert words.grad.abs().max() == 0


def test_without_streams_or_a_role_the_loss_is_zero(make_scene, scene_of):
    assert Prototypes()(make_scene([1, 1], [[0]], [[0], [0]])).item() == 0
    only_names = [(QuestionRole.NAME, c) for c in range(S)]
    scene = make_scene([1, 1], [[0] * 9], [[0], [0]], asked=only_names, dim=5)
    assert scene.batch.asked.relations.shape == (2, S, 0)
    assert Prototypes().double()(scene).item() == 0


@pytest.mark.parametrize("published", [False, True])
@pytest.mark.parametrize("value", [1, 0])
def test_a_region_without_a_text_takes_no_part(scene_of, value, published):
    # Region 2 is in the table and has no text: it makes no prototype and is no negative.
    asked = [row for row in ROWS if row != (QuestionRole.REGION, 2)]
    scene = scene_of([[[1, 0, value, -1]] + [[0] * R] * (S - 1)], asked=asked)
    streams = scene.streams._replace(region_words=torch.zeros_like(scene.streams.region_words))
    got = Prototypes(published=published, **ALL).double()(replace(scene, streams=streams)).item()
    expected = naive_direction(
        scene.streams.concept_words,
        scene.questions[S:],
        [[[1, 0, -1]] + [[0] * 3] * (S - 1)],
        absent=[-1, 0],
        published=published,
    )
    # In the other direction, outputs without length have the same product with all S concepts.
    assert got == pytest.approx(expected + math.log(S), abs=1e-6)


def test_several_texts_of_a_subject_are_one_vector():
    vectors = torch.eye(3, dtype=torch.float64)
    mean, there = query_vectors(vectors, torch.tensor([0, 0, 2]), 4)
    assert torch.allclose(mean[0], torch.tensor([0.5, 0.5, 0]).double().sqrt())
    assert torch.equal(mean[2], vectors[2])
    assert there.tolist() == [True, False, True, False]


def test_regions_that_cancel_out_are_finite():
    vectors = torch.tensor([[1.0, 0], [-1.0, 0], [0, 1.0]], requires_grad=True)
    words = torch.tensor([[[1.0, 1.0]], [[0.0, 0.0]]], requires_grad=True)
    members = torch.tensor([True, True, False]).expand(2, 1, 3)
    own, products = prototype_products(words, vectors, members, unit=True)
    prototype_nce(10 * own, 10 * products, members, ~members).backward()
    assert vectors.grad.isfinite().all()
    assert words.grad.isfinite().all()


def test_permuted_samples_give_the_same_loss(scene_of):
    table = random_table(3)
    scene, order = scene_of(table), [2, 0, 1]
    moved = replace(
        scene_of([table[i] for i in order]),
        questions=scene.questions,
        streams=type(scene.streams)(*(x if x is None else x[order] for x in scene.streams)),
    )
    objective = Prototypes(**ALL).double()
    assert objective(moved).item() == pytest.approx(objective(scene).item(), abs=1e-12)


def test_huge_products_are_finite(scene_of):
    scene = scene_of(random_table(2))
    words = (1e8 * scene.streams.concept_words).requires_grad_()
    loss = Prototypes(published=True)(
        replace(scene, streams=scene.streams._replace(concept_words=words))
    )
    loss.backward()
    assert loss.isfinite()
    assert words.grad.isfinite().all()


def test_the_table_of_relations_is_not_edited(scene_of):
    scene = scene_of(random_table(2))
    before = scene.batch.asked.relations.clone()
    Prototypes().double()(scene)
    assert torch.equal(scene.batch.asked.relations, before)


def test_nothing_as_large_as_a_vector_a_pair_is_built():
    # The published code holds a [b, s, r, e] tensor; ours holds nothing beyond [b, s, r] but its
    # input. See benchmarks/prototypes.py for bytes.
    from torch.utils._python_dispatch import TorchDispatchMode

    b, s, r, e = 3, 5, 7, 64
    largest = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            for value in out if isinstance(out, tuple | list) else (out,):
                if isinstance(value, torch.Tensor):
                    largest.append(value.numel())
            return out

    members = torch.rand(b, s, r, generator=torch.Generator().manual_seed(0)) < 0.5
    with Watch():
        prototype_products(torch.ones(b, s, e), torch.ones(r, e), members, unit=True)
    assert max(largest) <= b * s * e


def test_only_a_temperature_that_is_used_is_learned():
    assert not list(Prototypes(published=True).parameters())
    assert len(list(Prototypes().parameters())) == 1


def test_the_config_holds_the_arguments():
    options = PrototypesConfig(negatives=None).model_dump(exclude={"kind", "weight", "name"})
    objective = Prototypes(**options)
    assert objective.negatives is None
    assert objective.absent == [-1, 0]
