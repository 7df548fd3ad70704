"""Patch-concept alignment: the words that name a concept are seen in some patch, or in none."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int, Int8
from torch import Tensor, nn
from torch.nn import functional

from medvlp.losses.objective import LogitScale, Objective, Scene, text_owner
from medvlp.models.pooling import PATCH_SHARE, segment_ids, segment_max
from medvlp.types import Batch

_SHORTEST = 1e-6


def unit_or_zero(x: Float[Tensor, "*n e"]) -> Float[Tensor, "*n e"]:
    """Vectors of length 1, at least float32; what has no direction becomes 0, without a gradient.

    A patch of black border can be 0 in every channel. Divided by a tiny length its gradient would
    be the only one of the step.
    """
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    length = x.norm(dim=-1, keepdim=True)
    return torch.where(length > _SHORTEST, x / length.clamp_min(_SHORTEST), 0.0)


def concept_vectors(
    words: Float[Tensor, "m l e"],
    text: Int[Tensor, " mentions"],
    first: Int[Tensor, " mentions"],
    last: Int[Tensor, " mentions"],
) -> Float[Tensor, "mentions e"]:
    """Unit mean of the word vectors [first, last) of each mention's text."""
    place = torch.arange(words.shape[1], device=words.device)
    inside = (place >= first[:, None]) & (place < last[:, None])
    return unit_or_zero(torch.einsum("ql,qle->qe", inside.to(words.dtype), words[text]))


def patch_cosines(
    patches: Float[Tensor, "n p e"],
    concepts: Float[Tensor, "mentions e"],
    offsets: Int[Tensor, " bounds"],
    count: int = 1,
) -> Float[Tensor, "b mentions"]:
    """How well the best patches of each visual fit each concept.

    The mean of the `count` largest cosines of a frame, in the best frame of the visual; with
    `count` 1 the largest cosine of all patches of the visual.

    Args:
        patches: Of all frames of all samples in a row, of any length.
        concepts: Unit vectors.
        offsets: Sample i owns frames offsets[i]:offsets[i + 1]; none is empty.
        count: Patches of a frame.
    """
    cosines = (unit_or_zero(patches) @ concepts.T).transpose(1, 2)
    by_frame = cosines.topk(count, dim=-1).values.mean(-1)
    return segment_max(by_frame, segment_ids(offsets), len(offsets) - 1)


def concept_labels(
    batch: Batch, mentions: Int[Tensor, "mentions 5"], unknown_is_negative: bool
) -> Int8[Tensor, "b mentions"]:
    """1: the concept is to be seen in the visual; -1: it is not; 0: takes no part.

    In the visual of the text itself the mention decides: stated 1, denied -1, doubted 0. A denial
    that speaks of one side only, or that another sentence takes back, is 0: a patch cannot tell
    sides. In other visuals what is known decides: present 0 (it is no negative, and its own texts
    say where it is), absent -1, unknown 0 or -1.
    """
    text, concept, polarity = mentions[:, 0], mentions[:, 3], mentions[:, 4]
    # Slots come in threes: any, left, right. `stated` is closed over is-a, so a visual with a
    # kind of the concept counts as having it.
    slots = 3 * concept[:, None] + torch.arange(3, device=concept.device)
    stated = batch.stated[:, slots]
    there = stated[..., 0]
    absent = (there == -1) | ((there == 0) & unknown_is_negative)
    denied = (polarity == -1) & ((there == -1) | (stated == 0).all(-1))
    own_label = (polarity == 1).to(torch.int8) - denied.to(torch.int8)
    owner = text_owner(batch.text_offsets)[text]
    own = owner == torch.arange(len(batch), device=owner.device)[:, None]
    return torch.where(own, own_label, -absent.to(torch.int8))


def signed_sigmoid_loss(
    logits: Float[Tensor, "b mentions"], label: Int8[Tensor, "b mentions"]
) -> Float[Tensor, ""]:
    """Mean of -log sigma(y s) over the pairs with y = 1 or -1; 0 if there are none."""
    known: Bool[Tensor, "b mentions"] = label != 0
    if not bool(known.any()):
        return logits.sum() * 0
    return functional.softplus(-label[known] * logits[known]).mean()


class PatchConcept(Objective):
    """Sigmoid loss of the concepts that texts mention against the patches of visuals (PC-Align).

        t_c = unit( mean of the words of the mention c )    v_p = unit( patch p )
        s_ic = kappa max_{patches p of visual i} t_c . v_p + beta
        L = mean_{pairs with y_ic != 0} log(1 + exp(-y_ic s_ic))

    ConceptCLIP (arXiv 2501.15579); kappa and beta are learned, labels y as in `concept_labels`.
    As published every concept of a visual's text is 1 and all others -1; then two findings in
    three would be attracted by chests that lack them, and two in five of the negatives have the
    concept. Published is a sum over visuals and a mean over concepts: b times this mean.

    Args:
        temperature: 1 / kappa, start value; learned.
        min_temperature: Its lower bound.
        bias: beta, start value; learned.
        unknown: What a visual is of which a concept of another's text is not known.
        reduce: `max`: the best patch; `top`: the mean of the best `share` of a frame's patches.
        share: Share of a frame's patches, at least one.
    """

    needs = frozenset({"patches", "words"})

    def __init__(
        self,
        *,
        temperature: float = 0.07,
        min_temperature: float = 0.01,
        bias: float = -10.0,
        unknown: Literal["ignored", "negative"] = "ignored",
        reduce: Literal["max", "top"] = "max",
        share: float = PATCH_SHARE,
    ) -> None:
        super().__init__()
        self.scale = LogitScale(temperature, min_temperature)
        self.bias = nn.Parameter(torch.tensor(float(bias)))
        self.unknown_is_negative = unknown == "negative"
        self.share = share if reduce == "top" else 0.0

    def forward(self, scene: Scene) -> Float[Tensor, ""]:
        """The loss of one batch; 0 if no text mentions a concept of which anything is known."""
        patches, words = scene.embeddings.patches, scene.embeddings.words
        assert patches is not None
        assert words is not None
        mentions = scene.batch.mentions
        if mentions is None:
            return patches.sum() * 0
        mentions = mentions[mentions[:, 2] > mentions[:, 1]]
        label = concept_labels(scene.batch, mentions, self.unknown_is_negative)
        told = (label != 0).any(0)
        if not bool(told.any()):
            return patches.sum() * 0
        mentions, label = mentions[told], label[:, told]
        concepts = concept_vectors(words, mentions[:, 0], mentions[:, 1], mentions[:, 2])
        count = max(1, round(self.share * patches.shape[1]))
        cosines = patch_cosines(patches, concepts, scene.batch.offsets, count)
        return signed_sigmoid_loss(self.scale() * cosines + self.bias, label)
