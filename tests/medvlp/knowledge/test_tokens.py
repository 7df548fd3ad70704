from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medvlp.knowledge.tokens import normal, normal_text, text_key, tokenize, words

TEXTS = st.text(alphabet=st.sampled_from("abc XYZ,.;-'\n5.7é(İß"), max_size=60)


@given(TEXTS)
def test_tokens_lie_in_order_and_spell_the_text(text: str) -> None:
    tokens = tokenize(text)
    edges = [edge for pair in zip(tokens.starts, tokens.ends, strict=True) for edge in pair]
    assert edges == sorted(edges)
    for form, start, end in zip(tokens.norms, tokens.starts, tokens.ends, strict=True):
        assert normal(text[start:end]) == form
        assert text[start:end].strip() == text[start:end] != ""


@given(TEXTS)
def test_every_letter_is_in_a_token(text: str) -> None:
    tokens = tokenize(text)
    covered = {i for a, b in zip(tokens.starts, tokens.ends, strict=True) for i in range(a, b)}
    assert all(i in covered for i, char in enumerate(text) if char.isalnum())


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Opacities", "opacity"),
        ("masses", "mass"),
        ("B-lines", "b line"),
        ("ground-glass", "ground glass"),
        ("indexes", "index"),
    ],
)
def test_plurals_case_and_hyphens_do_not_matter_in_phrases(one: str, other: str) -> None:
    assert words(one) == words(other)


@pytest.mark.parametrize("word", ["atelectasis", "thrombus", "mass", "gas"])
def test_words_that_only_look_like_plurals_stay(word: str) -> None:
    assert normal(word) == word


def test_a_decimal_keeps_its_point() -> None:
    assert tokenize("A 1.5 cm nodule").norms == ("a", "1.5", "cm", "nodule")
    assert text_key("1.5 cm nodule") != text_key("15 cm nodule")


def test_same_words_have_the_same_key_whatever_the_dress() -> None:
    assert text_key("No acute disease.") == text_key("2. NO  acute\ndisease")
    assert text_key("No acute disease.") != text_key("Acute disease.")


def test_keys_are_stable_across_machines_and_versions() -> None:
    # Stored datasets compare keys: changing the hash or the normal form is a format change.
    assert text_key("No acute cardiopulmonary abnormality.") == 1519883267200336018


@given(st.text(max_size=30))
def test_keys_fit_a_signed_64_bit_integer(text: str) -> None:
    assert 0 <= text_key(text) < 2**63
    assert normal_text(normal_text(text)) == normal_text(text) or not text.isascii()
