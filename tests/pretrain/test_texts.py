from __future__ import annotations

import numpy as np
import pytest

from medvlp.models.config import TextTowerConfig
from medvlp.types import Sample, Text
from pretrain.texts import TextBank, build_tokenizer


def sample(key: str, *texts: tuple[str, str]) -> Sample:
    return Sample(
        key, key, key, "train", "image", "CR",
        texts=tuple(Text(level, "r", text) for level, text in texts),  # type: ignore[arg-type]
    )  # fmt: skip


SAMPLES = [
    sample("a", ("document", "No nodule. Heart is normal."), ("sentence", "No nodule."),
           ("sentence", "Heart is normal."), ("impression", "No nodule.")),
    sample("b", ("document", "Left pleural effusion.")),
    sample("c", ("caption", "No nodule."), ("sentence", "  ")),
]  # fmt: skip


@pytest.fixture(scope="module")
def bank() -> TextBank:
    return TextBank(SAMPLES, build_tokenizer(TextTowerConfig(), SAMPLES))


def drawn(bank: TextBank, sample: int, count: int, share: float) -> list[set[str]]:
    rng = np.random.default_rng(0)
    return [{bank.texts[row] for row in bank.draw(sample, count, share, rng)} for _ in range(60)]


def test_every_distinct_text_is_kept_once(bank: TextBank):
    assert len(bank.texts) == len(set(bank.texts)) == 4
    assert "  " not in bank.texts


def test_claims_say_present_and_absent(bank: TextBank):
    by_text = dict(zip(bank.texts, bank.claims, strict=True))
    assert by_text["No nodule."][bank.slots.slot("nodule")] == -1
    assert by_text["Left pleural effusion."][bank.slots.slot("pleural_effusion", "left")] == 1


def test_sentences_are_preferred(bank: TextBank):
    assert all("No nodule. Heart is normal." not in texts for texts in drawn(bank, 0, 2, 0.0))
    assert all(len(texts) == 2 for texts in drawn(bank, 0, 2, 0.0))


def test_documents_come_now_and_then(bank: TextBank):
    with_document = sum("No nodule. Heart is normal." in t for t in drawn(bank, 0, 2, 0.5))
    assert 5 < with_document < 30


def test_a_sample_with_only_a_document_shows_it(bank: TextBank):
    assert drawn(bank, 1, 2, 0.0)[0] == {"Left pleural effusion."}


def test_no_text_is_drawn_twice(bank: TextBank):
    rng = np.random.default_rng(1)
    for _ in range(50):
        rows = bank.draw(0, 5, 0.3, rng)
        assert len(rows) == len(set(rows)) <= 5


def test_the_vocabulary_knows_concepts_that_no_text_names():
    tokenizer = build_tokenizer(TextTowerConfig(), SAMPLES)
    assert len(tokenizer.pieces("pneumothorax")) <= 5
