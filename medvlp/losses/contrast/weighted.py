"""Contrast in which a pair counts by how far it is trusted, and what its trust can rest on."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int, Int8
from torch import Tensor

from medvlp.batch import TextRole
from medvlp.models.pooling import segment_sum


def weighted_nce(
    logits: Float[Tensor, "b m"],
    target: Int8[Tensor, "b m"],
    weight_rows: Float[Tensor, "b #m"],
    weight_columns: Float[Tensor, "#b m"],
) -> Float[Tensor, ""]:
    """Symmetric multi-positive cross-entropy with a weight for every positive pair.

        L = 1/2 ( mean_i 1/|P_i| sum_{j in P_i} w_ij (-log p_ij)  +  the same over columns )

    The weights scale the loss and are not normalised, as in ALIP (Yang et al. 2023, eq. 8) and
    SurgLIME (2026): a batch of poor pairs moves the model less. Weights of 1 are `symmetric_nce`.

    Args:
        logits: Cosines times the scale.
        target: 1 positive, 0 negative, -1 left out of the denominator.
        weight_rows: Weights from visual to text, of each pair or of each row.
        weight_columns: Weights from text to visual, of each pair or of each column.

    Returns:
        The loss; 0 (with a zero gradient) if there is no positive.
    """
    rows = _weighted(logits, target, weight_rows.expand_as(logits))
    columns = _weighted(logits.T, target.T, weight_columns.expand_as(logits).T)
    return (rows + columns) / 2


def _weighted(
    logits: Float[Tensor, "r c"], target: Int8[Tensor, "r c"], weight: Float[Tensor, "r c"]
) -> Float[Tensor, ""]:
    """One direction."""
    positive = target == 1
    count = positive.sum(1)
    rows = count > 0
    if not bool(rows.any()):
        return logits.sum() * 0
    seen = logits.masked_fill(target < 0, float("-inf"))[rows]
    log_share = seen.log_softmax(1).masked_fill(~positive[rows], 0)
    return -((weight[rows] * log_share).sum(1) / count[rows]).mean()


def narration_agreement(
    text: Float[Tensor, "m e"],
    role: Int[Tensor, " m"] | None,
    owner: Int[Tensor, " m"],
    b: int,
) -> Float[Tensor, " m"]:
    """How far what was heard is what others heard at the same time.

    The mean cosine of a lead or heard text with the other lead and heard texts of its sample:
    where recognisers disagree, one of them at least is wrong.

    Args:
        text: Unit vectors.
        role: A `TextRole` each; None if there are no roles.
        owner: Of each text, its sample.
        b: Samples.

    Returns:
        In [-1, 1], without a gradient; nan where there is no other narration to compare with.
    """
    alone = torch.full((len(text),), float("nan"), dtype=text.dtype, device=text.device)
    if role is None:
        return alone
    text = text.detach()
    told: Bool[Tensor, " m"] = (role == TextRole.LEAD) | (role == TextRole.HEARD)
    total = segment_sum(text * told[:, None], owner, b)
    others = torch.bincount(owner[told], minlength=b)[owner] - 1
    cosine = (text * (total[owner] - text)).sum(1) / others.clamp(min=1).to(text.dtype)
    return torch.where(told & (others > 0), cosine, alone)


def moved_average(
    average: Float[Tensor, "*shape"], value: Float[Tensor, "*shape"], momentum: float
) -> Float[Tensor, "*shape"]:
    """One step of an exponential average; nan in `average` is one that has not begun.

    nan in `value` leaves the average as it is.
    """
    value = value.to(average.dtype)
    moved = momentum * average + (1 - momentum) * value
    moved = torch.where(average.isnan(), value, moved)
    return torch.where(value.isnan(), average, moved)
