"""Existence read by the dual stream: which concepts and which regions have something to show."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from medvlp.losses.objective import Objective, Scene


class SoftTarget(NamedTuple):
    """What a logit should say, and whether that is known."""

    value: Float[Tensor, "*shape"]
    """Probability of presence, between 0 and 1; 0 where unknown."""
    known: Bool[Tensor, "*shape"]


def soft_sigmoid_loss(
    logits: Float[Tensor, "*shape"], target: SoftTarget, *, balanced: bool
) -> Float[Tensor, ""]:
    """Logistic loss against probabilities t, over the logits s whose target is known.

        plain     L = mean_known [ t softplus(-s) + (1 - t) softplus(s) ]
        balanced  L = 1/2 ( sum t softplus(-s) / P + sum (1 - t) softplus(s) / N )
                  P = max(1, sum t)      N = max(1, sum (1 - t))

    With hard targets the balanced form is `balanced_sigmoid_loss`: both classes count the same,
    and one that has no member is left out of the mean. The bound of 1 keeps an uncertain finding
    that has its class to itself from counting as much as a certain one.

    Returns:
        0, with a zero gradient, if nothing is known.
    """
    known = target.known.to(logits.dtype)
    s = logits.masked_fill(~target.known, 0)
    present = target.value.to(logits.dtype) * known
    absent = known - present
    for_present = (present * functional.softplus(-s)).sum()
    for_absent = (absent * functional.softplus(s)).sum()
    if not balanced:
        return (for_present + for_absent) / known.sum().clamp(min=1)
    classes = (present.sum() > 0).to(s.dtype) + (absent.sum() > 0).to(s.dtype)
    sides = for_present / present.sum().clamp(min=1) + for_absent / absent.sum().clamp(min=1)
    return sides / classes.clamp(min=1)


def relation_targets(relations: Int[Tensor, "*shape"], uncertain: float | None) -> SoftTarget:
    """Targets of a ternary table: 1 present, -1 absent, 2 uncertain, 0 not mentioned (unknown).

    Args:
        relations: Left as it is.
        uncertain: Probability where uncertain; None: unknown.
    """
    value = (relations == 1).float()
    known = (relations == 1) | (relations == -1)
    if uncertain is None:
        return SoftTarget(value, known)
    return SoftTarget(value.masked_fill(relations == 2, uncertain), known | (relations == 2))


def concept_targets(
    present: Bool[Tensor, "b s"],
    absent: Bool[Tensor, "b s"],
    relations: Int[Tensor, "b s r"],
    uncertain: float | None,
) -> SoftTarget:
    """Whether each concept is in each visual.

    Args:
        present: What is known of the visual as a whole.
        absent: Likewise.
        relations: Of a concept that is neither, 2 in some region and 1 in none says that it is
            uncertain.
        uncertain: Its probability then; None: unknown.
    """
    doubted = (relations == 2).any(2) & ~(relations == 1).any(2)
    stated = present.int() - absent.int()
    return relation_targets(torch.where((stated == 0) & doubted, 2, stated), uncertain)


def region_targets(relations: Int[Tensor, "b s r"], uncertain: float | None) -> SoftTarget:
    """Whether anything is in each region of each visual: the strongest that is said of it.

    1 if any concept is present there. Else, if any is uncertain there, so is the region: it is not
    known to be clear. Else 0 if some are known to be absent; unknown if nothing is mentioned.
    """
    said = torch.where((relations == -1).any(1), -1, 0)
    said = torch.where((relations == 2).any(1), 2, said)
    return relation_targets(torch.where((relations == 1).any(1), 1, said), uncertain)


class StreamExistence(Objective):
    """Logistic loss of the existence of concepts, of regions and, if wanted, of their pairs.

        L = S(exists_s, e_s) + S(exists_r, e_r) [+ S(pair_sr, relations)]

    L_exist of MeDSLIP (arXiv 2403.10635), where a softmax over absent and present is the same as
    the sigmoid of one logit; S is `soft_sigmoid_loss`. Published: the plain mean, uncertain
    findings unknown.

    Args:
        balanced: Presence and absence count the same, however rare a finding is.
        uncertain: Probability of presence of what is uncertain; None: it takes no part.
        pairs: Also which concept is in which region, as `IntraImage` does by itself.
    """

    needs = frozenset({"streams"})

    def __init__(
        self, *, balanced: bool = True, uncertain: float | None = None, pairs: bool = False
    ) -> None:
        super().__init__()
        self.balanced = balanced
        self.uncertain = uncertain
        self.pairs = pairs

    def forward(self, scene: Scene) -> Float[Tensor, ""]:
        """The loss of one batch; 0 if nothing is known of any concept or region."""
        streams, asked = scene.streams, scene.batch.asked
        if streams is None or asked is None:
            return scene.embeddings.visual.sum() * 0
        concepts = concept_targets(*scene.known(), asked.relations, self.uncertain)
        regions = region_targets(asked.relations, self.uncertain)
        loss = self._loss(streams.concept_logits, concepts)
        loss = loss + self._loss(streams.region_logits, regions)
        if self.pairs:
            pairs = relation_targets(asked.relations, self.uncertain)
            loss = loss + self._loss(streams.pair_logits, pairs)
        return loss

    def _loss(self, logits: Float[Tensor, "*shape"], target: SoftTarget) -> Float[Tensor, ""]:
        return soft_sigmoid_loss(logits, target, balanced=self.balanced)
