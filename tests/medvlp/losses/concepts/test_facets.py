from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck

from medvlp.batch import QuestionRole
from medvlp.losses.concepts.config import FacetContrastConfig
from medvlp.losses.concepts.facets import FacetContrast, FacetProjection, SharedProjection

FACET, NAME = int(QuestionRole.FACET), int(QuestionRole.NAME)


def _scene(make_scene, stated, facets, *, seed=0, dim=4):
    """Visuals of which `stated` is known, asked for facets: the concept of each."""
    concepts = len(stated[0]) // 3
    rows = [(NAME, c) for c in range(concepts)] + [(FACET, c) for c in facets]
    return make_scene([1] * len(stated), [[0] * 3 * concepts], [[0]] * len(stated), stated=stated,
                      asked=rows, seed=seed, dim=dim)  # fmt: skip


def _objective(projection, seed=0, dim=4, **more):
    """With random weights, so that no part is at its start."""
    torch.manual_seed(seed)
    objective = FacetContrast(dim=dim, projection=projection, width=3, **more).double()
    for name, parameter in objective.named_parameters():
        if name.startswith("projection"):
            torch.nn.init.normal_(parameter, std=0.7)
    return objective


def _cosine(projection, v, u):
    if projection is None:
        return sum(a * b for a, b in zip(v, u, strict=True))
    if isinstance(projection, SharedProjection):
        rows = projection.out.weight.tolist()
        z = [sum(w * x for w, x in zip(row, v, strict=True)) for row in rows]
    else:
        hidden = []
        weights = zip(projection.of_visual.weight.tolist(), projection.of_facet.weight.tolist(),
                      projection.of_facet.bias.tolist(), strict=True)  # fmt: skip
        for of_visual, of_facet, bias in weights:
            products = zip([*of_visual, *of_facet], [*v, *u], strict=True)
            hidden.append(max(0.0, bias + sum(w * x for w, x in products)))
        rows = projection.out.weight.tolist()
        z = [
            x + sum(w * h for w, h in zip(row, hidden, strict=True))
            for x, row in zip(v, rows, strict=True)
        ]
    return sum(a * b for a, b in zip(z, u, strict=True)) / math.sqrt(sum(x * x for x in z))


def naive(objective, scene, facets):
    """Loops over visuals and facets."""
    sides = {1: [], -1: []}
    questions = scene.questions[-len(facets) :].tolist() if facets else []
    for i, v in enumerate(scene.embeddings.visual.tolist()):
        for concept, u in zip(facets, questions, strict=True):
            known = int(scene.batch.stated[i, 3 * concept])
            if known:
                cosine = _cosine(objective.projection, v, u)
                logit = objective.scale().item() * cosine - objective.bias.item()
                sides[known].append(math.log1p(math.exp(-known * logit)))
    parts = [sum(side) / len(side) for side in sides.values() if side]
    return sum(parts) / len(parts) if parts else 0.0


fast = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@fast
@given(seed=st.integers(0, 10_000), projection=st.sampled_from(["facet", "shared", "none"]))
def test_the_loss_equals_the_naive_loop(make_scene, seed, projection):
    draw = random.Random(seed)
    stated = [[draw.choice([-1, 0, 1]) for _ in range(9)] for _ in range(draw.randint(1, 4))]
    facets = sorted(draw.randrange(3) for _ in range(draw.randint(0, 5)))
    scene = _scene(make_scene, stated, facets, seed=seed)
    objective = _objective(projection, seed, bias=0.4)
    expected = naive(objective, scene, facets)
    assert objective(scene).item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("projection", ["facet", "shared", "none"])
def test_the_loss_passes_gradcheck(make_scene, projection):
    scene = _scene(make_scene, [[1, 0, 0, -1, 0, 0], [-1, 0, 0, 0, 0, 0]], [0, 0, 1])
    objective = _objective(projection)
    visual = scene.embeddings.visual.clone().requires_grad_()
    questions = scene.questions.clone().requires_grad_()

    def loss(visual, questions, *_):
        embeddings = replace(scene.embeddings, visual=visual)
        return objective(replace(scene, embeddings=embeddings, questions=questions))

    assert gradcheck(loss, (visual, questions, *objective.parameters()))


def test_all_projections_start_as_the_visual_itself(make_scene):
    scene = _scene(make_scene, [[1, 0, 0], [-1, 0, 0]], [0, 0, 0])
    losses = [
        FacetContrast(dim=4, projection=projection).double()(scene).item()
        for projection in ("facet", "shared", "none")
    ]
    assert losses == pytest.approx(3 * [losses[0]], abs=1e-12)


def test_the_start_of_the_projection_has_a_gradient(make_scene):
    scene = _scene(make_scene, [[1, 0, 0], [-1, 0, 0]], [0, 0])
    objective = FacetContrast(dim=4, width=8).double()
    objective(scene).backward()
    assert isinstance(objective.projection, FacetProjection)
    assert objective.projection.out.weight.grad.abs().max() > 0


