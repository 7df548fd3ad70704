"""Matching: does this text belong to this visual, asked of the fusion."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from medvlp.losses.fusion.pairs import fuse, fusion_of, own_pairs, trimmed
from medvlp.losses.objective import Objective, Scene
from medvlp.models.fusion import gather_visual


class Candidates(NamedTuple):
    """Pairs of a row (visual) and a column (text), and which of them match."""

    rows: Int[Tensor, " c"]
    columns: Int[Tensor, " c"]
    match: Bool[Tensor, " c"]


def draw_negatives(
    similarity: Float[Tensor, "r c"], allowed: Bool[Tensor, "r c"], temperature: float | None
) -> Int[Tensor, " r"]:
    """One negative column for each row.

        P(j | i) = exp(s_ij / tau) / sum_{k allowed} exp(s_ik / tau),  0 where j is not allowed

    ALPRO (Li et al. 2022, arXiv 2112.09583, section 3.2), after ALBEF. Draws from torch's
    generator.

    Args:
        similarity: s, cosines.
        allowed: Which pairs are known not to match.
        temperature: tau; None: all allowed columns alike.

    Returns:
        A column; -1 where none is allowed.
    """
    wanted = torch.zeros_like(similarity) if temperature is None else similarity / temperature
    logits = wanted.detach().masked_fill(~allowed, float("-inf"))
    drawn = torch.full((len(similarity),), -1, dtype=torch.long, device=similarity.device)
    some = allowed.any(1).nonzero()[:, 0]
    if len(some):
        drawn[some] = torch.multinomial(logits[some].softmax(1), 1)[:, 0]
    return drawn


def draw_candidates(
    similarity: Float[Tensor, "k k"], target: Int[Tensor, "k k"], temperature: float | None
) -> Candidates:
    """Each pair, a wrong text for each visual and a wrong visual for each text.

    Args:
        similarity: Of k visuals and their k texts; the diagonal are the pairs.
        target: 1 holds, 0 does not, -1 unknown. Only 0 can be a negative.
        temperature: See `draw_negatives`.
    """
    number = torch.arange(len(similarity), device=similarity.device)
    allowed = (target == 0) & (number != number[:, None])
    text = draw_negatives(similarity, allowed, temperature)
    visual = draw_negatives(similarity.T, allowed.T, temperature)
    rows = torch.cat([number, number[text >= 0], visual[visual >= 0]])
    columns = torch.cat([number, text[text >= 0], number[visual >= 0]])
    match = torch.arange(len(rows), device=rows.device) < len(number)
    return Candidates(rows, columns, match)


def matching_loss(logits: Float[Tensor, " c"], match: Bool[Tensor, " c"]) -> Float[Tensor, ""]:
    """Binary cross-entropy, mean over the pairs.

    L = 1/C ( sum_{match} -log sigma(z_c) + sum_{no match} -log sigma(-z_c) )
    """
    return functional.softplus(torch.where(match, -logits, logits)).mean()


class Matching(Objective):
    """Binary matching of visual and text by the fusion's two class tokens (ITM, VTM).

    M3AE draws its negatives at random, ALPRO and VidLPRO by the similarity of the global vectors.
    Here a pair that holds, or of which nobody knows, is never a negative: many reports are alike.
    Negatives come from the same texts as the positives (`own_pairs`), or their length alone would
    tell. 0 where the batch has no negative.

    Args:
        width: Of the fusion.
        negatives: `hard` by similarity, `random` all alike.
        temperature: Of the hard draw.
    """

    needs = frozenset({"patches", "words", "fusion"})

    def __init__(
        self,
        *,
        width: int,
        negatives: Literal["hard", "random"] = "hard",
        temperature: float = 0.07,
    ) -> None:
        super().__init__()
        self.temperature = temperature if negatives == "hard" else None
        self.head = nn.Linear(2 * width, 1)

    def forward(self, scene: Scene) -> Float[Tensor, ""]:
        """The loss of one batch."""
        embeddings, batch = scene.embeddings, scene.batch
        assert embeddings.patches is not None
        assert embeddings.words is not None
        visuals, texts = own_pairs(batch)
        similarity = embeddings.visual[visuals] @ embeddings.text[texts].T
        rows, columns, match = draw_candidates(
            similarity, scene.target[visuals][:, texts], self.temperature
        )
        if bool(match.all()):
            return embeddings.visual.sum() * 0
        cells, mask = gather_visual(embeddings.patches, batch.offsets, fusion_of(scene).config.grid)
        which = texts[columns]
        words = trimmed(embeddings.words[which], batch.token_mask[which])
        fused = fuse(scene, (cells[visuals[rows]], mask[visuals[rows]]), words, which)
        logits = self.head(torch.cat([fused.visual_cls, fused.word_cls], 1))[:, 0]
        return matching_loss(logits, match)
