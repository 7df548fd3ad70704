from __future__ import annotations

import itertools

import pytest
import torch

from medvlp.models import vlp
from medvlp.models.preprocess import preprocess
from medvlp.types import KINDS


def packed(visuals, config):
    frames = [preprocess(v, config.preprocess) for v in visuals]
    offsets = torch.tensor([0, *(len(f) for f in frames)]).cumsum(0)
    positions = torch.cat([torch.as_tensor(v.positions, dtype=torch.float32) for v in visuals])
    kind = torch.tensor([KINDS.index(v.kind) for v in visuals])
    return torch.cat(frames), offsets, positions, kind


@torch.no_grad()
def test_a_mixed_batch_equals_each_sample_alone(model, visuals):
    frames, offsets, positions, kind = packed(visuals, model.config)
    batch = model.encode_visual(frames, offsets, positions, kind, tokens=True)
    for i, (start, end) in enumerate(itertools.pairwise(offsets.tolist())):
        alone = model.encode_visual(
            frames[start:end], torch.tensor([0, end - start]), positions[start:end],
            kind[i : i + 1], tokens=True,
        )  # fmt: skip
        assert torch.allclose(alone.vector[0], batch.vector[i], atol=1e-5)
        assert torch.allclose(alone.patches, batch.patches[start:end], atol=1e-5)
        assert torch.allclose(alone.slice_weights, batch.slice_weights[start:end], atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("chunk", [1, 4, 1000])
def test_frames_in_chunks_give_the_same(model, visuals, chunk):
    inputs = packed(visuals, model.config)
    whole = model.encode_visual(*inputs, tokens=True)
    parts = model.encode_visual(*inputs, tokens=True, chunk=chunk)
    assert torch.allclose(whole.vector, parts.vector, atol=1e-5)
    assert torch.allclose(whole.patches, parts.patches, atol=1e-5)


@torch.no_grad()
def test_all_vectors_have_unit_length(model, visuals, tokenizer):
    features = model.encode_visual(*packed(visuals, model.config), tokens=True)
    tokens = tokenizer(["No nodule.", "There is a nodule."])
    for vectors in (features.vector, model.encode_text(tokens.ids, tokens.mask)):
        assert torch.allclose(vectors.norm(dim=-1), torch.ones(()), atol=1e-5)


@torch.no_grad()
def test_patches_are_absent_unless_asked_for(model, visuals):
    assert model.encode_visual(*packed(visuals[:1], model.config)).patches is None


def test_gradients_reach_every_parameter(model, visuals, tokenizer):
    model.train()
    features = model.encode_visual(*packed(visuals, model.config), tokens=True)
    tokens = tokenizer(["No nodule.", "There is a nodule."])
    text = model.encode_text(tokens.ids, tokens.mask)
    ((features.vector @ text.T).square().sum() + (features.patches @ text.T).sum()).backward()
    dead = [name for name, p in model.named_parameters() if p.grad is None]
    assert dead == []


@torch.no_grad()
@pytest.mark.parametrize("group", [1, 2, 100])
def test_texts_of_any_length_in_any_grouping_equal_each_alone(
    model, tokenizer, monkeypatch: pytest.MonkeyPatch, group
):
    monkeypatch.setattr(vlp, "TEXT_GROUP", group)
    texts = ["No nodule.", "Small left pleural effusion, with a nodule.", "Nodule.", "No."]
    tokens = tokenizer(texts)
    together = model.encode_text(tokens.ids, tokens.mask)
    for i, text in enumerate(texts):
        alone = tokenizer([text])
        assert torch.allclose(model.encode_text(alone.ids, alone.mask)[0], together[i], atol=1e-6)


def test_one_sample_and_one_text_can_be_trained_on(model, visuals, tokenizer):
    """A batch of one has no statistics of its own: the running ones serve."""
    model.train()
    inputs = packed(visuals[:1], model.config)
    before = model.visual_norm.running_mean.clone()
    vector = model.encode_visual(*inputs).vector
    tokens = tokenizer(["No nodule."])
    text = model.encode_text(tokens.ids, tokens.mask)
    assert torch.isfinite(vector).all()
    assert torch.isfinite(text).all()
    assert torch.equal(model.visual_norm.running_mean, before)
