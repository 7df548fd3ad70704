"""Metric loss over groups of samples that show the same concepts."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from medvlp.losses.objective import LogitScale, Objective, Scene, text_owner


class Groups(NamedTuple):
    """Samples by what they show."""

    group: Int[Tensor, " b"]
    """Which group each sample is in; -1: nothing is known of it."""
    related: Bool[Tensor, "g g"]
    """Groups one of which shows all that the other shows: neither is a negative of the other."""


def masked_logsumexp(x: Float[Tensor, "r c"], mask: Bool[Tensor, "r c"]) -> Float[Tensor, " r"]:
    """Logsumexp over what is masked in; -inf, without a gradient, where that is nothing."""
    empty = ~mask.any(1)
    # A row of nothing but -inf would have a gradient of nan.
    filled = x.masked_fill(~mask, float("-inf")).masked_fill(empty[:, None], 0)
    return filled.logsumexp(1).masked_fill(empty, float("-inf"))


def group_loss(
    logits: Float[Tensor, "r c"],
    row_group: Int[Tensor, " r"],
    column_group: Int[Tensor, " c"],
    seen: Bool[Tensor, "r c"],
    positives: Literal["all", "hardest"] = "all",
) -> Float[Tensor, ""]:
    """Each group's hard positives against its hard negatives, one direction.

        all:      P_n = sum_{i in n} 1 / sum_{j in n} exp(-s_ij)     (lhp-hn)
        hardest:  P_n = 1 / sum_{i in n, j in n} exp(-s_ij)          (hp-hn)
        N_n = sum_{i in n, j not in n} exp(s_ij)
        L = mean_n - log( P_n / (P_n + N_n) )

    KEEP (Zhou et al. 2024; after AdaSP, Zhou et al. 2023): 1 / sum exp(-s) is a soft minimum, so
    `all` pulls the hardest positive of every row and `hardest` only that of the group. With one
    row and column a group both are InfoNCE. With N groups of k rows and columns and all s equal,
    `all` is log(1 + (N - 1) k^2) and `hardest` log(1 + (N - 1) k^4): the chance level depends on
    the groups, so losses of different samplers cannot be compared.

    Args:
        logits: s, cosines times the scale.
        row_group: From 0.
        column_group: From 0.
        seen: Pairs that take part. The others are in neither sum: a similarity of -1 in their
            place, as published, still counts exp(-1 / temperature) each.
        positives: Which.

    Returns:
        The mean over groups with a positive pair; 0 (with a zero gradient) if there is none.
    """
    inside = row_group[:, None] == column_group[None, :]
    soft_min = -masked_logsumexp(-logits, inside & seen)
    hard_negative = masked_logsumexp(logits, ~inside & seen)
    count = int(row_group.max()) + 1 if len(row_group) else 0
    groups = torch.arange(count, device=logits.device)
    member = groups[:, None] == row_group[None, :]
    pulled = member & soft_min.isfinite()[None, :]
    there = pulled.any(1)
    if not bool(there.any()):
        return logits.sum() * 0
    soft_min = soft_min[None, :].expand(count, -1)
    if positives == "all":
        positive = masked_logsumexp(soft_min, pulled)
    else:
        positive = -masked_logsumexp(-soft_min, pulled)
    pushed = member & hard_negative.isfinite()[None, :]
    negative = masked_logsumexp(hard_negative[None, :].expand(count, -1), pushed)
    return functional.softplus(negative[there] - positive[there]).mean()


def groups_of(stated: Int[Tensor, "b k"]) -> Groups:
    """Samples with the same concepts, whatever the side; those with nothing found are one group.

    `stated` is closed upwards over is-a: a chest with a loculated effusion has an effusion. So
    one group's set contains the other's wherever its concepts are kinds of the other's.

    Args:
        stated: What is known of each sample, three slots a concept.
    """
    present, absent = stated[:, ::3] == 1, stated[:, ::3] == -1
    known = (present | absent).any(1)
    sets, number = torch.unique(present[known].to(torch.int8), dim=0, return_inverse=True)
    group = torch.full((len(stated),), -1, dtype=torch.long, device=stated.device)
    group[known] = number
    size = sets.sum(1)
    shared = sets.float() @ sets.float().T
    # The empty set is in every set, but nothing found is not less of something found.
    within = (shared == size[:, None]) & (size > 0)[:, None]
    return Groups(group, within | within.T)


class ConceptGroups(Objective):
    """KEEP's metric loss between the visuals and the texts of groups of samples.

    Rows are the visuals of which something is known, columns their texts that assert something
    (all texts of a visual none of whose texts does). Left out are: pairs of related groups, pairs
    of different groups that fit or of which it is not known (`Scene.target`), and within a group
    texts that contradict the visual (another side) or claim nothing, except a visual's own.

    Args:
        temperature: Start value; learned.
        min_temperature: Its lower bound.
        positives: `all` (lhp-hn, published) or `hardest` (hp-hn).
    """

    def __init__(
        self,
        *,
        temperature: float = 0.04,
        min_temperature: float = 0.01,
        positives: Literal["all", "hardest"] = "all",
    ) -> None:
        super().__init__()
        self.scale = LogitScale(temperature, min_temperature)
        self.positives: Literal["all", "hardest"] = positives

    def forward(self, scene: Scene) -> Float[Tensor, ""]:
        """The loss of one batch; 0 if nothing is known of any sample that has a text."""
        batch, embeddings = scene.batch, scene.embeddings
        owner = text_owner(batch.text_offsets)
        chosen = speaking(batch.claims, owner, len(batch))
        if not bool((batch.stated[:, ::3] != 0).any()):
            return embeddings.visual.sum() * 0
        group, related = groups_of(batch.stated)
        columns = (chosen & (group[owner] >= 0)).nonzero()[:, 0]
        rows = torch.unique(owner[columns])
        if len(rows) == 0:
            return embeddings.visual.sum() * 0
        seen = _seen(scene, Groups(group, related), owner)[rows][:, columns]
        logits = self.scale() * embeddings.visual[rows] @ embeddings.text[columns].T
        of_rows, of_columns = group[rows], group[owner[columns]]
        there = group_loss(logits, of_rows, of_columns, seen, self.positives)
        back = group_loss(logits.T, of_columns, of_rows, seen.T, self.positives)
        return (there + back) / 2


def speaking(claims: Int[Tensor, "m k"], owner: Int[Tensor, " m"], b: int) -> Bool[Tensor, " m"]:
    """Texts that assert something, and all texts of samples none of whose texts does."""
    asserts = (claims == 1).any(1)
    some = torch.bincount(owner[asserts], minlength=b) > 0
    return asserts | ~some[owner]


def _seen(scene: Scene, groups: Groups, owner: Int[Tensor, " m"]) -> Bool[Tensor, "b m"]:
    """Which pairs take part."""
    stated, claims = scene.batch.stated, scene.batch.claims
    against = (stated == 1).float() @ (claims == -1).float().T
    against = against + (stated == -1).float() @ (claims == 1).float().T
    own = torch.arange(len(stated), device=owner.device)[:, None] == owner[None, :]
    fits = own | ((against == 0) & (claims != 0).any(1)[None, :])
    of_rows, of_columns = groups.group[:, None], groups.group[owner][None, :]
    # -1 is nobody's group: such rows and columns are not looked at.
    unrelated = ~groups.related[of_rows, of_columns]
    return torch.where(of_rows == of_columns, fits, unrelated & (scene.target == 0))
