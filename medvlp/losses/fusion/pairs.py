"""What the objectives of this folder share: a visual, its own text, and the fusion of the two."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from medvlp.batch import QuestionRole, TextRole
from medvlp.errors import ConfigError
from medvlp.losses.objective import Scene, text_owner
from medvlp.models.fusion import FusionEncoder, FusionOutput, cells_per_side
from medvlp.models.knowledge_stream import Knowledge, gather_knowledge
from medvlp.models.vlp import VLP
from medvlp.types import Batch


class Pairs(NamedTuple):
    """Visuals that have a text, each with one of its own."""

    visuals: Int[Tensor, " k"]
    texts: Int[Tensor, " k"]


def own_pairs(batch: Batch) -> Pairs:
    """Every visual that has a text, with the first of its texts that is no whole document.

    A document is taken where there is nothing else: it has mostly more tokens than fit.
    """
    m, b = len(batch.text_key), len(batch)
    owner = text_owner(batch.text_offsets)
    number = torch.arange(m, device=owner.device)
    if batch.text_role is not None:
        number = number + m * (batch.text_role == TextRole.DOCUMENT)
    first = torch.full((b,), 2 * m, device=owner.device)
    first = first.scatter_reduce(0, owner, number, "amin")
    visuals = (first < 2 * m).nonzero()[:, 0]
    return Pairs(visuals, first[visuals] % max(m, 1))


def model_of(scene: Scene) -> VLP:
    """The model of a scene."""
    assert scene.model is not None
    return scene.model


def fusion_of(scene: Scene) -> FusionEncoder:
    """The fusion encoder.

    Raises:
        ConfigError: The model has none.
    """
    fusion = model_of(scene).fusion
    if not isinstance(fusion, FusionEncoder):
        raise ConfigError(
            "this objective needs a fusion encoder",
            code="fusion-missing",
            next_step="set model.fusion (and model.words)",
        )
    return fusion


def cells_of(scene: Scene) -> int:
    """Cells of one frame of the scene's visuals."""
    assert scene.embeddings.patches is not None
    return cells_per_side(scene.embeddings.patches.shape[1], fusion_of(scene).config.grid) ** 2


def trimmed(
    words: Float[Tensor, "k l e"], mask: Bool[Tensor, "k l"]
) -> tuple[Float[Tensor, "k l2 e"], Bool[Tensor, "k l2"]]:
    """Words without the columns that are padding in all rows."""
    width = longest(mask)
    return words[:, :width], mask[:, :width]


def longest(mask: Bool[Tensor, "k l"]) -> int:
    """Tokens of the longest of k texts, at least 1; padding is at the end."""
    return max(1, int(mask.sum(1).max())) if len(mask) else 1


def fuse(
    scene: Scene,
    visual: tuple[Float[Tensor, "k v e"], Bool[Tensor, "k v"]],
    words: tuple[Float[Tensor, "k l e"], Bool[Tensor, "k l"]],
    texts: Int[Tensor, " k"],
    hidden: Bool[Tensor, "k l"] | None = None,
) -> FusionOutput:
    """Visual i fused with the words of row i.

    Args:
        scene: Of the batch.
        visual: Cells and mask (`gather_visual`).
        words: Vectors and mask.
        texts: Which text of the batch the words of each row are, for the concepts it names; -1
            for words that are no text.
        hidden: Tokens that must be guessed: what they name is not told.
    """
    fusion = fusion_of(scene)
    knowledge = None
    if fusion.knowledge is not None:
        knowledge = named_concepts(scene, texts, words[1].shape[1], hidden)
    output: FusionOutput = fusion(*visual, *words, cells=cells_of(scene), knowledge=knowledge)
    return output


def named_concepts(
    scene: Scene, texts: Int[Tensor, " k"], length: int, hidden: Bool[Tensor, "k l"] | None
) -> Knowledge | None:
    """Vectors of the concepts that texts name; None where nothing is asked or named.

    A concept that is asked about in several texts (name, definition) counts by their mean.
    """
    batch = scene.batch
    if scene.questions is None or batch.asked is None or batch.mentions is None:
        return None
    rows = batch.asked.rows(QuestionRole.NAME)
    slots = batch.asked.slots
    if len(rows) == 0:
        return None
    subject = batch.asked.subject[rows]
    vectors = scene.questions[rows]
    total = vectors.new_zeros(len(slots), vectors.shape[1]).index_add(0, subject, vectors)
    count = torch.bincount(subject, minlength=len(slots)).clamp(min=1)
    names = total / count[:, None]
    return gather_knowledge(names, slots, batch.mentions, texts, length, hidden)


@contextmanager
def frozen_statistics(model: nn.Module) -> Iterator[None]:
    """Batch norms work as they are but remember nothing.

    A frame that is three quarters painted over, or a text full of [MASK], must not enter the
    running statistics that inference uses.
    """
    norms = [part for part in model.modules() if isinstance(part, _BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    try:
        for norm in norms:
            norm.momentum = 0.0
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
