from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from data_connectors.reports.fhir import read_resources
from data_connectors.reports.plain import Raw
from medvlp.errors import InputError

TEXT = "FINDINGS: Clear.\n\nIMPRESSION: Normal."
PATIENT = {
    "resourceType": "Patient",
    "id": "p",
    "identifier": [
        {"value": "SSN1"},
        {"type": {"coding": [{"code": "MR"}]}, "value": "42"},
    ],
    "name": [{"family": "Canary", "given": ["Jane", "Q"]}],
    "birthDate": "1961-02-03",
    "telecom": [{"value": "555 1234"}],
    "address": [{"line": ["Nest 1"], "text": "Nest 1, Town"}],
}


def report(**more: Any) -> dict[str, Any]:
    return {
        "resourceType": "DiagnosticReport",
        "id": "r",
        "status": "final",
        "subject": {"reference": "#p"},
        "contained": [PATIENT],
        "identifier": [{"type": {"coding": [{"code": "ACSN"}]}, "value": "ACC9"}],
        "imagingStudy": [{"identifier": {"value": "urn:oid:1.2.3"}}],
        "presentedForm": [form(TEXT)],
        **more,
    }


def form(text: str, kind: str = "text/plain", charset: str = "utf-8") -> dict[str, str]:
    data = base64.b64encode(text.encode(charset)).decode()
    return {"contentType": f"{kind}; charset={charset}", "data": data}


def one(tree: Any) -> Raw:
    (raw,) = read_resources(json.dumps(tree))
    assert isinstance(raw, Raw)
    return raw


def test_identity_and_text_of_a_report() -> None:
    raw = one(report())
    assert (raw.patient, raw.accession, raw.study) == ("42", "ACC9", "1.2.3")
    assert raw.text == TEXT
    for identifier in ("Canary^Jane Q", "1961-02-03", "555 1234", "SSN1", "Nest 1"):
        assert identifier in raw.phi


def test_a_bundle_with_the_patient_beside_the_report() -> None:
    patient = {**PATIENT, "id": "77"}
    linked = report(subject={"reference": "Patient/77"}, contained=[])
    tree = {
        "resourceType": "Bundle",
        "entry": [{"resource": patient}, {"resource": linked}, {"resource": None}],
    }
    assert one(tree).patient == "42"
    tree["entry"][0]["fullUrl"] = "urn:uuid:1"
    linked["subject"] = {"reference": "urn:uuid:1"}
    assert one(tree).patient == "42"


def test_newline_delimited_resources() -> None:
    text = "\n".join(json.dumps(report(id=str(number))) for number in range(3))
    assert len(list(read_resources(text))) == 3


def test_a_reference_alone_still_names_the_patient() -> None:
    assert one(report(subject={"reference": "Patient/9"}, contained=[])).patient == "9"
    assert one(report(subject={"identifier": {"value": "8"}}, contained=[])).patient == "8"
    assert one(report(subject={"reference": "#missing"})).patient == ""


def test_character_sets_of_attachments() -> None:
    assert one(report(presentedForm=[form("é", charset="latin-1")])).text == "é"


def test_html_attachments_lose_their_tags() -> None:
    page = form("<div><p>FINDINGS: a &lt; b</p>Clear<b>er</b></div>", kind="text/html")
    assert one(report(presentedForm=[page])).text.split() == ["FINDINGS:", "a", "<", "b", "Clearer"]


def test_without_an_attachment_observations_and_conclusion_count() -> None:
    observation = {"resourceType": "Observation", "id": "o", "valueString": "Clear lungs."}
    raw = one(
        report(
            presentedForm=[],
            contained=[PATIENT, observation],
            result=[{"reference": "#o"}],
            conclusion="Normal.",
        )
    )
    assert raw.text == "FINDINGS: Clear lungs.\n\nIMPRESSION: Normal."


def test_without_anything_else_the_narrative_counts() -> None:
    raw = one(report(presentedForm=[], text={"div": "<div>Clear lungs.</div>"}))
    assert raw.text.strip() == "Clear lungs."


def test_a_withdrawn_report_is_refused() -> None:
    (found,) = read_resources(json.dumps(report(status="entered-in-error")))
    assert isinstance(found, InputError)
    assert found.code == "report-withdrawn"


@pytest.mark.parametrize(
    "text", ["", "{", "[1, 2]", '{"resourceType": "Patient"}', "[" * 100_000, "null"]
)
def test_what_holds_no_report_is_refused(text: str) -> None:
    with pytest.raises(InputError) as caught:
        list(read_resources(text))
    assert caught.value.code == "fhir-broken"


@pytest.mark.parametrize(
    "more",
    [
        {"identifier": "x", "subject": 7, "presentedForm": [None, {}], "imagingStudy": {}},
        {"contained": [{"name": [{"given": [1]}], "id": "p"}], "subject": {"reference": "#p"}},
        {"presentedForm": [{"contentType": "text/plain; charset=nonsense", "data": "QQ=="}]},
        {"result": [{"reference": "#none"}], "text": "plain"},
    ],
)
def test_values_of_the_wrong_type_never_crash(more: dict[str, Any]) -> None:
    (found,) = read_resources(json.dumps(report(**more)))
    # A report that can be used, or an error with its code: never nothing.
    assert isinstance(found, Raw) or found.code.startswith("fhir-")
