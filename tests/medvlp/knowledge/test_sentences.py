from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medvlp.knowledge.sentences import split_sentences

PIECES = st.sampled_from(
    ["No effusion", "1.5 cm", "Dr. ", "vs.", "\n", "\n\n", ". ", "2. ", "- ", " ", "e.g. ", "L",
     "Heart: ", "?", "!", ")", ".", "The lungs are clear", "a", ",", "é", "\t"]
)  # fmt: skip
TEXTS = st.lists(PIECES, max_size=25).map("".join)


def sentences(text: str) -> list[str]:
    return [text[a:b] for a, b in split_sentences(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("No effusion. Heart normal.", ["No effusion.", "Heart normal."]),
        ("A 1.5 cm nodule. Stable.", ["A 1.5 cm nodule.", "Stable."]),
        ("Seen by Dr. Smith today. Done.", ["Seen by Dr. Smith today.", "Done."]),
        ("Nodule vs. granuloma.", ["Nodule vs. granuloma."]),
        ("1. No edema. 2. Mild scar.", ["No edema.", "Mild scar."]),
        ("1. No edema\n2. Mild scar", ["No edema", "Mild scar"]),
        ("- Clear lungs\n- No effusion", ["Clear lungs", "No effusion"]),
        ("No effusion\nNo pneumothorax", ["No effusion", "No pneumothorax"]),
        ("HEART: Normal\nLUNGS: Clear", ["HEART: Normal", "LUNGS: Clear"]),
        ("Opacity in the\nleft base.", ["Opacity in the\nleft base."]),
        ("Clear lungs.The heart is big.", ["Clear lungs.", "The heart is big."]),
        ("Compared with film No. 5 of May.", ["Compared with film No. 5 of May."]),
        ("Is there a mass? No.", ["Is there a mass?", "No."]),
        ("One\n\ntwo", ["One", "two"]),
        ("The fracture of T4. T5 is intact.", ["The fracture of T4.", "T5 is intact."]),
        ("...", []),
        ("", []),
    ],
)
def test_sentences_of_clinical_text(text: str, expected: list[str]) -> None:
    assert sentences(text) == expected


def test_a_hard_wrapped_paragraph_is_not_cut_at_its_lines() -> None:
    text = (
        "There is a large consolidation of the right lower lobe which has\n"
        "Increased since the examination of last week. No effusion."
    )
    assert len(sentences(text)) == 2


@given(TEXTS)
def test_spans_are_trimmed_ordered_and_hold_every_letter(text: str) -> None:
    spans = split_sentences(text)
    last = 0
    for start, end in spans:
        assert last <= start < end <= len(text)
        assert text[start:end] == text[start:end].strip()
        last = end
    covered = {i for start, end in spans for i in range(start, end)}
    missing = [char for i, char in enumerate(text) if char.isalpha() and i not in covered]
    assert missing == []


@given(TEXTS, st.integers(0, 20))
def test_a_window_is_split_like_a_text_of_its_own(text: str, start: int) -> None:
    start = min(start, len(text))
    inner = [(a - start, b - start) for a, b in split_sentences(text, start)]
    assert inner == split_sentences(text[start:])
