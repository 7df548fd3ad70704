"""Entropic optimal transport in the logarithmic domain, for many tables at once."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional


def log_sinkhorn(
    score: Float[Tensor, "b n m"],
    rows: Float[Tensor, "b n"],
    columns: Float[Tensor, "b m"],
    *,
    epsilon: float,
    iterations: int,
) -> Float[Tensor, "b n m"]:
    """Logarithm of the plan that moves mass along high scores.

        Q = argmax_{Q >= 0, Q 1 = rows, Q^T 1 = columns}  <Q, S> + epsilon H(Q)
          = diag(e^u) exp(S / epsilon) diag(e^v)

    by u <- log rows - lse_j(S / epsilon + v), v <- log columns - lse_i(S / epsilon + u) (Cuturi
    2013, "Sinkhorn distances"; the stable form after Peyre and Cuturi 2019, section 4.4). The last
    update is of the columns: their masses are exact, those of the rows converge.

    Args:
        score: S; -inf: no mass may go this way.
        rows: Mass of each row, 0 for padding. Rows and columns of a table must have equal sums.
        columns: Likewise of the columns.
        epsilon: Above 0, in units of score; large: spread evenly.
        iterations: Of both updates.

    Returns:
        log Q; -inf where there is no mass. Differentiable where no mass is 0 and no score is -inf.
    """
    scaled = score / epsilon
    u, v = torch.zeros_like(rows), torch.zeros_like(columns)
    u, v = _masked(u, rows), _masked(v, columns)
    for _ in range(iterations):
        u = _masked(rows.log() - (scaled + v[:, None, :]).logsumexp(2), rows)
        v = _masked(columns.log() - (scaled + u[:, :, None]).logsumexp(1), columns)
    return scaled + u[:, :, None] + v[:, None, :]


def _masked(potential: Float[Tensor, "b n"], mass: Float[Tensor, "b n"]) -> Float[Tensor, "b n"]:
    """No mass, no potential; nor where every way is shut (lse -inf, so that nothing can arrive)."""
    open_ = (mass > 0) & (potential < float("inf"))
    return potential.masked_fill(~open_, float("-inf"))


def sinkhorn(
    score: Float[Tensor, "b n m"],
    rows: Float[Tensor, "b n"],
    columns: Float[Tensor, "b m"],
    *,
    epsilon: float,
    iterations: int,
) -> Float[Tensor, "b n m"]:
    """The plan of `log_sinkhorn`."""
    return log_sinkhorn(score, rows, columns, epsilon=epsilon, iterations=iterations).exp()


def with_bucket(
    score: Float[Tensor, "b n m"],
    rows: Float[Tensor, "b n"],
    columns: Float[Tensor, "b m"],
    value: Float[Tensor, ""],
) -> tuple[Float[Tensor, "b n1 m1"], Float[Tensor, "b n1"], Float[Tensor, "b m1"]]:
    """The same problem with one more row and column that take what fits nothing.

    The alignable prompt bucket of Norton (Lin et al. 2024, arXiv 2401.16702, eq. 6), which is the
    dustbin of SuperGlue with a value read from the data: a pair is worth aligning if it scores
    above `value`. The bucket can take all of either side: its row weighs as much as all columns,
    its column as much as all rows.

    Args:
        score: S.
        rows: Mass of each row, 0 for padding; sums of rows and columns may differ.
        columns: Likewise of the columns.
        value: p.
    """
    wider = functional.pad(score, (0, 1, 0, 1))
    wider[:, -1, :] = value
    wider[:, :, -1] = value
    more_rows = torch.cat([rows, columns.sum(1, keepdim=True)], 1)
    more_columns = torch.cat([columns, rows.sum(1, keepdim=True)], 1)
    return wider, more_rows, more_columns
