from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from medvlp.batch import TextRole
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
    return [
        {bank.texts[one.row] for one in bank.draw(sample, count, share, rng)} for _ in range(60)
    ]


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
        rows = [one.row for one in bank.draw(0, 5, 0.3, rng)]
        assert len(rows) == len(set(rows)) <= 5


def clip(key: str, *texts: Text, parent: str | None = None) -> Sample:
    return Sample(key, "v", "v", "train", "clip", "V", texts=texts, parent=parent)


CLIPS = [
    clip("video", Text("video", "abstract", "We remove the gallbladder.", 0.0, 99.0)),
    clip("phase", Text("phase", "keysteps", "dissection", 5.0, 60.0),
         Text("task", "aws", "The hook opens the peritoneum.", 20.0, 24.0),
         Text("phase", "keysteps", "Dissect the triangle of Calot", 5.0, 60.0), parent="video"),
    clip("task", Text("task", "aws", "The hook opens the peritoneum.", 20.0, 24.0),
         Text("task", "whisper", "hook opens", 20.0, 22.0), parent="phase"),
]  # fmt: skip


def test_a_clip_leads_with_its_own_text_and_the_others_follow_in_time():
    bank = TextBank(CLIPS, build_tokenizer(TextTowerConfig(), CLIPS))
    rng = np.random.default_rng(0)

    def said(sample: int, count: int = 9) -> list[tuple[str, TextRole]]:
        drawn = bank.draw(sample, count, 0.0, rng, lead=True)
        return [(bank.texts[one.row], one.role) for one in drawn]

    assert said(0) == [
        ("We remove the gallbladder.", TextRole.LEAD),
        ("dissection", TextRole.CHILD),  # what the clips below it are called
    ]
    assert said(1) == [
        ("dissection", TextRole.LEAD),
        ("Dissect the triangle of Calot", TextRole.CHILD),
        ("The hook opens the peritoneum.", TextRole.CHILD),
    ]
    assert said(2) == [
        ("The hook opens the peritoneum.", TextRole.LEAD), ("hook opens", TextRole.HEARD)
    ]  # fmt: skip
    assert all(said(2, 1) == [("The hook opens the peritoneum.", TextRole.LEAD)] for _ in range(9))


def nested() -> list[Sample]:
    """A task in a step in a phase in a video; another task of the phase itself."""

    def clip(key: str, level: str, parent: str | None) -> Sample:
        return Sample(
            key, "v", "v", "train", "clip", "", parent=parent,
            texts=(Text(level, "r", f"This is {key}."),),  # type: ignore[arg-type]
        )  # fmt: skip

    return [
        clip("video", "video", None), clip("phase", "phase", "video"),
        clip("step", "step", "phase"), clip("task", "task", "step"),
        clip("other", "task", "phase"), clip("lost", "task", "gone"),
    ]  # fmt: skip


def test_what_step_and_phase_are_called_holds_for_their_parts():
    samples = nested()
    bank = TextBank(samples, build_tokenizer(TextTowerConfig(), samples))
    rng = np.random.default_rng(0)

    def above(number: int, count: int = 5, *, parents: bool = True) -> list[str]:
        drawn = bank.draw(number, count, 0.0, rng, lead=True, parents=parents)
        assert drawn[0].role == TextRole.LEAD
        assert drawn[0].sample == number
        found = [one for one in drawn if one.role == TextRole.PARENT]
        assert all(bank.texts[one.row] == f"This is {samples[one.sample].key}." for one in found)
        return [samples[one.sample].key for one in found]

    assert above(3) == ["step", "phase"]
    assert above(4) == ["phase"]
    assert above(2) == ["phase"]
    assert above(1) == above(0) == above(5) == []
    assert above(3, 2) == ["step"]
    assert above(3, 1) == []
    assert above(3, parents=False) == []


def test_a_text_that_the_clip_has_itself_is_not_its_parents_too():
    samples = nested()
    samples[2] = replace(samples[2], texts=(replace(samples[1].texts[0], level="step"),))
    bank = TextBank(samples, build_tokenizer(TextTowerConfig(), samples))
    drawn = bank.draw(2, 5, 0.0, np.random.default_rng(0), lead=True, parents=True)
    assert [one.role for one in drawn if one.row == drawn[0].row] == [TextRole.LEAD]


def test_mentions_lie_on_the_words_that_name_the_concept():
    samples = [sample("a", ("sentence", "No pneumothorax. Small left effusion."))]
    bank = TextBank(samples, build_tokenizer(TextTowerConfig(), samples))
    rows = bank.mentions([0]).tolist()
    pieces = bank.tokenizer.pieces(bank.texts[0])
    named = {
        bank.slots.concepts[concept]: (pieces[first:last], polarity)
        for text, first, last, concept, polarity in rows
        if text == 0
    }
    assert named["pneumothorax"] == (["pneumothorax"], -1)
    assert named["pleural_effusion"][1] == 1
    assert "".join(named["pleural_effusion"][0]).replace("##", "").endswith("effusion")


def test_texts_that_do_not_fit_are_counted():
    samples = [sample("a", ("document", "No nodule. " * 40), ("sentence", "No nodule."))]
    tokenizer = build_tokenizer(TextTowerConfig(max_tokens=16), samples)
    assert TextBank(samples, tokenizer).cut == 1


def test_the_vocabulary_knows_concepts_that_no_text_names():
    tokenizer = build_tokenizer(TextTowerConfig(), SAMPLES)
    assert len(tokenizer.pieces("pneumothorax")) <= 5
