from __future__ import annotations

import inspect
import subprocess
import sys

import pytest
from pydantic import ValidationError

from medvlp.losses.base_config import ObjectiveConfig
from medvlp.losses.fusion.clip_order import ClipOrder
from medvlp.losses.fusion.config import (
    ClipOrderConfig,
    MaskedImageConfig,
    MaskedTextConfig,
    MatchingConfig,
    PromptPoolsConfig,
)
from medvlp.losses.fusion.masked_image import MaskedImage
from medvlp.losses.fusion.masked_text import MaskedText
from medvlp.losses.fusion.matching import Matching
from medvlp.losses.fusion.prompt_pools import PromptPools

ALL = [
    (MatchingConfig, Matching, {"width"}),
    (
        MaskedTextConfig,
        MaskedText,
        {"width", "vocabulary", "mask_id", "special_ids", "continues"},
    ),
    (MaskedImageConfig, MaskedImage, {"width"}),
    (PromptPoolsConfig, PromptPools, {"width", "embed_dim"}),
    (ClipOrderConfig, ClipOrder, {"embed_dim"}),
]


@pytest.mark.parametrize(("config", "objective", "given"), ALL)
def test_defaults_of_config_and_constructor_agree(config, objective, given):
    parameters = inspect.signature(objective.__init__).parameters
    arguments = {name: p.default for name, p in parameters.items() if name != "self"}
    fields = config().model_dump(exclude={*ObjectiveConfig.model_fields, "kind"})
    assert set(arguments) == set(fields) | given
    assert all(arguments[name] == value for name, value in fields.items())


@pytest.mark.parametrize(
    ("config", "wrong"),
    [
        (MaskedImageConfig, {"decoder_width": 10, "decoder_heads": 2}),
        (MaskedImageConfig, {"decoder_heads": 3}),
        (MaskedTextConfig, {"rate": 0.0}),
        (ClipOrderConfig, {"heads": 5}),
        (PromptPoolsConfig, {"dropout": 1.5}),
        (MatchingConfig, {"negatives": "easy"}),
    ],
)
def test_what_cannot_be_built_is_refused(config, wrong):
    with pytest.raises(ValidationError):
        config(**wrong)


def test_configs_load_no_torch():
    code = "import sys, medvlp.losses.fusion.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
