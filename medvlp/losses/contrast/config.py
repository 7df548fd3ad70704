"""Configs of the contrasts between samples and texts. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from medvlp.losses.base_config import ObjectiveConfig

Share = Annotated[float, Field(gt=0, le=1)]
Momentum = Annotated[float, Field(ge=0, lt=1)]


class InfoNCEConfig(ObjectiveConfig):
    """Sample-text contrast with several positives."""

    kind: Literal["infonce"] = "infonce"
    temperature: PositiveFloat = 0.1
    """Start value; learned."""
    min_temperature: PositiveFloat = 0.02
    """The learned temperature is kept at or above it."""


class SigmoidConfig(ObjectiveConfig):
    """Every pair a yes or no of its own (SigLIP)."""

    kind: Literal["sigmoid"] = "sigmoid"
    temperature: PositiveFloat = 0.07
    """Start value; learned. SigLIP starts at 0.1, ConceptCLIP at 0.07."""
    min_temperature: PositiveFloat = 0.01
    bias: float = -10.0
    """Start value; learned. Near 0 where `normalise` is `pairs`."""
    normalise: Literal["rows", "pairs"] = "rows"
    """`rows`: sum over pairs by the number of visuals, as published; `pairs`: mean of the positive
    and mean of the negative pairs, halved."""


class LateInteractionConfig(ObjectiveConfig):
    """Every patch finds its word, every word its patch (FILIP)."""

    kind: Literal["late_interaction"] = "late_interaction"
    temperature: PositiveFloat = 0.07
    """Start value; learned."""
    min_temperature: PositiveFloat = 0.01
    keep: Share = 0.25
    """Share of each visual's patches and each text's words that take part; 1: all."""
    budget: PositiveInt = 2**25
    """Products of patches and words that are held at once: memory against time."""


class SentenceGroupingConfig(ObjectiveConfig):
    """Sentences with visuals, and with the patches they group (DreamLIP)."""

    kind: Literal["sentence_grouping"] = "sentence_grouping"
    temperature: PositiveFloat = 0.07
    """Of both parts, start value; learned, one for each."""
    min_temperature: PositiveFloat = 0.01
    threshold: Share | None = None
    """Relative similarity from which a patch is of a sentence's group; 1 / number of patches of
    the visual, if not given."""
    sentence_weight: NonNegativeFloat = 1.0
    """Of sentences with visuals; 0 where another objective already contrasts them."""
    grouping_weight: NonNegativeFloat = 1.0
    """Of sentences with their patches."""
    ground_denials: bool = False
    """Whether sentences that only deny group patches too, as published."""


class AdaptivePairsConfig(ObjectiveConfig):
    """Contrast in which pairs less alike than usual count less (ALIP)."""

    kind: Literal["adaptive_pairs"] = "adaptive_pairs"
    temperature: PositiveFloat = 0.07
    """Start value; learned."""
    min_temperature: PositiveFloat = 0.01
    momentum: Momentum = 0.99
    """Of the averages that say what is usual."""
    sharpness: PositiveFloat = 2.0
    """How fast a gate closes below the usual similarity."""


class NoisyPairsConfig(ObjectiveConfig):
    """Contrast with targets smoothed where a pair is probably wrong (NEVLP)."""

    kind: Literal["noisy_pairs"] = "noisy_pairs"
    temperature: PositiveFloat = 0.07
    """Start value; learned."""
    min_temperature: PositiveFloat = 0.01
    strength: Share = 0.5
    """How much of the target moves to the negatives where a pair is certainly wrong."""
    refit_every: PositiveInt = 1000
    """Steps between fits of the mixture; one epoch, as published, or less."""
    capacity: PositiveInt = 100_000
    """Training samples there can be."""


class AgreedPairsConfig(ObjectiveConfig):
    """Contrast in which a narration that others heard otherwise counts less (SurgLIME)."""

    kind: Literal["agreed_pairs"] = "agreed_pairs"
    temperature: PositiveFloat = 0.07
    """Start value; learned."""
    min_temperature: PositiveFloat = 0.01
    min_weight: Share = 0.1
    """Of the least plausible text."""
    momentum: Momentum = 0.99
    """Of the averages of plausibility."""
    width: PositiveFloat = 2.0
    """Deviations from the mean at which the weight reaches its ends."""


class ConceptGroupsConfig(ObjectiveConfig):
    """Metric loss over groups of samples that show the same concepts (KEEP)."""

    kind: Literal["concept_groups"] = "concept_groups"
    temperature: PositiveFloat = 0.04
    """Start value; learned."""
    min_temperature: PositiveFloat = 0.01
    positives: Literal["all", "hardest"] = "all"
    """`all`: the hardest positive of every row (lhp-hn, published); `hardest`: only that of the
    group (hp-hn)."""


class ViewsConfig(ObjectiveConfig):
    """Two views of the same visual (SimCLR, as in SLIP and A-CLIP)."""

    kind: Literal["views"] = "views"
    temperature: PositiveFloat = 0.1
    """Fixed."""
