from __future__ import annotations

import math
from dataclasses import fields, replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medvlp.batch import TextRole
from medvlp.losses.objective import text_owner
from medvlp.losses.video.mil_nce import MilNCE, in_bag, mil_nce, nt_xent
from medvlp.types import Embeddings

relaxed = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def raw_scene(scene, factor=3.0):
    old = {f.name: getattr(scene.embeddings, f.name) for f in fields(Embeddings)}
    draw = torch.Generator().manual_seed(3)
    grow = [
        factor * torch.rand(len(v), 1, generator=draw, dtype=torch.float64)
        for v in (old["visual"], old["text"])
    ]
    old |= {"raw_visual": old["visual"] * grow[0], "raw_text": old["text"] * grow[1]}
    return replace(scene, embeddings=Embeddings(**old))


def pairs_of(i, logits, owner):
    """Pairs that sample i is part of: a row, then columns; its own pairs are in both."""
    b, m = logits.shape
    row = [(i, j) for j in range(m)]
    columns = [(u, j) for j in range(m) if owner[j] == i for u in range(b)]
    return row, columns


def naive(logits, target, owner, *, twice=False) -> float:
    s, t, owner, terms = logits.tolist(), target.tolist(), owner.tolist(), []
    for i in range(len(s)):
        row, columns = pairs_of(i, logits, owner)
        once = list(dict.fromkeys(row + columns))
        positive = [s[u][j] for u, j in once if t[u][j] == 1]
        if positive:
            every = [s[u][j] for u, j in (row + columns if twice else once) if t[u][j] >= 0]
            fit = sum(math.exp(x) for x in positive)
            terms.append(math.log(sum(math.exp(x) for x in every) / fit))
    return sum(terms) / len(terms) if terms else 0.0


def nce(logits, target) -> float:
    rows = []
    for scores, marks in zip(logits.tolist(), target.tolist(), strict=True):
        total = sum(math.exp(s) for s, t in zip(scores, marks, strict=True) if t >= 0)
        own = [math.log(math.exp(s) / total) for s, t in zip(scores, marks, strict=True) if t == 1]
        if own:
            rows.append(-sum(own) / len(own))
    return sum(rows) / len(rows) if rows else 0.0


def case(seed, b, m):
    draw = torch.Generator().manual_seed(seed)
    logits = torch.randn(b, m, generator=draw, dtype=torch.float64) * 3
    target = torch.randint(-1, 2, (b, m), generator=draw).to(torch.int8)
    owner = torch.randint(0, b, (m,), generator=draw).sort().values
    return logits, target, owner


@relaxed
@given(seed=st.integers(0, 10_000), b=st.integers(1, 5), m=st.integers(0, 7), twice=st.booleans())
def test_equals_the_sums_over_pairs(seed, b, m, twice):
    logits, target, owner = case(seed, b, m)
    loss = mil_nce(logits, target, owner, count_twice=twice).item()
    assert loss == pytest.approx(naive(logits, target, owner, twice=twice), abs=1e-9)


def test_published_form_is_that_of_the_paper():
    """mean_i LSE_jk(x_ijk; x_jik) - LSE_k x_iik, on a dense table of b x K texts."""
    b, k = 4, 3
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(b, b, k, generator=draw, dtype=torch.float64)
    expected = 0.0
    for i in range(b):
        below = [x[i, j, c].item() for j in range(b) for c in range(k)]
        below += [x[j, i, c].item() for j in range(b) for c in range(k)]
        above = [x[i, i, c].item() for c in range(k)]
        expected += math.log(sum(map(math.exp, below))) - math.log(sum(map(math.exp, above)))
    owner = torch.arange(b).repeat_interleave(k)
    target = (owner == torch.arange(b)[:, None]).to(torch.int8)
    loss = mil_nce(x.flatten(1), target, owner, count_twice=True).item()
    assert loss == pytest.approx(expected / b, abs=1e-9)


def test_published_form_cannot_fall_below_log_two_and_ours_can():
    logits, own = 50 * torch.eye(4, dtype=torch.float64), torch.eye(4, dtype=torch.int8)
    owner = torch.arange(4)
    assert mil_nce(logits, own, owner).item() < 1e-9
    assert mil_nce(logits, own, owner, count_twice=True).item() == pytest.approx(math.log(2))


def test_one_fitting_text_of_the_bag_is_enough():
    target = torch.tensor([[1, 1, 0], [0, 0, 1]], dtype=torch.int8)
    owner = torch.tensor([0, 0, 1])
    logits = torch.tensor([[9.0, -9, -9], [-9, -9, 9]], dtype=torch.float64)
    assert mil_nce(logits, target, owner).item() < 1e-6


@pytest.mark.parametrize("twice", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_gradients_pass_gradcheck(seed, twice):
    logits, target, owner = case(seed, 3, 5)
    logits.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: mil_nce(x, target, owner, count_twice=twice), (logits,)
    )
    assert torch.autograd.gradcheck(lambda x: nt_xent(x, target), (logits,))


def test_an_unknown_pair_has_no_gradient():
    logits, target, owner = case(5, 4, 6)
    target[1, 2] = -1
    logits.requires_grad_()
    (mil_nce(logits, target, owner) + mil_nce(logits, target, owner, count_twice=True)).backward()
    assert logits.grad[1, 2] == 0
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("mark", [0, -1])
def test_without_a_positive_loss_and_gradient_are_zero(mark):
    logits = torch.randn(3, 4, requires_grad=True)
    target = torch.full((3, 4), mark, dtype=torch.int8)
    loss = mil_nce(logits, target, torch.tensor([0, 0, 1, 2]))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad.abs().max() == 0


