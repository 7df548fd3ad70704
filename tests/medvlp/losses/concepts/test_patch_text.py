from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck

from medvlp.losses.concepts.patch_text import (
    PatchText,
    balanced_sigmoid_loss,
    denied_whatever_the_side,
)
from medvlp.models.evidence import patch_evidence
from medvlp.types import Embeddings


def naive_loss(logits, target):
    parts = []
    for wanted, sign in ((1, -1), (0, 1)):
        values = [
            math.log1p(math.exp(sign * float(logits[i, j])))
            for i in range(len(target))
            for j in range(len(target[0]))
            if target[i][j] == wanted
        ]
        if values:
            parts.append(sum(values) / len(values))
    return sum(parts) / len(parts) if parts else 0.0


@pytest.mark.parametrize(
    "target",
    [
        [[1, 0, -1], [0, 0, 1]],
        [[1, 1, 1], [1, 1, 1]],
        [[0, 0, -1], [0, 0, 0]],
        [[-1, -1, -1], [-1, -1, -1]],
    ],
)
def test_the_loss_equals_the_naive_loop(target):
    logits = torch.randn(2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    wanted = torch.tensor(target)
    got = balanced_sigmoid_loss(logits, wanted == 1, wanted == 0)
    assert got.item() == pytest.approx(naive_loss(logits, target), abs=1e-12)


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    target=st.lists(st.lists(st.integers(-1, 1), min_size=3, max_size=3), min_size=1, max_size=5),
    draw=st.randoms(use_true_random=False),
)
def test_the_objective_equals_the_naive_loop_in_any_order(make_scene, target, draw):
    """All visuals are known to be without concept 0; text 1 denies, so it takes no part."""
    b = len(target)
    claims, stated = [[1, 0, 0], [-1, 0, 0], [1, 0, 0]], [[-1, 0, 0]] * b
    scene = make_scene([1 + i % 3 for i in range(b)], claims, target, stated=stated)
    objective, e = PatchText().double(), scene.embeddings
    evidence = patch_evidence(e.patches, e.text, scene.batch.offsets)
    logits = objective.scale().item() * (evidence - objective.bias.item())
    asserting = [[row[0], row[2]] for row in target]
    expected = naive_loss(logits[:, [0, 2]], asserting)
    assert objective(scene).item() == pytest.approx(expected, abs=1e-9)
    order = draw.sample(range(b), b)
    offsets = scene.batch.offsets
    frames = torch.cat([torch.arange(offsets[i], offsets[i + 1]) for i in order])
    turned = make_scene([1 + i % 3 for i in order], claims, [target[i] for i in order],
                        stated=stated)  # fmt: skip
    moved = replace(turned.embeddings, text=e.text, patches=e.patches[frames])
    assert objective(replace(turned, embeddings=moved)).item() == pytest.approx(expected, abs=1e-9)


def test_the_objective_passes_gradcheck(make_scene):
    scene = make_scene([2, 1], [[1, 0, 0]], [[1], [0]], stated=[[1, 0, 0], [-1, 0, 0]])
    objective, e = PatchText().double(), scene.embeddings

    def loss(patches, text, *_):
        return objective(replace(scene, embeddings=replace(e, patches=patches, text=text)))

    leaves = [x.clone().requires_grad_() for x in (e.patches, e.text)]
    assert gradcheck(loss, (*leaves, *objective.parameters()))


def test_the_loss_passes_gradcheck():
    logits = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    target = torch.tensor([[1, 0, -1], [0, 0, 1]])
    assert gradcheck(lambda x: balanced_sigmoid_loss(x, target == 1, target == 0), (logits,))


def test_the_other_side_is_no_counter_evidence(make_scene):
    # Slots any, left, right. The text claims it left; visual 0 has it right, visual 1 not at all.
    scene = make_scene([1, 1], [[1, 1, 0]], [[0], [0]])
    stated = torch.tensor([[1, -1, 1], [-1, -1, -1]], dtype=torch.int8)
    scene = replace(scene, batch=replace(scene.batch, stated=stated))
    assert denied_whatever_the_side(scene).tolist() == [[False], [True]]


def _with_patches(scene):
    patches = scene.embeddings.patches.clone().requires_grad_()
    embeddings = Embeddings(scene.embeddings.visual, scene.embeddings.text, patches)
    return replace(scene, embeddings=embeddings), patches


def _stated(scene, rows):
    stated = torch.tensor(rows, dtype=torch.int8)
    return replace(scene, batch=replace(scene.batch, stated=stated))


def test_a_denial_attracts_no_patch(make_scene):
    # Text 0 says present, text 1 says absent, text 2 says nothing.
    scene = make_scene([2, 1], [[1, 0], [-1, 0], [0, 0]], [[1, 0, 0], [0, 1, 1]])
    text = scene.embeddings.text.clone().requires_grad_()
    embeddings = Embeddings(scene.embeddings.visual, text, scene.embeddings.patches)
    PatchText()(replace(scene, embeddings=embeddings)).backward()
    assert text.grad[0].abs().max() > 0
    assert text.grad[1:].abs().max() == 0


def test_an_ignored_visual_is_neither_pulled_nor_pushed(make_scene):
    scene = _stated(make_scene([1, 1, 1], [[1]], [[1], [-1], [0]]), [[1], [0], [-1]])
    scene, patches = _with_patches(scene)
    PatchText()(scene).backward()
    assert (patches.grad.abs().sum((1, 2)) > 0).tolist() == [True, False, True]


def test_without_a_present_claim_the_loss_and_gradient_are_zero(make_scene):
    scene, patches = _with_patches(make_scene([2, 1], [[-1], [0]], [[1, 0], [0, 1]]))
    loss = PatchText()(scene)
    loss.backward()
    assert loss.item() == 0
    assert patches.grad.abs().max() == 0


def test_a_learned_scale_stays_in_bounds():
    objective = PatchText(temperature=0.1, min_temperature=0.05)
    with torch.no_grad():
        objective.scale.log_scale.fill_(10.0)
    objective.after_step()
    assert objective.scale().item() == pytest.approx(20.0)
