"""Dynamic time warping with a soft minimum, for many pairs of sequences at once."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

SoftMin = Literal["classical", "probabilistic"]
"""Which soft minimum: see `soft_minimum`."""

_OUTSIDE = 1e30
"""Cost of a way that leaves the table. Finite: two infinities have no difference."""


def soft_minimum(x: Float[Tensor, "*b 3"], gamma: float, kind: SoftMin) -> Float[Tensor, "*b"]:
    """A differentiable minimum over the last axis; the minimum itself as gamma goes to 0.

        classical      - gamma log sum_k exp(- x_k / gamma)              at most the minimum
        probabilistic    sum_k softmax(- x / gamma)_k x_k                at least the minimum

    The first is that of Cuturi and Blondel 2017, "Soft-DTW", eq. 1, a smooth bound whose gradient
    is a softmax. The second, an expectation, is what the code of PeskaVLP takes (after Hadji et
    al. 2021, "Representation learning via global temporal alignment and cycle-consistency"); its
    gradient can be negative: a dearer neighbour may lower it.
    """
    least = x.detach().amin(-1, keepdim=True)
    above = x - least
    if kind == "classical":
        return least[..., 0] - gamma * (-above / gamma).logsumexp(-1)
    return ((-above / gamma).softmax(-1) * x).sum(-1)


def soft_dtw(
    cost: Float[Tensor, "b n m"],
    rows: Int[Tensor, " b"],
    columns: Int[Tensor, " b"],
    *,
    gamma: float,
    kind: SoftMin = "classical",
) -> Float[Tensor, " b"]:
    """Soft cost of the cheapest monotone way from corner to corner of each table.

        D_ij = c_ij + softmin(D_i,j-1, D_i-1,j-1, D_i-1,j),  D_00 = 0,  result D_{n_b, m_b}

    Cells of one anti-diagonal (i + j fixed) need only the two diagonals before, so n + m - 1 steps
    fill the tables of the whole batch.

    Args:
        cost: Padding may hold anything.
        rows: Lengths n_b.
        columns: Lengths m_b.
        gamma: Above 0; in units of cost.
        kind: Which soft minimum.

    Returns:
        One value a pair; 0 where a length is 0.
    """
    if gamma <= 0:
        raise ValueError(f"gamma must be above 0; got {gamma}")
    b, n, m = cost.shape
    some = (rows > 0) & (columns > 0)
    if n == 0 or m == 0 or not bool(some.any()):
        return cost.new_zeros(b) + torch.nan_to_num(cost).sum() * 0
    skewed = _by_diagonal(cost.masked_fill(~_within(rows, columns, n, m), 0))
    # Each diagonal has one cell before its first row; for the step to cell (0, 0) it is the corner.
    # Cells left of a table are reached from outside only, and none right of it leads back.
    outside = cost.new_full((b, n), _OUTSIDE)
    before = functional.pad(outside, (1, 0), value=0.0)
    last = functional.pad(outside, (1, 0), value=_OUTSIDE)
    diagonals = []
    for step in range(n + m - 1):
        neighbours = torch.stack([last[:, 1:], before[:, :-1], last[:, :-1]], -1)
        diagonals.append(skewed[step] + soft_minimum(neighbours, gamma, kind))
        before, last = last, functional.pad(diagonals[-1], (1, 0), value=_OUTSIDE)
    # Only the end of each table is read, so nothing beyond a pair's lengths has any effect.
    end_row, end_step = (rows - 1).clamp(min=0), (rows + columns - 2).clamp(min=0)
    ends = torch.stack(diagonals)[end_step, torch.arange(b, device=cost.device), end_row]
    return torch.where(some, ends, torch.zeros_like(ends))


def _within(
    rows: Int[Tensor, " b"], columns: Int[Tensor, " b"], n: int, m: int
) -> Bool[Tensor, "b n m"]:
    """Cells of each table that are not padding."""
    row = torch.arange(n, device=rows.device) < rows[:, None]
    column = torch.arange(m, device=rows.device) < columns[:, None]
    return row[:, :, None] & column[:, None, :]


def _by_diagonal(x: Float[Tensor, "b n m"]) -> Float[Tensor, "d b n"]:
    """The n + m - 1 anti-diagonals: entry (d, b, i) is x[b, i, d - i], 0 outside.

    Padding each row by n and dropping the last n entries of a table makes rows one shorter than
    they were written, so each starts one place later than the row above it.
    """
    b, n, m = x.shape
    flat = functional.pad(x, (0, n)).flatten(1)[:, : n * (n + m - 1)]
    return flat.reshape(b, n, n + m - 1).permute(2, 0, 1).contiguous()
