from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck

from medvlp.batch import TextRole
from medvlp.losses.contrast.adaptive_pairs import AdaptivePairs, consistency_gate
from medvlp.losses.contrast.infonce import symmetric_nce


def weights_of(objective, scene):
    return objective.weights(scene, scene.embeddings.visual @ scene.embeddings.text.T)


def set_levels(objective, text, pair):
    objective.text_level.fill_(text)
    objective.pair_level.fill_(pair)
    return objective.double().eval()


def test_the_gate_is_one_from_the_level_on_and_falls_below_it():
    similarity = torch.tensor([0.1, 0.4, 0.9, -1.0], dtype=torch.float64)
    level = torch.tensor(0.4, dtype=torch.float64)
    expected = [math.exp(2 * (0.1 - 0.4)), 1, 1, math.exp(2 * (-1 - 0.4))]
    assert consistency_gate(similarity, level, 2.0).tolist() == pytest.approx(expected)


NARRATED = st.lists(
    st.tuples(st.floats(-0.9, 0.9), st.one_of(st.none(), st.floats(-0.9, 0.9))),
    min_size=1, max_size=5,
)  # fmt: skip


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(samples=NARRATED, levels=st.tuples(st.floats(-0.5, 0.9), st.floats(-0.5, 0.9)))
def test_weights_and_loss_equal_the_naive_loop(narrated, samples, levels):
    told = [t for _, t in samples]
    scene = narrated([c for c, _ in samples], told)
    objective = set_levels(AdaptivePairs(temperature=0.1), *levels)
    weights = weights_of(objective, scene)
    cosines = (scene.embeddings.visual @ scene.embeddings.text.T).tolist()
    owner = [i for i, t in enumerate(told) for _ in range(1 if t is None else 2)]
    text_level, pair_level = objective.text_level.item(), objective.pair_level[0].item()
    expected = [
        [
            (1.0 if told[o] is None else min(1.0, math.exp(2 * (told[o] - text_level))))
            * min(1.0, math.exp(2 * (cosine - pair_level)))
            for cosine, o in zip(row, owner, strict=True)
        ]
        for row in cosines
    ]
    assert torch.allclose(weights, torch.tensor(expected, dtype=torch.float64), atol=1e-9)
    loss = naive_loss(cosines, owner, expected, scale=objective.scale().item())
    assert objective(scene).item() == pytest.approx(loss, abs=1e-9)


def naive_loss(cosines, owner, weights, scale):
    """Weighted contrast in both directions, where each sample's own texts are its positives."""
    b, m = len(cosines), len(owner)
    exps = [[math.exp(scale * c) for c in row] for row in cosines]
    terms = [
        [(-weights[i][j] * math.log(exps[i][j] / sum(exps[i]))) for j in range(m) if owner[j] == i]
        for i in range(b)
    ]
    there = sum(sum(row) / len(row) for row in terms) / b
    back = sum(
        -weights[o][j] * math.log(exps[o][j] / sum(exps[i][j] for i in range(b)))
        for j, o in enumerate(owner)
    )
    return (there + back / m) / 2


def test_a_clean_batch_gives_weights_of_one(narrated):
    scene = narrated([0.7] * 5, [0.9] * 5)
    own = scene.target == 1
    assert torch.allclose(
        weights_of(AdaptivePairs().double(), scene)[own], torch.ones(10, dtype=torch.float64)
    )
    above = set_levels(AdaptivePairs(), 0.5, 0.5)
    assert (weights_of(above, scene)[own] == 1).all()


def test_without_noise_it_is_infonce(narrated):
    scene = narrated([0.7] * 4, [0.9] * 4)
    objective = set_levels(AdaptivePairs(temperature=0.1), 0.5, 0.5)
    cosines = scene.embeddings.visual @ scene.embeddings.text.T
    expected = symmetric_nce(10 * cosines, scene.target)
    assert objective(scene).item() == pytest.approx(expected.item(), rel=1e-6)


def test_the_pair_gate_is_bounded_by_itself(narrated):
    """The public code bounds the description's weight by a test of the sample's weight."""
    scene = narrated([0.1, 0.9], [0.9, 0.1])
    weights = weights_of(set_levels(AdaptivePairs(), 0.5, 0.5), scene)
    # The narrations agree, the visual does not: the pair must still count less.
    assert weights[0, 0].item() == pytest.approx(math.exp(2 * (0.1 - 0.5)))
    # The narrations disagree, the visual fits: the pair's own weight must not pass 1.
    assert weights[1, 2].item() == pytest.approx(math.exp(2 * (0.1 - 0.5)))


