from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertModel

from medvlp.errors import CheckpointError
from medvlp.models.config import TextTowerConfig, WeightsRef
from medvlp.models.text import TextTower, hf_tokenizer
from medvlp.models.tokens import TextTokenizer

SMALL = TextTowerConfig(layers=2, width=16, heads=2, max_tokens=24)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_padding_does_not_change_a_text(tokenizer: TextTokenizer, pooling: str):
    torch.manual_seed(0)
    tower = TextTower(SMALL.model_copy(update={"pooling": pooling}), len(tokenizer)).eval()
    alone = tokenizer(["No nodule."])
    padded = tokenizer(["No nodule.", "Small left pleural effusion and so on, for long."])
    with torch.no_grad():
        a, b = tower(alone.ids, alone.mask), tower(padded.ids, padded.mask)
    assert torch.allclose(a[0], b[0], atol=1e-6)


def test_every_parameter_is_trained(tokenizer: TextTokenizer):
    tower = TextTower(SMALL, len(tokenizer))
    tokens = tokenizer(["No nodule.", "There is a nodule."])
    tower(tokens.ids, tokens.mask).square().sum().backward()
    unused = [name for name, p in tower.named_parameters() if p.grad is None]
    assert unused == []


@pytest.fixture
def hf_folder(tmp_path: Path, tokenizer: TextTokenizer) -> Path:
    """A tiny Hugging Face encoder as it lies on disk."""
    torch.manual_seed(3)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=32,
    )  # fmt: skip
    BertModel(config).save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_text(tokenizer.to_json(), "utf-8")
    return tmp_path


def test_a_hugging_face_encoder_loads_with_its_weights(hf_folder: Path, tokenizer: TextTokenizer):
    config = TextTowerConfig(hf=WeightsRef(folder=hf_folder), max_tokens=24)
    tower = TextTower(config, 0)
    donor = BertModel.from_pretrained(hf_folder)
    name = "embeddings.word_embeddings.weight"
    assert torch.equal(tower.encoder.state_dict()[name], donor.state_dict()[name])
    assert tower.dim == 16
    assert hf_tokenizer(config).ids("no nodule") == tokenizer.ids("no nodule")


def test_a_saved_encoder_is_rebuilt_without_its_folder(hf_folder: Path, tokenizer: TextTokenizer):
    config = TextTowerConfig(hf=WeightsRef(folder=hf_folder), max_tokens=24)
    tower = TextTower(config, 0).eval()
    moved = config.model_copy(update={"hf": WeightsRef(folder=Path("/nowhere"))})
    rebuilt = TextTower(moved, 0, architecture=tower.architecture).eval()
    rebuilt.load_state_dict(tower.state_dict(), strict=True)
    tokens = tokenizer(["No nodule."])
    assert torch.allclose(
        tower(tokens.ids, tokens.mask), rebuilt(tokens.ids, tokens.mask), atol=1e-6
    )


def test_a_folder_without_an_encoder_is_refused(tmp_path: Path):
    config = TextTowerConfig(hf=WeightsRef(folder=tmp_path))
    with pytest.raises(CheckpointError) as refused:
        TextTower(config, 0)
    assert refused.value.code == "weights-broken"
    with pytest.raises(CheckpointError) as refused:
        hf_tokenizer(config)
    assert refused.value.code == "tokenizer-missing"
