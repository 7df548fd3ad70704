"""Configs of the objectives about concepts. Imports no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from medvlp.losses.base_config import ObjectiveConfig


class PatchTextConfig(ObjectiveConfig):
    """Patch-text contrast: a text is somewhere in the visual, or nowhere."""

    kind: Literal["patch_text"] = "patch_text"
    temperature: PositiveFloat = 0.5
    min_temperature: PositiveFloat = 0.02
    bias: float = 1.0
    """Start value of the evidence at which presence is as likely as absence; learned."""


class ExistenceConfig(ObjectiveConfig):
    """Every concept of the book asked of every visual, in words."""

    kind: Literal["existence"] = "existence"
    temperature: PositiveFloat = 0.1
    """Of the vector's logits."""
    local_temperature: PositiveFloat = 0.5
    """Of the evidence's logits."""
    min_temperature: PositiveFloat = 0.02
    bias: float = 1.0
    """Start value of the evidence at which presence is as likely as absence; learned."""


class PatchConceptConfig(ObjectiveConfig):
    """ConceptCLIP: the words that name a concept are seen in some patch, or in none."""

    kind: Literal["patch_concept"] = "patch_concept"
    temperature: PositiveFloat = 0.07
    min_temperature: PositiveFloat = 0.01
    bias: float = -10.0
    """Added to the logits; start value, learned."""
    unknown: Literal["ignored", "negative"] = "ignored"
    """What a visual is of which a concept of another's text is not known; published: negative."""
    reduce: Literal["max", "top"] = "max"
    """The best patch, or the mean of the best `share` of a frame's patches."""
    share: float = Field(default=0.02, gt=0, le=1)


class FacetContrastConfig(ObjectiveConfig):
    """DeViDe: one visual matches several descriptions of what it shows."""

    kind: Literal["facet_contrast"] = "facet_contrast"
    projection: Literal["facet", "shared", "none"] = "facet"
    """The visual as it looks from each facet, one linear map of it for all, or as it is."""
    width: PositiveInt = 64
    """Rank of the projection `facet`."""
    temperature: PositiveFloat = 0.1
    min_temperature: PositiveFloat = 0.02
    bias: float = 0.0
    """Subtracted from the logits; start value, learned."""


class EntityAlignmentConfig(ObjectiveConfig):
    """ARL's ALIGN: visuals and texts are told apart by all concepts at once."""

    kind: Literal["entity_alignment"] = "entity_alignment"
    temperature: PositiveFloat = 0.1
    min_temperature: PositiveFloat = 0.02
    bias: float = 0.0
    """Added to the logits; start value, learned."""
    published: bool = False
    """Every linked mention is positive, also a denied one, and everything else negative."""


class RegionAttributesConfig(ObjectiveConfig):
    """ViLLA: attributes choose regions, regions are matched with the sentences about them."""

    kind: Literal["region_attributes"] = "region_attributes"
    cells: PositiveInt = 4
    """A frame has cells x cells regions."""
    width: PositiveInt = 1024
    """Hidden width of the attribute map."""
    temperature: PositiveFloat = 0.07
    """Not learned."""
    epsilon: PositiveFloat = 0.2
    """How far below the best region, in cosine, an attribute still belongs."""
    pair_weight: NonNegativeFloat = 1.0
    """Of regions against sentences, the second stage."""


class StreamExistenceConfig(ObjectiveConfig):
    """Existence of concepts and regions as the dual stream reads them."""

    kind: Literal["stream_existence"] = "stream_existence"
    balanced: bool = True
    """Presence and absence count the same, however rare a finding is; MeDSLIP takes the plain
    mean."""
    uncertain: float | None = Field(default=None, ge=0, le=1)
    """Probability of presence of what is uncertain; None: it takes no part."""
    pairs: bool = False
    """Also which concept is in which region, as `intra_image` does by itself."""


class IntraImageConfig(ObjectiveConfig):
    """Which concept is in which region of the same visual (ICL of MeDSLIP)."""

    kind: Literal["intra_image"] = "intra_image"
    uncertain: float | None = Field(default=0.5, ge=0, le=1)
    """Probability of presence of an uncertain pair; None: it takes no part, as in MeDSLIP."""
    balanced: bool = False
    """Present and absent pairs count the same."""


class PrototypesConfig(ObjectiveConfig):
    """A concept that was seen resembles the regions it was found in (ProtoCL of MeDSLIP)."""

    kind: Literal["prototypes"] = "prototypes"
    negatives: PositiveInt | None = 7
    """How many are drawn for each output in each step; None: all there are."""
    unknown: Literal["ignored", "negative"] = "negative"
    """A region that the report does not name with the concept."""
    uncertain: Literal["ignored", "negative"] = "ignored"
    """A region where the concept is uncertain; MeDSLIP takes it for a negative."""
    published: bool = False
    """Dot products as they are; otherwise cosines over a learned temperature."""
    temperature: PositiveFloat = 0.1
    min_temperature: PositiveFloat = 0.02
