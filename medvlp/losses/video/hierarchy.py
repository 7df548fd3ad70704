"""HecVL: a long clip against its own text, and both against the texts below it.

Yuan et al. 2024, "HecVL: Hierarchical video-language pretraining for zero-shot surgical phase
recognition" (MICCAI 2024, arXiv 2405.10075).
"""

from __future__ import annotations

from typing import NamedTuple

from jaxtyping import Bool, Float, Int, Int8
from torch import Tensor
from torch.nn import functional

from medvlp.batch import TextRole
from medvlp.losses.contrast.infonce import symmetric_nce
from medvlp.losses.objective import Objective, Scene, text_owner
from medvlp.losses.video.levels import has_role, logit_scale, together_target
from medvlp.losses.video.mil_nce import nt_xent
from medvlp.models.pooling import segment_sum


class Family(NamedTuple):
    """Visuals, parent texts and summaries of child texts, and which hold for which."""

    visual: Float[Tensor, "b e"]
    parent: Float[Tensor, "a e"]
    children: Float[Tensor, "d e"]
    """Unit vectors of the means, of the samples that have children."""
    parent_target: Int8[Tensor, "b a"]
    children_target: Int8[Tensor, "b d"]
    parent_children_target: Int8[Tensor, "a d"]


def hierarchical_nce(
    family: Family, scale: Float[Tensor, ""] | float, share: float = 0.75
) -> Float[Tensor, ""]:
    """Contrast of three levels.

        L = 1/4 ( NCE(v, p) + NTX(v, p) + NCE(v, c) + NCE(p, c) )

    NCE is the symmetric InfoNCE, NTX weighs visual-to-text by `share`; v visual, p parent, c mean
    of the children. A sample without a parent or without children is missing in those terms only,
    as one without positives; the sum is over four in any case.

    Args:
        family: Unit vectors, and targets of 1, 0 and -1 (left out).
        scale: Inverse temperature.
        share: Of visual-to-text in NTX.
    """
    visual_parent = scale * family.visual @ family.parent.T
    visual_children = scale * family.visual @ family.children.T
    parent_children = scale * family.parent @ family.children.T
    return (
        symmetric_nce(visual_parent, family.parent_target)
        + nt_xent(visual_parent, family.parent_target, share)
        + symmetric_nce(visual_children, family.children_target)
        + symmetric_nce(parent_children, family.parent_children_target)
    ) / 4


def mean_by_owner(
    vectors: Float[Tensor, "m e"], owner: Int[Tensor, " m"], b: int
) -> tuple[Float[Tensor, "d e"], Bool[Tensor, " b"]]:
    """Unit vector of the mean of each owner's vectors, and which owners have any.

    The mean of unit vectors is shorter than 1, the more so the less they agree; without
    renormalising, disagreement would act as a higher temperature.
    """
    has = owner.bincount(minlength=b) > 0
    return functional.normalize(segment_sum(vectors, owner, b)[has], dim=-1, eps=1e-6), has


class Hierarchy(Objective):
    """Lead texts as parents, child texts by their mean.

    Identical lead texts are positives of each other's visuals and children; whether another
    sample's children hold for a visual follows `together_target`.

    Args:
        temperature: Start value; learned (published: 0.1, fixed).
        min_temperature: Its lower bound.
        learn_temperature: False: the published form.
        share: Of visual-to-text in NT-Xent.
    """

    def __init__(
        self,
        *,
        temperature: float = 0.1,
        min_temperature: float = 0.02,
        learn_temperature: bool = True,
        share: float = 0.75,
    ) -> None:
        super().__init__()
        self.scale = logit_scale(temperature, min_temperature, learned=learn_temperature)
        self.share = share

    def forward(self, scene: Scene) -> Float[Tensor, ""]:
        """The loss of one batch; 0 if there is neither a lead text nor a child text."""
        return hierarchical_nce(family_of(scene), self.scale(), self.share)


def family_of(scene: Scene) -> Family:
    """Visuals, lead texts and means of child texts of a scene."""
    batch, embeddings = scene.batch, scene.embeddings
    owner = text_owner(batch.text_offsets)
    lead, child = has_role(batch, TextRole.LEAD), has_role(batch, TextRole.CHILD)
    children, has = mean_by_owner(embeddings.text[child], owner[child], len(batch))
    together = together_target(batch, scene.target)[:, has]
    return Family(
        visual=embeddings.visual,
        parent=embeddings.text[lead],
        children=children,
        parent_target=scene.target[:, lead],
        children_target=together,
        # A lead text stands for its sample: what holds for one holds for the other.
        parent_children_target=together[owner[lead]],
    )
