"""Adapter training on what a frozen tower saw once: cached features in place of pixels."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from medvlp.batch import FrameFeatures
from medvlp.errors import ConfigError
from medvlp.losses.objectives import Objectives
from medvlp.models import slice_features
from medvlp.models.checkpoint import load_encoder
from medvlp.models.pooling import FrameStats
from medvlp.models.slice_features import SliceFeatureCache, features_digest, freeze
from medvlp.models.vlp import VLP
from medvlp.types import KINDS
from pretrain import features as own
from pretrain.callbacks import Checkpoints, History
from pretrain.config import PretrainConfig
from pretrain.datamodule import PretrainData
from pretrain.engine import _build, pretrain
from pretrain.features import refuse_unfit, tower_features
from pretrain.folder import read_history
from pretrain.samples import train_samples
from pretrain.texts import build_tokenizer

NEUTRAL = (
    "data.augment={scale: [1, 1], aspect: 1, rotate: 0, brightness: 0, contrast: 0, gamma: 0, "
    "flip: false}"
)
SELF_ATTENTION = "model.pooling.slices=self_attention"
STREAMS = (
    "model.streams={layers: 1, heads: 2, width: 8, ffn: 16, grid: 4}",
    "objectives=[{kind: infonce}, {kind: existence}]",
)


def write_tower(folder: Path, config: PretrainConfig, seed: int) -> Path:
    """Weights of a small tower whose batch norms have seen something."""
    torch.manual_seed(seed)
    network = VLP(config.model, 100).frames.network
    for _ in range(3):
        network(torch.randn(8, 3, 32, 32))
    with torch.no_grad():
        next(network.parameters())[0, 0, 0, 0] = 1e-40  # as some published weights have
    folder.mkdir()
    state = {name: value.contiguous() for name, value in network.state_dict().items()}
    save_file(state, folder / "model.safetensors")
    return folder


@pytest.fixture
def towers(smoke, tmp_path):
    """Two towers of one architecture."""
    config = smoke("model.frames.levels=1")
    return [write_tower(tmp_path / f"tower{seed}", config, seed) for seed in range(2)]


@pytest.fixture
def configured(smoke, towers):
    def make(*overrides: str, tower: int = 0) -> PretrainConfig:
        return smoke(
            "model.frames.levels=1", f"model.frames.weights={{folder: {towers[tower]}}}",
            "trainer.precision=fp32", "data.features=cached", *overrides,
        )  # fmt: skip

    return make


@pytest.fixture
def parts(dataset, tmp_path):
    """The module and the data of a run, as the engine makes them."""

    def make(config: PretrainConfig):
        samples = train_samples(dataset, config)
        tokenizer = build_tokenizer(config.model.text, samples)
        module = _build(config, tokenizer)
        features = tower_features(
            config, module.model, dataset, module.objectives.needs, tmp_path / "features"
        )
        data = PretrainData(
            config, dataset, samples, tokenizer, objectives=module.objectives, features=features
        )
        data.setup("fit")
        return module, data

    return make


def first_loss(module, data, step: int = 0) -> dict[str, torch.Tensor]:
    freeze(module.model)
    module.model.train()
    module.model.frames.eval()  # as in use: batch norm by what it saw before
    torch.manual_seed(0)
    loss = module.training_step(data.augmented(data.batch(step), step), 0)
    loss.backward()
    grads = {
        f"gradient of {name}": part.grad
        for name, part in module.named_parameters()
        if part.grad is not None
    }
    return {**module.last_losses, **grads}


@pytest.mark.parametrize(
    "overrides",
    [("data.volume_frames=99",), (SELF_ATTENTION,), (*STREAMS, SELF_ATTENTION),
     ("objectives=[{kind: infonce}]",)],
    ids=["all slices", "self-attention", "streams", "vectors only"],
)  # fmt: skip
def test_a_step_is_what_it_is_with_the_frozen_tower(parts, configured, overrides):
    cached = first_loss(*parts(configured(NEUTRAL, *overrides)), step=3)
    computed = first_loss(*parts(configured(NEUTRAL, "data.features=computed", *overrides)), step=3)
    assert cached.keys() == computed.keys()
    # A bias before a batch norm has a gradient of rounding errors alone: all have one scale.
    scale = max(1.0, *(float(value.abs().max()) for value in computed.values()))
    for name, value in computed.items():
        near = 1e-5 * (scale if name.startswith("gradient") else 1)
        assert (cached[name] - value).abs().max() <= near, name


def test_a_batch_holds_the_features_of_the_drawn_slices_and_no_pixels(parts, configured):
    _, data = parts(configured())
    _, computed = parts(configured("data.features=computed"))
    batch, other = data.batch(3), computed.batch(3)
    assert batch.frames.shape == (len(batch.positions), 3, 0, 0)
    assert torch.equal(batch.positions, other.positions)
    assert torch.equal(batch.offsets, other.offsets)
    assert torch.equal(batch.tokens, other.tokens)
    features = batch.features
    assert isinstance(features, FrameFeatures)
    assert len(features.mean) == len(features.tokens) == len(batch.positions)
    assert features.tokens.shape[1] == features.grid[0] * features.grid[1]
    assert data.augmented(batch, 3) is batch
    moved = batch.to("meta").features
    assert moved.mean.device.type == moved.tokens.device.type == "meta"
    assert moved.grid == features.grid


def test_patches_are_kept_only_where_objectives_need_them(parts, configured, tmp_path):
    _, data = parts(configured("objectives=[{kind: infonce}]"))
    assert data.batch(0).features.tokens is None
    # A cache without patches in the same folder does not answer for one with them.
    _, data = parts(configured())
    assert data.batch(0).features.tokens is not None
    assert len(list((tmp_path / "features").iterdir())) == 2


def test_beyond_the_memory_bound_features_are_read_each_time(parts, configured, caplog):
    _, kept = parts(configured())
    _, unkept = parts(configured("data.cache_mb=0"))
    assert "data.cache_mb" in caplog.text
    assert kept.features._kept
    assert not unkept.features._kept
    a, b = kept.batch(2).features, unkept.batch(2).features
    assert torch.equal(a.mean, b.mean)
    assert torch.equal(a.tokens, b.tokens)


def pooled_from_cache(model: VLP, cache: SliceFeatureCache, sample) -> torch.Tensor:
    features = cache.get(sample.key)
    offsets = torch.tensor([0, len(features.positions)])
    kind = torch.tensor([KINDS.index(sample.kind)])
    return model.pool_cached(FrameStats(*features.stats), offsets, features.positions, kind).vector


def test_a_run_learns_and_leaves_the_tower_as_it_was(
    dataset, dataset_path, configured, towers, tmp_path, caplog
):
    config = configured(
        SELF_ATTENTION, "trainer.max_steps=10", "data.batch_size=24", "optim.lr=1e-2",
        "objectives=[{kind: infonce}]", "optim.ema=0.5",
    )  # fmt: skip
    out = tmp_path / "run"
    with caplog.at_level(logging.INFO):
        pretrain(config, dataset_path, out)
    assert "not augmented" in caplog.text
    assert "24 of 24 computed" in caplog.text
    losses = [line["loss"] for line in read_history(out)]
    assert losses[-1] < 0.95 * losses[0]

    saved = load_file(out / "model.safetensors")
    for name, value in load_file(towers[0] / "model.safetensors").items():
        assert torch.equal(saved[f"frames.network.{name}"], value), name
    encoder = load_encoder(out)
    cache = SliceFeatureCache(out / "features", features_digest(encoder.model, dataset.digest))
    samples = dataset.select(split="train")
    assert len(cache) == len(samples)
    with torch.no_grad():
        for sample in samples[:6]:
            pooled = pooled_from_cache(encoder.model, cache, sample)
            direct = encoder.visuals([dataset.visual(sample)])
            assert torch.allclose(pooled, direct, atol=1e-5)


class Killed(Exception):
    pass


def test_a_killed_run_goes_on_exactly_and_encodes_nothing_again(
    dataset_path, configured, tmp_path, monkeypatch
):
    config = configured("trainer.max_steps=6", "model.text.dropout=0.1", "optim.ema=0.9")
    whole, out = tmp_path / "whole", tmp_path / "killed"
    pretrain(config, dataset_path, whole)
    with monkeypatch.context() as patch:
        patch.setattr(slice_features, "SHARD_BYTES", 1)
        sight, seen = slice_features._features, []

        def killed_at_nine(*args, **kwargs):
            seen.append(1)
            if len(seen) == 9:
                raise Killed
            return sight(*args, **kwargs)

        patch.setattr(slice_features, "_features", killed_at_nine)
        with pytest.raises(Killed):
            pretrain(config, dataset_path, out)
        assert len(list(out.rglob("shard-*"))) == 8
    with monkeypatch.context() as patch:
        saving = Checkpoints.on_train_batch_end

        def killed_after_four(self, trainer, *args):
            saving(self, trainer, *args)
            if trainer.global_step == 5:
                raise Killed

        patch.setattr(Checkpoints, "on_train_batch_end", killed_after_four)
        with pytest.raises(Killed):
            pretrain(config, dataset_path, out, resume=True)
    monkeypatch.setattr(slice_features, "_features", lambda *a, **k: pytest.fail("encoded again"))
    pretrain(config, dataset_path, out, resume=True)
    first, second = (load_file(path / "model.safetensors") for path in (whole, out))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert [line["loss"] for line in read_history(out)] == [
        line["loss"] for line in read_history(whole)
    ]


def test_a_resume_keeps_to_the_tower_it_began_with(
    dataset_path, configured, towers, tmp_path, monkeypatch
):
    """The file that the config names may have been replaced meanwhile."""
    config = configured("trainer.max_steps=4")
    out = tmp_path / "run"
    old = History.on_train_batch_end

    def killed_after_three(self, trainer, *args):
        old(self, trainer, *args)
        if trainer.global_step == 3:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(History, "on_train_batch_end", killed_after_three)
        with pytest.raises(Killed):
            pretrain(config, dataset_path, out)
    began = load_file(towers[0] / "model.safetensors")
    (towers[1] / "model.safetensors").replace(towers[0] / "model.safetensors")
    pretrain(config, dataset_path, out, resume=True)
    assert len(list((out / "features").iterdir())) == 1
    saved = load_file(out / "model.safetensors")
    assert all(torch.equal(saved[f"frames.network.{k}"], v) for k, v in began.items())


def test_runs_with_one_tower_share_a_folder_and_another_tower_does_not(
    dataset_path, configured, tmp_path, monkeypatch
):
    shared = f"data.features_folder={tmp_path / 'shared'}"
    sight, seen = slice_features._features, []

    def counted(*args, **kwargs):
        seen.append(1)
        return sight(*args, **kwargs)

    monkeypatch.setattr(slice_features, "_features", counted)
    pretrain(configured(shared, "trainer.max_steps=1"), dataset_path, tmp_path / "a")
    assert len(seen) == 24
    again = configured(shared, "trainer.max_steps=2", "optim.lr=1e-4", SELF_ATTENTION)
    pretrain(again, dataset_path, tmp_path / "b")
    assert len(seen) == 24
    assert not (tmp_path / "b" / "features").exists()
    pretrain(configured(shared, "trainer.max_steps=1", tower=1), dataset_path, tmp_path / "c")
    assert len(seen) == 48
    assert len(list((tmp_path / "shared").iterdir())) == 2


@pytest.mark.parametrize(
    ("overrides", "code"),
    [
        (["objectives=[{kind: infonce}, {kind: views}]"], "features-pixels"),
        (
            ["objectives=[{kind: infonce}, {kind: masked_image}]",
             "model.fusion={layers: 1, heads: 2, width: 8}", "model.words=true"],
            "features-pixels",
        ),
        (["model.frames.weights=null"], "features-untrained"),
        (["model.frames.levels=2"], "features-levels"),
    ],
)  # fmt: skip
def test_what_cached_features_cannot_train_is_refused(configured, dataset, overrides, code):
    config = configured(*overrides)
    tokenizer = build_tokenizer(config.model.text, train_samples(dataset, config))
    needs = Objectives(config.objectives, config.model, tokenizer).needs
    with pytest.raises(ConfigError) as refused:
        refuse_unfit(config, needs)
    assert refused.value.code == code
    assert refused.value.next_step


def test_a_refused_run_computes_nothing(configured, dataset_path, tmp_path):
    with pytest.raises(ConfigError, match="features-untrained"):
        pretrain(configured("model.frames.weights=null"), dataset_path, tmp_path / "r")
    assert not (tmp_path / "r" / "features").exists()


def test_every_objective_that_takes_pixels_is_known():
    folder = Path(own.__file__).parents[1] / "medvlp" / "losses"
    takes = re.compile(r"\bencode_visual\(|\bbatch\.frames\b|\bbatch\.second\b")
    found = {path.stem for path in folder.rglob("*.py") if takes.search(path.read_text("utf-8"))}
    assert found == own._PIXEL_KINDS


def test_a_bad_choice_is_refused(smoke):
    with pytest.raises(ConfigError):
        smoke("data.features=frozen")


def test_the_default_computes(smoke, parts):
    assert smoke().data.features == "computed"
    _, data = parts(smoke())
    assert data.features is None
    assert data.batch(0).features is None
