from __future__ import annotations

import base64
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_connectors.phantom.grammar import Written
from data_connectors.phantom.identity import draw_person
from data_connectors.phantom.report_files import escape_hl7, fhir_resource, hl7_message


def unescape(text: str) -> str:
    """An independent reading of HL7 v2 chapter 2.7."""
    marks = {"F": "|", "S": "^", "T": "&", "R": "~", "E": "\\", ".br": "\n"}
    return re.sub(r"\\([^\\]*)\\", lambda match: marks[match[1]], text)


@pytest.fixture(scope="module")
def truth(hospital: Path) -> list[dict[str, Any]]:
    table = pq.read_table(hospital / "truth.parquet").to_pylist()
    return [row for row in table if row["kind"] == "patient"]


@given(st.text(st.characters(codec="utf-8", exclude_characters="\r")))
def test_hl7_escapes_are_reversible_and_leave_no_delimiter(text: str) -> None:
    escaped = escape_hl7(text)
    assert unescape(escaped) == text
    assert not set("|^&~\n") & set(escaped)


def test_the_three_formats_hold_the_same_report(
    hospital: Path, truth: list[dict[str, Any]]
) -> None:
    for row in truth:
        name = row["accession"]
        plain = (hospital / f"reports/text/{name}.txt").read_text("utf-8")
        header, _, body = plain.partition("\n\n")
        assert body == row["report"] + "\n"
        assert f"Patient ID: {row['patient_id']}" in header.splitlines()
        assert f"Accession: {name}" in header.splitlines()
        message = (hospital / f"reports/hl7/{name}.hl7").read_bytes().decode("utf-8")
        segments = [line.split("|") for line in message.split("\r") if line]
        observations = [unescape(s[5]) for s in segments if s[0] == "OBX"]
        assert "\n\n".join(observations) == row["report"]
        resource = json.loads((hospital / f"reports/fhir/{name}.json").read_text("utf-8"))
        attached = base64.b64decode(resource["presentedForm"][0]["data"])
        assert attached.decode("utf-8") == row["report"]


def test_hl7_fields_are_in_their_places(hospital: Path, truth: list[dict[str, Any]]) -> None:
    for row in truth:
        data = (hospital / f"reports/hl7/{row['accession']}.hl7").read_bytes()
        assert data.endswith(b"\r")
        assert b"\n" not in data
        segments = {line.split("|")[0]: line.split("|") for line in data.decode().split("\r")}
        assert segments["MSH"][8] == "ORU^R01^ORU_R01"
        assert segments["MSH"][11] == "2.5.1"  # MSH-12: the separator itself is MSH-1
        assert segments["MSH"][17] == "UNICODE UTF-8"
        assert segments["PID"][3].split("^")[0] == row["patient_id"]
        assert segments["PID"][5].split("^")[::-1] == row["name"].split()
        assert segments["PID"][7] == row["birth_date"].replace("-", "")
        assert segments["OBR"][3].split("^")[0] == row["accession"]
        assert segments["OBR"][25] == segments["OBX"][11] == "F"


def test_fhir_attachment_carries_size_and_hash() -> None:
    person = draw_person(np.random.default_rng(0), "patient", 4)
    report = Written("None.", "Nothing & no one.", "Normal é.", ())
    resource = fhir_resource(person, report)
    form = resource["presentedForm"][0]
    data = base64.b64decode(form["data"])
    assert form["size"] == len(data) == len(report.text.encode("utf-8"))
    assert base64.b64decode(form["hash"]) == hashlib.sha1(data).digest()
    assert resource["conclusion"] == "Normal é."
    assert resource["contained"][0]["birthDate"] == person.birth.isoformat()
    assert resource["subject"]["reference"] == "#" + resource["contained"][0]["id"]


def test_long_texts_come_in_one_field_or_in_paragraphs() -> None:
    person = draw_person(np.random.default_rng(0), "patient", 4)
    report = Written("None.", "A ~ b | c ^ d & e \\ f.", "1. X.\n2. Y.", ())
    for one_field, count in ((True, 1), (False, 3)):
        message = hl7_message(person, report, one_field=one_field)
        lines = [line for line in message.split("\r") if line.startswith("OBX")]
        assert len(lines) == count
        assert "\n\n".join(unescape(line.split("|")[5]) for line in lines) == report.text
