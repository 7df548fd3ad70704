from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_connectors.deid.patterns import fold
from data_connectors.deid.scrub import Scrubber, protected_words
from medvlp.types import Report, Sentence


def scrub(text: str, *phi: str, generic: bool = False) -> str:
    return Scrubber(phi, protected=protected_words(), generic=generic).scrub(text).text


@pytest.mark.parametrize(
    "written",
    [
        "Jane Doe", "Doe, Jane", "DOE, JANE", "doe^jane", "Doe Jane", "DOE^JANE", "Jane  Doe",
        "Jane M. Doe", "Doe, Jane M.", "J. Doe", "Mrs. Doe", "Doe", "JANE", "Doe's",
        "Jane\nDoe", "jane_doe", "Jane-Doe",
    ],
)  # fmt: skip
def test_a_name_is_found_however_it_is_written(written):
    clean = scrub(f"Seen with {written} today. No effusion.", "DOE^JANE^M")
    assert "doe" not in clean.lower()
    assert "jane" not in clean.lower()
    assert clean.endswith("today. No effusion.")
    assert "person" in clean


@pytest.mark.parametrize("word", ["Doering", "hallodoe", "Janet", "undoe"])
def test_a_part_of_a_word_is_no_name(word):
    assert scrub(f"the {word} sign", "DOE^JANE") == f"the {word} sign"


@pytest.mark.parametrize(
    ("phi", "written"),
    [
        ("Müller^Jörg", "Mueller"), ("Müller^Jörg", "MULLER"), ("Müller^Jörg", "Jörg Müller"),
        ("MUELLER^JOERG", "Mueller"), ("Gonzalez^Jose", "José González"),
        ("Yamada^Tarou=山田^太郎=やまだ^たろう", "山田太郎"),
        ("Yamada^Tarou=山田^太郎=やまだ^たろう", "Tarou Yamada"),
    ],
)  # fmt: skip
def test_names_of_other_scripts_and_spellings_are_found(phi, written):
    assert written not in scrub(f"Referred: {written}.", phi)


@pytest.mark.parametrize(
    "written",
    [
        "19630412", "1963-04-12", "12.04.1963", "12/04/1963", "04/12/1963", "4/12/63",
        "12 April 1963", "April 12, 1963", "12th of April 1963", "12-Apr-1963", "APR 12 1963",
        "1963/04/12", "19630412103000",
    ],
)  # fmt: skip
def test_a_date_is_found_in_every_format(written):
    assert scrub(f"Born {written}; stable.", "19630412") == "Born a date; stable."


@pytest.mark.parametrize(
    ("phi", "written"),
    [
        ("MRN-0042-77", "MRN-0042-77"), ("MRN-0042-77", "mrn 0042 77"),
        ("MRN-0042-77", "MRN004277"), ("00004512", "4512"), ("4512", "0004512"),
        ("5551234567", "555-123-4567"), ("555.123.4567", "5551234567"),
        ("PHM-000123", "PHM000123"), ("PHM-045127", "45127"),
        ("1.2.840.113619.2.5.1762583153", "1.2.840.113619.2.5.1762583153"),
        ("12 High Street, Oxford", "12 high street Oxford"),
    ],
)  # fmt: skip
def test_a_number_is_found_with_and_without_signs(phi, written):
    assert scrub(f"id {written}.", phi) == "id a number."


@pytest.mark.parametrize(
    ("phi", "text"),
    [
        ("12", "a 12 mm nodule"), ("045Y", "45 ml"), ("4512", "45120 cells"),
        ("4512", "x4512"), ("4512", "4.5 12"), ("7", "T7 vertebra"),
    ],
)  # fmt: skip
def test_measurements_are_not_numbers_of_the_patient(phi, text):
    assert scrub(text, phi) == text


def test_clinical_words_stay_when_somebody_is_called_so():
    text = "The heart is clear. A mass in the left lung. Small hernia. No edema."
    for name in ("Heart^Clear", "MASS^LEFT", "Small^May", "Lung^No", "Hernia"):
        assert scrub(text, name) == text
    assert "Heart" not in scrub("Mr Clear Heart came. The heart is clear.", "Heart^Clear")
    assert scrub("Clear Heart came. The heart is clear.", "Heart^Clear").endswith(
        "The heart is clear."
    )


def test_a_protected_surname_goes_with_its_title():
    assert scrub("Dr. Heart saw a mass.", "Heart^Anna") == "Dr. the person saw a mass."


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("Dictated by Dr. John Smith.", "Dictated by the person."),
        ("Compared with 2021-03-04.", "Compared with a date."),
        ("On March 3, 2020 stable.", "On a date stable."),
        ("Call (555) 123-4567 now.", "Call a number now."),
        ("Accession #: 12345678 done.", "a number done."),
        ("mail a.b@site.org please", "mail an address please"),
        ("A nodule of 12 x 5 mm at 3/4.", "A nodule of 12 x 5 mm at 3/4."),
        ("Level C3-4, T12, grade 2/6.", "Level C3-4, T12, grade 2/6."),
        ("HU 1200, 1.5 T, ratio 0.45.", "HU 1200, 1.5 T, ratio 0.45."),
    ],
)
def test_what_looks_like_an_identifier_goes_without_being_known(text, clean):
    assert scrub(text, generic=True) == clean


def test_places_move_with_the_text():
    text = "Jane Doe has a nodule. Doe is stable."
    scrubbed = Scrubber(["Doe^Jane"]).scrub(text)
    start, end = text.index("nodule"), text.index("nodule") + 6
    assert scrubbed.text[scrubbed.place(start) : scrubbed.place(end)] == "nodule"
    assert scrubbed.place(len(text)) == len(scrubbed.text)


@given(st.lists(st.sampled_from(["Doe", "Jane", "effusion", "left", ".", " ", "é", "\n"])))
def test_every_place_outside_an_identifier_keeps_its_character(parts):
    text = " ".join(parts)
    scrubbed = Scrubber(["Doe^Jane"]).scrub(text)
    inside = {i for start, end, _ in scrubbed.edits for i in range(start, end)}
    for place, char in enumerate(text):
        if place not in inside:
            assert scrubbed.text[scrubbed.place(place)] == char
    assert "doe" not in scrubbed.text.lower()


@given(st.text())
def test_folding_keeps_the_length(text):
    assert len(fold(text)) == len(text)


def test_a_report_keeps_sections_and_sentences_in_place():
    text = "FINDINGS: Jane Doe has a nodule. IMPRESSION: Doe stable."
    findings, impression = text.index("Jane"), text.index("Doe stable")
    report = Report(
        text,
        {"findings": (findings, 32), "impression": (impression, len(text))},
        (
            Sentence("Jane Doe has a nodule.", findings, 32, "findings"),
            Sentence("Doe stable.", impression, len(text), "impression"),
        ),
    )
    clean, count = Scrubber(["DOE^JANE"]).report(report)
    assert count == 2
    assert clean.section("findings") == "the person has a nodule."
    assert clean.section("impression") == "the person stable."
    for sentence in clean.sentences:
        assert clean.text[sentence.start : sentence.end] == sentence.text
