"""Which texts of a batch play which part, and packed rows as a padded table."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Int, Int8
from torch import Tensor

from medvlp.batch import Batch, TextRole
from medvlp.losses.objective import LogitScale, text_owner


class Table(NamedTuple):
    """Packed rows by owner, padded to the longest."""

    row: Int[Tensor, "b width"]
    """Which packed row stands at each place; 0 where there is none."""
    there: Bool[Tensor, "b width"]


def has_role(batch: Batch, role: TextRole) -> Bool[Tensor, " m"]:
    """Which texts have a role; none where no roles are given."""
    if batch.text_role is None:
        return torch.zeros_like(batch.text_key, dtype=torch.bool)
    return batch.text_role == role


def table_of(owner: Int[Tensor, " n"], b: int, chosen: Bool[Tensor, " n"] | None = None) -> Table:
    """Rows of each owner, in their packed order.

    Args:
        owner: Of each row; ascending.
        b: How many owners there are.
        chosen: Rows that count; all by default.
    """
    rows = torch.arange(len(owner), device=owner.device)
    if chosen is not None:
        rows = rows[chosen]
    mine = owner[rows]
    count = torch.bincount(mine, minlength=b)
    place = torch.arange(len(rows), device=owner.device) - (count.cumsum(0) - count)[mine]
    width = int(count.max()) if len(rows) else 0
    row = rows.new_zeros(b, width)
    row[mine, place] = rows
    there = torch.arange(width, device=owner.device) < count[:, None]
    return Table(row, there)


def together_target(batch: Batch, target: Int8[Tensor, "b m"]) -> Int8[Tensor, "b b"]:
    """For which visuals the child texts of a sample, taken together, hold.

    Together they say "all of this": one text that does not hold makes it false, whatever is
    unknown of the rest (three-valued logic after Kleene 1952). Rules for visual i and sample k,
    the first that applies: i = k: 1. i and k have an identical lead text: 1. A child of k does not
    hold for i: 0. All hold: 1. Otherwise nobody knows: -1. Where k has no child there is nothing
    to hold: -1. A visual whose own lead text is unknown (`Doubt`) has no positive: -1 instead of 1.

    Args:
        batch: With roles.
        target: Which text holds for which visual (`Scene.target`).
    """
    b, owner = len(target), text_owner(batch.text_offsets)
    lead, child = has_role(batch, TextRole.LEAD), has_role(batch, TextRole.CHILD)
    belongs = (owner == torch.arange(b, device=owner.device)[:, None]) & child
    # Counts of at most a few hundred: exact in float32, and a product of floats runs anywhere.
    mine = belongs.float()
    false = (target == 0).float() @ mine.T
    true = (target == 1).float() @ mine.T
    size = mine.sum(1)
    result = torch.full_like(false, -1, dtype=torch.int8)
    result[(true == size) & (size > 0)] = 1
    result[false > 0] = 0
    result[same_lead(batch.text_key[lead], owner[lead], b)] = 1
    result[:, size == 0] = -1
    # Where a visual's own text is doubted, what its like says of it is doubted too.
    doubted = owner[lead][target[owner[lead], lead] == -1]
    result[doubted] = result[doubted].masked_fill(result[doubted] == 1, -1)
    return result


def same_lead(key: Int[Tensor, " a"], owner: Int[Tensor, " a"], b: int) -> Bool[Tensor, "b b"]:
    """Pairs of samples with an identical lead text; every sample pairs with itself."""
    distinct, number = torch.unique(key, return_inverse=True)
    has = torch.zeros(b, len(distinct), device=key.device)
    has[owner, number] = 1
    shared = has @ has.T > 0
    return shared | torch.eye(b, dtype=torch.bool, device=key.device)


def logit_scale(temperature: float, min_temperature: float, *, learned: bool = True) -> LogitScale:
    """A scale that is trained, or one that stays as it is, as in the older papers."""
    scale = LogitScale(temperature, min(temperature, min_temperature))
    scale.requires_grad_(learned)
    return scale
