from __future__ import annotations

import pytest

from data_connectors.ingest.linking import link
from data_connectors.ingest.records import Stored
from data_connectors.items import Identity, Payload, ReportItem, Span, VisualItem
from medvlp.types import Geometry, Report, Sentence

BY = ("accession", "study", "patient")


def visual(patient="P1", study="", accession="", spans=()):
    item = VisualItem(
        Identity(patient, study, accession), "image", "DX", Payload(()), Geometry(), ("a",), "d",
        spans=spans,
    )  # fmt: skip
    return Stored(item, "key", 0, 0, ())


def report(patient="P1", study="", accession=""):
    text = "No effusion."
    body = Report(text, {}, (Sentence(text, 0, len(text), ""),))
    return ReportItem(Identity(patient, study, accession), body, ("r",))


@pytest.mark.parametrize(
    ("visuals", "one", "outcome", "chosen"),
    [
        ([visual(accession="A1"), visual(accession="A2")], report(accession="A2"),
         "accession", [1]),
        ([visual(study="1.2"), visual(study="1.3")], report(study="1.3"), "study", [1]),
        ([visual(study="1.2"), visual(study="1.2")], report(study="1.2"), "study", [0, 1]),
        ([visual(study="1.2", accession="A9")], report(study="1.2", accession="A1"), "study", [0]),
        ([visual(study="1.2"), visual(study="1.2")], report(), "patient", [0, 1]),
        ([visual("p1 ")], report("P1"), "patient", [0]),
        ([visual(study="1.2"), visual(study="1.3")], report(), "ambiguous", []),
        ([visual(study="1.2")], report(study="1.9"), "ambiguous", []),
        ([visual("P1", accession="A1"), visual("P2", accession="A1")], report(accession="A1"),
         "ambiguous", []),
        ([visual("P2", accession="A1")], report("P1", accession="A1"), "patient-differs", []),
        ([visual("P2")], report("P1"), "none", []),
        ([], report(), "none", []),
        ([visual(accession="A1", spans=(Span("phase", 0, 1, ()),))], report(accession="A1"),
         "none", []),
    ],
)  # fmt: skip
def test_a_report_is_linked_by_what_both_carry(visuals, one, outcome, chosen):
    links = link(visuals, [one], BY)
    assert links.outcome == (outcome,)
    assert sorted(links.of_visual) == chosen
    assert all(numbers == (0,) for numbers in links.of_visual.values())


def test_two_reports_of_a_patient_are_not_linked_by_the_patient_alone():
    links = link([visual()], [report(), report()], BY)
    assert links.outcome == ("ambiguous", "ambiguous")
    assert links.of_visual == {}


def test_an_addendum_joins_the_report_of_the_same_study():
    links = link([visual(accession="A1")], [report(accession="A1"), report(accession="A1")], BY)
    assert links.of_visual == {0: (0, 1)}
    assert links.counts == {"accession": 2}


def test_only_the_rules_asked_for_are_tried():
    assert link([visual(study="1.2")], [report(study="1.2")], ("accession",)).outcome == ("none",)
    assert link([visual()], [report()], ("accession", "study")).outcome == ("none",)
