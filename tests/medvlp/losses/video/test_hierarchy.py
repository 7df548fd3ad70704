from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medvlp.batch import TextRole
from medvlp.losses.video.hierarchy import Hierarchy, family_of, hierarchical_nce, mean_by_owner

relaxed = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def directed(scores, marks) -> float:
    """Cross-entropy of each row with a positive; -1 left out."""
    rows = []
    for s, t in zip(scores, marks, strict=True):
        total = sum(math.exp(x) for x, y in zip(s, t, strict=True) if y >= 0)
        own = [math.log(total) - x for x, y in zip(s, t, strict=True) if y == 1]
        if own:
            rows.append(sum(own) / len(own))
    return sum(rows) / len(rows) if rows else 0.0


def both(left, right, marks, scale, share=0.5) -> float:
    scores = [[scale * sum(a * c for a, c in zip(x, y, strict=True)) for y in right] for x in left]

    def turned(table):
        return [[row[j] for row in table] for j in range(len(right))]

    return share * directed(scores, marks) + (1 - share) * directed(turned(scores), turned(marks))


def together(scene, texts_of, i, k) -> int:
    key, target = scene.batch.text_key.tolist(), scene.target.tolist()
    leads = [{key[j] for j in texts_of(scene, x, TextRole.LEAD)} for x in (i, k)]
    if i == k or leads[0] & leads[1]:
        return 1
    said = [target[i][j] for j in texts_of(scene, k, TextRole.CHILD)]
    return 0 if 0 in said else -1 if -1 in said else 1


def naive(scene, texts_of, scale, share) -> float:
    b, text = len(scene.batch), scene.embeddings.text.tolist()
    visual, target = scene.embeddings.visual.tolist(), scene.target.tolist()
    parents = [(i, j) for i in range(b) for j in texts_of(scene, i, TextRole.LEAD)]
    means, having = [], []
    for k in range(b):
        children = [text[j] for j in texts_of(scene, k, TextRole.CHILD)]
        if children:
            mean = [sum(values) / len(children) for values in zip(*children, strict=True)]
            norm = math.sqrt(sum(x * x for x in mean))
            means.append([x / norm for x in mean])
            having.append(k)
    p = [text[j] for _, j in parents]
    vp = [[target[i][j] for _, j in parents] for i in range(b)]
    vc = [[together(scene, texts_of, i, k) for k in having] for i in range(b)]
    pc = [[together(scene, texts_of, i, k) for k in having] for i, _ in parents]
    return (
        both(visual, p, vp, scale)
        + both(visual, p, vp, scale, share)
        + both(visual, means, vc, scale)
        + both(p, means, pc, scale)
    ) / 4


@relaxed
@given(seed=st.integers(0, 10_000), share=st.floats(0, 1))
def test_equals_the_four_terms(lecture, texts_of, seed, share):
    scene = lecture(seed, keys=3)
    objective = Hierarchy(share=share)
    expected = naive(scene, texts_of, objective.scale().item(), share)
    assert objective(scene).item() == pytest.approx(expected, abs=1e-6)


def test_gradients_pass_gradcheck(lecture, with_vectors):
    scene = lecture(1, [(1, 1, 2, 0), (1, 1, 0, 0), (1, 0, 2, 0)])
    objective = Hierarchy().double()

    def loss(visual, text):
        return objective(with_vectors(scene, visual=visual, text=text))

    leaves = (
        scene.embeddings.visual.clone().requires_grad_(),
        scene.embeddings.text.clone().requires_grad_(),
    )
    assert torch.autograd.gradcheck(loss, leaves)


@relaxed
@given(seed=st.integers(0, 10_000))
def test_the_order_of_the_batch_does_not_matter(lecture, reorder, seed):
    scene = lecture(seed, [(1, 1, 2, 0), (1, 0, 2, 1), (2, 1, 0, 0), (1, 1, 1, 0)], keys=4)
    order = torch.randperm(4, generator=torch.Generator().manual_seed(seed)).tolist()
    objective = Hierarchy()
    assert torch.allclose(objective(scene), objective(reorder(scene, order)))


def test_the_order_and_length_of_child_vectors_give_a_unit_mean():
    vectors = torch.randn(5, 3, dtype=torch.float64)
    mean, has = mean_by_owner(vectors, torch.tensor([0, 0, 2, 2, 2]), 3)
    assert has.tolist() == [True, False, True]
    assert torch.allclose(mean.norm(dim=1), torch.ones(2, dtype=torch.float64))
    swapped, _ = mean_by_owner(vectors[[1, 0, 4, 2, 3]], torch.tensor([0, 0, 2, 2, 2]), 3)
    assert torch.allclose(mean, swapped)


def test_a_sample_without_children_takes_part_in_the_other_terms_only(lecture, with_vectors):
    scene = lecture(2, [(1, 1, 2, 0), (1, 1, 2, 0), (1, 1, 0, 0)], unknown=False)
    family = family_of(scene)
    assert family.children.shape[0] == 2
    assert family.children_target.tolist() == [[1, 0], [0, 1], [0, 0]]
    assert family.parent_children_target.tolist() == [[1, 0], [0, 1], [0, 0]]
    visual = scene.embeddings.visual.clone().requires_grad_()
    Hierarchy()(with_vectors(scene, visual=visual)).backward()
    assert visual.grad[2].abs().max() > 0


def test_identical_parents_are_positives_of_each_other(lecture):
    scene = lecture(2, [(1, 1, 2, 0), (1, 1, 2, 0), (1, 1, 1, 0)], unknown=False)
    key = scene.batch.text_key.clone()
    lead = (scene.batch.text_role == TextRole.LEAD).nonzero()[:, 0]
    key[lead[1]] = key[lead[0]]
    target = scene.target.clone()
    target[0, lead[1]] = target[1, lead[0]] = 1
    family = family_of(replace(scene, batch=replace(scene.batch, text_key=key), target=target))
    expected = [[1, 1, 0], [1, 1, 0], [0, 0, 1]]
    assert family.parent_target.tolist() == expected
    assert family.children_target.tolist() == expected
    assert family.parent_children_target.tolist() == expected


def test_without_roles_or_in_a_batch_of_one_the_loss_is_zero(lecture, with_vectors):
    scene = lecture(3, [(1, 0, 0, 2), (1, 0, 0, 1)])
    visual = scene.embeddings.visual.clone().requires_grad_()
    loss = Hierarchy()(with_vectors(scene, visual=visual))
    loss.backward()
    assert loss.item() == 0
    assert visual.grad.abs().max() == 0
    assert Hierarchy()(lecture(3, [(1, 1, 3, 0)])).item() == pytest.approx(0, abs=1e-9)


def test_opposite_children_and_a_huge_scale_stay_finite(lecture, with_vectors):
    scene = lecture(4, [(1, 1, 2, 0), (1, 1, 2, 0)])
    text = scene.embeddings.text.clone()
    text[2] = -text[1]
    text.requires_grad_()
    loss = hierarchical_nce(family_of(with_vectors(scene, text=text)), 1e5)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(text.grad).all()


def test_the_published_temperature_is_fixed():
    assert not any(p.requires_grad for p in Hierarchy(learn_temperature=False).parameters())
    assert Hierarchy(learn_temperature=False).scale().item() == pytest.approx(10, rel=1e-5)
