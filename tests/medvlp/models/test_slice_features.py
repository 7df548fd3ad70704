from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from medvlp.errors import CheckpointError, DatasetError, IntegrityError
from medvlp.models import slice_features as module
from medvlp.models.config import ModelConfig
from medvlp.models.pooling import FrameStats
from medvlp.models.preprocess import preprocess
from medvlp.models.slice_features import SliceFeatureCache, features_digest, freeze
from medvlp.models.vlp import VLP
from medvlp.types import KINDS

SOURCE = "dataset-1"


@pytest.fixture
def samples(visuals) -> dict:
    return {f"sample/{i}": visual for i, visual in enumerate(visuals)}


def open_cache(folder: Path, model: VLP, source: str = SOURCE) -> SliceFeatureCache:
    return SliceFeatureCache(folder, features_digest(model, source))


def filled(folder: Path, model: VLP, samples: dict, **options) -> SliceFeatureCache:
    cache = open_cache(folder, model)
    cache.fill(model, list(samples), samples.__getitem__, SOURCE, **options)
    return cache


def batch_of(cache: SliceFeatureCache, samples: dict):
    features = [cache.get(key) for key in samples]
    stats = FrameStats(*(torch.cat(p) for p in zip(*(f.stats for f in features), strict=True)))
    offsets = torch.tensor([0, *(len(f.positions) for f in features)]).cumsum(0)
    positions = torch.cat([f.positions for f in features])
    kind = torch.tensor([KINDS.index(visual.kind) for visual in samples.values()])
    return stats, offsets, positions, kind, features


@torch.no_grad()
def directly(model: VLP, samples: dict, offsets, positions, kind):
    frames = torch.cat([preprocess(v, model.config.preprocess) for v in samples.values()])
    return model.encode_visual(frames, offsets, positions, kind, True, by_frame=True)


RADCLIP = {
    "embed_dim": 256,
    "frames": {"library": "open_clip", "name": "ViT-S-32-alt", "vector": "tower"},
    "pooling": {"heads": 4, "statistics": ["attention"], "slices": "self_attention"},
}
"""A frozen CLIP tower, whose own vectors of slices are joined by the adapter."""
MODELS = {
    slices: {"pooling": {"heads": 2, "hidden": 6, "frequencies": 4, "slices": slices}}
    for slices in ("gated", "self_attention", "learned", "mean")
} | {"RadCLIP": RADCLIP}


@torch.no_grad()
@pytest.mark.parametrize("name", MODELS)
def test_cached_features_give_what_encoding_gives(tmp_path, tiny, tokenizer, samples, name):
    torch.manual_seed(0)
    config = ModelConfig.model_validate(tiny.model_dump() | MODELS[name])
    model = VLP(config, len(tokenizer)).eval()
    for parameter in model.pooling.parameters():
        parameter += 0.1 * torch.randn_like(parameter)
    cache = filled(tmp_path, model, samples, tokens=True)
    stats, offsets, positions, kind, features = batch_of(open_cache(tmp_path, model), samples)
    assert len(cache) == len(samples)
    tokens = torch.cat([f.tokens for f in features])
    cached = model.pool_cached(
        stats, offsets, positions, kind, tokens=tokens, grid=features[0].grid, by_frame=True
    )
    direct = directly(model, samples, offsets, positions, kind)
    assert cached.grid == direct.grid
    for name in ("vector", "slice_weights", "patches", "frames"):
        assert torch.allclose(getattr(cached, name), getattr(direct, name), atol=1e-6), name


