from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from downstream.config import Where
from downstream.selection import frequent_labels, select, truth_table
from medvlp.types import Finding, Sample


def sample(key: str, *said: tuple[str, str], labels: tuple[str, ...] = ()) -> Sample:
    findings = tuple(Finding(concept, concept, polarity) for concept, polarity in said)  # type: ignore[arg-type]
    return Sample(
        key=key, patient=key, study=key, split="test", kind="image", modality="CR",
        findings=findings, labels=labels,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("said", "present", "known"),
    [
        (["present"], True, True),
        (["absent"], False, True),
        (["uncertain"], False, False),
        (["absent", "present"], True, True),  # "no nodule on the right. nodule on the left."
        (["uncertain", "present"], True, True),
        (["absent", "uncertain"], False, False),
        ([], False, True),
    ],
)
def test_present_beats_uncertain_beats_absent(said: list[str], present: bool, known: bool) -> None:
    rows = [sample("a", *(("nodule", polarity) for polarity in said))]
    truth = truth_table(rows, ["nodule"], source="findings", unmentioned="absent")
    assert truth.present[0, 0] == present
    assert truth.known[0, 0] == known


@pytest.mark.parametrize(
    ("said", "state"),
    [
        ([("nodule", "present"), ("mass", "absent")], "absent"),
        ([("nodule", "uncertain"), ("mass", "absent")], "unknown"),
        ([("nodule", "absent"), ("mass", "absent")], "present"),
        ([], "unknown"),
    ],
)
def test_a_text_is_normal_if_it_only_denies(said: list[tuple[str, str]], state: str) -> None:
    truth = truth_table([sample("a", *said)], ["normal"], source="findings", unmentioned="ignore")
    assert truth.known[0, 0] == (state != "unknown")
    assert truth.present[0, 0] == (state == "present")


def test_samples_without_gold_labels_have_no_gold_truth() -> None:
    rows = [sample("a", labels=("normal",)), sample("b", ("nodule", "present"))]
    truth = truth_table(rows, ["nodule"], source="labels", unmentioned="absent")
    assert [s.key for s in truth.samples] == ["a"]
    assert not np.any(truth.present)


def test_phases_are_no_findings_and_a_label_of_all_samples_is_none() -> None:
    rows = [
        sample("a", labels=("nodule", "normal", "phase:one")),
        sample("b", labels=("normal", "out_of_body", "phase:one")),
    ]
    assert frequent_labels(rows, source="labels", at_least=1) == ("nodule",)


def test_where_restricts_by_kind_source_and_modality(hospital: Any) -> None:
    def keys(**where: Any) -> set[str]:
        return {s.key for s in select(hospital, Where.model_validate(where), "test")}

    assert keys(kinds=["image"]) | keys(kinds=["volume"]) | keys(kinds=["clip"]) == keys()
    assert keys(provenance=["phantom_ct"]) == keys(modality=["CT"]) == keys(kinds=["volume"])
    assert keys(provenance=["phantom"]) == set()
    assert list(keys(provenance=["nowhere"])) == []


@pytest.mark.parametrize(
    ("first", "second", "nodule", "normal"),
    [
        (("nodule",), ("mass",), True, False),
        (("normal",), ("nodule",), True, False),
        (("normal",), ("normal",), False, True),
    ],
)
def test_a_study_shows_what_any_of_its_samples_shows(
    first: tuple[str, ...], second: tuple[str, ...], nodule: bool, normal: bool
) -> None:
    rows = [
        replace(sample(key, labels=own), study="s") for key, own in (("a", first), ("b", second))
    ]
    rows.append(sample("c", labels=("normal",)))
    truth = truth_table(
        rows, ["nodule", "normal"], source="labels", unmentioned="absent", unit="study"
    )
    assert [[s.key for s in case] for case in truth.cases] == [["a", "b"], ["c"]]
    assert truth.present[0].tolist() == [nodule, normal]


def test_doubt_in_one_sample_of_a_study_is_doubt() -> None:
    rows = [sample("a", ("nodule", "absent")), sample("b", ("nodule", "uncertain"))]
    rows = [replace(row, study="s") for row in rows]
    truth = truth_table(rows, ["nodule"], source="findings", unmentioned="absent", unit="study")
    assert not truth.known[0, 0]
