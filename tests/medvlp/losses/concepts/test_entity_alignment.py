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
from medvlp.losses.concepts.config import EntityAlignmentConfig
from medvlp.losses.concepts.entity_alignment import EntityAlignment, masked_bce

NAME, FACET = int(QuestionRole.NAME), int(QuestionRole.FACET)


def _scene(make_scene, stated, claims, *, texts=None, rows=None, seed=0):
    count = len(stated[0]) // 3
    asked = [(NAME, c) for c in range(count)] if rows is None else rows
    return make_scene([1] * len(stated), claims, [[0] * len(claims)] * len(stated), texts=texts,
                      stated=stated, asked=asked, seed=seed)  # fmt: skip


def naive(objective, scene, published):
    """Loops over visuals or texts, and concepts."""
    batch, s, b = scene.batch, objective.scale().item(), objective.bias.item()
    bounds = batch.text_offsets.tolist()
    slots = [batch.asked.slots[c].item() for c in batch.asked.subject.tolist()]
    visual_label, text_label = {}, {}
    for a, slot in enumerate(slots):
        for j, claim in enumerate(batch.claims[:, slot].tolist()):
            text_label[j, a] = abs(claim) if published else {1: 1, -1: 0, 0: None}[claim]
        for i, state in enumerate(batch.stated[:, slot].tolist()):
            own = [batch.claims[j, slot].item() for j in range(bounds[i], bounds[i + 1])]
            linked = int(any(own))
            visual_label[i, a] = linked if published else {1: 1, -1: 0, 0: None}[state]
    parts = []
    for label, vectors in (
        (visual_label, scene.embeddings.visual.tolist()),
        (text_label, scene.embeddings.text.tolist()),
    ):
        losses = []
        for (row, a), y in label.items():
            if y is None:
                continue
            products = zip(vectors[row], scene.questions[a].tolist(), strict=True)
            chance = 1 / (1 + math.exp(-(s * sum(x * n for x, n in products) + b)))
            losses.append(-math.log(chance if y else 1 - chance))
        parts.append(sum(losses) / len(losses) if losses else 0.0)
    return sum(parts) / 2


fast = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@fast
@given(seed=st.integers(0, 10_000), published=st.booleans())
def test_the_loss_equals_the_naive_loop(make_scene, seed, published):
    draw = random.Random(seed)
    b, m = draw.randint(1, 3), draw.randint(1, 4)
    texts = [0] * b
    for _ in range(m):
        texts[draw.randrange(b)] += 1
    table = [[draw.choice([-1, 0, 1]) for _ in range(6)] for _ in range(b + m)]
    rows = [(NAME, 0), (NAME, 0), (NAME, 1)] if draw.random() < 0.5 else None
    scene = _scene(make_scene, table[:b], table[b:], texts=texts, rows=rows, seed=seed)
    objective = EntityAlignment(temperature=0.3, bias=-0.5, published=published).double()
    expected = naive(objective, scene, published)
    assert objective(scene).item() == pytest.approx(expected, abs=1e-6)


def _differentiable(scene):
    leaves = [
        getattr(scene.embeddings, name).clone().requires_grad_() for name in ("visual", "text")
    ]
    changed = replace(scene.embeddings, visual=leaves[0], text=leaves[1])
    return replace(scene, embeddings=changed), *leaves


def test_the_loss_passes_gradcheck(make_scene):
    scene = _scene(make_scene, [[1, 0, 0, -1, 0, 0]], [[1, 0, 0, 0, 0, 0], [0, 0, 0, -1, 0, 0]])
    objective = EntityAlignment().double()
    scene, visual, text = _differentiable(scene)
    questions = scene.questions.clone().requires_grad_()

    def loss(visual, text, questions, *_):
        changed = replace(scene.embeddings, visual=visual, text=text)
        return objective(replace(scene, embeddings=changed, questions=questions))

    assert gradcheck(loss, (visual, text, questions, *objective.parameters()))


