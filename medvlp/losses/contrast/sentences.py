"""Sentence by sentence: each finds its visual, and its own patches in it."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int, Int8
from torch import Tensor
from torch.nn import functional

from medvlp.batch import TextRole
from medvlp.losses.contrast.infonce import symmetric_nce
from medvlp.losses.objective import LogitScale, Objective, Scene, text_owner
from medvlp.models.pooling import segment_ids, segment_max, segment_sum


def grouped_patches(
    patches: Float[Tensor, "n p e"],
    text: Float[Tensor, "m e"],
    offsets: Int[Tensor, " bounds"],
    owner: Int[Tensor, " m"],
    threshold: float | None = None,
) -> Float[Tensor, "m e"]:
    """Of every sentence, the patches of its own visual that it speaks of, as one vector.

        a_jr = x_r . t_j,   a'_jr = (a_jr - min_r a_jr) / (max_r a_jr - min_r a_jr)
        w_jr = a'_jr [a'_jr >= c] / sum_r a'_jr [a'_jr >= c],   g_j = sum_r w_jr x_r

    r runs over all patches of all frames of the sentence's visual. The grouping of DreamLIP
    (Zheng et al. 2024, sec. 3.3), which is that of SPARC (Bica et al. 2024, eq. 3-5) with
    sentences for words. Sentences and visuals are joined by index, never by the order of a
    stacked list: visuals have different numbers of sentences.

    Args:
        patches: x, of all frames of all samples in a row.
        text: t, unit vectors of the sentences.
        offsets: Sample i owns frames offsets[i]:offsets[i + 1]; none is empty.
        owner: Of each sentence, its sample; ascending.
        threshold: c; 1 / number of patches of the visual, if not given.

    Returns:
        g, not of unit length; the mean of all patches where they do not differ.
    """
    b, frame_of = len(offsets) - 1, segment_ids(offsets)
    place = torch.arange(len(owner), device=owner.device)
    slot = place - torch.searchsorted(owner, torch.arange(b, device=owner.device))[owner]
    # A table of each sample's sentences, so that a frame meets only those of its own sample.
    table = text.new_zeros(b, int(slot.max()) + 1, text.shape[1]).index_put((owner, slot), text)
    products = patches @ table.to(patches.dtype)[frame_of].transpose(1, 2)  # [n, p, slots]
    products = products.to(torch.promote_types(products.dtype, torch.float32))
    top = segment_max(products.amax(1), frame_of, b)
    low = -segment_max(-products.amin(1), frame_of, b)
    span = top - low
    flat = span <= 0
    relative = (products - low[frame_of, None]) / span.masked_fill(flat, 1)[frame_of, None]
    relative = torch.where(flat[frame_of, None], torch.ones_like(relative), relative)
    count = offsets.diff().to(products.dtype) * patches.shape[1]
    limit = 1 / count if threshold is None else torch.full_like(count, threshold)
    kept = relative.masked_fill(relative < limit[frame_of, None, None], 0)
    mass = segment_sum(kept.sum(1), frame_of, b)
    by_frame = (kept.transpose(1, 2).to(patches.dtype) @ patches).to(products.dtype)
    pooled = segment_sum(by_frame.flatten(1), frame_of, b).reshape(*mass.shape, -1)
    return (pooled / mass[:, :, None])[owner, slot]


def sentence_target(
    target: Int8[Tensor, "b m"],
    owner: Int[Tensor, " m"],
    text_key: Int[Tensor, " m"],
    claims: Int[Tensor, "m k"],
) -> Int8[Tensor, "m m"]:
    """Which sentence k fits what sentence j groups in its own visual.

    1: they say the same words. -1: k holds for the visual or may hold; or both speak of one
    concept in the same visual, or assert one in two visuals: a patch cannot tell left from right.
    0: another sentence of the same visual about something else, or one that the visual is known
    to contradict.

    Args:
        target: Of visuals and sentences, as in `Scene`.
        owner: Of each sentence, its sample.
        text_key: Hash of each sentence.
        claims: What each sentence claims, three slots a concept.
    """
    same_words = text_key[:, None] == text_key[None, :]
    same_visual = owner[:, None] == owner[None, :]
    spoken, asserted = (claims != 0).float(), (claims[:, ::3] == 1).float()
    elsewhere = (target[owner] != 0) | (asserted @ asserted.T > 0)
    open_pair = torch.where(same_visual, spoken @ spoken.T > 0, elsewhere)
    return same_words.to(torch.int8).masked_fill(open_pair & ~same_words, -1)


def only_denies(claims: Int[Tensor, "m k"]) -> Bool[Tensor, " m"]:
    """Texts that deny something and assert nothing: what they speak of is in no patch."""
    return (claims == -1).any(1) & ~(claims == 1).any(1)


class SentenceGrouping(Objective):
    """DreamLIP: sentences with visuals, and sentences with the patches they group.

        L = w_s symmetric_nce(v, t) + w_g symmetric_nce(g, t)

    Every text that is not a whole document is a sentence.

    Args:
        temperature: Of both parts, start value; learned, one for each.
        min_temperature: Its lower bound.
        threshold: Relative similarity below which a patch is not of a sentence's group; 1 / number
            of patches, if not given.
        sentence_weight: w_s; 0 where another objective already contrasts sentences and visuals.
        grouping_weight: w_g.
        ground_denials: Whether a sentence that only denies groups patches too, as published.
    """

    needs = frozenset({"patches"})

    def __init__(
        self,
        *,
        temperature: float = 0.07,
        min_temperature: float = 0.01,
        threshold: float | None = None,
        sentence_weight: float = 1.0,
        grouping_weight: float = 1.0,
        ground_denials: bool = False,
    ) -> None:
        super().__init__()
        self.scale = LogitScale(temperature, min_temperature)
        self.local_scale = LogitScale(temperature, min_temperature)
        self.threshold = threshold
        self.sentence_weight = sentence_weight
        self.grouping_weight = grouping_weight
        self.ground_denials = ground_denials

    def forward(self, scene: Scene) -> Float[Tensor, ""]:
        """The loss of one batch; 0 if it has no sentence."""
        batch, embeddings = scene.batch, scene.embeddings
        sentence = torch.ones_like(batch.text_key, dtype=torch.bool)
        if batch.text_role is not None:
            sentence = batch.text_role != TextRole.DOCUMENT
        logits = self.scale() * embeddings.visual @ embeddings.text[sentence].T
        whole = symmetric_nce(logits, scene.target[:, sentence])
        if not self.ground_denials:
            sentence = sentence & ~only_denies(batch.claims)
        return self.sentence_weight * whole + self.grouping_weight * self._local(scene, sentence)

    def _local(self, scene: Scene, sentence: Bool[Tensor, " m"]) -> Float[Tensor, ""]:
        """The contrast of sentences with the patches they group."""
        batch, embeddings = scene.batch, scene.embeddings
        assert embeddings.patches is not None
        if not bool(sentence.any()):
            return embeddings.patches.sum() * 0
        owner = text_owner(batch.text_offsets)[sentence]
        text = embeddings.text[sentence]
        grouped = grouped_patches(embeddings.patches, text, batch.offsets, owner, self.threshold)
        logits = self.local_scale() * functional.normalize(grouped, dim=1) @ text.T
        target = sentence_target(
            scene.target[:, sentence], owner, batch.text_key[sentence], batch.claims[sentence]
        )
        return symmetric_nce(logits, target)