def test_without_a_second_text_only_the_pair_gate_remains(narrated):
    scene = narrated([0.3, 0.9], [None, None])
    weights = weights_of(set_levels(AdaptivePairs(), 0.99, 0.5), scene)
    assert weights.diagonal().tolist() == pytest.approx([math.exp(-0.4), 1])
    objective = AdaptivePairs().double()
    weights_of(objective, scene)
    assert objective.text_level.isnan()


def test_corrupted_pairs_get_lower_weights(narrated):
    draw = torch.Generator().manual_seed(0)
    clean = (0.6 + 0.05 * torch.randn(20, generator=draw)).tolist()
    bad = set(torch.randperm(20, generator=draw)[:6].tolist())
    objective = AdaptivePairs().double()
    for _ in range(50):
        pair = [0.05 if i in bad else c for i, c in enumerate(clean)]
        told = [0.1 if i in bad else 0.9 for i in range(20)]
        scene = narrated(pair, told)
        objective(scene)
    weights = weights_of(objective, scene)[range(20), range(0, 40, 2)]
    worst_clean = min(float(w) for i, w in enumerate(weights) if i not in bad)
    assert max(float(weights[i]) for i in bad) < 0.5 * worst_clean


def test_levels_move_in_training_only_and_resume(narrated):
    scene = narrated([0.5, 0.7], [0.8, 0.6])
    objective = AdaptivePairs(momentum=0.9).double()
    objective(scene)
    assert objective.text_level.item() == pytest.approx(0.7)
    lead, heard = int(TextRole.LEAD), int(TextRole.HEARD)
    assert objective.pair_level[lead].item() == pytest.approx(0.6)
    assert objective.pair_level[heard].item() == pytest.approx((0.5 * 0.8 + 0.7 * 0.6) / 2)
    assert objective.pair_level[int(TextRole.PLAIN)].isnan()
    objective(narrated([0.1, 0.1], [0.0, 0.0]))
    assert objective.text_level.item() == pytest.approx(0.63)
    assert objective.pair_level[lead].item() == pytest.approx(0.55)
    again = AdaptivePairs(momentum=0.9).double()
    again.load_state_dict(objective.state_dict())
    assert torch.equal(again(scene), objective(scene))
    before = objective.text_level.clone()
    objective.eval()(narrated([0.9], [0.9]))
    assert torch.equal(objective.text_level, before)


def test_weights_have_no_gradient(narrated):
    scene = narrated([0.5, 0.7], [0.8, 0.6])
    text = scene.embeddings.text.clone().requires_grad_()
    objective = set_levels(AdaptivePairs(), 0.6, 0.4)
    fixed = weights_of(objective, scene)

    def loss(x):
        objective.weights = lambda *_: fixed
        return objective(replace(scene, embeddings=replace(scene.embeddings, text=x)))

    assert gradcheck(loss, (text,))
    weighted = torch.autograd.grad(loss(text), text)[0]
    del objective.weights
    scene = replace(scene, embeddings=replace(scene.embeddings, text=text))
    assert torch.allclose(torch.autograd.grad(objective(scene), text)[0], weighted)


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(samples=NARRATED, draw=st.randoms(use_true_random=False))
def test_the_order_of_samples_does_not_matter(narrated, samples, draw):
    turned = draw.sample(samples, len(samples))
    losses = [
        AdaptivePairs().double()(narrated([c for c, _ in rows], [t for _, t in rows]))
        for rows in (samples, turned)
    ]
    assert torch.allclose(*losses)


def test_no_positives_one_sample_and_no_roles_are_fine(narrated):
    scene = narrated([0.5, 0.7], [0.8, 0.6])
    none = replace(scene, target=torch.zeros_like(scene.target))
    assert AdaptivePairs().double()(none).item() == 0
    plain = replace(scene, batch=replace(scene.batch, text_role=None))
    assert torch.isfinite(AdaptivePairs().double()(plain))
    assert AdaptivePairs().double()(narrated([0.5], [None])).item() == 0


def test_huge_logits_stay_finite(narrated):
    scene = narrated([0.5, 0.7], [0.8, 0.6])
    assert torch.isfinite(AdaptivePairs(temperature=1e-6).double()(scene))
