"""Prompt pools: learned vectors that stand in for a missing report or a missing visual."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from medvlp.losses.contrast.infonce import symmetric_nce
from medvlp.losses.fusion.matching import draw_candidates, matching_loss
from medvlp.losses.fusion.pairs import Pairs, fuse, fusion_of, own_pairs, trimmed
from medvlp.losses.objective import LogitScale, Objective, Scene
from medvlp.models.fusion import gather_visual


class Padded(NamedTuple):
    """Sequences of k samples and which of their items are there."""

    tokens: Float[Tensor, "k l e"]
    mask: Bool[Tensor, "k l"]

    def mean(self) -> Float[Tensor, "k e"]:
        """Of the items that are there."""
        weight = self.mask[..., None].to(self.tokens.dtype)
        return (self.tokens * weight).sum(1) / weight.sum(1).clamp(min=1)

    def take(self, rows: Int[Tensor, " c"]) -> Padded:
        """Some of the samples."""
        return Padded(self.tokens[rows], self.mask[rows])


def select_prompts(
    query: Float[Tensor, "k e"], pool: Float[Tensor, "n e"], count: int
) -> Float[Tensor, "k count e"]:
    """The `count` vectors of the pool with the largest product with the query, largest first.

        out_r = p_r exp(log w_r - stop(log w_r)),  w = softmax_n(q . p_n)

    The value is p_r itself; the gradient to the query is that of a choice in proportion to w,
    d out_r / d q = p_r (p_r - sum_n w_n p_n)^T. A plain top-k, as in PTUnifier's code, gives the
    query none, so that nothing learns to ask.
    """
    share = (query @ pool.T).log_softmax(1)
    best = share.topk(min(count, len(pool)), 1)
    gate = (best.values - best.values.detach()).exp()
    return gate[..., None] * pool[best.indices]


def replace_rows(real: Padded, prompts: Float[Tensor, "k c e"], lost: Bool[Tensor, " k"]) -> Padded:
    """Prompts where the real sequence is lost; both padded to the longer one."""
    size = max(real.tokens.shape[1], prompts.shape[1])
    there = torch.ones(prompts.shape[:2], dtype=torch.bool, device=prompts.device)
    stand_in, real = _widen(Padded(prompts, there), size), _widen(real, size)
    return Padded(
        torch.where(lost[:, None, None], stand_in.tokens, real.tokens),
        torch.where(lost[:, None], stand_in.mask, real.mask),
    )


def _widen(x: Padded, size: int) -> Padded:
    more = size - x.tokens.shape[1]
    return Padded(functional.pad(x.tokens, (0, 0, 0, more)), functional.pad(x.mask, (0, more)))


class PromptPools(Objective):
    """Matching and contrast of pairs, some of which have lost their visual or their text.

        matching  pairs of which some lost one half at random; the half that is left chooses what
                  stands in; then binary matching as usual (`matching`)
        contrast  every visual with chosen text prompts against every text with chosen visual
                  prompts: symmetric multi-positive InfoNCE of the fusion's class tokens
        L = w_m L_matching + w_c L_contrast

    PTUnifier (Chen et al. 2023, arXiv 2302.08958, section 3). There a contrast was configured and
    never ran, as its name was tested against another one; here `parts` returns what is
    configured, and the loss is the sum of that. In the contrast each side sees its own half only,
    or both would know the pair. Stand-ins take the places of cells in order of their scores.

    Args:
        embed_dim: Of the joint space, in which the pools are.
        width: Of the fusion.
        visual_pool: Vectors that can stand in for a visual.
        text_pool: Likewise for a text.
        visual_prompts: How many of them are taken.
        text_prompts: Likewise.
        dropout: How often a pair loses a half in matching.
        matching: w_m; 0 leaves it out.
        contrast: w_c; 0 leaves it out.
        temperature: Of the contrast, start value; learned.
        min_temperature: Its lower bound.
    """

    needs = frozenset({"patches", "words", "fusion"})

    def __init__(
        self,
        *,
        embed_dim: int,
        width: int,
        visual_pool: int = 2048,
        text_pool: int = 2048,
        visual_prompts: int = 49,
        text_prompts: int = 32,
        dropout: float = 0.5,
        matching: float = 0.5,
        contrast: float = 0.1,
        temperature: float = 0.1,
        min_temperature: float = 0.02,
    ) -> None:
        super().__init__()
        self.weights = {"matching": matching, "contrast": contrast}
        self.visual_prompts, self.text_prompts, self.dropout = visual_prompts, text_prompts, dropout
        self.visual_pool = nn.Parameter(torch.randn(visual_pool, embed_dim) * embed_dim**-0.5)
        self.text_pool = nn.Parameter(torch.randn(text_pool, embed_dim) * embed_dim**-0.5)
        self.head = nn.Linear(2 * width, 1)
        self.visual_projection = nn.Linear(width, embed_dim, bias=False)
        self.text_projection = nn.Linear(width, embed_dim, bias=False)
        self.scale = LogitScale(temperature, min_temperature)

    def forward(self, scene: Scene) -> Float[Tensor, ""]:
        """The loss of one batch; 0 if no visual has a text."""
        total = scene.embeddings.visual.sum() * 0
        for name, value in self.parts(scene).items():
            total = total + self.weights[name] * value
        return total

    def parts(self, scene: Scene) -> dict[str, Float[Tensor, ""]]:
        """The configured parts by name, unweighted; nothing if no visual has a text."""
        embeddings, batch = scene.embeddings, scene.batch
        assert embeddings.patches is not None
        assert embeddings.words is not None
        pairs = own_pairs(batch)
        if len(pairs.visuals) == 0:
            return {}
        cells, mask = gather_visual(embeddings.patches, batch.offsets, fusion_of(scene).config.grid)
        dtype = self.visual_pool.dtype  # patches may come in half precision
        visual = Padded(cells.to(dtype), mask).take(pairs.visuals)
        found, there = trimmed(embeddings.words[pairs.texts], batch.token_mask[pairs.texts])
        words = Padded(found.to(dtype), there)
        made = {"matching": self._matching, "contrast": self._contrast}
        return {
            name: made[name](scene, pairs, visual, words)
            for name, weight in self.weights.items()
            if weight > 0
        }

    def stand_ins(self, visual: Padded, words: Padded) -> tuple[Tensor, Tensor]:
        """Visual prompts that the words choose, and text prompts that the visual chooses."""
        return (
            select_prompts(words.mean(), self.visual_pool, self.visual_prompts),
            select_prompts(visual.mean(), self.text_pool, self.text_prompts),
        )

    def _matching(
        self, scene: Scene, pairs: Pairs, visual: Padded, words: Padded
    ) -> Float[Tensor, ""]:
        target = scene.target[pairs.visuals][:, pairs.texts]
        rows, columns, match = draw_candidates(torch.zeros_like(target).float(), target, None)
        if bool(match.all()):
            return visual.tokens.sum() * 0
        lost = torch.rand(len(target), device=target.device) < self.dropout
        which = torch.rand(len(target), device=target.device) < 0.5
        for_visual, for_words = self.stand_ins(visual, words)
        visual = replace_rows(visual, for_visual, lost & which)
        words = replace_rows(words, for_words, lost & ~which)
        texts = pairs.texts.masked_fill(lost & ~which, -1)
        fused = fuse(scene, visual.take(rows), words.take(columns), texts[columns])
        logits = self.head(torch.cat([fused.visual_cls, fused.word_cls], 1))[:, 0]
        return matching_loss(logits, match)

    def _contrast(
        self, scene: Scene, pairs: Pairs, visual: Padded, words: Padded
    ) -> Float[Tensor, ""]:
        for_visual, for_words = self.stand_ins(visual, words)
        everything = torch.ones(len(pairs.visuals), dtype=torch.bool, device=pairs.visuals.device)
        nothing = torch.full_like(pairs.texts, -1)
        with_prompts = replace_rows(words, for_words, everything)
        seen = fuse(scene, visual, with_prompts, nothing).visual_cls
        with_prompts = replace_rows(visual, for_visual, everything)
        read = fuse(scene, with_prompts, words, pairs.texts).word_cls
        seen = functional.normalize(self.visual_projection(seen), dim=-1)
        read = functional.normalize(self.text_projection(read), dim=-1)
        target = scene.target[pairs.visuals][:, pairs.texts]
        return symmetric_nce(self.scale() * seen @ read.T, target)
