"""The objectives a config can name: a closed union. Imports no torch."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from medvlp.losses.base_config import ObjectiveConfig, objective_name
from medvlp.losses.concepts.config import (
    EntityAlignmentConfig,
    ExistenceConfig,
    FacetContrastConfig,
    IntraImageConfig,
    PatchConceptConfig,
    PatchTextConfig,
    PrototypesConfig,
    RegionAttributesConfig,
    StreamExistenceConfig,
)
from medvlp.losses.contrast.config import (
    AdaptivePairsConfig,
    AgreedPairsConfig,
    ConceptGroupsConfig,
    InfoNCEConfig,
    LateInteractionConfig,
    NoisyPairsConfig,
    SentenceGroupingConfig,
    SigmoidConfig,
    ViewsConfig,
)
from medvlp.losses.fusion.config import (
    ClipOrderConfig,
    MaskedImageConfig,
    MaskedTextConfig,
    MatchingConfig,
    PromptPoolsConfig,
)
from medvlp.losses.video.config import (
    HierarchyConfig,
    MilNCEConfig,
    NoisyCorrespondenceConfig,
    ProcedureOrderConfig,
)

__all__ = ["LossConfig", "ObjectiveConfig", "objective_name"]

LossConfig = Annotated[
    InfoNCEConfig
    | SigmoidConfig
    | LateInteractionConfig
    | SentenceGroupingConfig
    | AdaptivePairsConfig
    | NoisyPairsConfig
    | AgreedPairsConfig
    | ConceptGroupsConfig
    | ViewsConfig
    | PatchTextConfig
    | ExistenceConfig
    | PatchConceptConfig
    | FacetContrastConfig
    | EntityAlignmentConfig
    | RegionAttributesConfig
    | StreamExistenceConfig
    | IntraImageConfig
    | PrototypesConfig
    | MilNCEConfig
    | HierarchyConfig
    | ProcedureOrderConfig
    | NoisyCorrespondenceConfig
    | MatchingConfig
    | MaskedTextConfig
    | MaskedImageConfig
    | PromptPoolsConfig
    | ClipOrderConfig,
    Field(discriminator="kind"),
]
