from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from data_connectors.phantom.findings import CONCEPTS, Planted
from data_connectors.phantom.grammar import Written, expand, write_report
from data_connectors.phantom.identity import Person, draw_person

WORDS = {
    "nodule": r"nodul",
    "mass": r"\bmass\b",
    "consolidation": r"consolidation",
    "pleural_effusion": r"effusion",
    "pneumothorax": r"pneumothorax",
    "cardiomegaly": r"cardiomegaly|heart|cardiac (silhouette|enlargement)",
    "atelectasis": r"atelectasis",
    "emphysema": r"emphysem",
}
NEGATED = re.compile(r"\b(no|not|neither|negative|free of|without|resolution|normal)\b", re.I)


def finding(concept: str, *, side: str = "left", grade: float = 0.5) -> Planted:
    lobed = concept in ("nodule", "mass", "consolidation", "atelectasis")
    sized = {"nodule": 20.0, "mass": 41.0}.get(concept)
    kinds = ("nodule", "mass", "pleural_effusion", "pneumothorax")
    words = ("small", "moderate", "large") if concept in kinds else ("mild", "moderate", "severe")
    return Planted(
        concept=concept,
        side="midline" if concept == "cardiomegaly" else side,  # type: ignore[arg-type]
        lobe=f"{side} lower lobe" if lobed else None,
        severity=words[min(int(grade * 3), 2)],
        grade=grade,
        centre_mm=None,
        size_mm=sized,
        shape_seed=0,
    )


def person() -> Person:
    return draw_person(np.random.default_rng(3), "patient", 0)


def reports(findings: tuple[Planted, ...], count: int = 40) -> list[Written]:
    return [write_report(np.random.default_rng(i), findings, person()) for i in range(count)]


@pytest.mark.parametrize("concept", CONCEPTS)
@pytest.mark.parametrize("side", ["left", "right"])
def test_what_is_present_is_stated_with_its_side_and_never_denied(concept: str, side: str) -> None:
    for report in reports((finding(concept, side=side),)):
        said = [s for s in report.statements if concept in s.concepts and s.side in (side, None)]
        said = [s for s in said if s.polarity == "present"]
        assert len(said) == 1
        text = said[0].text
        assert re.search(WORDS[concept], text, re.I)
        assert not NEGATED.search(text)
        if concept != "cardiomegaly":
            assert side in text.lower()
            assert {"left": "right", "right": "left"}[side] not in text.lower()
        if concept in ("nodule", "mass", "consolidation", "atelectasis"):
            assert f"{side} lower lobe" in text.lower()
        assert re.search(WORDS[concept], report.impression, re.I)


def test_what_is_absent_is_denied_or_left_out_about_a_quarter_of_the_time() -> None:
    silent = total = 0
    for report in reports((), 150):
        for concept in CONCEPTS:
            total += 1
            said = [s for s in report.statements if concept in s.concepts]
            silent += not said
            for statement in said:
                assert statement.polarity == "absent"
                assert NEGATED.search(statement.text)
                assert re.search(WORDS[concept], statement.text, re.I)
    assert 0.2 < silent / total < 0.3


def test_only_small_findings_are_uncertain() -> None:
    small = reports((finding("nodule", grade=0.1),), 100)
    large = reports((finding("nodule", grade=0.9),), 100)
    unsure = sum(s.polarity == "uncertain" for r in small for s in r.statements)
    assert 20 < unsure < 60
    assert not any(s.polarity == "uncertain" for r in large for s in r.statements)
    for report in small:
        for statement in report.statements:
            if statement.polarity == "uncertain":
                assert re.search(r"may|possible|questionable|cannot", statement.text, re.I)


def test_sentences_vary() -> None:
    texts = {s.text for r in reports((finding("pneumothorax"),), 60) for s in r.statements
             if s.polarity == "present"}  # fmt: skip
    assert len(texts) > 15


def test_sizes_in_the_text_are_the_true_ones() -> None:
    seen = 0
    for report in reports((finding("nodule"), finding("mass", side="right"))):
        for number in re.findall(r"([\d.]+) mm", report.text):
            assert number == "20"
            seen += 1
        for number in re.findall(r"([\d.]+) cm", report.text):
            assert number == "4.1"
            seen += 1
    assert seen > 10


@pytest.mark.parametrize(("more", "word"), [(1, "two"), (2, "three"), (3, "four")])
def test_several_nodules_are_counted(more: int, word: str) -> None:
    several = replace(finding("nodule"), more_mm=((0.0, 0.0, 0.0),) * more)
    for report in reports((several,)):
        said = next(s for s in report.statements if s.concepts == ("nodule",))
        assert re.search(rf"\b{word}\b.*nodules", said.text, re.I)
        assert said.polarity == "present"


def test_sections_hold_the_statements_and_some_reports_name_the_patient() -> None:
    written = reports((finding("mass"),), 100)
    for report in written:
        assert all(s.text in report.findings for s in report.statements)
        assert report.text.index("COMPARISON:") < report.text.index("FINDINGS:")
        assert report.text.index("FINDINGS:") < report.text.index("IMPRESSION:")
        assert not re.search(r"[\[\]{}|]|  ", report.text)
    assert 5 < sum(person().name in r.comparison for r in written) < 40


def test_expand_picks_alternatives_fills_slots_and_minds_the_article() -> None:
    rng = np.random.default_rng(0)
    assert expand("a {size} mm [nodule|nodule]", rng, {"size": "8"}) == "An 8 mm nodule"
    assert expand("seen[, slightly|, slightly] .", rng) == "Seen, slightly."
    assert {expand("[a|b|]x", np.random.default_rng(i)) for i in range(30)} == {"Ax", "Bx", "X"}
    assert expand("a {grade} mass", rng, {"grade": "[ill-defined|ill-defined]"}) == (
        "An ill-defined mass"
    )