def test_one_visual_can_match_descriptions_that_are_opposites():
    # No single vector has a positive cosine with both u and -u; the projection learns to.
    torch.manual_seed(0)
    visual = torch.tensor([[1.0, 0.0, 0.0, 0.0]])
    facets = torch.tensor([[0.0, 1.0, 0.0, 0.0], [0.0, -1.0, 0.0, 0.0]])
    projection = FacetProjection(4, 8)
    optimiser = torch.optim.Adam(projection.parameters(), lr=0.05)
    for _ in range(100):
        optimiser.zero_grad()
        (-projection(visual, facets).sum()).backward()
        optimiser.step()
    assert (projection(visual, facets) > 0.8).all()


def test_what_is_unknown_or_doubted_takes_no_part(make_scene):
    scene = _scene(make_scene, [[1, 0, 0], [0, 0, 0]], [0, 0])
    visual = scene.embeddings.visual.clone().requires_grad_()
    _objective("facet")(
        replace(scene, embeddings=replace(scene.embeddings, visual=visual))
    ).backward()
    assert visual.grad[0].abs().max() > 0
    assert visual.grad[1].abs().max() == 0


def test_a_fitting_facet_lowers_the_loss(make_scene):
    scene = _scene(make_scene, [[1, 0, 0]], [0])
    facet = scene.questions[-1:]
    objective = FacetContrast(dim=4).double()
    losses = [
        objective(replace(scene, embeddings=replace(scene.embeddings, visual=sign * facet)))
        for sign in (1, -1)
    ]
    assert losses[0] < losses[1]


def test_other_roles_are_not_facets(make_scene):
    scene = _scene(make_scene, [[1, 0, 0]], [0])
    changed = scene.questions.clone()
    changed[0] = -changed[0]
    objective = _objective("facet")
    assert objective(replace(scene, questions=changed)).item() == objective(scene).item()


def test_the_order_of_visuals_and_facets_does_not_matter(make_scene):
    scene = _scene(make_scene, [[1, 0, 0, -1, 0, 0], [-1, 0, 0, 1, 0, 0]], [0, 0, 1])
    objective = _objective("facet")
    order = torch.tensor([0, 1, 4, 3, 2])
    asked = scene.batch.asked
    moved = replace(
        scene,
        embeddings=replace(scene.embeddings, visual=scene.embeddings.visual.flip(0)),
        batch=replace(
            scene.batch,
            stated=scene.batch.stated.flip(0),
            asked=replace(asked, role=asked.role[order], subject=asked.subject[order]),
        ),
        questions=scene.questions[order],
    )
    assert objective(moved).item() == pytest.approx(objective(scene).item(), abs=1e-12)


def test_batches_of_one_and_of_duplicates(make_scene):
    scene = _scene(make_scene, [[1, 0, 0]], [0])
    doubled = _scene(make_scene, [[1, 0, 0]] * 2, [0])
    objective = _objective("facet")
    same = replace(
        doubled,
        embeddings=replace(doubled.embeddings, visual=scene.embeddings.visual.repeat(2, 1)),
        questions=scene.questions,
    )
    assert objective(same).item() == pytest.approx(objective(scene).item(), abs=1e-12)


@pytest.mark.parametrize("projection", ["facet", "shared", "none"])
@pytest.mark.parametrize("facets", [[], [0]])
def test_where_nothing_is_known_the_loss_and_gradient_are_zero(make_scene, projection, facets):
    scene = _scene(make_scene, [[0, 0, 0], [0, 1, -1]], facets)
    visual = scene.embeddings.visual.clone().requires_grad_()
    scene = replace(scene, embeddings=replace(scene.embeddings, visual=visual))
    loss = _objective(projection)(scene)
    loss.backward()
    assert loss.item() == 0
    assert visual.grad.abs().max() == 0


def test_without_questions_the_loss_is_zero(make_scene):
    scene = make_scene([1, 1], [[0]], [[0], [0]])
    assert FacetContrast(dim=4)(scene).item() == 0


@pytest.mark.parametrize("projection", ["facet", "shared"])
def test_huge_logits_and_a_vector_of_zero_stay_finite(make_scene, projection):
    scene = _scene(make_scene, [[1, 0, 0], [-1, 0, 0]], [0, 0])
    objective = _objective(projection, temperature=1e-9, min_temperature=1e-9)
    visual = torch.zeros_like(scene.embeddings.visual).requires_grad_()
    for parameter in objective.projection.parameters():
        torch.nn.init.zeros_(parameter)
    loss = objective(replace(scene, embeddings=replace(scene.embeddings, visual=visual)))
    loss = loss + objective(scene)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(visual.grad).all()


def test_the_config_has_the_arguments():
    arguments = FacetContrastConfig().model_dump(exclude={"kind", "name", "weight"})
    objective = FacetContrast(dim=6, **arguments)
    assert isinstance(objective.projection, FacetProjection)
    assert objective.projection.out.weight.shape == (6, 64)
