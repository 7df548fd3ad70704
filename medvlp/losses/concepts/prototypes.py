"""Prototypical contrast: a concept that was seen resembles the regions it was found in."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from medvlp.batch import QuestionRole
from medvlp.losses.objective import LogitScale, Objective, Scene

_SHORTEST = 1e-6
"""Least length that is divided by: a prototype of regions which cancel out has no direction."""


def prototype_products(
    words: Float[Tensor, "b s e"],
    vectors: Float[Tensor, "r e"],
    members: Bool[Tensor, "b s r"],
    *,
    unit: bool,
) -> tuple[Float[Tensor, "b s"], Float[Tensor, "b s r"]]:
    """Products of each output with its prototype and with every single vector.

        d_sr = z_s . t_r        c_s = sum_r M_sr t_r / sum_r M_sr
        z_s . c_s = sum_r M_sr d_sr / sum_r M_sr

    The product with a mean is the mean of the products, so that the products d, [b s r], are all
    that is ever held: not the prototypes, [b s e], and not what the public code builds and loops
    over, [b s r e].

    Args:
        words: Outputs z.
        vectors: What prototypes are made of, of unit length if `unit`.
        members: M, which vectors make the prototype of an output; that of none has the product 0.
        unit: Outputs and prototypes are brought to unit length: the products are cosines.
    """
    products = torch.einsum("bse,re->bsr", words, vectors)
    if unit:
        products = products / words.norm(dim=-1, keepdim=True).clamp(min=_SHORTEST)
    chosen = members.to(products.dtype)
    count = chosen.sum(-1).clamp(min=1)
    own = (chosen * products).sum(-1) / count
    if unit:
        # |sum_r M_r t_r|^2 = sum_rk M_r (t_r . t_k) M_k
        squares = ((chosen @ (vectors @ vectors.T)) * chosen).sum(-1) / count**2
        own = own / squares.clamp(min=_SHORTEST**2).sqrt()
    return own, products


def draw_negatives(candidates: Bool[Tensor, "b s r"], count: int | None) -> Bool[Tensor, "b s r"]:
    """At most `count` candidates of every row, drawn without replacement; None: all.

    Drawn by torch's own generator, so that the seed of a training step decides.
    """
    if count is None or count >= candidates.shape[-1]:
        return candidates
    lot = torch.rand(candidates.shape, device=candidates.device).masked_fill(~candidates, -1)
    drawn = torch.zeros_like(candidates).scatter(-1, lot.topk(count, -1).indices, True)
    return drawn & candidates


def prototype_nce(
    own: Float[Tensor, "b s"],
    products: Float[Tensor, "b s r"],
    members: Bool[Tensor, "b s r"],
    negatives: Bool[Tensor, "b s r"],
) -> Float[Tensor, ""]:
    """Cross-entropy of the prototype against single vectors.

        L = mean_s -log( exp(z_s . c_s) / (exp(z_s . c_s) + sum_{r in negatives} exp(z_s . t_r)) )

    Over the outputs that have a prototype and a negative; 0 with a zero gradient if none has.
    """
    rows = members.any(-1) & negatives.any(-1)
    others = products.masked_fill(~negatives, float("-inf"))
    logits = torch.cat([own[..., None], others], -1)
    # A row without a negative has only itself to choose, and a loss of exactly 0.
    loss = logits.logsumexp(-1) - own
    return loss.masked_fill(~rows, 0).sum() / rows.sum().clamp(min=1)


def query_vectors(
    vectors: Float[Tensor, "q e"], subject: Int[Tensor, " q"], count: int
) -> tuple[Float[Tensor, "count e"], Bool[Tensor, " count"]]:
    """One unit vector a subject, the mean of its texts, and whether it has any."""
    total = vectors.new_zeros(count, vectors.shape[1]).index_add(0, subject, vectors)
    return functional.normalize(total, dim=-1), torch.bincount(subject, minlength=count) > 0


class Prototypes(Objective):
    """What the pathology stream saw against regions, what the anatomy stream saw against concepts.

    ProtoCL of MeDSLIP (arXiv 2403.10635). The output of a concept that is present is nearer to the
    mean of the vectors of the regions it was found in, its prototype, than to regions it was not
    found in; likewise a region's output and the concepts found in it. L is the sum of both
    directions. Published: `published=True, uncertain="negative"`, the query vectors frozen.

    Args:
        negatives: How many are drawn for each output in each step; None: all there are.
        unknown: A region that the report does not name with the concept is a negative (as
            published: reports name where a finding is, and seldom where it is not) or takes no
            part.
        uncertain: Likewise a region where the concept is uncertain; published as a negative, but
            it may well be there.
        published: Dot products as they are; otherwise cosines over a learned temperature.
        temperature: Its start value.
        min_temperature: Its lower bound.
    """

    needs = frozenset({"streams", "questions"})
    asks = frozenset({QuestionRole.NAME, QuestionRole.REGION})

    def __init__(
        self,
        *,
        negatives: int | None = 7,
        unknown: Literal["ignored", "negative"] = "negative",
        uncertain: Literal["ignored", "negative"] = "ignored",
        published: bool = False,
        temperature: float = 0.1,
        min_temperature: float = 0.02,
    ) -> None:
        super().__init__()
        self.negatives = negatives
        self.absent = [-1]
        if unknown == "negative":
            self.absent.append(0)
        if uncertain == "negative":
            self.absent.append(2)
        # No parameter without a use: distributed training waits for its gradient.
        self.scale = None if published else LogitScale(temperature, min_temperature)

    def forward(self, scene: Scene) -> Float[Tensor, ""]:
        """The loss of one batch; 0 if no concept is placed in any region."""
        streams, asked, questions = scene.streams, scene.batch.asked, scene.questions
        if streams is None or asked is None or questions is None:
            return scene.embeddings.visual.sum() * 0
        concepts, regions = (
            query_vectors(scene.asked(role), asked.subject[asked.rows(role)], count)
            for role, count in zip(
                (QuestionRole.NAME, QuestionRole.REGION), asked.relations.shape[1:], strict=True
            )
        )
        relations = asked.relations
        pathology = self._direction(streams.concept_words, *regions, relations)
        anatomy = self._direction(streams.region_words, *concepts, relations.transpose(1, 2))
        return pathology + anatomy

    def _direction(
        self,
        words: Float[Tensor, "b s e"],
        vectors: Float[Tensor, "r e"],
        there: Bool[Tensor, " r"],
        relations: Int[Tensor, "b s r"],
    ) -> Float[Tensor, ""]:
        """The outputs of one stream against the queries of the other."""
        members = (relations == 1) & there
        absent = torch.isin(relations, relations.new_tensor(self.absent)) & there
        negatives = draw_negatives(absent, self.negatives)
        own, products = prototype_products(words, vectors, members, unit=self.scale is not None)
        if self.scale is not None:
            own, products = self.scale() * own, self.scale() * products
        return prototype_nce(own, products, members, negatives)
