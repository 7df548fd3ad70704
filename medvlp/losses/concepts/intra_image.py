"""Intra-image contrast: which concept is in which region of the same visual."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from medvlp.losses.concepts.stream_existence import relation_targets, soft_sigmoid_loss
from medvlp.losses.objective import Objective, Scene


class IntraImage(Objective):
    """Logistic loss of every concept and region of a visual against what the report says of them.

        S_sr = f_s . g_r / sqrt(d) + c,  L = mean over known (s, r) of BCE(sigma(S_sr), M_sr)

    ICL of MeDSLIP (arXiv 2403.10635): the answer of a concept's query and that of a region's query
    agree where, and only where, the concept is in the region. M is 1 present, 0 absent; a pair
    that is not mentioned takes no part. The published loss edits the ternary table in place, so
    that what reads it later takes unmentioned for absent; here it is only read.

    Args:
        uncertain: Probability of presence of an uncertain pair; None: it takes no part, as
            published.
        balanced: Present and absent pairs count the same; published is the plain mean.
    """

    needs = frozenset({"streams"})

    def __init__(self, *, uncertain: float | None = 0.5, balanced: bool = False) -> None:
        super().__init__()
        self.uncertain = uncertain
        self.balanced = balanced

    def forward(self, scene: Scene) -> Float[Tensor, ""]:
        """The loss of one batch; 0 if no pair is mentioned."""
        streams, asked = scene.streams, scene.batch.asked
        if streams is None or asked is None:
            return scene.embeddings.visual.sum() * 0
        target = relation_targets(asked.relations, self.uncertain)
        return soft_sigmoid_loss(streams.pair_logits, target, balanced=self.balanced)
