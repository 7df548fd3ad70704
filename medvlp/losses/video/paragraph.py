"""Norton, paragraph level: a video against a sequence of texts, aligned by optimal transport.

Lin et al. 2024, "Multi-granularity correspondence learning from long-term noisy videos" (ICLR
2024, arXiv 2401.16702), eqs. 2 to 6.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from medvlp.losses.video.levels import Table
from medvlp.losses.video.sinkhorn import log_sinkhorn, with_bucket


def rescaled(x: Float[Tensor, "n m"]) -> Float[Tensor, "n m"]:
    """To [0, 1] by the least and the largest entry; all 0 where they are equal."""
    least, most = x.aminmax()
    width = most - least
    return (x - least) / torch.where(width > 0, width, torch.ones_like(width))


def frame_word_similarity(
    frames: Float[Tensor, "n e"],
    words: Float[Tensor, "m l e"],
    mask: Bool[Tensor, "m l"],
    alpha: float,
) -> Float[Tensor, "n m"]:
    """Soft maximum over words, and over frames, halved (eq. 5), each rescaled to [0, 1].

        to words    alpha log sum_l exp(f_i . w_jl / alpha)
        to frames   mean_l alpha log exp(f_i . w_jl / alpha) = mean_l f_i . w_jl

    A clip is one frame here, so the sum over its frames has one term.

    Args:
        frames: Unit vectors.
        words: Any length; brought to unit length. A text without words scores 0.
        mask: Which tokens are words.
        alpha: Small: the best word; large: their mean, plus a constant.
    """
    unit = functional.normalize(words, dim=-1, eps=1e-6)
    cosines = torch.einsum("ne,mle->nml", frames, unit)
    empty = ~mask.any(1)
    shown = (cosines / alpha).masked_fill(~mask, float("-inf")).masked_fill(empty[:, None], 0)
    best = (alpha * shown.logsumexp(2)).masked_fill(empty, 0)
    mean = (cosines * mask).sum(2) / mask.sum(1).clamp(min=1)
    return (rescaled(best) + rescaled(mean)) / 2


def fused_similarity(
    cosines: Float[Tensor, "n m"], fine: Float[Tensor, "n m"] | None, coarse_weight: float
) -> Float[Tensor, "n m"]:
    """(w cos + fine) / (w + 1), the cosines rescaled to [0, 1]; without `fine` these alone."""
    coarse = rescaled(cosines)
    return coarse if fine is None else (coarse_weight * coarse + fine) / (coarse_weight + 1)


def bucket_value(
    similarity: Float[Tensor, "n m"], frames: Table, texts: Table, quantile: float
) -> Float[Tensor, ""]:
    """p: a quantile of the similarity of texts with the frames they are written beside.

    Where there are as many frames as texts this is the diagonal of each sample's own table, as
    published; else text j of m stands beside frame floor((j + 1/2) n / m).
    """
    n, m = frames.there.sum(1, keepdim=True), texts.there.sum(1, keepdim=True)
    place = torch.arange(texts.row.shape[1], device=n.device)
    beside = (2 * place + 1) * n // (2 * m.clamp(min=1))
    frame = frames.row.gather(1, torch.minimum(beside, n - 1))
    return similarity[frame, texts.row][texts.there].quantile(quantile)


def alignment(
    similarity: Float[Tensor, "x n m"],
    rows: Bool[Tensor, "x n"],
    columns: Bool[Tensor, "x m"],
    value: Float[Tensor, ""],
    *,
    epsilon: float,
    iterations: int,
) -> Float[Tensor, "x n m"]:
    """How each video's frames and each paragraph's texts go together; sums to 1 a table.

    Each frame and each text weighs 1; what fits nothing goes to the bucket, which is then dropped
    and the rest brought back to one mass, in the logarithm: a table that lost nearly all of its
    mass is not divided by 0. No gradient, as published.
    """
    with torch.no_grad():
        wide, mass, other = with_bucket(
            similarity, rows.to(similarity), columns.to(similarity), value
        )
        plan = log_sinkhorn(wide, mass, other, epsilon=epsilon, iterations=iterations)
        return plan[:, :-1, :-1].flatten(1).softmax(1).reshape(similarity.shape)


def paragraph_scores(
    similarity: Float[Tensor, "n m"],
    frames: Table,
    texts: Table,
    value: Float[Tensor, ""],
    *,
    epsilon: float,
    iterations: int,
) -> Float[Tensor, "a a"]:
    """sum_xy Q_xy S_xy of every video with every paragraph, Q its `alignment`.

    Args:
        similarity: Of all frames and texts of the batch.
        frames: Of each of the a videos.
        texts: Of each of the a paragraphs.
        value: Of the bucket.
        epsilon: Of Sinkhorn.
        iterations: Of Sinkhorn.
    """
    a, n = frames.row.shape
    m = texts.row.shape[1]
    tables = similarity[frames.row[:, None, :, None], texts.row[None, :, None, :]]
    rows = frames.there[:, None].expand(a, a, n).reshape(a * a, n)
    columns = texts.there[None].expand(a, a, m).reshape(a * a, m)
    flat = tables.reshape(a * a, n, m)
    plan = alignment(flat, rows, columns, value, epsilon=epsilon, iterations=iterations)
    return (plan * flat).sum((1, 2)).reshape(a, a)


def of_samples(table: Table, chosen: Bool[Tensor, " b"]) -> Table:
    """The rows of some samples."""
    return Table(table.row[chosen], table.there[chosen])
