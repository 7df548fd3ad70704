from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck

from medvlp.losses.contrast.concept_groups import (
    ConceptGroups,
    group_loss,
    groups_of,
    masked_logsumexp,
    speaking,
)
from medvlp.losses.contrast.infonce import multi_positive_nce


def naive(logits, rows, columns, seen, positives) -> float:
    losses = []
    for n in sorted(set(rows)):
        inverse, negative = [], 0.0
        for i, g in enumerate(rows):
            if g != n:
                continue
            own = [math.exp(-logits[i][j]) for j, h in enumerate(columns) if h == n and seen[i][j]]
            if own:
                inverse.append(sum(own))
            negative += sum(
                math.exp(logits[i][j]) for j, h in enumerate(columns) if h != n and seen[i][j]
            )
        if inverse:
            p = sum(1 / x for x in inverse) if positives == "all" else 1 / sum(inverse)
            losses.append(-math.log(p / (p + negative)))
    return sum(losses) / len(losses) if losses else 0.0


def case(seed: int, r: int, c: int, groups: int = 3):
    draw = torch.Generator().manual_seed(seed)
    logits = torch.randn(r, c, generator=draw, dtype=torch.float64) * 2
    rows = torch.randint(0, groups, (r,), generator=draw)
    columns = torch.randint(0, groups, (c,), generator=draw)
    seen = torch.rand(r, c, generator=draw) < 0.7
    return logits, rows, columns, seen


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    r=st.integers(1, 7),
    c=st.integers(1, 7),
    positives=st.sampled_from(["all", "hardest"]),
)
def test_the_loss_equals_the_naive_loop(seed, r, c, positives):
    logits, rows, columns, seen = case(seed, r, c)
    expected = naive(logits.tolist(), rows.tolist(), columns.tolist(), seen.tolist(), positives)
    loss = group_loss(logits, rows, columns, seen, positives)
    assert loss.item() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("positives", ["all", "hardest"])
def test_groups_of_one_pair_are_infonce(positives):
    logits = torch.randn(6, 6, dtype=torch.float64)
    each, seen = torch.arange(6), torch.ones(6, 6, dtype=torch.bool)
    expected = multi_positive_nce(logits, torch.eye(6, dtype=torch.int8))
    assert torch.allclose(group_loss(logits, each, each, seen, positives), expected)


@pytest.mark.parametrize(("positives", "power"), [("all", 2), ("hardest", 4)])
@pytest.mark.parametrize("level", [0.0, -7.0, 12.5])
def test_equal_similarities_give_the_chance_level(positives, power, level):
    n, k = 4, 3
    group = torch.arange(n).repeat_interleave(k)
    logits = torch.full((n * k, n * k), level, dtype=torch.float64)
    seen = torch.ones_like(logits, dtype=torch.bool)
    loss = group_loss(logits, group, group, seen, positives)
    assert loss.item() == pytest.approx(math.log(1 + (n - 1) * k**power))


@pytest.mark.parametrize("positives", ["all", "hardest"])
def test_gradients_pass_gradcheck(positives):
    logits, rows, columns, seen = case(3, 6, 5)
    assert gradcheck(
        lambda x: group_loss(x, rows, columns, seen, positives), (logits.requires_grad_(),)
    )


def test_the_order_of_the_batch_does_not_matter():
    logits, rows, columns, seen = case(4, 5, 6)
    i, j = torch.tensor([3, 1, 4, 0, 2]), torch.tensor([5, 2, 0, 1, 4, 3])
    turned = group_loss(logits[i][:, j], rows[i], columns[j], seen[i][:, j])
    assert torch.allclose(group_loss(logits, rows, columns, seen), turned)


def test_a_masked_pair_leaves_nothing_behind():
    """A similarity of -1 in place of a masked pair still counts, and moves with the scale."""
    logits, rows, columns, seen = case(5, 6, 6)
    changed = logits.clone()
    changed[~seen] = 50.0
    assert torch.equal(
        group_loss(logits, rows, columns, seen), group_loss(changed, rows, columns, seen)
    )
    # With every negative masked there is nothing left to lose, whatever the scale.
    inside = rows[:, None] == columns[None, :]
    assert group_loss(-logits.abs(), rows, columns, inside).item() == 0


