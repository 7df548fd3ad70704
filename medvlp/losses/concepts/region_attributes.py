"""Region-attribute mapping: which parts of a visual each of its findings is about."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Int, Int8
from torch import Tensor, nn
from torch.nn import functional

from medvlp.batch import QuestionRole
from medvlp.losses.concepts.patch_concept import unit_or_zero
from medvlp.losses.contrast.infonce import symmetric_nce
from medvlp.losses.objective import Objective, Scene, text_owner
from medvlp.models.pooling import segment_ids, segment_max

_SMALLEST = 1e-4


def pool_cells(patches: Float[Tensor, "n p e"], cells: int) -> Float[Tensor, "n regions e"]:
    """Mean patch of each of cells x cells parts of a square grid, row by row.

    Parts overlap by a patch where `cells` does not divide the side; a grid that is coarser than
    `cells` stays as it is.
    """
    side = math.isqrt(patches.shape[1])
    assert side * side == patches.shape[1], f"{patches.shape[1]} patches are no square grid"
    cells = min(cells, side)
    place, cell = torch.arange(side), torch.arange(cells)[:, None]
    # From the floor of its first border to the ceiling of its last.
    inside = (place >= cell * side // cells) & (place < -(-(cell + 1) * side // cells))
    weight = inside.double() / inside.sum(1, keepdim=True)
    both = torch.kron(weight, weight).to(patches.device, patches.dtype)
    return torch.einsum("rp,npe->nre", both, patches)


def attribute_contrast(
    logits: Float[Tensor, "b q"], present: Bool[Tensor, "b q"], absent: Bool[Tensor, "b q"]
) -> Float[Tensor, ""]:
    """Each visual with an attribute against the visuals that are known to be without it.

        L = mean_{(i, a) present} -log( exp(s_ia) / (exp(s_ia) + sum_{k: a absent} exp(s_ka)) )

    ViLLA (Varma et al. 2023), stage 1. Other visuals with the attribute are not in the sum; in
    the released code they count there as exp(0) = 1. An attribute without a negative takes no
    part; 0 if none has both.
    """
    both = present.any(0) & absent.any(0)
    if not bool(both.any()):
        return logits.sum() * 0
    logits, present, absent = logits[:, both], present[:, both], absent[:, both]
    against = logits.masked_fill(~absent, float("-inf")).logsumexp(0)
    return functional.softplus(against - logits)[present].mean()


def assign_regions(
    scores: Float[Tensor, "*rows r"], eps: float = 0.2, *, top: Float[Tensor, "*rows"] | None = None
) -> Bool[Tensor, "*rows r"]:
    """Which regions an attribute belongs to: score > max - eps (ViLLA's mapping).

    Args:
        scores: Cosines of one attribute with the r regions.
        eps: How far below the best a region may be; above 0.
        top: The best score where it is not among these regions, as in a sample of several frames.
    """
    best = scores.amax(-1) if top is None else top
    return scores > best[..., None] - eps


class AttributeMap(nn.Module):
    """Cosines of attributes with regions after a network that depends on the attribute.

        y_r = x_r + W2 relu(W1 x_r)     f(r, a) = y_r * (1 + G u_a)     score = cos(f(r, a), u_a)

    ViLLA has one two-layer network an attribute, which needs a closed list. Here one network is
    shared, and its output is weighted value by value by what the attribute's own vector asks for:
    a concept that was never seen in training has its map, too. W2 and G start at 0.

    Args:
        dim: Width of the joint space.
        width: Hidden width.
    """

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.first = nn.Linear(dim, width)
        self.second = nn.Linear(width, dim)
        self.gate = nn.Linear(dim, dim, bias=False)
        for parameter in (self.second.weight, self.second.bias, self.gate.weight):
            nn.init.zeros_(parameter)

    def forward(
        self, regions: Float[Tensor, "k e"], attributes: Float[Tensor, "q e"]
    ) -> Float[Tensor, "k q"]:
        """Cosines; no [k q e] tensor is built."""
        mapped = regions + self.second(functional.relu(self.first(regions)))
        gate = 1 + self.gate(attributes)
        square = mapped**2 @ (gate**2).T
        cosines: Tensor = mapped @ (gate * attributes).T * square.clamp_min(_SMALLEST).rsqrt()
        return cosines


def mention_target(
    scene: Scene,
    owner: Int[Tensor, " mentions"],
    slot: Int[Tensor, " mentions"],
    texts: Int[Tensor, " t"],
) -> Int8[Tensor, "mentions t"]:
    """Which sentences fit the region of a concept in a visual.

    1: the sentence holds for the visual and claims the concept. 0: it does not hold, and names
    nothing that the visual has. -1: anything else, such as another finding of the same visual.

    Args:
        scene: The batch.
        owner: The visual of each mention.
        slot: The slot of its concept.
        texts: Rows of the sentences.
    """
    claims = scene.batch.claims[texts] == 1
    holds = scene.target[owner][:, texts]
    names = claims[:, slot].T
    # Slots come in threes: any, left, right; a region cannot tell sides.
    has = (scene.batch.stated[:, ::3] == 1).float()
    shared = (has @ claims[:, ::3].float().T > 0)[owner]
    target = torch.full_like(holds, -1)
    target[(holds == 0) & ~shared & ~names] = 0
    target[(holds == 1) & names] = 1
    return target


class RegionAttributes(Objective):
    """Attributes choose regions; regions are matched with the sentences about their attributes.

        s_ia = max_{regions r of visual i} score(r, a) / tau
        L = `attribute_contrast`(s) + w `symmetric_nce`( z_m . t_j / tau )

    ViLLA (Varma et al. 2023) in one: its stage 1, and its stage 2 with z_m the unit mean of the
    regions that `assign_regions` gives to the concept of mention m in its own visual, t_j the
    vector of a sentence. Attributes are the concepts asked about; regions are cells of the patch
    grid in every frame. Published in two stages, on frozen regions of CLIP; the mapping passes no
    gradient in either.

    Args:
        dim: Width of the joint space.
        cells: Cells a side.
        width: Hidden width of the attribute map.
        temperature: tau; not learned.
        epsilon: How far below the best region, in cosine, an attribute still belongs.
        pair_weight: w.
    """

    needs = frozenset({"patches", "questions"})
    asks = frozenset({QuestionRole.NAME})

    def __init__(
        self,
        *,
        dim: int,
        cells: int = 4,
        width: int = 1024,
        temperature: float = 0.07,
        epsilon: float = 0.2,
        pair_weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.map = AttributeMap(dim, width)
        self.cells = cells
        self.temperature = temperature
        self.epsilon = epsilon
        self.pair_weight = pair_weight

    def forward(self, scene: Scene) -> Float[Tensor, ""]:
        """The loss of one batch; 0 if no attribute is known to be present anywhere."""
        patches, asked, batch = scene.embeddings.patches, scene.batch.asked, scene.batch
        assert patches is not None
        if asked is None or scene.questions is None:
            return patches.sum() * 0
        attributes = scene.asked(QuestionRole.NAME)
        slots = asked.slots[asked.subject[asked.rows(QuestionRole.NAME)]]
        regions = unit_or_zero(pool_cells(patches, self.cells))
        scores = self.map(regions.flatten(0, 1), attributes).unflatten(0, regions.shape[:2])
        owner = segment_ids(batch.offsets)
        top = segment_max(scores.amax(1), owner, len(batch))
        stated = batch.stated[:, slots]
        loss = attribute_contrast(top / self.temperature, stated == 1, stated == -1)
        if self.pair_weight == 0:
            return loss
        chosen = assign_regions(scores.transpose(1, 2), self.epsilon, top=top[owner])
        pairs = self._pairs(scene, regions, chosen.transpose(1, 2), slots)
        return loss + self.pair_weight * pairs

    def _pairs(
        self,
        scene: Scene,
        regions: Float[Tensor, "n cells e"],
        chosen: Bool[Tensor, "n cells q"],
        slots: Int[Tensor, " q"],
    ) -> Float[Tensor, ""]:
        """Stage 2: regions of mentions against sentences."""
        batch = scene.batch
        text, attribute = (batch.claims[:, slots] == 1).nonzero(as_tuple=True)
        owner = text_owner(batch.text_offsets)[text]
        texts = torch.unique(text)
        own = segment_ids(batch.offsets).repeat_interleave(regions.shape[1]) == owner[:, None]
        part = own & chosen.flatten(0, 1)[:, attribute].T
        # The direction of a sum is that of the mean.
        vectors = unit_or_zero(part.to(regions.dtype) @ regions.flatten(0, 1))
        logits = vectors @ scene.embeddings.text[texts].T / self.temperature
        return symmetric_nce(logits, mention_target(scene, owner, slots[attribute], texts))
