"""One report as text, as HL7 and as FHIR: the same words, the same person, the same findings."""

from __future__ import annotations

import pytest

from data_connectors.phantom import report_files
from data_connectors.phantom.anatomy import draw_anatomy
from data_connectors.phantom.findings import CONCEPTS, draw_findings
from data_connectors.phantom.grammar import Written, write_report
from data_connectors.phantom.identity import Person, draw_person
from data_connectors.phantom.seeds import stream
from data_connectors.reports.fhir import read_resources
from data_connectors.reports.hl7 import read_messages
from data_connectors.reports.plain import Raw, read_plain
from data_connectors.reports.sections import parse_report
from data_connectors.reports.source import HEADER_PATTERNS
from medvlp.knowledge.findings import extract_findings, report_findings

SEED = 20


def case(index: int) -> tuple[Person, Written]:
    person = draw_person(stream(SEED, "patient", index, "identity"), "patient", index)
    anatomy = draw_anatomy(stream(SEED, "patient", index, "anatomy"))
    findings = draw_findings(stream(SEED, "patient", index, "findings"), anatomy)
    return person, write_report(stream(SEED, "patient", index, "report"), findings, person)


def only(found: object) -> Raw:
    (raw,) = found  # type: ignore[misc, attr-defined]
    assert isinstance(raw, Raw)
    return raw


@pytest.mark.parametrize("index", range(12))
def test_every_format_says_the_same(index: int) -> None:
    person, written = case(index)
    forms = [
        read_plain(report_files.plain_text(person, written), HEADER_PATTERNS),
        only(read_messages(report_files.hl7_message(person, written, one_field=True).encode())),
        only(read_messages(report_files.hl7_message(person, written, one_field=False).encode())),
        only(read_resources(report_files.fhir_text(person, written))),
    ]
    stated = []
    for raw in forms:
        assert (raw.patient, raw.accession) == (person.patient_id, person.accession)
        assert any(person.family in text for text in raw.phi)
        assert any(person.referring in text for text in raw.phi)
        report = parse_report(raw.text)
        assert set(report.sections) == {"comparison", "findings", "impression"}
        stated.append([(f.concept, f.polarity, f.side) for f in report_findings(report)])
    assert all(findings == stated[0] for findings in stated)
    assert stated[0]


def test_findings_agree_with_what_the_phantom_meant() -> None:
    right = wrong = 0
    for index in range(150):
        for statement in case(index)[1].statements:
            found = {
                (f.concept, f.polarity, f.side)
                for f in extract_findings(statement.text)
                if f.concept in CONCEPTS
            }
            meant = {
                (concept, statement.polarity, None if concept == "cardiomegaly" else statement.side)
                for concept in statement.concepts
            }
            if statement.concepts:
                right += found == meant
                wrong += found != meant
            else:
                assert not [f for f in found if f[1] == "present"], statement.text
    assert right > 700
    assert wrong / (right + wrong) < 0.01
