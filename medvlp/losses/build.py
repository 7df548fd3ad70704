"""From configs to objectives."""

from __future__ import annotations

from typing import Any, assert_never

from medvlp.batch import QuestionRole
from medvlp.errors import ConfigError
from medvlp.losses.concepts import config as concepts
from medvlp.losses.concepts.entity_alignment import EntityAlignment
from medvlp.losses.concepts.existence import Existence
from medvlp.losses.concepts.facets import FacetContrast
from medvlp.losses.concepts.intra_image import IntraImage
from medvlp.losses.concepts.patch_concept import PatchConcept
from medvlp.losses.concepts.patch_text import PatchText
from medvlp.losses.concepts.prototypes import Prototypes
from medvlp.losses.concepts.region_attributes import RegionAttributes
from medvlp.losses.concepts.stream_existence import StreamExistence
from medvlp.losses.config import LossConfig, objective_name
from medvlp.losses.contrast import config as contrast
from medvlp.losses.contrast.adaptive_pairs import AdaptivePairs
from medvlp.losses.contrast.agreed_pairs import AgreedPairs
from medvlp.losses.contrast.concept_groups import ConceptGroups
from medvlp.losses.contrast.infonce import InfoNCE
from medvlp.losses.contrast.late_interaction import LateInteraction
from medvlp.losses.contrast.noisy_pairs import NoisyPairs
from medvlp.losses.contrast.sentences import SentenceGrouping
from medvlp.losses.contrast.sigmoid import Sigmoid
from medvlp.losses.contrast.views import Views
from medvlp.losses.fusion import config as fusion
from medvlp.losses.fusion.clip_order import ClipOrder
from medvlp.losses.fusion.masked_image import MaskedImage
from medvlp.losses.fusion.masked_text import MaskedText
from medvlp.losses.fusion.matching import Matching
from medvlp.losses.fusion.prompt_pools import PromptPools
from medvlp.losses.objective import Objective
from medvlp.losses.video import config as video
from medvlp.losses.video.correspondence import NoisyCorrespondence
from medvlp.losses.video.hierarchy import Hierarchy
from medvlp.losses.video.mil_nce import MilNCE
from medvlp.losses.video.order import ProcedureOrder
from medvlp.models.config import ModelConfig
from medvlp.models.tokens import TextTokenizer


def build_loss(
    config: LossConfig, model: ModelConfig, tokenizer: TextTokenizer | None = None
) -> Objective:
    """The objective a config names; a config's fields are its constructor's arguments.

    Args:
        config: Which, and its settings.
        model: Of the model under it, for objectives with layers of their own.
        tokenizer: Of the model, for objectives over words.

    Raises:
        ConfigError: The objective reads a part that the model has not.
    """
    settings: dict[str, Any] = {
        field: getattr(config, field)
        for field in type(config).model_fields
        if field not in ("kind", "weight", "name")
    }
    objective = _build(config, settings, model, tokenizer)
    has = {
        "words": model.words,
        "streams": model.streams is not None,
        "fusion": model.fusion is not None and model.words,
    }
    missing = sorted(need for need in objective.needs if not has.get(need, True))
    if missing:
        raise ConfigError(
            f"{objective_name(config)} reads a part that the model has not",
            code="objective-needs",
            got=", ".join(missing),
            next_step="set model.words: true, model.streams: {} or model.fusion: {}",
        )
    if model.fusion is not None and model.fusion.knowledge and "fusion" in objective.needs:
        objective.asks |= {QuestionRole.NAME}  # what the knowledge stream adds to the words
    return objective


def _build(
    config: LossConfig,
    settings: dict[str, Any],
    model: ModelConfig,
    tokenizer: TextTokenizer | None,
) -> Objective:
    dim = model.embed_dim
    width = model.fusion.width if model.fusion is not None else 4
    match config:
        case contrast.InfoNCEConfig():
            return InfoNCE(**settings)
        case contrast.SigmoidConfig():
            return Sigmoid(**settings)
        case contrast.LateInteractionConfig():
            return LateInteraction(**settings)
        case contrast.SentenceGroupingConfig():
            return SentenceGrouping(**settings)
        case contrast.AdaptivePairsConfig():
            return AdaptivePairs(**settings)
        case contrast.NoisyPairsConfig():
            return NoisyPairs(**settings)
        case contrast.AgreedPairsConfig():
            return AgreedPairs(**settings)
        case contrast.ConceptGroupsConfig():
            return ConceptGroups(**settings)
        case contrast.ViewsConfig():
            return Views(**settings)
        case concepts.PatchTextConfig():
            return PatchText(**settings)
        case concepts.ExistenceConfig():
            return Existence(**settings)
        case concepts.PatchConceptConfig():
            return PatchConcept(**settings)
        case concepts.FacetContrastConfig():
            return FacetContrast(dim=dim, **settings)
        case concepts.EntityAlignmentConfig():
            return EntityAlignment(**settings)
        case concepts.RegionAttributesConfig():
            return RegionAttributes(dim=dim, **settings)
        case concepts.StreamExistenceConfig():
            return StreamExistence(**settings)
        case concepts.IntraImageConfig():
            return IntraImage(**settings)
        case concepts.PrototypesConfig():
            return Prototypes(**settings)
        case video.MilNCEConfig():
            return MilNCE(**settings)
        case video.HierarchyConfig():
            return Hierarchy(**settings)
        case video.ProcedureOrderConfig():
            return ProcedureOrder(**settings)
        case video.NoisyCorrespondenceConfig():
            return NoisyCorrespondence(**settings)
        case fusion.MatchingConfig():
            return Matching(width=width, **settings)
        case fusion.MaskedTextConfig():
            return MaskedText(width=width, **_vocabulary(tokenizer), **settings)
        case fusion.MaskedImageConfig():
            if model.fusion is not None and config.layer > model.fusion.layers:
                raise ConfigError(
                    "masked_image reads a layer that the fusion has not",
                    code="objective-needs",
                    got=f"layer {config.layer}",
                    limit=f"model.fusion.layers {model.fusion.layers}",
                )
            return MaskedImage(width=width, **settings)
        case fusion.PromptPoolsConfig():
            return PromptPools(embed_dim=dim, width=width, **settings)
        case fusion.ClipOrderConfig():
            return ClipOrder(embed_dim=dim, **settings)
        case _:
            assert_never(config)


def _vocabulary(tokenizer: TextTokenizer | None) -> dict[str, Any]:
    """What masking has to know of a tokenizer."""
    if tokenizer is None or tokenizer.mask_id is None:
        raise ConfigError(
            "masked words need a tokenizer with a mask token",
            code="objective-tokenizer",
            next_step="use another objective or text encoder",
        )
    return {
        "vocabulary": len(tokenizer),
        "mask_id": tokenizer.mask_id,
        "special_ids": tokenizer.special_ids,
        "continues": tokenizer.continuing_ids,
    }
