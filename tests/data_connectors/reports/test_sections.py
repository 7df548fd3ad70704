from __future__ import annotations

import time
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_connectors.reports.sections import HEADINGS, parse_report
from medvlp.errors import InputError
from medvlp.knowledge.findings import report_findings

WHOLE = """INDICATION: Cough. Rule out pneumonia.

TECHNIQUE: PA and lateral views.
COMPARISON: None.

FINDINGS:
HEART: Normal.
LUNGS: There is a 1.5 cm nodule
in the right upper lobe.

IMPRESSION
1. Right upper lobe nodule.
2. No acute disease.
"""


def test_sections_of_a_usual_report() -> None:
    report = parse_report(WHOLE)
    assert list(report.sections) == [
        "indication", "technique", "comparison", "findings", "impression",
    ]  # fmt: skip
    assert report.section("technique") == "PA and lateral views."
    assert report.section(
        "findings",
    ).startswith("HEART: Normal.\nLUNGS:")  # type: ignore[union-attr]
    assert (
        report.section(
            "impression",
        )
        == "1. Right upper lobe nodule.\n2. No acute disease."
    )
    assert [s.text for s in report.sentences if s.section == "impression"] == [
        "Right upper lobe nodule.",
        "No acute disease.",
    ]
    assert "LUNGS: There is a 1.5 cm nodule\nin the right upper lobe." in {
        sentence.text for sentence in report.sentences
    }


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("FINDINGS: Clear. IMPRESSION: Normal.", {"findings": "Clear.", "impression": "Normal."}),
        ("Findings: Clear. Impression: Normal.", {"findings": "Clear.", "impression": "Normal."}),
        ("findings: clear\nimpression: normal", {"findings": "clear", "impression": "normal"}),
        ("FINDINGS\nClear.\nCONCLUSION\nNormal.", {"findings": "Clear.", "impression": "Normal."}),
        ("IMPRESSION: Normal.\nFINDINGS: Clear.", {"impression": "Normal.", "findings": "Clear."}),
        ("Impresion: Normal.", {"impression": "Normal."}),
        ("**FINDINGS:** Clear.", {"findings": "Clear."}),
        ("FINDINGS - Clear.", {"findings": "Clear."}),
        ("REASON FOR EXAM: Cough", {"indication": "Cough"}),
        ("Just words.", {"other": "Just words."}),
        ("Dear all.\nFINDINGS: Clear.", {"other": "Dear all.", "findings": "Clear."}),
        ("FINDINGS:\n\nIMPRESSION: Normal.", {"impression": "Normal."}),
        ("FINDINGS: A.\nADDENDUM: B.", {"findings": "A.", "addendum": "B."}),
        ("FINDINGS: A.\nFINDINGS: B.", {"findings": "A.", "findings_2": "B."}),
        ("FINDINGS: The impression of the heart is normal.",
         {"findings": "The impression of the heart is normal."}),
        ("FINDINGS: Stable.\nHistory of surgery is noted.",
         {"findings": "Stable.\nHistory of surgery is noted."}),
        ("FINDINGS: Lines and\ntechnique\nare fine.",
         {"findings": "Lines and\ntechnique\nare fine."}),
    ],
)  # fmt: skip
def test_headings_in_many_dresses(text: str, expected: dict[str, str]) -> None:
    report = parse_report(text)
    assert {name: report.section(name) for name in report.sections} == expected


@pytest.mark.parametrize(
    ("section", "variant"), [(s, v) for s, variants in HEADINGS.items() for v in variants]
)
def test_every_heading_is_recognised_in_capitals_and_in_title_case(
    section: str, variant: str
) -> None:
    for heading in (variant.upper(), variant.capitalize()):
        report = parse_report(f"FINDINGS: x.\n{heading}: Something.")
        assert report.sentences[-1].text == "Something."
        assert report.sentences[-1].section == section


@pytest.mark.parametrize("text", ["", "  \n ", "...", "\n--\n"])
def test_a_report_without_words_is_refused(text: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_report(text)
    assert caught.value.code == "report-empty"


PIECES = st.lists(
    st.sampled_from(
        ["FINDINGS:", "Impression:", "IMPRESSION", "\n", "\n\n", " ", "No effusion.", "1.5 cm",
         "Dr. Who", "HISTORY -", "- item", "2. ", "é", "COMPARISON: None.", "Lungs: clear", "?"]
    ),
    max_size=25,
).map("".join)  # fmt: skip


@given(PIECES)
def test_offsets_are_exact(text: str) -> None:
    try:
        report = parse_report(text)
    except InputError:
        assert not any(char.isalnum() for char in text)
        return
    assert report.text == text
    last = 0
    for sentence in report.sentences:
        assert text[sentence.start : sentence.end] == sentence.text
        assert last <= sentence.start
        last = sentence.end
        spans = [
            span
            for name, span in report.sections.items()
            if name.partition("_")[0] == sentence.section
        ]
        assert any(a <= sentence.start and sentence.end <= b for a, b in spans)
    edges = sorted(report.sections.values())
    assert all(a < b for a, b in edges)
    assert all(first[1] <= second[0] for first, second in pairwise(edges))


@pytest.mark.parametrize(
    "text",
    [
        "no " * 60_000,
        "no effusion, " * 15_000,
        "1. " * 60_000,
        "\n" * 200_000 + "a",
        "FINDINGS: x. " * 15_000,
        "FINDINGS" + " " * 200_000 + "x",
        "*" * 200_000 + "x",
        "a" * 200_000,
        "effusion is not seen " * 8_000,
    ],
    ids=lambda text: text[:12],
)
def test_hostile_texts_take_no_more_than_linear_time(text: str) -> None:
    start = time.process_time()
    report_findings(parse_report(text))
    assert time.process_time() - start < 20  # with type checks; quadratic would be minutes
