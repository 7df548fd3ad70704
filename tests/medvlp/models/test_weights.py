from __future__ import annotations

from pathlib import Path

import huggingface_hub
import pytest
import timm
import torch
from pydantic import ValidationError
from safetensors.torch import save_file

from medvlp.errors import CheckpointError
from medvlp.models.config import FrameTowerConfig, TextTowerConfig, WeightsRef
from medvlp.models.frames import FrameTower
from medvlp.models.text import TextTower
from medvlp.models.weights import load_strict, load_tower_weights, resolve, split_clip

PINNED = WeightsRef(hub="owner/name", revision="0123456789" * 4)


def test_a_hub_repository_is_fetched_at_its_commit_without_pickles(monkeypatch, tmp_path: Path):
    asked = {}

    def fetch(repository, *, revision, allow_patterns):
        asked.update(repository=repository, revision=revision, patterns=allow_patterns)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    assert resolve(PINNED) == tmp_path
    assert asked["repository"] == "owner/name"
    assert asked["revision"] == "0123456789" * 4
    assert not any("bin" in pattern or "pt" in pattern for pattern in asked["patterns"])


def test_an_unreachable_hub_says_what_to_do(monkeypatch):
    def fetch(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    with pytest.raises(CheckpointError, match="name its folder") as refused:
        resolve(PINNED)
    assert refused.value.code == "weights-unreachable"


def test_keys_and_shapes_must_be_exact():
    module = torch.nn.Linear(3, 2)
    good = {"weight": torch.ones(2, 3), "bias": torch.zeros(2)}
    load_strict(module, good)
    assert torch.equal(module.weight, good["weight"])
    wrong = [
        {"weight": good["weight"]},
        good | {"more": torch.zeros(1)},
        good | {"weight": torch.ones(3, 2)},
    ]
    for state in wrong:
        with pytest.raises(CheckpointError) as refused:
            load_strict(module, state)
        assert refused.value.code == "checkpoint-keys"


def test_a_broken_file_is_refused(tmp_path: Path):
    (tmp_path / "model.safetensors").write_bytes(b"not a tensor file")
    with pytest.raises(CheckpointError) as refused:
        load_tower_weights(torch.nn.Linear(1, 1), WeightsRef(folder=tmp_path), "timm")
    assert refused.value.code == "weights-broken"


TIMM = FrameTowerConfig(library="timm", name="test_resnet")


@pytest.fixture
def no_pickles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any unpickling ends the test."""
    import pickle

    def refuse(*args, **kwargs):
        raise AssertionError("a pickle was opened")

    monkeypatch.setattr(torch, "load", refuse)
    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)


@pytest.mark.usefixtures("no_pickles")
@pytest.mark.parametrize(
    "name", ["pytorch_model.bin", "open_clip_pytorch_model.bin", "model.pt", "model.pth"]
)
def test_a_folder_with_only_pickles_is_refused_unopened(tmp_path: Path, name: str):
    (tmp_path / name).write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")
    ref = WeightsRef(folder=tmp_path)
    for build in (
        lambda: FrameTower(TIMM.model_copy(update={"weights": ref}), 32),
        lambda: load_tower_weights(torch.nn.Linear(1, 1), ref, "open_clip"),
        lambda: TextTower(TextTowerConfig(hf=ref), 0),
    ):
        with pytest.raises(CheckpointError, match="convert it to safetensors") as refused:
            build()
        assert refused.value.code == "weights-pickle"
        assert name in str(refused.value)


@pytest.mark.usefixtures("no_pickles")
def test_a_pickle_beside_the_weights_is_left_alone(tmp_path: Path):
    saved = timm.create_model("test_resnet").state_dict()
    save_file(saved, tmp_path / "model.safetensors")
    (tmp_path / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")
    tower = FrameTower(TIMM.model_copy(update={"weights": WeightsRef(folder=tmp_path)}), 32)
    loaded = tower.network.state_dict()
    assert loaded
    assert all(
        torch.equal(value, saved[key.removeprefix("model.")]) for key, value in loaded.items()
    )


@pytest.mark.parametrize(
    "kwargs", [{"pretrained": True}, {"pretrained_cfg": {}}, {"checkpoint_path": "model.pth"}]
)
def test_weights_do_not_come_in_through_a_builder(kwargs):
    with pytest.raises(ValidationError, match="weights"):
        FrameTowerConfig(library="timm", name="test_resnet", kwargs=kwargs)


@pytest.mark.parametrize("name", ["hf-hub:owner/name", "local-dir:/somewhere"])
def test_a_tower_name_that_would_fetch_something_is_refused(name: str):
    with pytest.raises(ValidationError):
        FrameTowerConfig(library="open_clip", name=name)


@pytest.mark.parametrize("levels", [1, 2])
@pytest.mark.parametrize("name", ["test_resnet", "test_convnext", "test_efficientnet"])
def test_a_timm_checkpoint_fills_its_tower_whatever_its_head(tmp_path: Path, name: str, levels):
    torch.manual_seed(1)
    donor = timm.create_model(name, num_classes=5)
    save_file(donor.state_dict(), tmp_path / "model.safetensors")
    config = FrameTowerConfig(
        library="timm", name=name, levels=levels, weights=WeightsRef(folder=tmp_path)
    )
    tower = FrameTower(config, 64).eval()
    torch.manual_seed(2)
    fresh = FrameTower(config.model_copy(update={"weights": None}), 64).eval()
    given = {tuple(value.flatten().tolist()) for value in donor.state_dict().values()}
    own = tower.network.state_dict()
    assert own.keys() == fresh.network.state_dict().keys()
    assert all(tuple(value.flatten().tolist()) in given for value in own.values())


def test_an_open_clip_checkpoint_is_split_by_towers():
    one = torch.zeros(1)
    state = {
        "visual.proj": one, "logit_scale": one, "logit_bias": one, "text_projection": one,
        "transformer.resblocks.0.ln_1.weight": one, "positional_embedding": one,
    }  # fmt: skip
    parts = split_clip(state)
    assert set(parts.visual) == {"proj"}
    assert set(parts.text) == {
        "text_projection", "transformer.resblocks.0.ln_1.weight", "positional_embedding",
    }  # fmt: skip
    assert set(split_clip({"text.proj.0.weight": one}).text) == {"proj.0.weight"}
    with pytest.raises(CheckpointError, match="decoder") as refused:
        split_clip({**state, "decoder.weight": one})
    assert refused.value.code == "checkpoint-keys"
