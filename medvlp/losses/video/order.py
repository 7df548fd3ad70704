"""PeskaVLP: the child texts of a sample come in the order of its frames.

Yuan et al. 2024, "Procedure-aware surgical video-language pretraining with hierarchical knowledge
augmentation" (NeurIPS 2024, arXiv 2410.00263). The paper and its code differ; both are here.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from medvlp.batch import TextRole
from medvlp.losses.objective import Objective, Scene, text_owner
from medvlp.losses.video.levels import Table, has_role, table_of
from medvlp.losses.video.soft_dtw import SoftMin, soft_dtw
from medvlp.models.pooling import segment_ids

Variant = Literal["paper", "code"]
Hinge = Literal["floor", "margin"]


def cost_over_texts(
    cosines: Float[Tensor, "b n m"],
    texts: Bool[Tensor, "b m"],
    copies: Float[Tensor, "b m"],
    temperature: float,
) -> Float[Tensor, "b n m"]:
    """Which text is it, asked of each frame: the cost of the paper.

        c_ij = - log [ exp(s_ij / beta) / sum_k exp(s_ik / beta) ]

    Identical texts are one answer: the sum is over distinct texts.

    Args:
        cosines: s, of each sample's frames and texts.
        texts: Which texts are no padding.
        copies: How often each text stands in its sample.
        temperature: beta.
    """
    logits = cosines / temperature
    once = (logits - copies.log()[:, None]).masked_fill(~texts[:, None], float("-inf"))
    # A sample without texts has no sum; its costs are padding.
    once = once.masked_fill(~texts.any(1)[:, None, None], 0)
    return once.logsumexp(2, keepdim=True) - logits


def cost_over_frames(
    cosines: Float[Tensor, "b n m"], frames: Bool[Tensor, "b n"], temperature: float
) -> Float[Tensor, "b n m"]:
    """Which frame is it, asked of each text: the cost of the code.

    c_ij = - log [ exp(s_ij / gamma_f) / sum_k exp(s_kj / gamma_f) ]; arguments as above.
    """
    logits = cosines / temperature
    seen = logits.masked_fill(~frames[:, :, None], float("-inf"))
    seen = seen.masked_fill(~frames.any(1)[:, None, None], 0)
    return seen.logsumexp(1, keepdim=True) - logits


def reversed_columns(
    cost: Float[Tensor, "b n m"], columns: Int[Tensor, " b"]
) -> Float[Tensor, "b n m"]:
    """The same costs with each sample's own texts in the opposite order; padding stays last."""
    place = torch.arange(cost.shape[2], device=cost.device)
    index = torch.where(place < columns[:, None], columns[:, None] - 1 - place, place)
    return cost.gather(2, index[:, None, :].expand_as(cost))


def floor_hinge(lead: Float[Tensor, " b"], floor: float) -> Float[Tensor, " b"]:
    """max(d, floor): the hinge as the paper writes it, d = DTW(C) - DTW(R).

    It is no margin. Where the right order is at most `floor` dearer than the reversed one, the
    value rests on the floor and the gradient is zero: an order that is still wrong is left alone.
    """
    return lead.clamp(min=floor)


def margin_hinge(lead: Float[Tensor, " b"], margin: float) -> Float[Tensor, " b"]:
    """max(d + margin, 0): pulls until the right order is cheaper than the reversed by `margin`."""
    return (lead + margin).clamp(min=0)


class ProcedureOrder(Objective):
    """Soft-DTW of frames and child texts in their order against the reversed order.

        paper   L = mean_i hinge(DTW(C_i) - DTW(R_i))        C over texts, classical soft minimum
        code    L = mean_i a_i + ratio max(a_i - r_i, 0)     C over frames, probabilistic, where
                a_i = scale DTW(C_i), r_i = scale DTW(R_i)

    R is C with the texts reversed. The mean is over samples with at least two frames and two
    texts. The paper does not say which soft minimum; Cuturi and Blondel's is taken. The code
    scales the distance and not the costs (the soft minimum is the sharper for it), fills the same
    table twice a sample and the third for the reversed order, cell by cell.

    Args:
        variant: Which of the two.
        temperature: Of the softmax in the cost: beta, or gamma_f.
        gamma: Of the soft minimum.
        hinge: Of the paper's variant: as written, or a true margin.
        margin: Of the hinge (the paper's phi).
        scale: Of the code's variant.
        ratio: Likewise.
    """

    needs = frozenset({"frames"})

    def __init__(
        self,
        *,
        variant: Variant = "paper",
        temperature: float = 0.1,
        gamma: float = 0.1,
        hinge: Hinge = "floor",
        margin: float = 0.1,
        scale: float = 0.01,
        ratio: float = 0.5,
    ) -> None:
        super().__init__()
        self.variant = variant
        self.temperature = temperature
        self.gamma = gamma
        self.hinge = hinge
        self.margin = margin
        self.scale = scale
        self.ratio = ratio

    def forward(self, scene: Scene) -> Float[Tensor, ""]:
        """The loss of one batch; 0 if no sample has two frames and two child texts."""
        vectors = scene.embeddings.frames
        assert vectors is not None
        frames, texts, copies = _sequences(scene)
        if len(frames.row) == 0:
            return vectors.sum() * 0 + scene.embeddings.text.sum() * 0
        cosines = vectors[frames.row] @ scene.embeddings.text[texts.row].mT
        if self.variant == "paper":
            cost = cost_over_texts(cosines, texts.there, copies.to(cosines), self.temperature)
        else:
            cost = cost_over_frames(cosines, frames.there, self.temperature)
        lengths = frames.there.sum(1), texts.there.sum(1)
        forth = self._distance(cost, *lengths)
        back = self._distance(reversed_columns(cost, lengths[1]), *lengths)
        return self.compare(forth, back)

    def _distance(
        self, cost: Float[Tensor, "b n m"], rows: Int[Tensor, " b"], columns: Int[Tensor, " b"]
    ) -> Float[Tensor, " b"]:
        kind: SoftMin = "classical" if self.variant == "paper" else "probabilistic"
        return soft_dtw(cost, rows, columns, gamma=self.gamma, kind=kind)

    def compare(self, forth: Float[Tensor, " b"], back: Float[Tensor, " b"]) -> Float[Tensor, ""]:
        """The loss of distances in the right and in the reversed order."""
        if self.variant == "paper":
            hinge = floor_hinge if self.hinge == "floor" else margin_hinge
            return hinge(forth - back, self.margin).mean()
        forth, back = self.scale * forth, self.scale * back
        return (forth + self.ratio * (forth - back).clamp(min=0)).mean()


def _sequences(scene: Scene) -> tuple[Table, Table, Int[Tensor, "a width"]]:
    """Frames and child texts of the samples with two of each, and copies of each text."""
    batch, b = scene.batch, len(scene.batch)
    frames = table_of(segment_ids(batch.offsets), b)
    owner = text_owner(batch.text_offsets)
    texts = table_of(owner, b, has_role(batch, TextRole.CHILD))
    long = (frames.there.sum(1) >= 2) & (texts.there.sum(1) >= 2)
    frames, texts = (Table(t.row[long], t.there[long]) for t in (frames, texts))
    key = batch.text_key[texts.row]
    same = (key[:, :, None] == key[:, None, :]) & texts.there[:, None, :]
    return frames, texts, same.sum(2).clamp(min=1)
