"""Configs of the objectives of this folder. Imports no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from medvlp.losses.base_config import ObjectiveConfig


class MilNCEConfig(ObjectiveConfig):
    """SurgVLP: InfoNCE and NT-Xent on lead texts, MIL-NCE on other recognisers' texts."""

    kind: Literal["mil_nce"] = "mil_nce"
    temperature: PositiveFloat = 0.1
    """Start value; learned unless `published`."""
    min_temperature: PositiveFloat = 0.02
    """The learned temperature is kept at or above it."""
    share: float = Field(default=0.75, ge=0, le=1)
    """Of visual-to-text in NT-Xent."""
    clip_weight: NonNegativeFloat = 1 / 3
    """Of InfoNCE."""
    nt_xent_weight: NonNegativeFloat = 1 / 3
    mil_weight: NonNegativeFloat = 1 / 3
    """Of MIL-NCE."""
    normalised: bool = True
    """False: MIL-NCE takes vectors of any length without a temperature."""
    published: bool = False
    """The paper's form: fixed temperature, not normalised, own pairs twice in the denominator."""


class HierarchyConfig(ObjectiveConfig):
    """HecVL: a long clip, its lead text and the mean of its child texts."""

    kind: Literal["hierarchy"] = "hierarchy"
    temperature: PositiveFloat = 0.1
    """Start value."""
    min_temperature: PositiveFloat = 0.02
    """The learned temperature is kept at or above it."""
    learn_temperature: bool = True
    """False: as published."""
    share: float = Field(default=0.75, ge=0, le=1)
    """Of visual-to-text in NT-Xent."""


class ProcedureOrderConfig(ObjectiveConfig):
    """PeskaVLP: frames and child texts in order against the reversed order, by soft-DTW."""

    kind: Literal["procedure_order"] = "procedure_order"
    weight: NonNegativeFloat = 0.01
    """The paper's lambda. Its code: 0.1 beside the sum of four contrasts of weight 1."""
    variant: Literal["paper", "code"] = "paper"
    """The paper's formula, or what its code computes (see `ProcedureOrder`)."""
    temperature: PositiveFloat = 0.1
    """Of the softmax over texts (paper: beta) or frames (code: gamma_f)."""
    gamma: PositiveFloat = 0.1
    """Of the soft minimum."""
    hinge: Literal["floor", "margin"] = "floor"
    """Paper only. `floor`: max(d, phi), as written, which leaves a wrong order alone once it costs
    at most phi more than the reversed one; `margin`: max(d + phi, 0), which does not."""
    margin: NonNegativeFloat = 0.1
    """Paper only: phi."""
    scale: PositiveFloat = 0.01
    """Code only: of the distances."""
    ratio: NonNegativeFloat = 0.5
    """Code only: of the comparison with the reversed order."""


class NoisyCorrespondenceConfig(ObjectiveConfig):
    """Norton: rectified negatives for clips, aligned paragraphs for videos."""

    kind: Literal["noisy_correspondence"] = "noisy_correspondence"
    temperature: PositiveFloat = 0.07
    """Of both levels, start value; learned."""
    min_temperature: PositiveFloat = 0.01
    """The learned temperatures are kept at or above it."""
    share: float = Field(default=0.3, ge=0, le=1)
    """Of transport in the clip level's targets."""
    epsilon: PositiveFloat = 1.0
    """Of the clip level's Sinkhorn, in units of its logits."""
    paragraph_weight: NonNegativeFloat = 0.1
    """0: clip level alone."""
    paragraph_epsilon: PositiveFloat = 0.1
    """Of the paragraph level's Sinkhorn; similarities are in [0, 1]."""
    iterations: PositiveInt = 50
    """Of Sinkhorn."""
    quantile: float = Field(default=0.3, ge=0, le=1)
    """Of the similarity of texts and the frames beside them: what scores less may go unpaired."""
    mass: PositiveFloat = 8.0
    """What every alignment sums to (published: the eight clips of a sequence)."""
    words: bool = False
    """Also compare frames with words (published: yes); needs a model with words."""
    alpha: PositiveFloat = 1.0
    """Of the soft maximum over words."""
    coarse_weight: NonNegativeFloat = 0.5
    """Of the cosine beside the similarity to words."""
