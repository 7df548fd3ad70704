"""Contrast of two views of the same visual, without any text."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from medvlp.losses.objective import Objective, Scene


def nt_xent(
    first: Float[Tensor, "b e"], second: Float[Tensor, "b e"], temperature: float
) -> Float[Tensor, ""]:
    """Each of 2 b views finds the other view of its sample among all 2 b - 1 others.

        L = - 1/(2b) sum_i log( exp(z_i . z_i' / t) / sum_{k != i} exp(z_i . z_k / t) )

    SimCLR (Chen et al. 2020, eq. 1); z are all views of both kinds and i' is the other view of i.

    Args:
        first: Unit vectors of the first views.
        second: Unit vectors of the second views, in the same order.
        temperature: t.

    Returns:
        The mean; 0 for a single sample, whose other view is the only candidate.
    """
    views = torch.cat([first, second])
    logits = (views @ views.T) / temperature
    itself = torch.eye(len(views), dtype=torch.bool, device=views.device)
    other = torch.arange(len(views), device=views.device).roll(len(first))
    return functional.cross_entropy(logits.masked_fill(itself, float("-inf")), other)


class Views(Objective):
    """SimCLR beside the contrast with texts, as in SLIP and A-CLIP.

    Args:
        temperature: Fixed: a learned one would make the task easier instead of the vectors better.
    """

    needs = frozenset({"second"})

    def __init__(self, *, temperature: float = 0.1) -> None:
        super().__init__()
        self.temperature = temperature

    def forward(self, scene: Scene) -> Float[Tensor, ""]:
        """The loss of one batch; 0 if it has no second views."""
        embeddings = scene.embeddings
        if embeddings.second is None:
            return embeddings.visual.sum() * 0
        return nt_xent(embeddings.visual, embeddings.second, self.temperature)
