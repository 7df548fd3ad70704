from __future__ import annotations

import numpy as np
import pytest
import torch

from medvlp.models import encoder as module
from medvlp.models.encoder import Encoder
from medvlp.models.evidence import patch_evidence
from medvlp.types import Visual


@pytest.fixture
def encoder(model, tokenizer) -> Encoder:
    return Encoder(model, tokenizer, digest="d")


def test_visuals_of_all_kinds_equal_each_alone(encoder: Encoder, visuals):
    together = encoder.visuals(visuals)
    alone = torch.cat([encoder.visuals([visual]) for visual in visuals])
    assert together.shape == (5, 8)
    assert torch.allclose(together, alone, atol=1e-5)


def test_nothing_in_gives_nothing_out(encoder: Encoder):
    assert encoder.visuals([]).shape == (0, 8)
    assert encoder.texts([]).shape == (0, 8)


def test_many_texts_equal_each_alone(encoder: Encoder, monkeypatch: pytest.MonkeyPatch):
    texts = ["No nodule.", "There is a nodule.", "Small left pleural effusion."]
    whole = encoder.texts(texts)
    monkeypatch.setattr(module, "TEXTS_AT_ONCE", 2)
    assert torch.allclose(encoder.texts(texts), whole, atol=1e-6)


def test_a_long_series_passes_the_tower_in_bounded_chunks(encoder: Encoder):
    seen: list[int] = []
    encoder.model.frames.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    frames = np.random.default_rng(0).integers(-500, 500, (300, 16, 16)).astype(np.int16)
    encoder.visuals([Visual(frames, np.arange(300.0), "volume", "HU")])
    assert sum(seen) == 300
    assert max(seen) <= module.FRAMES_AT_ONCE


def test_heat_peaks_where_the_evidence_comes_from(encoder: Encoder, visuals):
    texts = encoder.texts(["No nodule.", "There is a nodule."])
    heat = encoder.heat(visuals[1], texts)
    assert heat.maps.shape == (2, 9, 8, 8)
    assert heat.slice_weights.sum().item() == pytest.approx(1, abs=1e-5)
    one_patch = patch_evidence(
        heat.maps.flatten(2).permute(1, 2, 0), torch.eye(2), torch.tensor([0, 9])
    )
    assert torch.allclose(encoder.compare(visuals[1:2], texts)[1], one_patch, atol=1e-4)


def test_the_model_is_frozen_and_in_evaluation_mode(encoder: Encoder):
    assert not encoder.model.training
    assert not any(p.requires_grad for p in encoder.model.parameters())


@pytest.mark.gpu
def test_a_gpu_gives_what_the_processor_gives(encoder: Encoder, visuals):
    texts = ["No nodule.", "There is a nodule."]
    before = encoder.compare(visuals, encoder.texts(texts))
    there = Encoder(encoder.model, encoder.tokenizer, digest="d", device="cuda")
    vectors, evidence = there.compare(visuals, there.texts(texts))
    assert vectors.device.type == evidence.device.type == "cpu"
    assert torch.allclose(vectors, before[0], atol=2e-3)  # TF32
    assert torch.allclose(evidence, before[1], atol=2e-2)
