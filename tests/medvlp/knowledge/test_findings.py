from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medvlp.errors import ConfigError
from medvlp.knowledge.concepts import load_concepts
from medvlp.knowledge.findings import FindingReader, extract_findings, report_findings
from medvlp.knowledge.rules import Rules, load_rules
from medvlp.types import Finding, Report, Sentence

LINES = (Path(__file__).parent / "polarity.txt").read_text().splitlines()
CASES = [line for line in LINES if line and not line.startswith("#")]
SIGNS = {"+": "present", "-": "absent", "?": "uncertain"}
SIDES = {"L": "left", "R": "right", "B": "bilateral"}


def expectation(text: str) -> tuple[str, str | None, str | None]:
    match = re.fullmatch(r"(\w+?)(?: (none)|([+\-?])([LRB])?)", text)
    assert match, text
    return match[1], SIGNS.get(match[3] or ""), SIDES.get(match[4] or "")


@pytest.mark.parametrize("case", CASES)
def test_polarity_and_side_of_a_sentence(case: str) -> None:
    sentence, _, rest = case.partition(" | ")
    expected = rest.split(", ")
    found = {f.concept: f for f in extract_findings(sentence)}
    for concept, polarity, side in map(expectation, expected):
        assert concept in load_concepts()
        if polarity is None:
            assert concept not in found
        else:
            assert concept in found
            assert found[concept].polarity == polarity
            if side:
                assert found[concept].side == side


def one(text: str) -> Finding:
    (finding,) = extract_findings(text)
    return finding


@pytest.mark.parametrize(
    ("text", "anatomy", "severity"),
    [
        ("Small nodule in the right upper lobe.", "upper_lobe", "small"),
        ("Severe left basilar atelectasis.", "base", "severe"),
        ("The effusion is large.", None, "large"),
        ("RLL pneumonia.", "lower_lobe", None),
        ("Mild to moderate edema.", None, "moderate"),
        ("Tiny apical pneumothorax.", "apex", "tiny"),
        ("Heart size is mildly enlarged.", None, "mild"),
    ],
)
def test_anatomy_and_severity(text: str, anatomy: str | None, severity: str | None) -> None:
    finding = one(text)
    assert (finding.anatomy, finding.severity) == (anatomy, severity)


def test_certainty_follows_the_words() -> None:
    assert one("Pneumonia.").certainty == 1.0
    assert one("Possible pneumonia.").certainty == 0.5
    assert one("Probable pneumonia.").certainty == 0.7
    assert one("No definite effusion.").certainty == 0.8
    assert one("No large effusion.").certainty == 0.8


def test_the_span_is_the_mention() -> None:
    text = "Clear. There is a small left PLEURAL  effusion, unchanged."
    finding = extract_findings(text)[-1]
    assert text[finding.start : finding.end] == "PLEURAL  effusion"
    assert finding.name == "pleural effusion"


def test_a_side_means_nothing_where_the_concept_has_none() -> None:
    assert one("Cardiomegaly, left more than right.").side is None
    assert one("The trachea is midline.").side is None


@pytest.mark.parametrize("name", list(load_concepts()))
def test_every_synonym_is_found_as_its_concept(name: str) -> None:
    concept = load_concepts()[name]
    for phrase in concept.phrases if name != "normal" else ():
        found = {(f.concept, f.polarity) for f in extract_findings(f"There is {phrase} today.")}
        assert (name, "present") in found, phrase
        assert not {f.concept for f in extract_findings(f"No {phrase}.") if f.polarity != "absent"}


PIECES = st.lists(
    st.sampled_from(
        ["no", "pleural effusion", ",", "and", "the heart is enlarged", ".", "left", "may be",
         "pneumonia", "is not seen", "but", ";", ":", "normal", "lungs", "are clear", "?", "(", ")",
         "XXXX", "1.5 cm", "\n", "versus", "é", "history of", "bilateral", "with", "or", "-"]
    ),
    max_size=20,
).map(" ".join)  # fmt: skip


@given(PIECES)
def test_any_text_gives_valid_findings_with_exact_spans(text: str) -> None:
    concepts = load_concepts()
    for finding in extract_findings(text):
        assert finding.concept in concepts
        assert finding.name == concepts[finding.concept].name
        assert 0 <= finding.start < finding.end <= len(text)
        mention = text[finding.start : finding.end]
        assert mention == mention.strip()
        assert 0 < finding.certainty <= 1


@given(PIECES, PIECES)
def test_a_sentence_does_not_hear_its_neighbours(one_text: str, other: str) -> None:
    first = extract_findings(one_text)
    both = extract_findings(f"{one_text}\n\n{other}")
    assert both[: len(first)] == first


def test_case_spacing_and_line_breaks_do_not_matter() -> None:
    plain = extract_findings("No left pleural effusion or pneumothorax.")
    odd = extract_findings("NO LEFT PLEURAL\neffusion or Pneumothorax.")
    assert [(f.concept, f.polarity, f.side) for f in plain] == [
        (f.concept, f.polarity, f.side) for f in odd
    ]


def test_other_sections_state_nothing_of_this_examination() -> None:
    text = "Rule out. Pneumonia last year. Clear."
    sections = {"indication": (0, 9), "comparison": (10, 30), "findings": (31, 37)}
    sentences = (
        Sentence("Pneumonia last year.", 10, 30, "comparison"),
        Sentence("No effusion.", 31, 37, "findings"),
    )
    report = Report(text, sections, sentences)
    assert {f.concept for f in report_findings(report)} == {"pleural_effusion"}
    alone = Report(text, {"comparison": (10, 30)}, sentences[:1])
    assert {f.concept for f in report_findings(alone)} == {"pneumonia"}


def test_a_rule_book_with_a_mistake_is_refused() -> None:
    tree = dict(load_rules().tree)
    tree["groups"] = [{"phrases": ["x"], "denies": ["no_such_concept"]}]
    with pytest.raises(ConfigError, match="unknown concept"):
        FindingReader(load_concepts(), Rules(tree))
    del tree["pseudo"]
    with pytest.raises(ConfigError, match="lacks a key"):
        FindingReader(load_concepts(), Rules(tree))
    # YAML reads a bare `no` as false.
    tree = dict(load_rules().tree) | {"pseudo": [False]}
    with pytest.raises(ConfigError, match="no text"):
        FindingReader(load_concepts(), Rules(tree))
