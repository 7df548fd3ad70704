from __future__ import annotations

from pathlib import Path

import huggingface_hub
import pytest
import torch

from medvlp.errors import CheckpointError
from medvlp.models.config import WeightsRef
from medvlp.models.weights import load_strict, load_tower_weights, resolve

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
