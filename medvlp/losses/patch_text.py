"""Local contrast: a text that names a finding is seen in some patch of its visual."""

from __future__ import annotations

import itertools
import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from medvlp.losses.infonce import symmetric_nce
from medvlp.losses.objective import LogitScale, Objective, Scene


def smooth_max_similarity(
    patches: Float[Tensor, "n p e"],
    text: Float[Tensor, "m e"],
    offsets: Int[Tensor, "b+1"],
    sharpness: float,
) -> Float[Tensor, "b m"]:
    """How strongly a text is seen somewhere in each visual, in [-1, 1].

        s_ij = 1/k log( 1/N_i sum_{patches q of visual i} exp(k q . t_j) )

    The log-mean-exp lies between the mean and the maximum of the cosines, whatever the number of
    patches N_i; k is the sharpness (Pinheiro and Collobert 2015, "From image-level to
    pixel-level labeling", eq. 6).

    Args:
        patches: Unit vectors of all frames of all samples in a row.
        text: Unit vectors.
        offsets: Sample i owns frames offsets[i]:offsets[i + 1].
        sharpness: k.
    """
    p = patches.shape[1]
    by_frame = (sharpness * (patches @ text.T)).logsumexp(1)  # [n, m]
    bounds = offsets.tolist()
    rows = [
        by_frame[start:end].logsumexp(0) - math.log(p * (end - start))
        for start, end in itertools.pairwise(bounds)
    ]
    return torch.stack(rows) / sharpness


class PatchText(Objective):
    """InfoNCE over the smooth maximum of patch-text similarity, for texts that state a presence.

    After the patch-concept alignment of ConceptCLIP (arXiv 2501.15579) with two of its faults
    left out: a sentence that only denies a finding attracts no patch (its meaning is in no
    place), and a visual that also shows the finding is no negative.

    Args:
        temperature: Start value; learned.
        min_temperature: Its lower bound.
        sharpness: Of the smooth maximum.
    """

    needs_patches = True

    def __init__(
        self,
        *,
        temperature: float = 0.1,
        min_temperature: float = 0.02,
        sharpness: float = 10.0,
    ) -> None:
        super().__init__()
        self.scale = LogitScale(temperature, min_temperature)
        self.sharpness = sharpness

    def forward(self, scene: Scene) -> Float[Tensor, ""]:
        """The loss of one batch; 0 if no text states a presence."""
        embeddings = scene.embeddings
        assert embeddings.patches is not None
        asserting = (scene.batch.claims == 1).any(1).nonzero()[:, 0]
        if len(asserting) == 0:
            return embeddings.patches.sum() * 0
        similarity = smooth_max_similarity(
            embeddings.patches, embeddings.text[asserting], scene.batch.offsets, self.sharpness
        )
        return symmetric_nce(self.scale() * similarity, scene.target[:, asserting])

    def after_step(self) -> None:
        """Keep the temperature in bounds."""
        self.scale.clamp_()
