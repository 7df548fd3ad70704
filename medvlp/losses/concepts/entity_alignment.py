"""Entity alignment: every visual and every text is told apart by all concepts at once."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from medvlp.batch import QuestionRole
from medvlp.losses.objective import LogitScale, Objective, Scene, text_owner


def masked_bce(
    logits: Float[Tensor, "rows q"], present: Bool[Tensor, "rows q"], absent: Bool[Tensor, "rows q"]
) -> Float[Tensor, ""]:
    """Binary cross-entropy averaged over the pairs that are known; 0 if none is.

    L = mean_{known} ( log(1 + exp(s)) - [present] s )
    """
    known = present | absent
    if not bool(known.any()):
        return logits.sum() * 0
    target = present[known].to(logits.dtype)
    return functional.binary_cross_entropy_with_logits(logits[known], target)


def linked(scene: Scene) -> tuple[Bool[Tensor, "b k"], Bool[Tensor, "m k"]]:
    """Published labels of visuals and texts: what is mentioned at all, stated or denied."""
    texts = scene.batch.claims != 0
    owner = text_owner(scene.batch.text_offsets)
    count = torch.zeros(len(scene.batch), texts.shape[1], device=texts.device)
    return count.index_add(0, owner, texts.float()) > 0, texts


class EntityAlignment(Objective):
    """Binary cross-entropy of visuals and of texts against the vectors of all concepts (ALIGN).

        s_xc = s x . n_c + b    for the vector x of a visual or a text and the name n_c of a concept
        L = 1/2 ( mean_{known i,c} BCE(s_ic, y_ic) + mean_{known j,c} BCE(s_jc, y_jc) )

    ARL (Chen et al. 2022, "Align, Reason and Learn"). y is 1 where a visual is known to show the
    concept or a text claims it, 0 where it is known or claimed to be absent; what is not known
    takes no part. As published y is 1 for every linked mention, denied ones among them, and 0
    for everything else.

    Args:
        temperature: 1 / s, start value; learned.
        min_temperature: Its lower bound.
        bias: b, start value; learned.
        published: Labels as published; doubted mentions, which claim nothing, are 0.
    """

    needs = frozenset({"questions"})
    asks = frozenset({QuestionRole.NAME})

    def __init__(
        self,
        *,
        temperature: float = 0.1,
        min_temperature: float = 0.02,
        bias: float = 0.0,
        published: bool = False,
    ) -> None:
        super().__init__()
        self.scale = LogitScale(temperature, min_temperature)
        self.bias = nn.Parameter(torch.tensor(float(bias)))
        self.published = published

    def forward(self, scene: Scene) -> Float[Tensor, ""]:
        """The loss of one batch; 0 if nothing is known of any concept."""
        visual, text, asked = scene.embeddings.visual, scene.embeddings.text, scene.batch.asked
        if asked is None or scene.questions is None:
            return visual.sum() * 0
        names = scene.asked(QuestionRole.NAME)
        slots = asked.slots[asked.subject[asked.rows(QuestionRole.NAME)]]
        stated, claims = scene.batch.stated[:, slots], scene.batch.claims[:, slots]
        labels = [(stated == 1, stated == -1), (claims == 1, claims == -1)]
        if self.published:
            labels = [(there[:, slots], ~there[:, slots]) for there in linked(scene)]
        parts = [
            masked_bce(self.scale() * x @ names.T + self.bias, *label)
            for x, label in zip((visual, text), labels, strict=True)
        ]
        return torch.stack(parts).mean()
