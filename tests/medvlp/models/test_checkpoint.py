from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from medvlp.errors import CheckpointError
from medvlp.models.checkpoint import load_encoder, save_model
from medvlp.models.encoder import Encoder
from medvlp.models.vlp import VLP


@pytest.fixture
def folder(tmp_path: Path, model: VLP, tokenizer) -> Path:
    save_model(tmp_path, model, tokenizer, {"seed": 3})
    return tmp_path


def refused(folder: Path) -> str:
    with pytest.raises(CheckpointError) as error:
        load_encoder(folder)
    return error.value.code


def rewrite_weights(folder: Path, change) -> None:
    """Change the weights and repair the digest, as a careless tool would."""
    import hashlib

    state = load_file(folder / "model.safetensors")
    change(state)
    save_file(state, folder / "model.safetensors")
    description = json.loads((folder / "model.json").read_text())
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    description["sha256"]["model.safetensors"] = digest
    (folder / "model.json").write_text(json.dumps(description))


def test_a_model_comes_back_exactly(folder: Path, model: VLP, tokenizer, visuals):
    before = Encoder(model, tokenizer, digest="x")
    after = load_encoder(folder)
    assert torch.equal(before.visuals(visuals), after.visuals(visuals))
    assert torch.equal(before.texts(["No nodule."]), after.texts(["No nodule."]))
    assert json.loads((folder / "model.json").read_text())["seed"] == 3


def test_only_whole_files_are_there(folder: Path):
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["model.json", "model.safetensors", "tokenizer.json"]


def test_a_missing_key_is_refused(folder: Path):
    rewrite_weights(folder, lambda state: state.pop("pooling.norm.weight"))
    assert refused(folder) == "checkpoint-keys"


def test_an_extra_key_is_refused(folder: Path):
    rewrite_weights(folder, lambda state: state.update(extra=torch.zeros(2)))
    assert refused(folder) == "checkpoint-keys"


def test_another_shape_is_refused(folder: Path):
    rewrite_weights(folder, lambda state: state.update({"pooling.norm.weight": torch.zeros(3)}))
    assert refused(folder) == "checkpoint-keys"


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_a_changed_byte_is_found(folder: Path, name: str):
    data = bytearray((folder / name).read_bytes())
    data[-3] ^= 1
    (folder / name).write_bytes(bytes(data))
    with pytest.raises(CheckpointError, match=name) as error:
        load_encoder(folder)
    assert error.value.code == "checkpoint-digest"


@pytest.mark.parametrize("name", ["model.json", "model.safetensors", "tokenizer.json"])
def test_a_missing_file_is_named(folder: Path, name: str):
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=name):
        load_encoder(folder)


def test_a_broken_description_is_refused(folder: Path):
    (folder / "model.json").write_text("{}")
    assert refused(folder) == "checkpoint-broken"


def test_another_format_is_refused(folder: Path):
    description = json.loads((folder / "model.json").read_text()) | {"format": 99}
    (folder / "model.json").write_text(json.dumps(description))
    assert refused(folder) == "checkpoint-format"


def test_the_untrained_model_is_the_same_architecture_with_seeded_weights(folder: Path, visuals):
    trained = load_encoder(folder)
    first, again, other = (load_encoder(folder, untrained=seed) for seed in (5, 5, 6))
    assert torch.equal(first.visuals(visuals), again.visuals(visuals))
    assert not torch.allclose(first.visuals(visuals), other.visuals(visuals))
    assert not torch.allclose(first.visuals(visuals), trained.visuals(visuals))
    shapes = [{k: v.shape for k, v in e.model.state_dict().items()} for e in (first, trained)]
    assert shapes[0] == shapes[1]
    assert len({trained.digest, first.digest, other.digest}) == 3


def test_loading_leaves_the_random_state_alone(folder: Path):
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    load_encoder(folder)
    assert torch.equal(torch.rand(1), expected)


def test_the_digest_names_weights_and_config(folder: Path, tmp_path: Path, model: VLP, tokenizer):
    digest = load_encoder(folder).digest
    save_model(tmp_path / "same", model, tokenizer, {"seed": 99})
    assert load_encoder(tmp_path / "same").digest == digest
    with torch.no_grad():
        model.pooling.norm.weight[0] += 1e-3
    save_model(tmp_path / "other", model, tokenizer)
    assert load_encoder(tmp_path / "other").digest != digest
