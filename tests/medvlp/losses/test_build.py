from __future__ import annotations

from typing import get_args

import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from medvlp.batch import QuestionRole
from medvlp.errors import ConfigError
from medvlp.losses.build import build_loss
from medvlp.losses.concepts.config import PatchTextConfig
from medvlp.losses.config import LossConfig
from medvlp.losses.contrast.config import InfoNCEConfig
from medvlp.losses.fusion.config import MaskedImageConfig, MaskedTextConfig, MatchingConfig
from medvlp.losses.objective import Objective
from medvlp.losses.objectives import Objectives
from medvlp.models.config import FusionConfig, ModelConfig, StreamsConfig
from medvlp.models.tokens import train_wordpiece

KINDS = get_args(get_args(LossConfig)[0])
WHOLE = ModelConfig(words=True, streams=StreamsConfig(), fusion=FusionConfig())
PLAIN = ModelConfig()


@pytest.fixture(scope="module")
def tokenizer():
    return train_wordpiece(["a small nodule"], vocabulary=300, max_tokens=16)


@pytest.mark.parametrize("config", KINDS, ids=lambda kind: kind.__name__)
def test_every_config_builds_an_objective_with_its_own_settings(config, tokenizer):
    objective = build_loss(config(), WHOLE, tokenizer)
    assert isinstance(objective, Objective)
    assert type(objective).__name__ + "Config" == config.__name__


def test_a_setting_reaches_the_objective():
    assert build_loss(PatchTextConfig(bias=0.1), PLAIN).bias.item() == pytest.approx(0.1)


def test_every_kind_has_its_own_name():
    kinds = [config.model_fields["kind"].default for config in KINDS]
    assert len(set(kinds)) == len(kinds)


def test_an_unknown_objective_is_refused():
    with pytest.raises(ValidationError):
        TypeAdapter(LossConfig).validate_python({"kind": "infonce2"})


def test_an_objective_over_a_part_that_the_model_has_not_is_refused(tokenizer):
    with pytest.raises(ConfigError, match="matching") as refused:
        build_loss(MatchingConfig(), PLAIN, tokenizer)
    assert refused.value.code == "objective-needs"
    with pytest.raises(ConfigError) as refused:
        build_loss(MaskedTextConfig(), WHOLE, None)
    assert refused.value.code == "objective-tokenizer"


def test_a_layer_that_the_fusion_has_not_is_refused(tokenizer):
    build_loss(MaskedImageConfig(layer=2), WHOLE, tokenizer)
    with pytest.raises(ConfigError, match="layer"):
        build_loss(MaskedImageConfig(layer=3), WHOLE, tokenizer)


def test_a_knowledge_stream_always_has_its_concepts_asked(tokenizer):
    knowing = WHOLE.model_copy(update={"fusion": FusionConfig(knowledge=True)})
    assert QuestionRole.NAME in build_loss(MatchingConfig(), knowing, tokenizer).asks
    assert QuestionRole.NAME not in build_loss(MatchingConfig(), WHOLE, tokenizer).asks
    assert not build_loss(InfoNCEConfig(), knowing, tokenizer).asks


def test_every_configured_objective_is_logged_and_weighted(make_scene):
    configs = [
        InfoNCEConfig(weight=2.0),
        InfoNCEConfig(name="again", weight=0.0),
        PatchTextConfig(weight=0.5),
    ]
    scene = make_scene([1, 2], [[1], [1]], [[1, 0], [0, 1]])
    losses = Objectives(configs, PLAIN).double()(scene)
    assert set(losses) == {"loss", "infonce", "again", "patch_text"}
    expected = 2 * losses["infonce"] + 0.5 * losses["patch_text"]
    assert torch.allclose(losses["loss"], expected)


def test_patches_are_computed_only_when_somebody_looks():
    assert "patches" not in Objectives([InfoNCEConfig()], PLAIN).needs
    assert "patches" in Objectives([InfoNCEConfig(), PatchTextConfig()], PLAIN).needs


def test_scales_are_bounded_after_a_step_and_logged():
    objectives = Objectives([InfoNCEConfig(min_temperature=0.05), PatchTextConfig()], PLAIN)
    with torch.no_grad():
        objectives.parts["infonce"].scale.log_scale.fill_(9.0)
    objectives.after_step()
    assert objectives.figures()["infonce_scale"] == pytest.approx(20, rel=1e-4)
    assert objectives.figures()["patch_text_scale"] == pytest.approx(2, rel=1e-4)
