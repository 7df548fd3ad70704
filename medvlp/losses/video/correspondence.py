"""Norton: texts that do not fit their clips, and clips that fit other texts.

Lin et al. 2024, "Multi-granularity correspondence learning from long-term noisy videos" (ICLR
2024, arXiv 2401.16702).
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int8
from torch import Tensor

from medvlp.batch import TextRole
from medvlp.losses.contrast.infonce import symmetric_nce
from medvlp.losses.objective import LogitScale, Objective, Scene, text_owner
from medvlp.losses.video.levels import has_role, table_of, together_target
from medvlp.losses.video.paragraph import (
    bucket_value,
    frame_word_similarity,
    fused_similarity,
    of_samples,
    paragraph_scores,
)
from medvlp.losses.video.sinkhorn import sinkhorn
from medvlp.models.pooling import segment_ids


def rectified_target(
    logits: Float[Tensor, "r c"],
    target: Int8[Tensor, "r c"],
    *,
    share: float = 0.3,
    epsilon: float = 1.0,
    iterations: int = 50,
) -> tuple[Float[Tensor, "r c"], Float[Tensor, "r c"]]:
    """What a row, and what a column, should be matched with, where some negatives are not.

        T = share Q + (1 - share) P,   Q = Sinkhorn(S, epsilon) with uniform masses   (eq. 7)

    P spreads 1 evenly over the known positives, so identical texts share; for Q they share of
    themselves, as their scores are equal. Pairs of which nothing is known get nothing.

    Args:
        logits: S. The published code takes products of vectors of any length, which are at once
            its logits; products of unit vectors without a scale would give a nearly even Q.
        target: 1 positive, 0 negative, -1 unknown; each row and column has a positive.
        share: Of Q.
        epsilon: Of Sinkhorn, in units of the logits.
        iterations: Of Sinkhorn.

    Returns:
        (by row, by column): the rows of the first and the columns of the second sum to 1. No
        gradient.
    """
    with torch.no_grad():
        r, c = logits.shape
        score = logits.masked_fill(target < 0, float("-inf"))[None]
        rows, columns = logits.new_full((1, r), 1 / r), logits.new_full((1, c), 1 / c)
        plan = sinkhorn(score, rows, columns, epsilon=epsilon, iterations=iterations)[0]
        positive = (target == 1).to(logits)
        by_row, by_column = (
            share * plan / plan.sum(dim, keepdim=True)
            + (1 - share) * positive / positive.sum(dim, keepdim=True)
            for dim in (1, 0)
        )
        return by_row, by_column


def soft_cross_entropy(
    logits: Float[Tensor, "r c"], wanted: Float[Tensor, "r c"], seen: Bool[Tensor, "r c"]
) -> Float[Tensor, ""]:
    """mean_i - sum_j wanted_ij log softmax_j(logits_ij), over the pairs that take part."""
    log_share = logits.masked_fill(~seen, float("-inf")).log_softmax(1)
    return -(wanted * log_share.masked_fill(~seen, 0)).sum(1).mean()


def rectified_nce(
    logits: Float[Tensor, "b m"],
    target: Int8[Tensor, "b m"],
    *,
    share: float = 0.3,
    epsilon: float = 1.0,
    iterations: int = 50,
) -> Float[Tensor, ""]:
    """Mean of both directions' cross-entropy against `rectified_target` (published: their sum).

    Visuals and texts without a positive take no part, not even as negatives: transport would
    force their mass upon others. 0 (with a zero gradient) if there is no positive.
    """
    rows, columns = (target == 1).any(1), (target == 1).any(0)
    if not bool(rows.any()):
        return logits.sum() * 0
    logits, target = logits[rows][:, columns], target[rows][:, columns]
    by_row, by_column = rectified_target(
        logits, target, share=share, epsilon=epsilon, iterations=iterations
    )
    there = soft_cross_entropy(logits, by_row, target >= 0)
    back = soft_cross_entropy(logits.T, by_column.T, target.T >= 0)
    return (there + back) / 2


class NoisyCorrespondence(Objective):
    """Clips with their lead texts, faulty negatives rectified; videos with their child texts.

        L = rectified NCE(v, p) + paragraph_weight NCE(e^s sum Q S)

    A paragraph is the child texts of a sample, its clips are the sample's frames. Whether another
    sample's paragraph holds for a visual follows `together_target`.

    Both scales are parameters of this module, so they are trained; in the published code the
    paragraph's is on an object that is no module, and stays where it began. The published clip
    level has vectors of any length and no scale.

    Args:
        temperature: Of both levels, start value; learned.
        min_temperature: Its lower bound.
        share: Of transport in the clip level's targets.
        epsilon: Of the clip level's Sinkhorn, in units of its logits.
        paragraph_weight: 0: clip level alone.
        paragraph_epsilon: Of the paragraph level's Sinkhorn.
        iterations: Of both.
        quantile: Of the bucket's value among texts and the frames beside them.
        mass: What every alignment sums to (published: 8, the clips of a sequence). The same for
            all, so that a long paragraph is not a better match by its length.
        words: Also compare frames with words (needs them).
        alpha: Of the soft maximum over words.
        coarse_weight: Of the cosine beside the words' similarity.
    """

    needs = frozenset({"frames"})

    def __init__(
        self,
        *,
        temperature: float = 0.07,
        min_temperature: float = 0.01,
        share: float = 0.3,
        epsilon: float = 1.0,
        paragraph_weight: float = 0.1,
        paragraph_epsilon: float = 0.1,
        iterations: int = 50,
        quantile: float = 0.3,
        mass: float = 8.0,
        words: bool = False,
        alpha: float = 1.0,
        coarse_weight: float = 0.5,
    ) -> None:
        super().__init__()
        self.scale = LogitScale(temperature, min_temperature)
        self.paragraph_scale = LogitScale(temperature, min_temperature)
        self.share = share
        self.epsilon = epsilon
        self.paragraph_weight = paragraph_weight
        self.paragraph_epsilon = paragraph_epsilon
        self.iterations = iterations
        self.quantile = quantile
        self.mass = mass
        self.words = words
        self.alpha = alpha
        self.coarse_weight = coarse_weight
        if words:
            self.needs = frozenset({"frames", "words"})

    def forward(self, scene: Scene) -> Float[Tensor, ""]:
        """The loss of one batch; 0 if there is neither a lead text nor a child text."""
        return self.clip_level(scene) + self.paragraph_weight * self.paragraph_level(scene)

    def clip_level(self, scene: Scene) -> Float[Tensor, ""]:
        """Visuals and lead texts."""
        lead = has_role(scene.batch, TextRole.LEAD)
        logits = self.scale() * scene.embeddings.visual @ scene.embeddings.text[lead].T
        return rectified_nce(
            logits,
            scene.target[:, lead],
            share=self.share,
            epsilon=self.epsilon,
            iterations=self.iterations,
        )

    def paragraph_level(self, scene: Scene) -> Float[Tensor, ""]:
        """Frames and child texts, sample by sample."""
        batch, embeddings = scene.batch, scene.embeddings
        assert embeddings.frames is not None
        child = has_role(batch, TextRole.CHILD)
        if not bool(child.any()):
            nothing: Tensor = embeddings.frames.sum() * self.paragraph_scale() * 0
            return nothing
        b, owner = len(batch), text_owner(batch.text_offsets)[child]
        texts = table_of(owner, b)
        told = texts.there.any(1)
        # Frames of samples without a paragraph have no say in the range of the similarities.
        frame_owner = segment_ids(batch.offsets)
        shown = told[frame_owner]
        frames = table_of(frame_owner[shown], b)
        texts, frames = of_samples(texts, told), of_samples(frames, told)
        similarity = self._similarity(scene, shown, child)
        value = bucket_value(similarity.detach(), frames, texts, self.quantile)
        scores = paragraph_scores(
            similarity,
            frames,
            texts,
            value,
            epsilon=self.paragraph_epsilon,
            iterations=self.iterations,
        )
        target = together_target(batch, scene.target)[told][:, told]
        return symmetric_nce(self.paragraph_scale() * self.mass * scores, target)

    def _similarity(
        self, scene: Scene, shown: Bool[Tensor, " n"], child: Bool[Tensor, " m"]
    ) -> Float[Tensor, "f c"]:
        embeddings = scene.embeddings
        assert embeddings.frames is not None
        frames = embeddings.frames[shown]
        cosines = frames @ embeddings.text[child].T
        if not self.words:
            return fused_similarity(cosines, None, self.coarse_weight)
        assert embeddings.words is not None
        mask = scene.batch.token_mask[child]
        fine = frame_word_similarity(frames, embeddings.words[child], mask, self.alpha)
        return fused_similarity(cosines, fine, self.coarse_weight)
