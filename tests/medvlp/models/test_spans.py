from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medvlp.models.spans import token_span
from medvlp.models.tokens import TextTokenizer, train_wordpiece

# Pieces seen often are joined: `hydro`, `##pneumo` and `##thorax`, but not their compound.
TEXTS = [
    *["hydro pneumo thorax"] * 3,
    "xpneumo xthorax hydro", "xpneumo xthorax pneumo", "xpneumo xthorax thorax",
    "no effusion is seen", "small effusion is seen", "the effusion",
]  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer() -> TextTokenizer:
    return train_wordpiece(TEXTS, vocabulary=600, max_tokens=16)


def spelt(tokenizer: TextTokenizer, text: str, phrase: str) -> list[str] | None:
    """The pieces that the span of a phrase maps to."""
    start = text.index(phrase)
    span = token_span(tokenizer.offsets(text), start, start + len(phrase))
    return None if span is None else tokenizer.pieces(text)[slice(*span)]


def test_a_word_in_three_pieces_maps_to_all_three(tokenizer):
    text = "A Hydropneumothorax is seen."
    pieces = spelt(tokenizer, text, "Hydropneumothorax")
    assert pieces == ["hydro", "##pneumo", "##thorax"]
    assert spelt(tokenizer, text, "is seen") == ["is", "seen"]
    assert spelt(tokenizer, text, ".") == ["."]


def test_character_offsets_are_not_token_numbers(tokenizer):
    # Regression of ConceptCLIP: the characters 10 to 18 are not the tokens 10 to 18.
    text = "no pneumo effusion is seen"
    start = text.index("effusion")
    span = token_span(tokenizer.offsets(text), start, start + len("effusion"))
    assert span != (start, start + len("effusion"))
    assert span is not None
    assert tokenizer.pieces(text)[slice(*span)] == ["effusion"]


@pytest.mark.parametrize(
    ("text", "phrase"),
    [
        ("ÉTÉ: NO EFFUSION", "EFFUSION"),
        ("naïve é e\u0301 effusion", "effusion"),
        ("\U0001f600 中 effusion", "effusion"),
        ("a\x00b   effusion\n", "effusion"),
        ("(effusion)", "effusion"),
        ("effu\u0301sion seen", "effu\u0301sion"),
    ],
)
def test_case_accents_and_strange_characters_do_not_move_a_span(tokenizer, text, phrase):
    assert spelt(tokenizer, text, phrase) == ["effusion"]


def test_offsets_are_aligned_with_ids(tokenizer):
    for text in ("No hydropneumothorax.", "", "no " * 30):
        offsets, pieces = tokenizer.offsets(text), tokenizer.pieces(text)
        assert len(offsets) == len(tokenizer.ids(text)) == len(pieces)
        assert offsets[0] == offsets[-1] == (0, 0)
        for (first, last), piece in zip(offsets[1:-1], pieces[1:-1], strict=True):
            assert text[first:last].lower() == piece.removeprefix("##")


def test_what_truncation_cuts_off_has_no_tokens(tokenizer):
    # 13 words of 14 places are taken: of the three pieces only the first is left.
    text = "no " * 13 + "hydropneumothorax effusion"
    assert tokenizer.pieces(text)[-2] == "hydro"
    assert spelt(tokenizer, text, "hydropneumothorax") is None
    assert spelt(tokenizer, text, "effusion") is None
    assert spelt(tokenizer, text, "no no") == ["no", "no"]


def test_a_span_without_tokens_is_none(tokenizer):
    offsets = tokenizer.offsets("no  effusion")
    assert token_span(offsets, 2, 4) is None  # white space
    assert token_span(offsets, 5, 5) is None
    assert token_span(offsets, 5, 4) is None
    assert token_span(tokenizer.offsets(""), 0, 1) is None
    assert token_span([], 0, 1) is None


def test_part_of_a_token_counts_as_the_token():
    assert token_span([(0, 0), (0, 5), (5, 9), (0, 0)], 4, 6) == (1, 3)
    assert token_span([(0, 0), (0, 5), (5, 9), (0, 0)], 0, 5) == (1, 2)
    assert token_span([(0, 0), (0, 5), (5, 9), (0, 0)], 5, 9) == (2, 3)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_spans_of_whole_words_read_back(data):
    tokenizer = train_wordpiece(TEXTS, vocabulary=600, max_tokens=64)
    drawn = data.draw(
        st.lists(st.sampled_from(["No", "hydropneumothorax", "Effusion", "É", "xq"]), min_size=1,
                 max_size=8)
    )  # fmt: skip
    text = " ".join(drawn)
    first = data.draw(st.integers(0, len(drawn) - 1))
    last = data.draw(st.integers(first + 1, len(drawn)))
    start = len(" ".join([*drawn[:first], ""]))
    end = start + len(" ".join(drawn[first:last]))
    span = token_span(tokenizer.offsets(text), start, end)
    assert span is not None
    alone = tokenizer.pieces(text[start:end])[1:-1]
    assert tokenizer.pieces(text)[slice(*span)] == alone
