from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from medvlp.errors import CheckpointError
from medvlp.models.tokens import POLARITY_WORDS, read_tokenizer, train_wordpiece
from medvlp.models.wordpiece import learn_pieces

TEXTS = [
    "No pleural effusion or pneumothorax.",
    "Right lower lobe consolidation.",
    "The heart is enlarged.",
    "Small left pleural effusion.",
] * 3


def train(texts=TEXTS, vocabulary=600, max_tokens=32):
    return train_wordpiece(texts, vocabulary=vocabulary, max_tokens=max_tokens)


def test_the_order_of_texts_does_not_matter():
    assert train().to_json() == train(list(reversed(TEXTS))).to_json()


def test_another_process_learns_the_same_pieces():
    # Hash seeds differ between processes, and with them the order of sets and of foreign maps.
    words = {word: len(word) % 3 + 1 for text in TEXTS for word in text.lower().split()}
    code = (
        "import sys, json; from medvlp.models.wordpiece import learn_pieces;"
        f"sys.stdout.write(json.dumps(learn_pieces({words!r}, [], 200)))"
    )
    runs = [
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60,
            env={"PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2")
    ]  # fmt: skip
    assert runs[0] == runs[1] == json.dumps(learn_pieces(words, [], 200))


@pytest.mark.parametrize("texts", [TEXTS, ["nothing of the kind"]])
def test_words_of_polarity_are_always_whole(texts):
    tokenizer = train(texts)
    for word in POLARITY_WORDS:
        assert tokenizer.pieces(word)[1:-1] == [word]


def test_no_plain_text_is_unknown():
    tokenizer = train()
    for text in ("Zygomatic Q-fever, 5% (x)!", "PNEUMOTHORAX", "naïve été"):
        assert "[UNK]" not in tokenizer.pieces(text)


def test_case_does_not_matter():
    tokenizer = train()
    assert tokenizer.ids("No Pleural EFFUSION") == tokenizer.ids("no pleural effusion")


def test_texts_are_padded_to_the_longest_and_cut_at_the_limit():
    tokenizer = train(max_tokens=8)
    out = tokenizer(["no effusion", "no " * 30])
    assert out.ids.shape == (2, 8)
    assert out.mask.sum(1).tolist() == [len(tokenizer.ids("no effusion")), 8]
    assert (out.ids[~out.mask] == tokenizer.pad_id).all()
    assert tokenizer.truncated(["no effusion", "no " * 30]) == [False, True]
    assert len(tokenizer.ids("no " * 30)) == 8


def test_a_saved_tokenizer_reads_back(tmp_path: Path):
    tokenizer = train()
    (tmp_path / "tokenizer.json").write_text(tokenizer.to_json(), "utf-8")
    again = read_tokenizer(tmp_path / "tokenizer.json", 32)
    assert again.ids("small left effusion") == tokenizer.ids("small left effusion")
    assert len(again) == len(tokenizer)


def test_a_broken_tokenizer_is_refused(tmp_path: Path):
    with pytest.raises(CheckpointError) as missing:
        read_tokenizer(tmp_path / "tokenizer.json", 32)
    assert missing.value.code == "tokenizer-missing"
    (tmp_path / "tokenizer.json").write_text("{", "utf-8")
    with pytest.raises(CheckpointError) as broken:
        read_tokenizer(tmp_path / "tokenizer.json", 32)
    assert broken.value.code == "tokenizer-broken"
