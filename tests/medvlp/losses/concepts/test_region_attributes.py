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
from medvlp.losses.concepts.config import RegionAttributesConfig
from medvlp.losses.concepts.region_attributes import (
    AttributeMap,
    RegionAttributes,
    assign_regions,
    attribute_contrast,
    mention_target,
    pool_cells,
)
from medvlp.losses.objective import text_owner

NAME = int(QuestionRole.NAME)
PRESENT, ABSENT, NOTHING = [1, 0, 0], [-1, -1, -1], [0, 0, 0]

fast = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def _objective(seed=0, dim=4, **more):
    """With random weights, so that no part is at its start."""
    torch.manual_seed(seed)
    objective = RegionAttributes(dim=dim, width=3, **{"cells": 2, **more}).double()
    for parameter in objective.parameters():
        torch.nn.init.normal_(parameter, std=0.6)
    return objective


def _scene(make_scene, lengths, stated, claims, target, texts, *, seed=0, patches=9):
    asked = [(NAME, c) for c in range(len(stated[0]) // 3)]
    return make_scene(lengths, claims, target, texts=texts, stated=stated, asked=asked, seed=seed,
                      patches=patches)  # fmt: skip


def _random_scene(make_scene, seed):
    draw = random.Random(seed)
    b, m, concepts = draw.randint(1, 4), draw.randint(1, 5), 2
    texts = [0] * b
    for _ in range(m):
        texts[draw.randrange(b)] += 1
    rows = [[draw.choice([-1, 0, 1]) for _ in range(3 * concepts)] for _ in range(b + m)]
    target = [[draw.choice([-1, 0, 1]) for _ in range(m)] for _ in range(b)]
    lengths = [draw.randint(1, 3) for _ in range(b)]
    return _scene(make_scene, lengths, rows[:b], rows[b:], target, texts, seed=seed)


# --- an oracle of plain loops ---


def _unit(values):
    length = math.sqrt(sum(x * x for x in values))
    return [x / length for x in values]


def _dot(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True))


def _linear(layer, x):
    biases = [0.0] * layer.out_features if layer.bias is None else layer.bias.tolist()
    return [_dot(row, x) + bias for row, bias in zip(layer.weight.tolist(), biases, strict=True)]


def _score(mapping, region, attribute):
    hidden = [max(0.0, h) for h in _linear(mapping.first, region)]
    moved = [x + y for x, y in zip(region, _linear(mapping.second, hidden), strict=True)]
    gate = [1 + g for g in _linear(mapping.gate, attribute)]
    return _dot(_unit([x * g for x, g in zip(moved, gate, strict=True)]), attribute)


def _cells(frame):
    """Four cells of a 3 x 3 grid; the middle row and column belong to both sides."""
    return [
        _unit([sum(column) / 4 for column in zip(*(frame[3 * y + x] for y in ys for x in xs),
                                                 strict=True)])
        for ys in ((0, 1), (1, 2))
        for xs in ((0, 1), (1, 2))
    ]  # fmt: skip


def _nce(logits, target):
    rows = []
    for values, wanted in zip(logits, target, strict=True):
        seen = math.log(
            sum(math.exp(x) for x, y in zip(values, wanted, strict=True) if y >= 0) or 1
        )
        own = [seen - x for x, y in zip(values, wanted, strict=True) if y == 1]
        if own:
            rows.append(sum(own) / len(own))
    return sum(rows) / len(rows) if rows else 0.0


def _wanted(scene, i, slot, text):
    claims, stated = scene.batch.claims[text].tolist(), scene.batch.stated[i].tolist()
    holds = int(scene.target[i, text])
    if claims[slot] == 1:
        return 1 if holds == 1 else -1
    common = any(claims[s] == 1 and stated[s] == 1 for s in range(0, len(claims), 3))
    return 0 if holds == 0 and not common else -1


def naive(objective, scene):
    """Loops over visuals, attributes, regions, mentions and sentences."""
    batch, tau = scene.batch, objective.temperature
    bounds, frames = batch.text_offsets.tolist(), batch.offsets.tolist()
    attributes = scene.questions.tolist()
    regions = [
        [cell for n in range(frames[i], frames[i + 1])
         for cell in _cells(scene.embeddings.patches[n].tolist())]
        for i in range(len(batch))
    ]  # fmt: skip
    scores = [
        [[_score(objective.map, region, a) for region in own] for a in attributes]
        for own in regions
    ]
    first = []
    for a in range(len(attributes)):
        state = batch.stated[:, 3 * a].tolist()
        for i, known in enumerate(state):
            against = [math.exp(max(scores[k][a]) / tau) for k, x in enumerate(state) if x == -1]
            if known == 1 and against:
                own = math.exp(max(scores[i][a]) / tau)
                first.append(-math.log(own / (own + sum(against))))
    second = 0.0
    mentions = [
        (j, a) for j in range(len(batch.claims)) for a in range(len(attributes))
        if batch.claims[j, 3 * a] == 1
    ]  # fmt: skip
    sentences = sorted({j for j, _ in mentions})
    logits, target = [], []
    for j, a in mentions:
        i = max(k for k in range(len(batch)) if bounds[k] <= j < bounds[k + 1])
        best = max(scores[i][a])
        chosen = [
            region
            for region, score in zip(regions[i], scores[i][a], strict=True)
            if score > best - objective.epsilon
        ]
        z = _unit([sum(column) / len(chosen) for column in zip(*chosen, strict=True)])
        texts = scene.embeddings.text.tolist()
        logits.append([_dot(z, texts[k]) / tau for k in sentences])
        target.append([_wanted(scene, i, 3 * a, k) for k in sentences])
    if mentions:
        across = [list(column) for column in zip(*logits, strict=True)]
        turned = [list(column) for column in zip(*target, strict=True)]
        second = (_nce(logits, target) + _nce(across, turned)) / 2
    return (sum(first) / len(first) if first else 0.0) + objective.pair_weight * second


@fast
@given(seed=st.integers(0, 10_000), pair_weight=st.sampled_from([0.0, 0.7]))
def test_the_loss_equals_the_naive_loop(make_scene, seed, pair_weight):
    scene = _random_scene(make_scene, seed)
    objective = _objective(seed, pair_weight=pair_weight, temperature=0.3)
    assert objective(scene).item() == pytest.approx(naive(objective, scene), abs=1e-6)


def _known(make_scene):
    """Visuals 0 and 1 have concept 0, visual 2 does not; concept 1 is in visual 2 only."""
    stated = [PRESENT + ABSENT, PRESENT + ABSENT, ABSENT + PRESENT]
    claims = [PRESENT + NOTHING, PRESENT + NOTHING, NOTHING + PRESENT]
    target = [[1, 1, 0], [1, 1, 0], [0, 0, 1]]
    return _scene(make_scene, [2, 1, 1], stated, claims, target, [1, 1, 1])


def _differentiable(scene):
    patches = (1.3 * scene.embeddings.patches).requires_grad_()
    text = scene.embeddings.text.clone().requires_grad_()
    changed = replace(scene.embeddings, patches=patches, text=text)
    return replace(scene, embeddings=changed), patches, text


def test_the_loss_passes_gradcheck(make_scene):
    scene = _scene(make_scene, [2, 1], [PRESENT, ABSENT], [PRESENT, PRESENT], [[1, 0], [0, 1]],
                   [1, 1], patches=4)  # fmt: skip
    # What the second visual's text claims is taken back elsewhere: a pair, but no attribute.
    objective = _objective(temperature=0.5)
    scene, patches, text = _differentiable(scene)
    questions = scene.questions.clone().requires_grad_()

    def loss(patches, text, questions, *_):
        changed = replace(scene.embeddings, patches=patches, text=text)
        return objective(replace(scene, embeddings=changed, questions=questions))

    assert gradcheck(loss, (patches, text, questions, *objective.parameters()))


def test_other_positives_are_not_in_the_denominator():
    # Regression of ViLLA: a second visual with the attribute counted as exp(0) = 1.
    logits = torch.tensor([[-2.0], [5.0], [-3.0]], dtype=torch.float64)
    present = torch.tensor([[True], [True], [False]])
    absent = torch.tensor([[False], [False], [True]])
    both = attribute_contrast(logits, present, absent).item()
    shares = [math.exp(s) / (math.exp(s) + math.exp(-3.0)) for s in (-2.0, 5.0)]
    assert both == pytest.approx(-sum(math.log(share) for share in shares) / 2, abs=1e-12)
    alone = attribute_contrast(logits[[0, 2]], present[[0, 2]], absent[[0, 2]]).item()
    assert alone == pytest.approx(-math.log(shares[0]), abs=1e-12)


def test_unknown_visuals_and_attributes_without_a_negative_take_no_part():
    logits = torch.randn(3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    logits.requires_grad_()
    state = torch.tensor([[1, 1, 0], [-1, 0, -1], [0, 1, -1]])
    loss = attribute_contrast(logits, state == 1, state == -1)
    loss.backward()
    pair = math.log1p(math.exp(float((logits[1, 0] - logits[0, 0]).detach())))
    assert loss.item() == pytest.approx(pair, abs=1e-12)
    assert (logits.grad != 0).tolist() == [[True, False, False], [True, False, False],
                                           [False, False, False]]  # fmt: skip
    assert logits.grad[0, 0] < 0 < logits.grad[1, 0]


def test_huge_logits_stay_finite():
    logits = torch.tensor([[1e30, -1e30], [-1e30, 1e30]], dtype=torch.float64, requires_grad=True)
    state = torch.tensor([[1, 1], [-1, -1]])
    loss = attribute_contrast(logits, state == 1, state == -1)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all()


def test_patches_of_zero_have_finite_gradients(make_scene):
    scene, patches, _ = _differentiable(_known(make_scene))
    with torch.no_grad():
        patches.zero_()
    objective = RegionAttributes(dim=4, width=3, cells=2).double()
    loss = objective(scene)
    loss.backward()
    assert torch.isfinite(loss)
    assert patches.grad.abs().max() == 0
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in objective.parameters())


def test_an_attribute_goes_to_every_region_near_its_best():
    scores = torch.tensor([[0.9, 0.75, 0.69, -1.0], [0.1, 0.1, 0.1, 0.1]])
    assert assign_regions(scores).tolist() == [[True, True, False, False], [True] * 4]
    assert assign_regions(scores, 0.1).tolist() == [[True, False, False, False], [True] * 4]
    assert assign_regions(torch.tensor([1.0, 0.5]), 0.5).tolist() == [True, False]
    elsewhere = assign_regions(scores, 0.2, top=torch.tensor([0.9, 0.9]))
    assert elsewhere.tolist() == [[True, True, False, False], [False] * 4]


@pytest.mark.parametrize(("side", "cells"), [(4, 2), (7, 4), (14, 4), (3, 3), (2, 4), (1, 4)])
def test_cells_are_means_of_their_patches(side, cells):
    generator = torch.Generator().manual_seed(0)
    patches = torch.randn(2, side * side, 3, generator=generator, dtype=torch.float64)
    grid = patches.transpose(1, 2).unflatten(2, (side, side))
    expected = torch.nn.functional.adaptive_avg_pool2d(grid, min(cells, side))
    got = pool_cells(patches, cells)
    assert torch.allclose(got, expected.flatten(2).transpose(1, 2), atol=1e-12)


def test_a_grid_that_is_not_square_is_refused():
    with pytest.raises(AssertionError, match="no square grid"):
        pool_cells(torch.zeros(1, 6, 2), 2)


def test_the_map_starts_as_the_cosine():
    x = torch.nn.functional.normalize(torch.randn(5, 4, dtype=torch.float64), dim=1)
    a = torch.nn.functional.normalize(torch.randn(3, 4, dtype=torch.float64), dim=1)
    assert torch.allclose(AttributeMap(4, 8).double()(x, a), x @ a.T, atol=1e-12)


def _targets(make_scene, stated, claims, holds):
    """Of a mention of concept 0 by text 0 of the only visual, against all texts."""
    scene = _scene(make_scene, [1], [stated], claims, [holds], [len(claims)])
    owner = text_owner(scene.batch.text_offsets)[:1]
    texts = torch.arange(len(claims))
    return mention_target(scene, owner, torch.tensor([0]), texts).tolist()[0]


def test_a_shared_concept_is_no_negative_sentence(make_scene):
    claims = [
        PRESENT + NOTHING,
        [1, 0, 1, *NOTHING],  # the concept on the side where the visual has none
        NOTHING + PRESENT,  # another finding that the visual has, too
        NOTHING + PRESENT,
        [*NOTHING, 0, 0, 1],
    ]
    with_both, without = [1, 1, -1, *PRESENT], [1, 1, -1, *ABSENT]
    assert _targets(make_scene, with_both, claims, [1, 0, 1, 0, 0]) == [1, -1, -1, -1, 0]
    assert _targets(make_scene, without, claims, [1, 0, 0, -1, 0]) == [1, -1, 0, -1, 0]
    # Even where nothing is stated of the visual.
    assert _targets(make_scene, 2 * NOTHING, claims, [1, 0, 0, 0, 0]) == [1, -1, 0, 0, 0]


def test_a_denied_attribute_pulls_no_region_to_its_sentence(make_scene):
    # Only text 2 claims anything; the denials of the others are in no pair.
    claims = [ABSENT, ABSENT, PRESENT]
    scene = _scene(make_scene, [1, 1], [ABSENT, PRESENT], claims, [[1, 1, 0], [0, 0, 1]], [2, 1])
    scene, _, text = _differentiable(scene)
    _objective()(scene).backward()
    assert text.grad[:2].abs().max() == 0


def test_sentences_reach_the_assigned_regions_only(make_scene):
    scene = _known(make_scene)
    patches = torch.zeros_like(scene.embeddings.patches).reshape(4, 3, 3, 4)
    patches[..., 1] = 1.0
    name = torch.tensor([1.0, 0.0, 0.0, 0.0], dtype=torch.float64)
    patches[0, 0, 0] = name  # concept 0 in the first corner of the first frame
    scene = replace(
        scene,
        embeddings=replace(scene.embeddings, patches=patches.reshape(4, 9, 4)),
        questions=torch.stack([name, scene.questions[1]]),
        batch=replace(scene.batch, claims=scene.batch.claims * (torch.arange(3) == 0)[:, None],
                      stated=torch.zeros_like(scene.batch.stated)),
        target=torch.tensor([[1, 0, 0]] * 3, dtype=torch.int8),
    )  # fmt: skip
    # One sentence alone has no contrast; another visual's sentence, which does not hold, does.
    claims = scene.batch.claims.clone()
    claims[2, 3] = 1
    scene = replace(scene, batch=replace(scene.batch, claims=claims))
    scene, leaf, _ = _differentiable(scene)
    objective = RegionAttributes(dim=4, width=3, cells=3, epsilon=0.2).double()
    objective(scene).backward()
    touched = leaf.grad.abs().sum(2) > 0
    assert touched[0].tolist() == [True] + [False] * 8
    assert not touched[1].any()


def test_the_order_of_visuals_does_not_matter(make_scene):
    scene = _random_scene(make_scene, 3)
    batch, embeddings = scene.batch, scene.embeddings
    b = len(batch)
    assert b > 1
    frame_rows = torch.arange(len(embeddings.patches)).split(batch.offsets.diff().tolist())
    text_rows = torch.arange(len(embeddings.text)).split(batch.text_offsets.diff().tolist())
    frames, texts = torch.cat(frame_rows[::-1]), torch.cat(text_rows[::-1])

    def bounds(offsets):
        return torch.cat([torch.tensor([0]), offsets.diff().flip(0).cumsum(0)])

    moved = replace(
        scene,
        embeddings=replace(
            embeddings, patches=embeddings.patches[frames], text=embeddings.text[texts]
        ),
        batch=replace(
            batch,
            offsets=bounds(batch.offsets),
            text_offsets=bounds(batch.text_offsets),
            claims=batch.claims[texts],
            stated=batch.stated.flip(0),
        ),
        target=scene.target.flip(0)[:, texts],
    )
    objective = _objective(temperature=0.3)
    assert objective(moved).item() == pytest.approx(objective(scene).item(), abs=1e-9)


def test_a_batch_of_one_has_no_contrast(make_scene):
    scene = _scene(make_scene, [2], [PRESENT], [PRESENT], [[1]], [1])
    assert _objective()(scene).item() == pytest.approx(0, abs=1e-12)


def test_identical_samples_are_not_told_apart(make_scene):
    scene = _scene(make_scene, [1, 1], [PRESENT] * 2, [PRESENT] * 2, [[1, 1]] * 2, [1, 1])
    same = replace(
        scene,
        embeddings=replace(
            scene.embeddings,
            patches=scene.embeddings.patches[:1].repeat(2, 1, 1),
            text=scene.embeddings.text[:1].repeat(2, 1),
        ),
    )
    assert _objective()(same).item() == pytest.approx(math.log(2), abs=1e-9)


@pytest.mark.parametrize("names", [True, False])
def test_where_nothing_is_known_the_loss_and_gradient_are_zero(make_scene, names):
    scene = _scene(make_scene, [1, 2], [NOTHING, ABSENT], [NOTHING], [[0], [1]], [0, 1])
    if not names:
        asked = replace(scene.batch.asked, role=torch.tensor([int(QuestionRole.CLAIM)]))
        scene = replace(scene, batch=replace(scene.batch, asked=asked))
    scene, patches, text = _differentiable(scene)
    loss = _objective()(scene)
    loss.backward()
    assert loss.item() == 0
    assert patches.grad.abs().max() == 0
    assert text.grad is None or text.grad.abs().max() == 0


def test_without_questions_the_loss_is_zero(make_scene):
    scene = make_scene([1, 1], [[0]], [[0], [0]], patches=4)
    assert RegionAttributes(dim=4)(scene).item() == 0


def test_the_config_has_the_arguments():
    arguments = RegionAttributesConfig().model_dump(exclude={"kind", "name", "weight"})
    objective = RegionAttributes(dim=4, **arguments)
    assert objective.map.first.out_features == 1024
    assert objective.epsilon == 0.2