def test_an_adapter_learns_on_cached_features_alone(tmp_path, model, samples):
    cache = filled(tmp_path, model, samples)
    frozen = {k: v.clone() for k, v in model.state_dict().items()}
    freeze(model)
    model.train()
    stats, offsets, positions, kind, _ = batch_of(cache, samples)
    target = torch.nn.functional.normalize(torch.randn(len(kind), 8), dim=-1)
    model.frames.register_forward_pre_hook(lambda *_: pytest.fail("the tower was run"))
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(30):
        vector = model.pool_cached(stats, offsets, positions, kind).vector
        loss = (1 - (vector * target).sum(1)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    after = model.state_dict()
    moved = {key for key in after if not torch.equal(after[key], frozen[key])}
    assert "pooling.frame_score.value.weight" in moved
    assert not any(key.startswith(("frames.", "pooling.norm", "pooling.patch")) for key in moved)


@torch.no_grad()
def test_a_trained_adapter_reads_fresh_pixels_as_it_reads_the_cache(tmp_path, model, samples):
    cache = filled(tmp_path, model, samples)
    freeze(model)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter += 0.3 * torch.randn_like(parameter)
    stats, offsets, positions, kind, _ = batch_of(cache, samples)
    cached = model.pool_cached(stats, offsets, positions, kind)
    assert torch.allclose(
        cached.vector, directly(model, samples, offsets, positions, kind).vector, atol=1e-6
    )


def test_only_what_is_missing_is_encoded(tmp_path, model, samples, monkeypatch):
    monkeypatch.setattr(module, "SHARD_BYTES", 1)
    read: list[str] = []

    def reader(key: str):
        read.append(key)
        if len(read) == 4:
            raise KeyboardInterrupt
        return samples[key]

    cache = open_cache(tmp_path, model)
    with pytest.raises(KeyboardInterrupt):
        cache.fill(model, list(samples), reader, SOURCE)
    again = open_cache(tmp_path, model)
    assert [key in again for key in samples] == [True, True, True, False, False]
    assert again.fill(model, list(samples), samples.__getitem__, SOURCE) == 2
    assert again.fill(model, list(samples), samples.__getitem__, SOURCE) == 0
    assert len(open_cache(tmp_path, model)) == len(samples)


def test_only_whole_shards_are_there_and_they_name_no_sample(tmp_path, model, samples):
    filled(tmp_path, model, samples)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == 1
    assert files[0].suffix == ".safetensors"
    assert b"sample" not in files[0].read_bytes()
    with safe_open(files[0], framework="pt") as file:
        assert len(list(file.keys())) == 4 * len(samples)


def test_filling_leaves_the_model_as_it_was(tmp_path, model, samples):
    model.train()
    model.pooling.eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    filled(tmp_path, model, samples)
    assert model.frames.network.training
    assert not model.pooling.patch_score.training
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_the_name_tells_what_made_the_features(model: VLP, tiny: ModelConfig, tokenizer):
    names = {features_digest(model, SOURCE), features_digest(model, "dataset-2")}
    with torch.no_grad():
        model.pooling.patch_score.out.weight[0, 0] += 1e-3
    names.add(features_digest(model, SOURCE))
    with torch.no_grad():
        next(model.frames.buffers())[0] += 1e-3  # a running mean
    names.add(features_digest(model, SOURCE))
    window = tiny.preprocess.model_copy(update={"percentiles": (1.0, 99.0)})
    torch.manual_seed(0)
    other = VLP(tiny.model_copy(update={"preprocess": window}), len(tokenizer))
    names.add(features_digest(other, SOURCE))
    assert len(names) == 5


def test_what_is_trained_on_the_features_does_not_change_their_name(model: VLP):
    before = features_digest(model, SOURCE)
    frozen = {id(p) for part in module.frozen_parts(model) for p in part.parameters()}
    with torch.no_grad():
        for parameter in model.parameters():
            if id(parameter) not in frozen:
                parameter += 1
    assert features_digest(model, SOURCE) == before


def test_another_tower_neither_reads_nor_fills(tmp_path, model, samples):
    cache = filled(tmp_path, model, samples)
    with torch.no_grad():
        next(model.frames.parameters()).add_(1e-3)
    assert "sample/0" not in open_cache(tmp_path, model)
    with pytest.raises(CheckpointError, match="features-digest"):
        cache.fill(model, list(samples), samples.__getitem__, SOURCE)


def test_missing_and_broken_features_are_named(tmp_path, model, samples):
    cache = filled(tmp_path, model, samples)
    with pytest.raises(DatasetError, match="features-missing"):
        cache.get("sample/99")
    path = next(tmp_path.rglob("shard-*.safetensors"))
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(IntegrityError, match="features-broken"):
        cache.get("sample/0")
    with pytest.raises(IntegrityError, match="features-broken"):
        open_cache(tmp_path, model)


def test_a_shard_of_another_cache_is_refused(tmp_path, model, samples):
    filled(tmp_path, model, samples)
    own = next(tmp_path.rglob("shard-*.safetensors"))
    (tmp_path / "other").mkdir()
    own.rename(tmp_path / "other" / own.name)
    with pytest.raises(IntegrityError, match="another cache"):
        SliceFeatureCache(tmp_path, "other")


@torch.no_grad()
def test_some_frames_of_a_sample_are_those_frames(tmp_path, model, samples):
    features = filled(tmp_path, model, samples, tokens=True).get("sample/1")
    rows = torch.tensor([0, 4, 8])
    some = features.at(rows)
    assert some.positions.tolist() == [0, 10, 21]
    for part, all_of in itertools.zip_longest(some.stats, features.stats):
        assert torch.equal(part, all_of[rows])
    assert torch.equal(some.tokens, features.tokens[rows])
