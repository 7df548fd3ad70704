"""Local contrast: a text that names a finding is seen in some patch of its visual."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from medvlp.losses.objective import LogitScale, Objective, Scene
from medvlp.models.evidence import patch_evidence


def balanced_sigmoid_loss(
    logits: Float[Tensor, "b m"], positive: Bool[Tensor, "b m"], negative: Bool[Tensor, "b m"]
) -> Float[Tensor, ""]:
    """Mean logistic loss of the positive pairs plus that of the negative pairs, halved.

        L = 1/2 ( mean_{positive} -log sigma(s_ij) + mean_{negative} -log sigma(-s_ij) )

    After SigLIP (Zhai et al. 2023), balanced because a rare finding has few positive pairs; pairs
    that are neither take no part. 0 with a zero gradient where there is no pair.
    """
    parts = [
        functional.softplus(-logits[positive]).mean() if bool(positive.any()) else None,
        functional.softplus(logits[negative]).mean() if bool(negative.any()) else None,
    ]
    there = [part for part in parts if part is not None]
    return torch.stack(there).mean() if there else logits.sum() * 0


def denied_whatever_the_side(scene: Scene) -> Bool[Tensor, "b m"]:
    """Pairs whose text asserts a concept that the visual is known to be without on any side.

    A patch cannot tell left from right, so "left effusion" is no counter-evidence in a chest with
    a right one. The global objective tells sides apart.
    """
    # Slots come in threes: any, left, right (see `ClaimSlots`); only `any` counts here.
    asserted = (scene.batch.claims[:, ::3] == 1).float()
    absent = (scene.batch.stated[:, ::3] == -1).float()
    return (absent @ asserted.T) > 0


class PatchText(Objective):
    """Balanced sigmoid loss over patch evidence, for texts that state a presence.

    After the patch-concept alignment of ConceptCLIP (arXiv 2501.15579) with two of its faults
    left out: a sentence that only denies a finding attracts no patch (its meaning is in no
    place), and a visual that also shows the finding is no negative.

    Args:
        temperature: Start value; learned.
        min_temperature: Its lower bound.
        bias: Start value of the evidence at which presence is as likely as absence; learned.
    """

    needs = frozenset({"patches"})

    def __init__(
        self, *, temperature: float = 0.5, min_temperature: float = 0.02, bias: float = 1.0
    ) -> None:
        super().__init__()
        self.scale = LogitScale(temperature, min_temperature)
        self.bias = nn.Parameter(torch.tensor(float(bias)))

    def forward(self, scene: Scene) -> Float[Tensor, ""]:
        """The loss of one batch; 0 if no text states a presence."""
        embeddings = scene.embeddings
        assert embeddings.patches is not None
        asserting = (scene.batch.claims == 1).any(1).nonzero()[:, 0]
        if len(asserting) == 0:
            return embeddings.patches.sum() * 0
        evidence = patch_evidence(
            embeddings.patches, embeddings.text[asserting], scene.batch.offsets
        )
        logits = self.scale() * (evidence - self.bias)
        target = scene.target[:, asserting]
        denied = denied_whatever_the_side(scene)[:, asserting]
        return balanced_sigmoid_loss(logits, target == 1, (target == 0) & denied)
