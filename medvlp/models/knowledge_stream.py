"""Knowledge in the fusion: vectors of the concepts a text names join the words that name them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from medvlp.models.transformer import AttentionStep

MOST_ENTITIES = 24
"""Named concepts of one text that are kept, as in ARL."""


class Knowledge(NamedTuple):
    """Named concepts of k texts, padded to the text that names the most."""

    vectors: Float[Tensor, "k c e"]
    mask: Bool[Tensor, "k c"]
    spans: Bool[Tensor, "k c l"]
    """Which tokens name each of them; false at padding."""


def gather_knowledge(
    names: Float[Tensor, "s e"],
    slots: Int[Tensor, " s"],
    mentions: Int[Tensor, "a 5"],
    texts: Int[Tensor, " k"],
    length: int,
    hidden: Bool[Tensor, "k l"] | None = None,
) -> Knowledge:
    """The vectors of the concepts that each of k texts names.

    Args:
        names: Of s concepts.
        slots: Of each of them, its slot of `Batch.stated`.
        mentions: `Batch.mentions`.
        texts: Which text of the batch each row is; a text may come again, -1 is none.
        length: l, tokens of a row.
        hidden: Tokens that must be guessed: a concept any of whose mentions in the text touches
            one of them is left out with all its mentions, or it would tell the answer.
    """
    same = 3 * mentions[:, 3, None] == slots
    known = same.any(1) & (mentions[:, 1] < length)
    row, which = ((mentions[:, 0] == texts[:, None]) & known).nonzero().T
    subject = (same[which] * torch.arange(len(slots), device=texts.device)).sum(1)
    place = torch.arange(length, device=texts.device)
    span = (place >= mentions[which, 1, None]) & (place < mentions[which, 2, None])
    if hidden is not None:
        entity = row * max(len(slots), 1) + subject
        told = (span & hidden[row]).any(1)
        kept = ~torch.isin(entity, entity[told])
        row, subject, span = row[kept], subject[kept], span[kept]
    count = torch.bincount(row, minlength=len(texts))
    # Rows come in order, so the place within a row is the distance to its first mention.
    rank = torch.arange(len(row), device=row.device) - (count.cumsum(0) - count)[row]
    few = rank < MOST_ENTITIES
    row, rank, subject, span = row[few], rank[few], subject[few], span[few]
    size = min(int(count.max()), MOST_ENTITIES) if len(texts) else 0
    vectors = names.new_zeros(len(texts), size, names.shape[1])
    mask = torch.zeros(len(texts), size, dtype=torch.bool, device=row.device)
    spans = torch.zeros(len(texts), size, length, dtype=torch.bool, device=row.device)
    vectors[row, rank] = names[subject]
    mask[row, rank] = True
    spans[row, rank] = span
    return Knowledge(vectors, mask, spans)


class KnowledgeStream(nn.Module):
    """What is added to the words of a text from the concepts it names.

        z' = z + A(n(z)),  z" = z' + C(n(z'), n(x)),  added_l = sum_{c: l in span_c} W z"_c

    z are the concepts' vectors, x the cells of the visual, A self- and C cross-attention. After
    the "reason" part of ARL (Chen et al. 2022, arXiv 2209.07118), where vectors come from a graph
    of triples; here they are texts of the knowledge book, so that a new concept needs no training
    of a graph. One step before the fusion's layers.

    Args:
        embed_dim: Width of a concept's vector.
        width: Of the fusion.
        heads: Attention heads.
        dropout: Of attention.
    """

    def __init__(self, embed_dim: int, width: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.enter = nn.Sequential(nn.Linear(embed_dim, width), nn.LayerNorm(width))
        self.within = AttentionStep(width, heads, dropout)
        self.across = AttentionStep(width, heads, dropout, cross=True)
        self.leave = nn.Linear(width, width, bias=False)

    def forward(
        self,
        knowledge: Knowledge,
        visual: Float[Tensor, "k v d"],
        visual_mask: Bool[Tensor, "k v"],
    ) -> Float[Tensor, "k l d"]:
        """The sum for every word; 0 where no concept is named."""
        if knowledge.mask.shape[1] == 0:
            return visual.new_zeros(len(visual), knowledge.spans.shape[2], visual.shape[2])
        z = self.enter(knowledge.vectors.to(visual.dtype))
        z = self.within(z, knowledge.mask)
        z = self.leave(self.across(z, visual_mask, visual))
        return torch.einsum("kcl,kcd->kld", knowledge.spans.to(z.dtype), z)
