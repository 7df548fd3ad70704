from __future__ import annotations

import inspect

import pytest
from pydantic import ValidationError

from medvlp.losses.contrast import config as configs
from medvlp.losses.contrast.adaptive_pairs import AdaptivePairs
from medvlp.losses.contrast.agreed_pairs import AgreedPairs
from medvlp.losses.contrast.concept_groups import ConceptGroups
from medvlp.losses.contrast.infonce import InfoNCE
from medvlp.losses.contrast.late_interaction import LateInteraction
from medvlp.losses.contrast.noisy_pairs import NoisyPairs
from medvlp.losses.contrast.sentences import SentenceGrouping
from medvlp.losses.contrast.sigmoid import Sigmoid
from medvlp.losses.contrast.views import Views


@pytest.mark.parametrize(
    ("config", "objective"),
    [
        (configs.InfoNCEConfig, InfoNCE),
        (configs.SigmoidConfig, Sigmoid),
        (configs.LateInteractionConfig, LateInteraction),
        (configs.SentenceGroupingConfig, SentenceGrouping),
        (configs.AdaptivePairsConfig, AdaptivePairs),
        (configs.NoisyPairsConfig, NoisyPairs),
        (configs.AgreedPairsConfig, AgreedPairs),
        (configs.ConceptGroupsConfig, ConceptGroups),
        (configs.ViewsConfig, Views),
    ],
)
def test_a_config_has_the_arguments_and_defaults_of_its_objective(config, objective):
    fields = config().model_dump(exclude={"kind", "name", "weight"})
    parameters = inspect.signature(objective).parameters
    assert fields == {name: parameter.default for name, parameter in parameters.items()}


def test_values_out_of_range_are_refused():
    for config, field, value in (
        (configs.LateInteractionConfig, "keep", 0),
        (configs.SentenceGroupingConfig, "threshold", 1.5),
        (configs.AdaptivePairsConfig, "momentum", 1),
        (configs.NoisyPairsConfig, "strength", 1.5),
        (configs.AgreedPairsConfig, "min_weight", 0),
        (configs.ConceptGroupsConfig, "positives", "some"),
    ):
        with pytest.raises(ValidationError):
            config(**{field: value})
