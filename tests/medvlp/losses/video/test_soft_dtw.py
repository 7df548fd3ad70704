from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medvlp.losses.video.soft_dtw import soft_dtw, soft_minimum

KINDS = ("classical", "probabilistic")


def least(values, gamma, kind) -> float:
    if gamma == 0:
        return min(values)
    low = min(values)
    weights = [math.exp(-(v - low) / gamma) for v in values]
    if kind == "classical":
        return low - gamma * math.log(sum(weights))
    return sum(w * v for w, v in zip(weights, values, strict=True) if w > 0) / sum(weights)


def by_cell(cost, gamma, kind) -> float:
    """Two loops over one table, from the ways that lead into each cell."""
    table = {}
    for i, row in enumerate(cost):
        for j, value in enumerate(row):
            ways = [table[at] for at in ((i, j - 1), (i - 1, j - 1), (i - 1, j)) if at in table]
            table[i, j] = value + (least(ways, gamma, kind) if ways else 0.0)
    return table[len(cost) - 1, len(cost[0]) - 1]


def every_path(cost, i=0, j=0):
    """Cost of every monotone path from a cell to the last."""
    n, m = len(cost), len(cost[0])
    if (i, j) == (n - 1, m - 1):
        return [cost[i][j]]
    steps = [(i + 1, j), (i, j + 1), (i + 1, j + 1)]
    return [
        cost[i][j] + rest for a, c in steps if a < n and c < m for rest in every_path(cost, a, c)
    ]


def case(seed, b, n, m):
    draw = torch.Generator().manual_seed(seed)
    cost = torch.randn(b, n, m, generator=draw, dtype=torch.float64)
    rows = torch.randint(1, n + 1, (b,), generator=draw)
    columns = torch.randint(1, m + 1, (b,), generator=draw)
    return cost, rows, columns


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000), b=st.integers(1, 4), n=st.integers(1, 7), m=st.integers(1, 7),
    gamma=st.sampled_from([1e-3, 0.1, 1.0, 10.0]), kind=st.sampled_from(KINDS),
)  # fmt: skip
def test_equals_the_double_loop(seed, b, n, m, gamma, kind):
    cost, rows, columns = case(seed, b, n, m)
    values = soft_dtw(cost, rows, columns, gamma=gamma, kind=kind)
    for x in range(b):
        own = cost[x, : rows[x], : columns[x]].tolist()
        assert values[x].item() == pytest.approx(by_cell(own, gamma, kind), abs=1e-6)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(1, 4), m=st.integers(1, 5))
def test_the_classical_value_is_a_soft_minimum_over_all_paths(seed, n, m):
    cost, _, _ = case(seed, 1, n, m)
    full = torch.tensor([n]), torch.tensor([m])
    expected = least(every_path(cost[0].tolist()), 0.3, "classical")
    assert soft_dtw(cost, *full, gamma=0.3).item() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_is_hard_dtw_as_gamma_goes_to_zero(kind):
    cost, rows, columns = case(3, 4, 8, 6)
    hard = [by_cell(cost[x, : rows[x], : columns[x]].tolist(), 0, kind) for x in range(len(cost))]
    gaps = [
        (soft_dtw(cost, rows, columns, gamma=g, kind=kind) - torch.tensor(hard)).abs().max().item()
        for g in (1.0, 1e-2, 1e-4, 1e-8)
    ]
    assert gaps[0] > 1e-2
    assert gaps[2] < 1e-3
    assert gaps[3] < 1e-6


def test_the_classical_minimum_is_below_and_the_probabilistic_above():
    x = torch.tensor([[0.3, 0.1, 0.7]], dtype=torch.float64)
    assert soft_minimum(x, 0.5, "classical") < 0.1
    assert soft_minimum(x, 0.5, "probabilistic") > 0.1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("gamma", [0.1, 1.0])
def test_gradients_pass_gradcheck(kind, gamma):
    cost, rows, columns = case(5, 3, 4, 5)
    cost.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: soft_dtw(x, rows, columns, gamma=gamma, kind=kind), (cost,)
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("filler", [1e6, float("inf"), float("nan")])
def test_padding_has_no_effect_and_no_gradient(kind, filler):
    cost, _, _ = case(7, 2, 3, 4)
    wide = torch.full((2, 6, 9), filler, dtype=torch.float64)
    wide[:, :3, :4] = cost
    cost.requires_grad_()
    wide.requires_grad_()
    lengths = torch.tensor([3, 3]), torch.tensor([4, 4])
    plain = soft_dtw(cost, *lengths, gamma=0.2, kind=kind)
    padded = soft_dtw(wide, *lengths, gamma=0.2, kind=kind)
    plain.sum().backward()
    padded.sum().backward()
    assert torch.equal(plain, padded)
    assert torch.allclose(wide.grad[:, :3, :4], cost.grad)
    assert wide.grad[:, 3:].abs().max() == 0
    assert wide.grad[:, :, 4:].abs().max() == 0


def test_a_pair_does_not_depend_on_its_neighbours():
    cost, rows, columns = case(9, 4, 5, 5)
    together = soft_dtw(cost, rows, columns, gamma=0.1, kind="probabilistic")
    order = torch.tensor([2, 0, 3, 1])
    shuffled = soft_dtw(cost[order], rows[order], columns[order], gamma=0.1, kind="probabilistic")
    alone = soft_dtw(cost[2:3], rows[2:3], columns[2:3], gamma=0.1, kind="probabilistic")
    assert torch.allclose(together[order], shuffled)
    assert torch.allclose(together[2:3], alone)


def test_transposed_tables_have_the_same_distance():
    cost, rows, columns = case(11, 3, 4, 6)
    for kind in KINDS:
        there = soft_dtw(cost, rows, columns, gamma=0.3, kind=kind)
        assert torch.allclose(there, soft_dtw(cost.mT, columns, rows, gamma=0.3, kind=kind))


def test_empty_sequences_are_zero_without_a_gradient():
    cost = torch.randn(3, 2, 2, dtype=torch.float64, requires_grad=True)
    rows, columns = torch.tensor([0, 2, 2]), torch.tensor([2, 0, 1])
    values = soft_dtw(cost, rows, columns, gamma=0.1)
    values.sum().backward()
    assert values[:2].tolist() == [0, 0]
    assert cost.grad[:2].abs().max() == 0
    nothing = torch.zeros(2, 0, 3, requires_grad=True)
    value = soft_dtw(nothing, torch.zeros(2).long(), torch.tensor([3, 3]), gamma=0.1)
    value.sum().backward()
    assert value.tolist() == [0, 0]
    assert soft_dtw(torch.full((1, 2, 2), float("nan")), *[torch.zeros(1).long()] * 2, gamma=1) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_huge_costs_and_a_small_gamma_stay_finite_in_float32(kind):
    cost = (torch.randn(2, 6, 6, generator=torch.Generator().manual_seed(0)) * 1e4).requires_grad_()
    full = torch.tensor([6, 6])
    value = soft_dtw(cost, full, full, gamma=1e-6, kind=kind)
    value.sum().backward()
    assert value.dtype == torch.float32
    assert torch.isfinite(value).all()
    assert torch.isfinite(cost.grad).all()


def test_gamma_must_be_above_zero():
    with pytest.raises(ValueError, match="gamma"):
        soft_dtw(torch.zeros(1, 2, 2), torch.tensor([2]), torch.tensor([2]), gamma=0.0)
