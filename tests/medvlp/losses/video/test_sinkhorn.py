from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medvlp.losses.video.sinkhorn import log_sinkhorn, sinkhorn, with_bucket


def naive(score, rows, columns, epsilon, iterations):
    """Rows and columns of exp(S / eps) scaled in turn, entry by entry."""
    plan = [[math.exp(s / epsilon) for s in row] for row in score]
    for _ in range(iterations):
        plan = [[x * want / sum(row) for x in row] for row, want in zip(plan, rows, strict=True)]
        sums = [sum(row[j] for row in plan) for j in range(len(columns))]
        plan = [[x * columns[j] / sums[j] for j, x in enumerate(row)] for row in plan]
    return plan


def case(seed, b, n, m):
    draw = torch.Generator().manual_seed(seed)
    score = torch.rand(b, n, m, generator=draw, dtype=torch.float64)
    rows = torch.rand(b, n, generator=draw, dtype=torch.float64) + 0.1
    columns = torch.rand(b, m, generator=draw, dtype=torch.float64) + 0.1
    return score, rows / rows.sum(1, keepdim=True), columns / columns.sum(1, keepdim=True)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000), b=st.integers(1, 3), n=st.integers(1, 5), m=st.integers(1, 5),
    epsilon=st.sampled_from([0.1, 1.0]), iterations=st.sampled_from([1, 7, 50]),
)  # fmt: skip
def test_equals_scaling_in_turn(seed, b, n, m, epsilon, iterations):
    score, rows, columns = case(seed, b, n, m)
    plan = sinkhorn(score, rows, columns, epsilon=epsilon, iterations=iterations)
    for x in range(b):
        expected = naive(
            score[x].tolist(), rows[x].tolist(), columns[x].tolist(), epsilon, iterations
        )
        assert torch.allclose(plan[x], torch.tensor(expected, dtype=torch.float64), atol=1e-9)


@pytest.mark.parametrize("epsilon", [0.1, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_marginals_are_met(epsilon, dtype):
    score, rows, columns = (x.to(dtype) for x in case(1, 16, 24, 17))
    plan = sinkhorn(score, rows, columns, epsilon=epsilon, iterations=50)
    assert (plan.sum(2) - rows).abs().max() < 1e-4
    assert (plan.sum(1) - columns).abs().max() < 1e-4


def test_a_small_epsilon_finds_the_best_assignment():
    score, _, _ = case(2, 1, 4, 4)
    even = torch.full((1, 4), 0.25, dtype=torch.float64)
    plan = sinkhorn(score, even, even, epsilon=0.002, iterations=3000)[0] * 4
    best = max(
        (sum(score[0, i, p[i]].item() for i in range(4)), p)
        for p in torch.cartesian_prod(*[torch.arange(4)] * 4).tolist()
        if len(set(p)) == 4
    )[1]
    assert plan.argmax(1).tolist() == best
    assert plan.max(1).values.min() > 0.95


def test_padding_and_shut_ways_get_no_mass_and_have_no_effect():
    score, rows, columns = case(3, 2, 3, 4)
    wide = torch.full((2, 5, 6), 9.0, dtype=torch.float64)
    wide[:, :3, :4] = score
    wide[:, 3:] = float("-inf")
    zeros = torch.zeros(2, 2, dtype=torch.float64)
    padded = sinkhorn(
        wide, torch.cat([rows, zeros], 1), torch.cat([columns, zeros], 1), epsilon=0.5, iterations=9
    )
    plain = sinkhorn(score, rows, columns, epsilon=0.5, iterations=9)
    assert torch.allclose(padded[:, :3, :4], plain)
    assert padded[:, 3:].sum() == 0
    assert padded[:, :, 4:].sum() == 0
    shut = score.clone()
    shut[0, 0, 1] = float("-inf")
    plan = sinkhorn(shut, rows, columns, epsilon=0.5, iterations=300)
    assert plan[0, 0, 1] == 0
    assert (plan.sum(2) - rows).abs().max() < 1e-4


def test_a_row_without_any_way_and_an_empty_table_are_no_nan():
    score, rows, columns = case(4, 2, 3, 3)
    score[0, 1] = float("-inf")
    rows[1], columns[1] = 0, 0
    plan = sinkhorn(score, rows, columns, epsilon=0.5, iterations=20)
    assert torch.isfinite(plan).all()
    assert plan[0, 1].sum() == 0
    assert plan[1].sum() == 0


def test_gradients_pass_gradcheck():
    score, rows, columns = case(5, 2, 3, 2)
    score.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: log_sinkhorn(x, rows, columns, epsilon=0.5, iterations=4), (score,)
    )


def test_huge_scores_stay_finite():
    score, rows, columns = (x.float() for x in case(6, 2, 4, 4))
    plan = sinkhorn(1e4 * score, rows, columns, epsilon=0.1, iterations=50)
    assert torch.isfinite(plan).all()
    assert torch.allclose(plan.sum(1), columns, atol=1e-2)


def test_the_bucket_adds_a_row_and_a_column_of_one_value():
    score = torch.tensor([[[0.9, 0.1], [0.2, 0.8], [0.0, 0.1]]])
    rows, columns = torch.ones(1, 3), torch.ones(1, 2)
    wide, more_rows, more_columns = with_bucket(score, rows, columns, torch.tensor(0.5))
    assert torch.equal(wide[:, :3, :2], score)
    assert wide[0, 3].tolist() == [0.5] * 3
    assert wide[0, :, 2].tolist() == [0.5] * 4
    assert more_rows.tolist() == [[1, 1, 1, 2]]
    assert more_columns.tolist() == [[1, 1, 3]]


def test_an_unpaired_clips_mass_goes_to_the_bucket():
    score = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]], dtype=torch.float64)
    rows, columns = torch.ones(1, 3).double(), torch.ones(1, 2).double()
    bucket = with_bucket(score, rows, columns, torch.tensor(0.5, dtype=torch.float64))
    plan = sinkhorn(*bucket, epsilon=0.1, iterations=50)[0]
    assert (plan.sum(1) - bucket[1][0]).abs().max() < 1e-4
    assert plan[2, -1] > 0.9
    assert plan[0, 0] > 0.85
    assert plan[1, 1] > 0.85
    without = sinkhorn(score, rows / 3, columns / 2, epsilon=0.1, iterations=50)[0]
    assert without[2].sum() == pytest.approx(1 / 3, abs=1e-4)