def test_nothing_seen_one_group_and_huge_logits():
    logits, rows, columns, seen = case(6, 5, 5)
    logits.requires_grad_()
    loss = group_loss(logits, rows, columns, torch.zeros_like(seen))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad.abs().max() == 0
    single = group_loss(logits, rows * 0, columns * 0, torch.ones_like(seen))
    grad = torch.autograd.grad(single, logits)[0]
    assert single.item() == 0
    assert grad.abs().max() == 0
    for scale in (1e6, -1e6):
        assert torch.isfinite(group_loss(logits * scale, rows, columns, seen))


def test_a_masked_logsumexp_of_nothing_has_no_gradient():
    x = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([[True, False, True], [False, False, False]])
    result = masked_logsumexp(x, mask)
    assert result[0].item() == pytest.approx(torch.logsumexp(x[0, [0, 2]], 0).item())
    assert result[1] == float("-inf")
    result[0].backward()
    assert (x.grad[1] == 0).all()


def three(*values):
    """Slots (any, left, right) of concepts known whatever the side."""
    return [v for value in values for v in (value, 0, 0)]


def test_groups_are_sets_of_present_concepts():
    stated = torch.tensor(
        [
            three(1, 0, -1),  # effusion
            three(1, 0, 0),  # effusion, nothing said of the third
            three(1, 1, 0),  # effusion and a kind of it
            three(-1, 0, 0),  # nothing found
            three(0, 0, 0),  # nothing known
            three(0, 0, 1),
            three(0, -1, -1),  # nothing found
        ],
        dtype=torch.int8,
    )
    group, related = groups_of(stated)
    assert group[4] == -1
    assert group[0] == group[1]
    assert group[3] == group[6]
    assert len({int(group[i]) for i in (0, 2, 3, 5)}) == 4
    assert related[group[0], group[2]]
    assert related[group[2], group[0]]
    for other in (0, 2, 5):  # nothing found is not less of something found
        assert not related[group[3], group[other]]
    assert not related[group[0], group[5]]
    assert not related[group[2], group[5]]


def test_a_side_known_alone_puts_a_sample_in_no_group():
    group, _ = groups_of(torch.tensor([[0, -1, 0], [1, 1, -1]], dtype=torch.int8))
    assert group.tolist() == [-1, 0]


def test_texts_that_assert_speak_for_a_sample_and_all_texts_where_none_does():
    claims = torch.tensor([[1], [0], [-1], [0], [1]])
    owner = torch.tensor([0, 0, 1, 1, 3])
    assert speaking(claims, owner, 4).tolist() == [True, False, True, True, True]


def scene_of(make_scene, **changes):
    stated = [three(1, 0, -1), three(1, -1, 0), three(-1, 0, 1), three(-1, -1, -1)]
    claims = [three(1, 0, 0), three(0, 0, 0), three(1, 0, 0), three(0, 0, 1), three(-1, 0, 0)]
    target = [[1, 1, 1, 0, 0], [1, 0, 1, -1, 0], [0, 0, 0, 1, 1], [0, 0, 0, 0, 1]]
    scene = make_scene([1, 2, 1, 1], claims, target, texts=[2, 1, 1, 1], stated=stated)
    return replace(scene, **changes)


def test_the_objective_equals_the_naive_loop(make_scene):
    scene = scene_of(make_scene)
    logits = 10 * scene.embeddings.visual @ scene.embeddings.text.T
    columns = [0, 2, 3, 4]  # text 1 asserts nothing beside one that does
    seen = [
        [True, True, True, True],
        [True, True, False, True],  # not known of it
        [True, True, True, False],  # holds for it too
        [True, True, True, True],
    ]
    s = logits[:, columns]
    group = [0, 0, 1, 2]
    for positives in ("all", "hardest"):
        there = naive(s.tolist(), group, group, seen, positives)
        back = naive(s.T.tolist(), group, group, list(zip(*seen, strict=True)), positives)
        objective = ConceptGroups(temperature=0.1, positives=positives).double()
        assert objective(scene).item() == pytest.approx((there + back) / 2, rel=1e-6)


