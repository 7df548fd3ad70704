"""Masked language modelling through the fusion: hidden words are guessed from text and visual."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from medvlp.losses.fusion.pairs import (
    Pairs,
    frozen_statistics,
    fuse,
    fusion_of,
    longest,
    model_of,
    own_pairs,
)
from medvlp.losses.objective import Objective, Scene
from medvlp.models.fusion import gather_visual

_TO_MASK, _TO_RANDOM = 0.8, 0.1
"""Shares of hidden tokens that become [MASK] and a random token; the rest stays (BERT)."""


def draw_share(owner: Int[Tensor, " u"], share: float) -> Bool[Tensor, " u"]:
    """max(1, round(share * count)) of the units of every owner, at random.

    Args:
        owner: Which owner each unit has, from 0.
        share: Between 0 and 1.
    """
    # Sorted by chance, then stably by owner: a unit's place among its owner's is its rank.
    order = torch.rand(len(owner), device=owner.device, dtype=torch.float64).argsort()
    order = order[owner[order].argsort(stable=True)]
    count = torch.bincount(owner)
    wanted = (share * count).round().clamp(min=1)
    rank = torch.arange(len(owner), device=owner.device) - (count.cumsum(0) - count)[owner[order]]
    chosen = torch.zeros(len(owner), dtype=torch.bool, device=owner.device)
    chosen[order] = rank < wanted[owner[order]]
    return chosen


def hide_words(
    plain: Bool[Tensor, "k l"], continuing: Bool[Tensor, "k l"], rate: float
) -> Bool[Tensor, "k l"]:
    """A share of the words of every text, with all their pieces; at least one word a text.

    Args:
        plain: Tokens that may be hidden.
        continuing: Pieces that belong to the word of the token before, if that is plain too.
        rate: Share of words.
    """
    after_plain = functional.pad(plain, (1, 0))[:, :-1]
    starts = plain & ~(continuing & after_plain)
    owner = starts.nonzero()[:, 0]
    if len(owner) == 0:
        return torch.zeros_like(plain)
    number = starts.flatten().long().cumsum(0).reshape(starts.shape) - 1
    return plain & draw_share(owner, rate)[number.clamp(min=0)]


def hide_mentions(
    plain: Bool[Tensor, "k l"],
    mentions: Int[Tensor, "a 5"],
    texts: Int[Tensor, " k"],
    rate: float,
) -> Bool[Tensor, "k l"]:
    """A share of the concepts that each text names, with all their mentions; at least one a text.

    Args:
        plain: Tokens that may be hidden.
        mentions: `Batch.mentions`.
        texts: Which text of the batch each row is; distinct.
        rate: Share of concepts.

    Returns:
        All false for texts that name none.
    """
    row, which = (mentions[:, 0] == texts[:, None]).nonzero().T
    place = torch.arange(plain.shape[1], device=plain.device)
    span = (place >= mentions[which, 1, None]) & (place < mentions[which, 2, None]) & plain[row]
    there = span.any(1)
    row, which, span = row[there], which[there], span[there]
    if len(row) == 0:
        return torch.zeros_like(plain)
    concepts = int(mentions[:, 3].max()) + 1
    distinct, entity = torch.unique(row * concepts + mentions[which, 3], return_inverse=True)
    chosen = draw_share(distinct // concepts, rate)[entity]
    hidden = torch.zeros(plain.shape, dtype=torch.long, device=plain.device)
    return hidden.index_add(0, row[chosen], span[chosen].long()) > 0


def corrupt(
    tokens: Int[Tensor, "k l"],
    hidden: Bool[Tensor, "k l"],
    mask_id: int,
    ordinary: Int[Tensor, " o"],
) -> Int[Tensor, "k l"]:
    """Hidden tokens: 80 % become [MASK], 10 % a random ordinary token, 10 % stay."""
    chance = torch.rand(tokens.shape, device=tokens.device)
    other = ordinary[torch.randint(len(ordinary), tokens.shape, device=tokens.device)]
    out = tokens.masked_fill(hidden & (chance < _TO_MASK), mask_id)
    return torch.where(hidden & (chance >= 1 - _TO_RANDOM), other, out)


class MaskedText(Objective):
    """Masked language modelling with the visual beside it (BERT's rule, M3AE's place).

        L = mean_{hidden tokens t of text i} -log P(token t | other words of i, visual i)

    Read from the last layer of the fusion: words are abstract (Chen et al. 2022, arXiv
    2209.07098). Each visual takes one text of its own. With `entities`, whole concepts are hidden
    and what the knowledge stream would tell of them too: the "learn" part of ARL (arXiv
    2209.07118). Special tokens are never hidden. Draws from torch's generator.

    Args:
        width: Of the fusion.
        vocabulary: Entries of the tokenizer.
        mask_id: Of [MASK].
        special_ids: Never hidden, never put in at random; [MASK] is one of them.
        continues: Pieces that continue a word (`##...`).
        rate: Share of words (or concepts) that are hidden.
        whole_words: Hide all pieces of a word together.
        entities: `mentions`: hide concepts instead of words; texts that name none hide words.
    """

    needs = frozenset({"patches", "fusion"})

    def __init__(
        self,
        *,
        width: int,
        vocabulary: int,
        mask_id: int,
        special_ids: tuple[int, ...],
        continues: Sequence[int],
        rate: float = 0.15,
        whole_words: bool = True,
        entities: Literal["mentions"] | None = None,
    ) -> None:
        super().__init__()
        self.mask_id, self.rate = mask_id, rate
        self.whole_words, self.entities = whole_words, entities
        special = torch.zeros(vocabulary, dtype=torch.bool)
        special[[*special_ids, mask_id]] = True
        continuing = torch.zeros(vocabulary, dtype=torch.bool)
        continuing[list(continues)] = True
        self.special: Tensor
        self.continuing: Tensor
        self.ordinary: Tensor
        # They follow from the tokenizer, which has its own place in a checkpoint.
        self.register_buffer("special", special, persistent=False)
        self.register_buffer("continuing", continuing, persistent=False)
        self.register_buffer("ordinary", (~special).nonzero()[:, 0], persistent=False)
        self.head = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.LayerNorm(width),
            nn.Linear(width, vocabulary),
        )  # fmt: skip

    def forward(self, scene: Scene) -> Float[Tensor, ""]:
        """The loss of one batch; 0 if no text has a word."""
        batch, patches = scene.batch, scene.embeddings.patches
        assert patches is not None
        pairs = own_pairs(batch)
        mask = batch.token_mask[pairs.texts]
        width = longest(mask)
        tokens, mask = batch.tokens[pairs.texts, :width], mask[:, :width]
        hidden = self._hidden(scene, pairs, tokens, mask)
        if not bool(hidden.any()):
            return scene.embeddings.visual.sum() * 0
        changed = corrupt(tokens, hidden, self.mask_id, self.ordinary)
        model = model_of(scene)
        with frozen_statistics(model):
            words = model.encode_words(changed, mask)
        cells, there = gather_visual(patches, batch.offsets, fusion_of(scene).config.grid)
        visual = cells[pairs.visuals], there[pairs.visuals]
        fused = fuse(scene, visual, (words, mask), pairs.texts, hidden)
        logits = self.head(fused.word_layers[-1][hidden])
        return functional.cross_entropy(logits, tokens[hidden])

    def _hidden(
        self, scene: Scene, pairs: Pairs, tokens: Int[Tensor, "k l"], mask: Bool[Tensor, "k l"]
    ) -> Bool[Tensor, "k l"]:
        """Which tokens must be guessed."""
        plain = mask & ~self.special[tokens]
        continuing = self.continuing[tokens] & self.whole_words
        hidden = hide_words(plain, continuing, self.rate)
        if self.entities is None or scene.batch.mentions is None:
            return hidden
        named = hide_mentions(plain, scene.batch.mentions, pairs.texts, self.rate)
        return torch.where(named.any(1, keepdim=True), named, hidden)
