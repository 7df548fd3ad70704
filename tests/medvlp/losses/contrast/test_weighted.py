from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck

from medvlp.batch import TextRole
from medvlp.losses.contrast.infonce import symmetric_nce
from medvlp.losses.contrast.weighted import moved_average, narration_agreement, weighted_nce

PLAIN, LEAD, HEARD = int(TextRole.PLAIN), int(TextRole.LEAD), int(TextRole.HEARD)


def naive_rows(logits, target, weight):
    rows = []
    for scores, marks, ws in zip(logits, target, weight, strict=True):
        total = sum(math.exp(s) for s, t in zip(scores, marks, strict=True) if t >= 0)
        terms = [
            -w * math.log(math.exp(s) / total)
            for s, t, w in zip(scores, marks, ws, strict=True)
            if t == 1
        ]
        if terms:
            rows.append(sum(terms) / len(terms))
    return sum(rows) / len(rows) if rows else 0.0


def case(seed: int, b: int, m: int):
    draw = torch.Generator().manual_seed(seed)
    logits = torch.randn(b, m, generator=draw, dtype=torch.float64) * 4
    target = torch.randint(-1, 2, (b, m), generator=draw).to(torch.int8)
    rows = torch.rand(b, m, generator=draw, dtype=torch.float64)
    columns = torch.rand(b, m, generator=draw, dtype=torch.float64)
    return logits, target, rows, columns


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), b=st.integers(1, 6), m=st.integers(1, 7))
def test_the_loss_equals_the_naive_loop(seed, b, m):
    logits, target, rows, columns = case(seed, b, m)
    there = naive_rows(logits.tolist(), target.tolist(), rows.tolist())
    back = naive_rows(logits.T.tolist(), target.T.tolist(), columns.T.tolist())
    loss = weighted_nce(logits, target, rows, columns)
    assert loss.item() == pytest.approx((there + back) / 2, abs=1e-9)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_weights_of_one_are_the_unweighted_loss(seed):
    logits, target, *_ = case(seed, 5, 6)
    one = torch.ones(5, 1, dtype=torch.float64), torch.ones(1, 6, dtype=torch.float64)
    assert torch.allclose(weighted_nce(logits, target, *one), symmetric_nce(logits, target))


def test_one_weight_a_row_is_that_weight_for_all_its_pairs():
    logits, target, rows, columns = case(1, 4, 5)
    spread = weighted_nce(logits, target, rows[:, :1].expand(4, 5), columns[:1].expand(4, 5))
    assert torch.allclose(weighted_nce(logits, target, rows[:, :1], columns[:1]), spread)


def test_half_the_weight_is_half_the_loss():
    logits, target, rows, columns = case(2, 4, 5)
    whole = weighted_nce(logits, target, rows, columns)
    assert torch.allclose(weighted_nce(logits, target, rows / 2, columns / 2), whole / 2)


def test_gradients_pass_gradcheck():
    logits, target, rows, columns = case(3, 4, 5)
    assert gradcheck(
        lambda x, r, c: weighted_nce(x, target, r, c),
        (logits.requires_grad_(), rows.requires_grad_(), columns.requires_grad_()),
    )


def test_the_order_of_the_batch_does_not_matter():
    logits, target, rows, columns = case(4, 5, 6)
    i, j = torch.tensor([3, 1, 4, 0, 2]), torch.tensor([5, 2, 0, 1, 4, 3])
    turned = [x[i][:, j] for x in (logits, target, rows, columns)]
    assert torch.allclose(weighted_nce(logits, target, rows, columns), weighted_nce(*turned))


def test_without_a_positive_the_loss_and_gradient_are_zero():
    logits, target, rows, columns = case(5, 3, 4)
    logits.requires_grad_()
    loss = weighted_nce(logits, target.clamp(max=0), rows, columns)
    loss.backward()
    assert loss.item() == 0
    assert logits.grad.abs().max() == 0


def test_huge_logits_stay_finite():
    logits, target, rows, columns = case(6, 4, 4)
    assert torch.isfinite(weighted_nce(logits * 1e6, target, rows, columns))


def test_agreement_is_the_mean_cosine_with_the_other_narrations():
    text = torch.randn(7, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    text = (text / text.norm(dim=1, keepdim=True)).requires_grad_()
    role = torch.tensor([LEAD, HEARD, HEARD, PLAIN, LEAD, PLAIN, HEARD])
    owner = torch.tensor([0, 0, 0, 0, 1, 1, 2])
    agreement = narration_agreement(text, role, owner, 4)
    told = [0, 1, 2]
    for j in told:
        cosines = [(text[j] @ text[k]).item() for k in told if k != j]
        assert agreement[j].item() == pytest.approx(sum(cosines) / 2)
    assert agreement[3:].isnan().all()
    assert not agreement.requires_grad
    assert narration_agreement(text, None, owner, 4).isnan().all()


def test_an_average_begins_with_its_first_value_and_skips_what_is_unknown():
    average = torch.tensor([float("nan"), 1.0, 1.0])
    value = torch.tensor([3.0, 3.0, float("nan")])
    assert moved_average(average, value, 0.9).tolist() == pytest.approx([3.0, 1.2, 1.0])
