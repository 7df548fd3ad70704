from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck

from medvlp.losses.contrast.agreed_pairs import AgreedPairs
from medvlp.losses.contrast.infonce import symmetric_nce
from medvlp.losses.contrast.weighted import weighted_nce


def fixed(mean, dev, **settings):
    objective = AgreedPairs(**settings).double().eval()
    objective.mean.fill_(mean)
    objective.variance.fill_(dev * dev)
    return objective


def test_weights_are_linear_between_the_ends(narrated):
    told = [0.1, 0.3, 0.5, 0.6, 0.9]
    weights = fixed(0.5, 0.1).weights(narrated([0.5] * 5, told))
    # From 0.1 at mean - 2 dev to 1 at mean + 2 dev.
    expected = [0.1, 0.1, 0.55, 0.1 + 0.9 * 0.75, 1.0]
    assert weights[::2].tolist() == pytest.approx(expected)
    assert weights[1::2].tolist() == pytest.approx(expected)


def test_what_nobody_else_heard_has_the_full_weight(narrated):
    weights = fixed(0.9, 0.2).weights(narrated([0.5] * 3, [None, 0.6, None]))
    assert weights[0] == weights[3] == 1
    assert weights[1] < 1


def test_full_agreement_has_the_full_weight(narrated):
    for dev in (0.3, 1e-9):
        weights = fixed(0.95, dev).weights(narrated([0.5] * 2, [1.0, 1.0]))
        assert weights.tolist() == pytest.approx([1.0] * 4)


def test_a_mean_of_one_is_no_division_by_zero(narrated):
    weights = fixed(1.0, 0.0).weights(narrated([0.5] * 2, [1.0, 0.5]))
    assert weights.tolist() == pytest.approx([1, 1, 0.1, 0.1])


def test_the_weight_of_a_text_does_not_depend_on_its_neighbours(narrated):
    objective = fixed(0.5, 0.1)
    alone = objective.weights(narrated([0.5], [0.45]))
    beside = objective.weights(narrated([0.5] * 3, [0.45, 0.99, 0.0]))
    assert torch.allclose(alone, beside[:2])


def test_corrupted_narrations_get_lower_weights(narrated):
    draw = torch.Generator().manual_seed(0)
    objective = AgreedPairs().double()
    for _ in range(50):
        told = (0.8 + 0.05 * torch.randn(20, generator=draw)).clamp(max=1)
        bad = torch.rand(20, generator=draw) < 0.3
        told[bad] = 0.1
        scene = narrated([0.5] * 20, told.tolist())
        objective(scene)
    weights = objective.eval().weights(scene)[::2]
    assert weights[bad].max() < 0.5 * weights[~bad].min()


def test_averages_move_in_training_only_and_resume(narrated):
    objective = AgreedPairs(momentum=0.9).double()
    objective(narrated([0.5] * 2, [0.4, 0.8]))
    assert objective.mean.item() == pytest.approx(0.6)
    assert objective.variance.item() == pytest.approx(0.04)
    objective(narrated([0.5] * 2, [0.2, 0.2]))
    assert objective.mean.item() == pytest.approx(0.56)
    assert objective.variance.item() == pytest.approx(0.9 * 0.04 + 0.1 * 0.36**2)
    again = AgreedPairs(momentum=0.9).double()
    again.load_state_dict(objective.state_dict())
    scene = narrated([0.5] * 2, [0.1, 0.9])
    assert torch.equal(again(scene), objective(scene))
    before = objective.mean.clone()
    objective.eval()(scene)
    assert torch.equal(objective.mean, before)


def test_the_loss_is_weighted_by_the_text_in_both_directions(narrated):
    scene = narrated([0.5, 0.7], [0.4, 0.6])
    objective = fixed(0.5, 0.1, temperature=0.1)
    weights = objective.weights(scene)[None, :].expand(2, 4)
    logits = 10 * scene.embeddings.visual @ scene.embeddings.text.T
    expected = weighted_nce(logits, scene.target, weights, weights)
    assert objective(scene).item() == pytest.approx(expected.item(), rel=1e-6)


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    samples=st.lists(
        st.tuples(st.floats(-0.9, 0.9), st.one_of(st.none(), st.floats(-0.9, 0.9))),
        min_size=1, max_size=5,
    ),
    draw=st.randoms(use_true_random=False),
)  # fmt: skip
def test_the_loss_equals_the_naive_loop_in_any_order(narrated, samples, draw):
    objective = fixed(0.3, 0.2, temperature=0.1)
    told = [t for _, t in samples]
    scene = narrated([c for c, _ in samples], told)
    owner = [i for i, t in enumerate(told) for _ in range(1 if t is None else 2)]
    # From 0.1 at 0.3 - 2 * 0.2 to 1 at 0.3 + 2 * 0.2; 1 where nobody else heard anything.
    weights = [
        1.0 if told[o] is None else 0.1 + 0.9 * min(max((told[o] + 0.1) / 0.8, 0), 1) for o in owner
    ]
    cosines = (scene.embeddings.visual @ scene.embeddings.text.T).tolist()
    exps = [[math.exp(objective.scale().item() * c) for c in row] for row in cosines]
    there, back = [[] for _ in samples], []
    for j, (o, weight) in enumerate(zip(owner, weights, strict=True)):
        there[o].append(-weight * math.log(exps[o][j] / sum(exps[o])))
        back.append(-weight * math.log(exps[o][j] / sum(row[j] for row in exps)))
    rows = [sum(terms) / len(terms) for terms in there]
    expected = (sum(rows) / len(rows) + sum(back) / len(back)) / 2
    assert objective(scene).item() == pytest.approx(expected, abs=1e-7)
    turned = draw.sample(samples, len(samples))
    other = narrated([c for c, _ in turned], [t for _, t in turned])
    assert objective(other).item() == pytest.approx(expected, abs=1e-7)


def test_without_narrations_it_is_infonce(narrated):
    scene = narrated([0.5, 0.7, 0.2])
    logits = 10 * scene.embeddings.visual @ scene.embeddings.text.T
    expected = symmetric_nce(logits, scene.target)
    for roles in (scene.batch.text_role, None):
        unheard = replace(scene, batch=replace(scene.batch, text_role=roles))
        objective = AgreedPairs(temperature=0.1).double()
        assert objective(unheard).item() == pytest.approx(expected.item(), rel=1e-6)
        assert objective.mean.isnan()


def test_gradients_pass_gradcheck(narrated):
    scene = narrated([0.5, 0.7], [0.4, 0.6])
    objective = fixed(0.5, 0.1)
    visual = scene.embeddings.visual.clone().requires_grad_()
    assert gradcheck(
        lambda x: objective(replace(scene, embeddings=replace(scene.embeddings, visual=x))),
        (visual,),
    )


def test_no_positives_and_one_sample_give_zero(narrated):
    scene = narrated([0.5, 0.7], [0.4, 0.6])
    none = replace(scene, target=torch.full_like(scene.target, -1))
    assert AgreedPairs().double()(none).item() == 0
    assert AgreedPairs().double()(narrated([0.5])).item() == 0
    same = AgreedPairs().double()(narrated([0.5] * 3, [0.7] * 3))
    assert math.isfinite(same.item())


def test_huge_logits_stay_finite(narrated):
    scene = narrated([0.5, 0.7], [0.8, 0.6])
    assert torch.isfinite(AgreedPairs(temperature=1e-6).double()(scene))
