"""Existence: which concepts of the knowledge book does a visual show, asked in words."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from medvlp.batch import QuestionRole
from medvlp.losses.concepts.patch_text import balanced_sigmoid_loss
from medvlp.losses.objective import LogitScale, Objective, Scene
from medvlp.models.evidence import patch_evidence


class Existence(Objective):
    """Balanced sigmoid loss of claim against denial, for every concept and visual.

        g_ic = s_g (v_i . p_c - v_i . n_c)         the vector says: more like the claim
        l_ic = s_l (evidence(patches_i, p_c) - b)  some patches say: here it is
        L = 1/2 ( B(g) + B(l) )

    p_c and n_c are the vectors of a sentence that claims concept c and of one that denies it; B is
    `balanced_sigmoid_loss` over the pairs of which it is known. Every visual answers for every
    concept in every step, where a drawn sentence speaks of one or two: this is what the knowledge
    queries of KAD and MedKLIP bring (Zhang et al. 2023, Wu et al. 2023), here with the text tower
    as the query.

    Args:
        temperature: Of the vector's logits, start value; learned.
        min_temperature: Lower bound of both temperatures.
        local_temperature: Of the evidence's logits, start value; learned.
        bias: Start value of b; learned.
    """

    needs = frozenset({"patches", "questions"})
    asks = frozenset({QuestionRole.CLAIM, QuestionRole.DENIAL})

    def __init__(
        self,
        *,
        temperature: float = 0.1,
        min_temperature: float = 0.02,
        local_temperature: float = 0.5,
        bias: float = 1.0,
    ) -> None:
        super().__init__()
        self.scale = LogitScale(temperature, min_temperature)
        self.local_scale = LogitScale(local_temperature, min_temperature)
        self.bias = nn.Parameter(torch.tensor(float(bias)))

    def forward(self, scene: Scene) -> Float[Tensor, ""]:
        """The loss of one batch; 0 if nothing is known of any concept."""
        embeddings = scene.embeddings
        if scene.questions is None:
            return embeddings.visual.sum() * 0
        assert embeddings.patches is not None
        claims, denials = scene.asked(QuestionRole.CLAIM), scene.asked(QuestionRole.DENIAL)
        known = scene.known()
        whole = self.scale() * (embeddings.visual @ (claims - denials).T)
        evidence = patch_evidence(embeddings.patches, claims, scene.batch.offsets)
        local = self.local_scale() * (evidence - self.bias)
        return (balanced_sigmoid_loss(whole, *known) + balanced_sigmoid_loss(local, *known)) / 2
