from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_connectors.deid.clean import Cleaner
from data_connectors.deid.codes import REMOVED, clean_code, has_check_digit
from data_connectors.deid.judging import keeps_uid, plain_number, spells_text
from data_connectors.deid.vocabulary import coded_concepts, is_safe, is_safe_code, known_words


@pytest.mark.parametrize(
    "text",
    ["SIEMENS", "GE MEDICAL SYSTEMS", "LightSpeed Ultra", "syngo MR B17", "B30f", "HU",
     "*tfl3d1_ns", "DISCOVERY MR750", "T2w", "Abdomen/Pelvis", "1.3.46", "3.0 mm", ""],
)  # fmt: skip
def test_technical_texts_are_safe(text):
    assert is_safe(text)


@pytest.mark.parametrize(
    "text",
    ["Quillon", "DOE JANE", "MRN0042", "2004 01 19", "19630412", "555 123 4567", "Zürmühl",
     "王小東", "Room of Dr. Mabuse", "CANARY0001", "word " * 20, "jane@example.org"],
)  # fmt: skip
def test_identifiers_are_not(text):
    assert not is_safe(text)


@pytest.mark.parametrize("code", ["ORIGINAL", "CT_SOM5 SPI", "MONOCHROME2", "HFS", "YBR_FULL_422"])
def test_code_strings_of_the_standard_are_safe(code):
    assert is_safe_code(code)


@pytest.mark.parametrize("code", ["CANARY", "SMITH", "MRN77123", "Q" * 17, "ÄRZTE"])
def test_other_code_strings_are_not(code):
    assert not is_safe_code(code)


def test_eponyms_are_no_known_words():
    words = known_words()
    assert not words & {"hodgkin", "parkinson", "smith", "wilson", "graves", "canary", "jane"}
    assert {"lung", "axial", "contrast", "siemens", "monochrome"} <= words


def test_concepts_of_the_dictionary_keep_their_meaning():
    for scheme, value, meaning in coded_concepts()[::97]:
        kept = clean_code(value, scheme, meaning)
        assert kept[:2] == (value, scheme)
        assert (scheme, value, kept[2]) in coded_concepts()  # some have two
    kept = clean_code("T-A0100", "SRT", "The brain of Jane Quillon")
    assert kept[:2] == ("T-A0100", "SRT")
    assert kept[2].startswith("Brain")
    assert "Jane" not in kept[2]


@pytest.mark.parametrize(
    "code",
    [("JANE", "99LOCAL", "CT of Jane"), ("77123", "99LOCAL", "Quillon"), ("12345", "SCT", "Brain"),
     ("77123444", "FMA", "Quillon")],
)  # fmt: skip
def test_other_concepts_do_not_stay(code):
    assert clean_code(*code) == REMOVED


def test_local_concepts_of_known_words_stay():
    assert clean_code("CTABD", "99X", "CT Abdomen") == REMOVED
    assert clean_code("CT 01", "99X", "CT Abdomen") == ("CT 01", "99X", "CT Abdomen")


@given(st.integers(100_000, 10**12))
def test_one_check_digit_in_ten_fits(number):
    assert sum(has_check_digit(f"{number}{digit}") for digit in range(10)) == 1


@pytest.mark.parametrize(
    ("keyword", "text", "kept"),
    [("InstanceNumber", "42", "42"), ("InstanceNumber", "77123444", "0"),
     ("SliceThickness", "0.48828125", "0.48828125"), ("SliceThickness", "Quillon", "0"),
     ("RadionuclideTotalDose", "372345678", "372346000"), ("KVP", "-1.5e3", "-1.5e3"),
     ("SeriesNumber", "000042", "000042"), ("SeriesNumber", "999999", "999999")],
)  # fmt: skip
def test_numbers_that_could_be_record_numbers_do_not_stay(keyword, text, kept):
    assert plain_number(keyword, text) == kept


def test_letters_in_binary_numbers_are_seen():
    import struct

    assert spells_text("FD", struct.unpack("<2d", b"Quillon, Jane   "))
    assert spells_text("US", struct.unpack("<4H", b"Quillon "))
    for numbers in ((0.0,), (0.5, 120.0), (1e-9,), (3.14159,) * 4, (0.0061599999666213994,)):
        assert not spells_text("FD", numbers)
    assert not spells_text("US", (512, 512, 4095, 0))


def test_only_registered_uids_stay():
    assert keeps_uid("1.2.840.10008.5.1.4.1.1.2")
    assert not keeps_uid("1.2.840.10008.5.1.4.1.1.2.999")
    assert not keeps_uid("1.2.840.113619.2.5")


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("CT Thorax with contrast", "CT Thorax with contrast"),
        ("CT Thorax Jane Doe 12.04.1963", "CT Thorax the person a date"),
        ("T2w_tse 5.0 mm B30f", "T2w_tse 5.0 mm B30f"),
        ("Quillbert knee 20040119 4711", "knee"),
        ("Quillbert 1.2.840.113619.2.1 HEART", "the person"),
        ("", ""),
    ],
)
def test_descriptions_keep_known_words_alone(text, left):
    cleaner = Cleaner(["DOE^JANE", "19630412", "HEART^A"])
    assert cleaner.clean(text) == left
    for word in ("Doe", "Jane", "1963", "Quillbert", "4711", "20040119", "113619"):
        assert word not in cleaner.clean(text)


def test_the_patients_own_name_goes_even_when_it_is_a_medical_word():
    assert "heart" not in Cleaner(["HEART^MARY"]).clean("MR of Heart, Mary: heart").lower()


def test_further_words_are_kept_when_the_config_says_so():
    assert Cleaner([]).clean("Lunge nativ") == "nativ"
    assert Cleaner([], ["lunge"]).clean("Lunge nativ") == "Lunge nativ"