def test_groups_related_by_is_a_do_not_repel(make_scene):
    stated = [three(1, 0), three(1, 1)]
    scene = make_scene([1, 1], [three(1, 0), three(0, 1)], [[1, 0], [0, 1]], stated=stated)
    scene = replace(scene, batch=replace(scene.batch, text_offsets=torch.tensor([0, 1, 2])))
    visual = scene.embeddings.visual.clone().requires_grad_()
    loss = ConceptGroups()(replace(scene, embeddings=replace(scene.embeddings, visual=visual)))
    loss.backward()
    assert loss.item() == 0
    assert visual.grad.abs().max() == 0


def test_another_side_is_no_positive_of_the_group(make_scene):
    # Both have an effusion; 0 has it left and not right, 1 right and not left.
    stated = [[1, 1, -1, 0, 0, 0], [1, -1, 1, 0, 0, 0], three(-1, 1)]
    claims = [[1, 1, 0, 0, 0, 0], [1, 0, 1, 0, 0, 0], three(0, 1)]
    target = [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
    scene = make_scene([1, 1, 1], claims, target, texts=[1, 1, 1], stated=stated)
    logits = (10 * scene.embeddings.visual @ scene.embeddings.text.T).tolist()
    group, seen = [0, 0, 1], [[True, False, True], [False, True, True], [True, True, True]]
    there = naive(logits, group, group, seen, "all")
    back = naive([list(x) for x in zip(*logits, strict=True)], group, group, seen, "all")
    objective = ConceptGroups(temperature=0.1).double()
    assert objective(scene).item() == pytest.approx((there + back) / 2, rel=1e-6)


def test_a_text_that_claims_nothing_belongs_to_its_own_visual_only(make_scene):
    stated = [three(-1), three(-1), three(1)]
    scene = make_scene(
        [1, 1, 1],
        [three(-1), three(0), three(1)],
        [[1, 0, 0], [1, 1, 0], [0, 0, 1]],
        texts=[1, 1, 1],
        stated=stated,
    )
    logits = (10 * scene.embeddings.visual @ scene.embeddings.text.T).tolist()
    group, seen = [0, 0, 1], [[True, False, True], [True] * 3, [True] * 3]
    there = naive(logits, group, group, seen, "all")
    flipped = [[list(x) for x in zip(*part, strict=True)] for part in (logits, seen)]
    back = naive(flipped[0], group, group, flipped[1], "all")
    objective = ConceptGroups(temperature=0.1).double()
    assert objective(scene).item() == pytest.approx((there + back) / 2, rel=1e-6)


def test_samples_of_which_nothing_is_known_take_no_part(make_scene):
    scene = scene_of(make_scene)
    stated = scene.batch.stated.clone()
    stated[1] = 0
    scene = replace(scene, batch=replace(scene.batch, stated=stated))
    visual = scene.embeddings.visual.clone().requires_grad_()
    text = scene.embeddings.text.clone().requires_grad_()
    embeddings = replace(scene.embeddings, visual=visual, text=text)
    ConceptGroups()(replace(scene, embeddings=embeddings)).backward()
    assert (visual.grad.abs().sum(1) > 0).tolist() == [True, False, True, True]
    assert (text.grad.abs().sum(1) > 0).tolist() == [True, False, False, True, True]


def test_nothing_known_no_texts_and_one_sample_give_zero(make_scene):
    objective = ConceptGroups().double()
    assert objective(make_scene([1, 1], [three(1)] * 2, [[1, 0], [0, 1]])).item() == 0
    stated = [three(1), three(0)]
    # Only the sample of which nothing is known has a text.
    assert objective(make_scene([1, 1], [three(1)], [[0], [1]], stated=stated)).item() == 0
    assert objective(make_scene([1], [three(1)], [[1]], stated=[three(1)])).item() == 0


def test_the_objective_does_not_change_the_batch(make_scene):
    scene = scene_of(make_scene)
    before = scene.target.clone(), scene.batch.stated.clone(), scene.embeddings.text.clone()
    ConceptGroups()(scene)
    after = scene.target, scene.batch.stated, scene.embeddings.text
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
