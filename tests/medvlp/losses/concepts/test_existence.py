from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck

from medvlp.batch import QuestionRole
from medvlp.losses.concepts.existence import Existence
from medvlp.models.evidence import patch_evidence


def _asked(make_scene, lengths, stated, *, dim=4, patches=3, seed=0):
    """A scene of which all concepts are asked; `stated` has three slots a concept."""
    count = len(stated[0]) // 3
    rows = [(role, c) for role in (QuestionRole.CLAIM, QuestionRole.DENIAL) for c in range(count)]
    target = [[0]] * len(lengths)
    return make_scene(lengths, [[0] * 3 * count], target, stated=stated, asked=rows,
                      dim=dim, patches=patches, seed=seed)  # fmt: skip


def _naive(objective, scene):
    """Double loop over visuals and concepts."""
    claims, denials = scene.questions.chunk(2)
    evidence = patch_evidence(scene.embeddings.patches, claims, scene.batch.offsets)
    parts = {}
    for i, visual in enumerate(scene.embeddings.visual):
        for c, slot in enumerate(scene.batch.asked.slots.tolist()):
            known = int(scene.batch.stated[i, slot])
            if known == 0:
                continue
            whole = objective.scale().item() * float(visual @ claims[c] - visual @ denials[c])
            local = objective.local_scale().item() * (float(evidence[i, c]) - objective.bias.item())
            for name, logit in (("whole", whole), ("local", local)):
                parts.setdefault((name, known), []).append(math.log1p(math.exp(-known * logit)))
    sides = {}
    for (name, _), values in parts.items():
        sides.setdefault(name, []).append(sum(values) / len(values))
    return sum(sum(v) / len(v) for v in sides.values()) / len(sides) if sides else 0.0


@pytest.mark.parametrize(
    "stated",
    [
        [[1, 0, 0, -1, 0, 0], [-1, 0, 0, 0, 0, 0]],
        [[1, 0, 0, 1, 0, 0], [1, 0, 0, 1, 0, 0]],
        [[0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0]],
    ],
)
def test_the_loss_equals_the_naive_loop(make_scene, stated):
    scene = _asked(make_scene, [2, 1], stated)
    objective = Existence().double()
    assert objective(scene).item() == pytest.approx(_naive(objective, scene), abs=1e-9)


STATED = st.lists(
    st.lists(st.sampled_from([-1, 0, 1]), min_size=9, max_size=9), min_size=1, max_size=5
)
ANY_SCENE = settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@ANY_SCENE
@given(stated=STATED, seed=st.integers(0, 1000))
def test_the_loss_equals_the_naive_loop_whatever_is_known(make_scene, stated, seed):
    scene = _asked(make_scene, [1 + i % 3 for i in range(len(stated))], stated, seed=seed)
    objective = Existence().double()
    assert objective(scene).item() == pytest.approx(_naive(objective, scene), abs=1e-9)


@ANY_SCENE
@given(stated=STATED, draw=st.randoms(use_true_random=False))
def test_the_order_of_visuals_does_not_matter(make_scene, stated, draw):
    """Frames are ragged: each visual has a length of its own, and nothing is padded."""
    lengths = [1 + i % 3 for i in range(len(stated))]
    scene = _asked(make_scene, lengths, stated)
    order = draw.sample(range(len(stated)), len(stated))
    turned = _asked(make_scene, [lengths[i] for i in order], [stated[i] for i in order])
    offsets = scene.batch.offsets
    frames = torch.cat([torch.arange(offsets[i], offsets[i + 1]) for i in order])
    e = scene.embeddings
    moved = replace(turned.embeddings, visual=e.visual[order], patches=e.patches[frames])
    objective = Existence().double()
    assert torch.allclose(
        objective(replace(turned, embeddings=moved, questions=scene.questions)), objective(scene)
    )


def test_gradients_pass_gradcheck(make_scene):
    scene = _asked(make_scene, [2, 1], [[1, 0, 0, -1, 0, 0], [-1, 0, 0, 0, 0, 0]])
    objective, e = Existence().double(), scene.embeddings

    def loss(visual, patches, questions, *_):
        embeddings = replace(e, visual=visual, patches=patches)
        return objective(replace(scene, embeddings=embeddings, questions=questions))

    leaves = [x.clone().requires_grad_() for x in (e.visual, e.patches, scene.questions)]
    assert gradcheck(loss, (*leaves, *objective.parameters()))


def test_a_visual_of_which_nothing_is_known_changes_nothing(make_scene):
    stated = [[1, 0, 0, -1, 0, 0], [-1, 0, 0, 1, 0, 0]]
    beside = _asked(make_scene, [1, 2, 1], [*stated, [0] * 6])
    e = beside.embeddings
    alone = _asked(make_scene, [1, 2], stated)
    same = replace(alone.embeddings, visual=e.visual[:2], patches=e.patches[:3])
    alone = replace(alone, embeddings=same, questions=beside.questions)
    objective = Existence().double()
    assert objective(alone).item() == pytest.approx(objective(beside).item(), abs=1e-12)


def test_what_is_unknown_of_a_visual_does_not_move_it(make_scene):
    scene = _asked(make_scene, [1, 1], [[1, 0, 0], [0, 0, 0]])
    visual = scene.embeddings.visual.clone().requires_grad_()
    scene = replace(scene, embeddings=replace(scene.embeddings, visual=visual))
    Existence().double()(scene).backward()
    assert visual.grad[0].abs().max() > 0
    assert visual.grad[1].abs().max() == 0


def test_without_questions_the_loss_is_zero(make_scene):
    scene = make_scene([1, 1], [[0]], [[0], [0]])
    assert Existence()(scene).item() == 0


def test_a_claim_that_holds_lowers_the_loss(make_scene):
    scene = _asked(make_scene, [1], [[1, 0, 0]])
    claim, denial = scene.questions
    fitting = replace(
        scene,
        embeddings=replace(scene.embeddings, visual=claim[None], patches=claim.repeat(1, 3, 1)),
    )
    opposed = replace(
        scene,
        embeddings=replace(scene.embeddings, visual=denial[None], patches=-claim.repeat(1, 3, 1)),
    )
    objective = Existence().double()
    assert objective(fitting) < objective(scene) < objective(opposed)
