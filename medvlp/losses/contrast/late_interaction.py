"""Late interaction: every patch finds its word, every word finds its patch."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from medvlp.losses.contrast.infonce import multi_positive_nce
from medvlp.losses.objective import LogitScale, Objective, Scene
from medvlp.models.pooling import segment_ids, segment_max, segment_sum

BUDGET = 2**25
"""Products of patches and words that are held at once, at most (unless one text needs more)."""


def token_similarity(
    patches: Float[Tensor, "r e"],
    visual_of: Int[Tensor, " r"],
    words: Float[Tensor, "w e"],
    text_of: Int[Tensor, " w"],
    b: int,
    m: int,
) -> Float[Tensor, "2 b m"]:
    """Similarity of every visual with every text, as the patches and as the words see it.

        s_I[ij] = mean_{patches r of i} max_{words k of j} x_r . y_k
        s_T[ij] = mean_{words k of j} max_{patches r of i} x_r . y_k

    FILIP (Yao et al. 2021, eq. 3-4). Two matrices: a patch without a word lowers only the first,
    a word without a patch only the second.

    Args:
        patches: Unit vectors of the patches of all visuals in a row.
        visual_of: Of each patch, which visual it is of.
        words: Unit vectors of the real tokens of all texts: there is no padding that could win.
        text_of: Of each word, which text it is of.
        b: Visuals.
        m: Texts.

    Returns:
        s_I and s_T; 0 where a text has no word.
    """
    products = words.to(patches.dtype) @ patches.T
    products = products.to(torch.promote_types(products.dtype, torch.float32))
    best_word = segment_max(products, text_of, m)
    best_patch = segment_max(products.T, visual_of, b)
    of_visual = _counts(visual_of, b, products)
    of_text = _counts(text_of, m, products)
    by_patches = segment_sum(best_word.T, visual_of, b) / of_visual[:, None]
    by_words = segment_sum(best_patch.T, text_of, m).T / of_text[None, :]
    return torch.stack([by_patches, by_words])


def _counts(owner: Int[Tensor, " r"], size: int, like: Tensor) -> Float[Tensor, " size"]:
    return torch.bincount(owner, minlength=size).clamp(min=1).to(like.dtype)


def text_groups(text_of: Int[Tensor, " w"], m: int, words: int) -> list[tuple[int, int, int, int]]:
    """Neighbouring texts in groups of about `words` words, at least one text a group.

    Args:
        text_of: Of each word, which text it is of; ascending.
        m: Texts.
        words: Words a group should hold at most.

    Returns:
        First text, text after the last, first word and word after the last of every group.
    """
    ends = torch.bincount(text_of, minlength=m).cumsum(0).tolist()
    groups, text, word = [], 0, 0
    for j in range(m):
        last = j + 1 == m
        if last or ends[j + 1] - word > words:
            groups.append((text, j + 1, word, ends[j]))
            text, word = j + 1, ends[j]
    return groups


def all_similarities(
    patches: Float[Tensor, "r e"],
    visual_of: Int[Tensor, " r"],
    words: Float[Tensor, "w e"],
    text_of: Int[Tensor, " w"],
    b: int,
    m: int,
    budget: int = BUDGET,
) -> Float[Tensor, "2 b m"]:
    """`token_similarity`, group by group of texts where the products would not fit at once."""
    groups = text_groups(text_of, m, max(1, budget // len(patches)))
    if len(groups) == 1:
        return token_similarity(patches, visual_of, words, text_of, b, m)
    # Recomputed on the way back, or the products of all groups would be held until then.
    parts = [
        checkpoint(
            token_similarity,
            patches,
            visual_of,
            words[start:end],
            text_of[start:end] - first,
            b,
            after - first,
            use_reentrant=False,
            preserve_rng_state=False,
        )
        for first, after, start, end in groups
    ]
    return torch.cat(parts, dim=2)


def top_share(
    score: Float[Tensor, " r"], owner: Int[Tensor, " r"], size: int, share: float
) -> Int[Tensor, " kept"]:
    """Indices, ascending, of the largest `share` of every segment, at least one each."""
    # By score, then stably by owner: the rank in the segment is the distance to its start.
    order = score.argsort(descending=True, stable=True)
    order = order[owner[order].argsort(stable=True)]
    count = torch.bincount(owner, minlength=size)
    rank = torch.arange(len(owner), device=owner.device) - (count.cumsum(0) - count)[owner[order]]
    return order[rank < (share * count).ceil()[owner[order]]].sort().values


@torch.no_grad()
def best_scores(
    patches: Float[Tensor, "r e"],
    words: Float[Tensor, "w e"],
    budget: int = BUDGET,
) -> tuple[Float[Tensor, " r"], Float[Tensor, " w"]]:
    """The largest product of each patch with any word, and of each word with any patch."""
    of_patch = patches.new_full((len(patches),), float("-inf"))
    of_word = []
    step = max(1, budget // len(patches))
    for start in range(0, len(words), step):
        products = words[start : start + step].to(patches.dtype) @ patches.T
        of_patch = torch.maximum(of_patch, products.amax(0))
        of_word.append(products.amax(1))
    return of_patch, torch.cat(of_word)


class LateInteraction(Objective):
    """FILIP: symmetric multi-positive contrast of the two token-wise similarities.

    A visual's patches are all patches of all its frames; a text's words are its real tokens.

    Args:
        temperature: Start value; learned.
        min_temperature: Its lower bound.
        keep: Share of each visual's patches and each text's words that take part: those with the
            largest similarity to any token of the other kind in the batch. Published: 0.25.
        budget: Products of patches and words that are held at once.
    """

    needs = frozenset({"patches", "words"})

    def __init__(
        self,
        *,
        temperature: float = 0.07,
        min_temperature: float = 0.01,
        keep: float = 0.25,
        budget: int = BUDGET,
    ) -> None:
        super().__init__()
        self.scale = LogitScale(temperature, min_temperature)
        self.keep = keep
        self.budget = budget

    def forward(self, scene: Scene) -> Float[Tensor, ""]:
        """The loss of one batch; 0 if no text has a word."""
        batch, embeddings = scene.batch, scene.embeddings
        assert embeddings.patches is not None
        assert embeddings.words is not None
        b, m = scene.target.shape
        patches = functional.normalize(embeddings.patches.flatten(0, 1), dim=1)
        visual_of = segment_ids(batch.offsets).repeat_interleave(embeddings.patches.shape[1])
        words = functional.normalize(embeddings.words[batch.token_mask], dim=1)
        text_of = batch.token_mask.nonzero()[:, 0]
        if len(words) == 0:
            return patches.sum() * 0
        if self.keep < 1:
            of_patch, of_word = best_scores(patches, words, self.budget)
            chosen = top_share(of_patch, visual_of, b, self.keep)
            spoken = top_share(of_word, text_of, m, self.keep)
            patches, visual_of = patches[chosen], visual_of[chosen]
            words, text_of = words[spoken], text_of[spoken]
        by_patches, by_words = self.scale() * all_similarities(
            patches, visual_of, words, text_of, b, m, self.budget
        )
        silent = ~batch.token_mask.any(1)
        target = scene.target.masked_fill(silent[None, :], -1)
        return (
            multi_positive_nce(by_patches, target) + multi_positive_nce(by_words.T, target.T)
        ) / 2