def test_a_denied_mention_is_a_negative_not_a_positive(make_scene):
    # Regression of ARL: "no effusion" made effusion a label of the image and of the text.
    scene = _scene(make_scene, [[-1, -1, -1]], [[-1, -1, -1]])
    for published, sign in ((False, -1), (True, 1)):
        changed, visual, text = _differentiable(scene)
        EntityAlignment(published=published).double()(changed).backward()
        name = scene.questions[0]
        assert sign * float(-visual.grad[0] @ name) > 0
        assert sign * float(-text.grad[0] @ name) > 0


def test_what_is_unknown_takes_no_part(make_scene):
    scene = _scene(make_scene, [[1, 0, 0], [0, 1, -1]], [[0, 0, 0], [1, 0, 0]])
    changed, visual, text = _differentiable(scene)
    EntityAlignment().double()(changed).backward()
    assert (visual.grad.abs().sum(1) > 0).tolist() == [True, False]
    assert (text.grad.abs().sum(1) > 0).tolist() == [False, True]


def test_other_roles_are_no_concept_vectors(make_scene):
    rows = [(FACET, 0), (NAME, 0)]
    scene = _scene(make_scene, [[1, 0, 0]], [[1, 0, 0]], rows=rows)
    changed = scene.questions.clone()
    changed[0] *= -1
    objective = EntityAlignment().double()
    assert objective(replace(scene, questions=changed)).item() == objective(scene).item()


def test_the_order_of_visuals_texts_and_concepts_does_not_matter(make_scene):
    scene = _scene(
        make_scene, [[1, 0, 0, -1, 0, 0], [-1, 0, 0, 0, 0, 0]],
        [[1, 0, 0, 0, 0, 0], [-1, 0, 0, -1, 0, 0]], texts=[1, 1],
    )  # fmt: skip
    batch, embeddings = scene.batch, scene.embeddings
    moved = replace(
        scene,
        embeddings=replace(
            embeddings, visual=embeddings.visual.flip(0), text=embeddings.text.flip(0)
        ),
        batch=replace(
            batch,
            stated=batch.stated.flip(0),
            claims=batch.claims.flip(0),
            asked=replace(batch.asked, subject=batch.asked.subject.flip(0)),
        ),
        questions=scene.questions.flip(0),
    )
    for published in (False, True):
        objective = EntityAlignment(published=published).double()
        assert objective(moved).item() == pytest.approx(objective(scene).item(), abs=1e-12)


def test_a_batch_of_duplicates_has_the_loss_of_one(make_scene):
    one = _scene(make_scene, [[1, 0, 0, -1, 0, 0]], [[1, 0, 0, -1, 0, 0]])
    two = _scene(make_scene, [[1, 0, 0, -1, 0, 0]] * 2, [[1, 0, 0, -1, 0, 0]] * 2, texts=[1, 1])
    doubled = replace(
        two,
        embeddings=replace(
            two.embeddings,
            visual=one.embeddings.visual.repeat(2, 1),
            text=one.embeddings.text.repeat(2, 1),
        ),
        questions=one.questions,
    )
    objective = EntityAlignment().double()
    assert objective(doubled).item() == pytest.approx(objective(one).item(), abs=1e-12)


def test_where_nothing_is_known_the_loss_and_gradient_are_zero(make_scene):
    for rows in (None, []):
        scene = _scene(make_scene, [[0, 0, 0]], [[0, 1, 0]], rows=rows or [(NAME, 0)])
        if rows == []:
            scene = replace(
                scene,
                batch=replace(
                    scene.batch, asked=replace(scene.batch.asked, role=torch.tensor([FACET]))
                ),
            )
        changed, visual, text = _differentiable(scene)
        loss = EntityAlignment().double()(changed)
        loss.backward()
        assert loss.item() == 0
        assert visual.grad.abs().max() == 0
        assert text.grad.abs().max() == 0


def test_without_questions_the_loss_is_zero(make_scene):
    assert EntityAlignment()(make_scene([1, 1], [[0]], [[0], [0]])).item() == 0


def test_huge_logits_stay_finite():
    logits = torch.tensor([[1e30, -1e30]], dtype=torch.float64, requires_grad=True)
    yes = torch.tensor([[True, False]])
    loss = masked_bce(logits, ~yes, yes)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all()


def test_the_config_has_the_arguments():
    arguments = EntityAlignmentConfig().model_dump(exclude={"kind", "name", "weight"})
    assert not EntityAlignment(**arguments).published
