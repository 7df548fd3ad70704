from __future__ import annotations

import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from medvlp.losses import InfoNCEConfig, LossConfig, PatchTextConfig, build_loss
from medvlp.losses.build import Objectives
from medvlp.losses.infonce import InfoNCE
from medvlp.losses.patch_text import PatchText


def test_each_config_builds_its_objective():
    assert isinstance(build_loss(InfoNCEConfig()), InfoNCE)
    assert isinstance(build_loss(PatchTextConfig(bias=0.1)), PatchText)
    assert build_loss(PatchTextConfig(bias=0.1)).bias.item() == pytest.approx(0.1)


def test_an_unknown_objective_is_refused():
    with pytest.raises(ValidationError):
        TypeAdapter(LossConfig).validate_python({"kind": "infonce2"})


def test_every_configured_objective_is_logged_and_weighted(make_scene):
    configs = [
        InfoNCEConfig(weight=2.0),
        InfoNCEConfig(name="again", weight=0.0),
        PatchTextConfig(weight=0.5),
    ]
    scene = make_scene([1, 2], [[1], [1]], [[1, 0], [0, 1]])
    losses = Objectives(configs).double()(scene)
    assert set(losses) == {"loss", "infonce", "again", "patch_text"}
    expected = 2 * losses["infonce"] + 0.5 * losses["patch_text"]
    assert torch.allclose(losses["loss"], expected)


def test_patches_are_computed_only_when_somebody_looks():
    assert not Objectives([InfoNCEConfig()]).needs_patches
    assert Objectives([InfoNCEConfig(), PatchTextConfig()]).needs_patches


def test_scales_are_bounded_after_a_step_and_logged():
    objectives = Objectives([InfoNCEConfig(min_temperature=0.05), PatchTextConfig()])
    with torch.no_grad():
        objectives.parts["infonce"].scale.log_scale.fill_(9.0)
    objectives.after_step()
    assert objectives.scales()["infonce_scale"] == pytest.approx(20, rel=1e-4)
    assert objectives.scales()["patch_text_scale"] == pytest.approx(2, rel=1e-4)