def test_duplicates_pull_nothing_apart_and_huge_logits_are_finite():
    logits = torch.randn(4, 4) * 1e4
    owner = torch.arange(4)
    assert mil_nce(logits, torch.ones(4, 4, dtype=torch.int8), owner).item() == 0
    logits.requires_grad_()
    loss = mil_nce(logits, torch.eye(4, dtype=torch.int8), owner, count_twice=True)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all()


@relaxed
@given(seed=st.integers(0, 10_000), share=st.floats(0, 1))
def test_nt_xent_weighs_the_directions(seed, share):
    logits, target, _ = case(seed, 4, 5)
    expected = share * nce(logits, target) + (1 - share) * nce(logits.T, target.T)
    assert nt_xent(logits, target, share).item() == pytest.approx(expected, abs=1e-9)


def test_the_bag_is_what_others_heard_else_the_lead(lecture, texts_of):
    scene = lecture(0, [(1, 1, 2, 2), (1, 1, 1, 0), (1, 0, 1, 0)])
    expected = texts_of(scene, 0, TextRole.HEARD) + texts_of(scene, 1, TextRole.LEAD)
    assert in_bag(scene.batch).nonzero()[:, 0].tolist() == expected


def whole(scene, objective, texts_of, *, raw=False, twice=False) -> float:
    """The objective, from its three parts."""
    b, vectors = len(scene.batch), scene.embeddings
    lead = [j for i in range(b) for j in texts_of(scene, i, TextRole.LEAD)]
    bag = [
        j
        for i in range(b)
        for j in texts_of(scene, i, TextRole.HEARD) or texts_of(scene, i, TextRole.LEAD)
    ]
    logits = objective.scale().item() * vectors.visual @ vectors.text.T
    heard = vectors.raw_visual @ vectors.raw_text.T if raw else logits
    owner = text_owner(scene.batch.text_offsets)
    told, target = logits[:, lead], scene.target[:, lead]
    there, back = nce(told, target), nce(told.T, target.T)
    mil = naive(heard[:, bag], scene.target[:, bag], owner[bag], twice=twice)
    clip_weight, nt_weight, mil_weight = 0.5, 0.3, 0.2
    return (
        clip_weight * (there + back) / 2
        + nt_weight * (0.75 * there + 0.25 * back)
        + mil_weight * mil
    )


WEIGHTS = {"clip_weight": 0.5, "nt_xent_weight": 0.3, "mil_weight": 0.2}


@relaxed
@given(seed=st.integers(0, 10_000))
def test_ours_equals_the_three_parts(lecture, texts_of, seed):
    scene = lecture(seed, keys=4)
    objective = MilNCE(**WEIGHTS)
    expected = whole(scene, objective, texts_of)
    assert objective(scene).item() == pytest.approx(expected, abs=1e-6)


@relaxed
@given(seed=st.integers(0, 10_000))
def test_published_equals_the_three_parts_on_raw_vectors(lecture, texts_of, seed):
    scene = raw_scene(lecture(seed, keys=4))
    objective = MilNCE(published=True, **WEIGHTS)
    expected = whole(scene, objective, texts_of, raw=True, twice=True)
    assert objective(scene).item() == pytest.approx(expected, abs=1e-6)
    assert not any(p.requires_grad for p in objective.parameters())
    once = MilNCE(normalised=False, **WEIGHTS)
    expected = whole(scene, once, texts_of, raw=True)
    assert once(scene).item() == pytest.approx(expected, abs=1e-6)


def test_raw_products_are_not_replaced_by_cosines_in_silence(lecture):
    with pytest.raises(ValueError, match="raw_visual"):
        MilNCE(published=True)(lecture(1))


def test_weights_are_a_third_each_and_the_temperature_learns(lecture):
    scene = lecture(3, [(1, 1, 0, 2)] * 3)
    objective = MilNCE()
    parts = [
        MilNCE(clip_weight=a, nt_xent_weight=b, mil_weight=c)(scene).item()
        for a, b, c in ((1, 0, 0), (0, 1, 0), (0, 0, 1))
    ]
    loss = objective(scene)
    loss.backward()
    assert loss.item() == pytest.approx(sum(parts) / 3, abs=1e-9)
    assert objective.scale.log_scale.grad.abs() > 0


@relaxed
@given(seed=st.integers(0, 10_000))
def test_the_order_of_the_batch_does_not_matter(lecture, reorder, seed):
    scene = lecture(seed, [(1, 1, 1, 2), (1, 0, 2, 0), (2, 1, 0, 0), (1, 1, 0, 1)], keys=4)
    order = torch.randperm(4, generator=torch.Generator().manual_seed(seed)).tolist()
    objective = MilNCE()
    assert torch.allclose(objective(scene), objective(reorder(scene, order)))


def test_no_lead_and_a_batch_of_one(lecture, with_vectors):
    scene = lecture(0, [(1, 0, 2, 0), (1, 0, 1, 0)])
    visual = scene.embeddings.visual.clone().requires_grad_()
    loss = MilNCE()(with_vectors(scene, visual=visual))
    loss.backward()
    assert loss.item() == 0
    assert visual.grad.abs().max() == 0
    assert MilNCE()(lecture(0, [(1, 1, 0, 2)])).item() == pytest.approx(0, abs=1e-9)
