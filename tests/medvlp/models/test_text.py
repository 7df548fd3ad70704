from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertForMaskedLM, BertModel

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
        a, words = tower(alone.ids, alone.mask)
        b, padded_words = tower(padded.ids, padded.mask)
    assert torch.allclose(a[0], b[0], atol=1e-6)
    assert torch.allclose(words[0], padded_words[0, : words.shape[1]], atol=1e-6)


def test_every_parameter_is_trained(tokenizer: TextTokenizer):
    tower = TextTower(SMALL, len(tokenizer))
    tokens = tokenizer(["No nodule.", "There is a nodule."])
    tower(tokens.ids, tokens.mask)[0].square().sum().backward()
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
    first, again = tower(tokens.ids, tokens.mask), rebuilt(tokens.ids, tokens.mask)
    assert torch.allclose(first[0], again[0], atol=1e-6)


def test_a_folder_without_an_encoder_is_refused(tmp_path: Path):
    config = TextTowerConfig(hf=WeightsRef(folder=tmp_path))
    with pytest.raises(CheckpointError) as refused:
        TextTower(config, 0)
    assert refused.value.code == "weights-missing"
    with pytest.raises(CheckpointError) as refused:
        hf_tokenizer(config)
    assert refused.value.code == "tokenizer-missing"


def rewritten(folder: Path, change) -> TextTowerConfig:
    """The encoder's config, its weights changed."""
    state = load_file(folder / "model.safetensors")
    change(state)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    return TextTowerConfig(hf=WeightsRef(folder=folder), max_tokens=24)


QUERY = "encoder.layer.0.attention.self.query.weight"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda state: state.pop(QUERY), "checkpoint-keys"),
        (lambda state: state.update(surplus=torch.zeros(1)), "checkpoint-keys"),
        (lambda state: state.update({QUERY: torch.zeros(3, 3)}), "weights-broken"),
    ],
    ids=["missing", "extra", "other shape"],
)
def test_an_encoder_is_loaded_whole_or_refused(hf_folder: Path, change, code: str):
    with pytest.raises(CheckpointError) as refused:
        TextTower(rewritten(hf_folder, change), 0)
    assert refused.value.code == code


def test_the_word_predictor_of_an_encoder_is_left_behind(tmp_path: Path, tokenizer: TextTokenizer):
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=32,
    )  # fmt: skip
    donor = BertForMaskedLM(config)
    donor.save_pretrained(tmp_path)
    named = TextTowerConfig(hf=WeightsRef(folder=tmp_path), max_tokens=24)
    tower = TextTower(named, len(tokenizer))
    assert torch.equal(
        tower.encoder.embeddings.word_embeddings.weight,
        donor.bert.embeddings.word_embeddings.weight,
    )
    # Its pooler would start at random: no text may be read by it.
    with pytest.raises(CheckpointError, match="pooler") as refused:
        TextTower(named.model_copy(update={"pooling": "pooler"}), len(tokenizer))
    assert refused.value.code == "checkpoint-keys"


def test_a_pretrained_pooler_reads_the_text(hf_folder: Path, tokenizer: TextTokenizer):
    config = TextTowerConfig(hf=WeightsRef(folder=hf_folder), max_tokens=24, pooling="pooler")
    tower = TextTower(config, len(tokenizer)).eval()
    donor = BertModel.from_pretrained(hf_folder).eval()
    tokens = tokenizer(["No nodule."])
    with torch.no_grad():
        expected = donor(tokens.ids, attention_mask=tokens.mask.long()).pooler_output
        assert torch.allclose(tower(tokens.ids, tokens.mask)[0], expected, atol=1e-6)


def test_a_tokenizer_with_more_entries_than_the_encoder_is_refused(hf_folder: Path, tokenizer):
    config = TextTowerConfig(hf=WeightsRef(folder=hf_folder), max_tokens=24)
    with pytest.raises(CheckpointError) as refused:
        TextTower(config, len(tokenizer) + 1)
    assert refused.value.code == "tokenizer-mismatch"
