from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest

from data_connectors.phantom.anatomy import LOBES, Anatomy, draw_anatomy, lobe_depth, lung_depth
from data_connectors.phantom.findings import (
    CONCEPTS,
    Planted,
    draw_concepts,
    draw_findings,
    reshape,
)


def lobe_at(body: Anatomy, side: float, z: float, y: float) -> str:
    """The lobe that a point of one lung lies deepest in."""
    height, depth = np.array([z], np.float32), np.array([y], np.float32)
    names = LOBES["left" if side > 0 else "right"]
    return max(names, key=lambda name: float(lobe_depth(body, name, height, depth)[0]))


@pytest.fixture(scope="module")
def drawn() -> list[tuple[str, ...]]:
    return [draw_concepts(np.random.default_rng([1, i])) for i in range(4000)]


@pytest.fixture(scope="module")
def patients() -> list[tuple[object, tuple[Planted, ...]]]:
    people = []
    for i in range(250):
        rng = np.random.default_rng([2, i])
        body = draw_anatomy(rng)
        people.append((body, draw_findings(rng, body)))
    return people


def test_every_concept_has_about_its_prevalence(drawn: list[tuple[str, ...]]) -> None:
    for concept in CONCEPTS:
        share = sum(concept in some for some in drawn) / len(drawn)
        assert 0.2 < share < 0.27


def test_nobody_has_more_than_four_findings_and_some_have_none(
    drawn: list[tuple[str, ...]],
) -> None:
    counts = Counter(len(some) for some in drawn)
    assert set(counts) == {0, 1, 2, 3, 4}
    assert 0.1 < counts[0] / len(drawn) < 0.25


def test_findings_come_together_as_in_life(drawn: list[tuple[str, ...]]) -> None:
    def given(one: str, other: str) -> tuple[float, float]:
        having = [some for some in drawn if other in some]
        lacking = [some for some in drawn if other not in some]
        return (
            sum(one in some for some in having) / len(having),
            sum(one in some for some in lacking) / len(lacking),
        )

    more, less = given("pleural_effusion", "cardiomegaly")
    assert more > 1.4 * less
    less, more = given("cardiomegaly", "emphysema")
    assert less < more


def test_both_sides_and_all_lobes_are_about_equally_frequent(
    patients: list[tuple[object, tuple[Planted, ...]]],
) -> None:
    sides, lobes = Counter[str](), Counter[str]()
    for _, findings in patients:
        for finding in findings:
            sides[finding.side] += 1
            if finding.lobe:
                lobes[finding.lobe] += 1
    assert 0.8 < sides["left"] / sides["right"] < 1.25
    assert len(lobes) == 5
    assert min(lobes.values()) > 0.1 * sum(lobes.values())


def test_lesions_lie_in_the_lung_and_the_lobe_that_the_truth_names(
    patients: list[tuple[object, tuple[Planted, ...]]],
) -> None:
    seen = 0
    for body, findings in patients:
        shaped = reshape(body, findings)  # type: ignore[arg-type]
        for finding in findings:
            if finding.concept not in ("nodule", "mass"):
                continue
            assert finding.centre_mm is not None
            z, y, x = (np.float32([value]) for value in finding.centre_mm)
            sign = 1.0 if finding.side == "left" else -1.0
            assert float(lung_depth(shaped, sign, z, y, x)[0]) > 2
            assert lobe_at(shaped, sign, float(z[0]), float(y[0])) == finding.lobe
            seen += 1
    assert seen > 60


def test_severity_is_the_word_for_the_grade(
    patients: list[tuple[object, tuple[Planted, ...]]],
) -> None:
    for _, findings in patients:
        for finding in findings:
            words = {"small": 0, "mild": 0, "moderate": 1, "large": 2, "severe": 2}
            assert words[finding.severity] == min(int(finding.grade * 3), 2)


def test_a_nodule_is_seldom_hidden_by_a_larger_lesion_in_the_radiograph(
    patients: list[tuple[object, tuple[Planted, ...]]],
) -> None:
    hidden = pairs = 0
    for _, findings in patients:
        by_concept = {finding.concept: finding for finding in findings}
        nodule = by_concept.get("nodule")
        for concept in ("mass", "consolidation", "atelectasis"):
            other = by_concept.get(concept)
            if nodule is None or other is None:
                continue
            assert nodule.centre_mm is not None
            assert other.centre_mm is not None
            assert other.size_mm is not None
            (z, _, x), (oz, _, ox) = nodule.centre_mm, other.centre_mm
            pairs += 1
            hidden += math.hypot(z - oz, x - ox) < other.size_mm / 2
    assert pairs > 20
    assert hidden < 0.1 * pairs
