r"""The same report as plain text, as an HL7 v2 message and as a FHIR resource.

HL7: ORU^R01 (v2.5.1), segments end with a carriage return, delimiters inside text are escaped
(chapter 2.7), line breaks in formatted text (FT) are `\.br\`. FHIR: DiagnosticReport (R4) with
the patient contained, the impression as `conclusion` and the whole text as base64 `presentedForm`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from typing import Any

from data_connectors.phantom.grammar import Written
from data_connectors.phantom.identity import Person

_ESCAPES = {"\\": "\\E\\", "|": "\\F\\", "^": "\\S\\", "&": "\\T\\", "~": "\\R\\"}


def plain_text(person: Person, report: Written) -> str:
    """Header lines, a blank line, the sections."""
    header = (
        f"Patient ID: {person.patient_id}",
        f"Name: {person.name}",
        f"Accession: {person.accession}",
        f"DOB: {person.birth.isoformat()}",
        f"Exam date: {person.examined.isoformat()}",
        f"Referring: Dr. {person.referring}",
    )
    return "\n".join(header) + "\n\n" + report.text + "\n"


def escape_hl7(text: str) -> str:
    r"""Text as it stands in a field; line breaks become `\.br\`."""
    escaped = re.sub(r"[\\|^&~]", lambda match: _ESCAPES[match[0]], text)
    return escaped.replace("\r\n", "\n").replace("\n", "\\.br\\")


def hl7_message(person: Person, report: Written, *, one_field: bool) -> str:
    """An ORU^R01 message.

    Args:
        person: Whose report it is.
        report: What it says.
        one_field: The whole text in one FT observation; otherwise one TX a paragraph.
    """
    stamp = f"{person.examined:%Y%m%d}{person.clock}"
    order = f"{person.accession}^RIS"
    code = "24627-2^Chest imaging^LN"
    given, family = escape_hl7(person.given), escape_hl7(person.family)
    segments = [
        f"MSH|^~\\&|RIS|PHANTOM|MEDVLP|PHANTOM|{stamp}||ORU^R01^ORU_R01|{person.accession}-1|P"
        "|2.5.1||||||UNICODE UTF-8",
        f"PID|1||{person.patient_id}^^^PHANTOM^MR||{family}^{given}||{person.birth:%Y%m%d}"
        f"|{person.sex}|||||{person.phone}",
        f"PV1|1|O||||||{person.referring}^Dr",
        f"ORC|RE|{order}|{order}",
        f"OBR|1|{order}|{order}|{code}|||{stamp}|||||||||{person.referring}^Dr||||||{stamp}||RAD|F",
    ]
    if one_field:
        segments.append(f"OBX|1|FT|{code}|1|{escape_hl7(report.text)}||||||F")
    else:
        paragraphs = report.text.split("\n\n")
        segments += [
            f"OBX|{number}|TX|{code}|{number}|{escape_hl7(text)}||||||F"
            for number, text in enumerate(paragraphs, 1)
        ]
    return "\r".join(segments) + "\r"


def fhir_resource(person: Person, report: Written) -> dict[str, Any]:
    """A FHIR R4 DiagnosticReport."""
    data = report.text.encode("utf-8")
    moment = f"{person.examined.isoformat()}T{_clock(person.clock)}Z"
    return {
        "resourceType": "DiagnosticReport",
        "id": hashlib.sha256(person.accession.encode()).hexdigest()[:16],
        "contained": [
            {
                "resourceType": "Patient",
                "id": "patient",
                "identifier": [{"system": "urn:oid:2.25.1", "value": person.patient_id}],
                "name": [{"family": person.family, "given": [person.given]}],
                "telecom": [{"system": "phone", "value": person.phone}],
                "gender": {"F": "female", "M": "male"}[person.sex],
                "birthDate": person.birth.isoformat(),
            }
        ],
        "identifier": [
            {
                "type": {
                    "coding": [
                        {
                            "system": "http://terminology.hl7.org/CodeSystem/v2-0203",
                            "code": "ACSN",
                        }
                    ]
                },
                "value": person.accession,
            }
        ],
        "status": "final",
        "category": [
            {
                "coding": [
                    {"system": "http://terminology.hl7.org/CodeSystem/v2-0074", "code": "RAD"}
                ]
            }
        ],
        "code": {"coding": [{"system": "http://loinc.org", "code": "24627-2"}],
                 "text": "Chest imaging"},
        "subject": {"reference": "#patient", "display": person.name},
        "effectiveDateTime": moment,
        "issued": moment,
        "performer": [{"display": f"Dr. {person.referring}"}],
        "imagingStudy": [{"identifier": {"system": "urn:dicom:uid",
                                         "value": f"urn:oid:{person.study_uid}"}}],
        "conclusion": report.impression,
        "presentedForm": [
            {
                "contentType": "text/plain; charset=utf-8",
                "language": "en",
                "data": base64.b64encode(data).decode("ascii"),
                "size": len(data),
                "hash": base64.b64encode(hashlib.sha1(data).digest()).decode("ascii"),
                "title": "Radiology report",
            }
        ],
    }  # fmt: skip


def fhir_text(person: Person, report: Written) -> str:
    """The resource as JSON text."""
    return json.dumps(fhir_resource(person, report), indent=1, ensure_ascii=False) + "\n"


def _clock(time: str) -> str:
    return f"{time[:2]}:{time[2:4]}:{time[4:]}"
