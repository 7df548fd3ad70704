"""Reports as FHIR DiagnosticReport (R4): alone, in a Bundle, or as newline-delimited JSON."""

from __future__ import annotations

import base64
import binascii
import html
import json
import re
from collections.abc import Iterator
from typing import Any

from data_connectors.reports.decoding import clean_text, decode_text
from data_connectors.reports.plain import Raw, identifying
from medvlp.errors import InputError

Resource = dict[str, Any]
_DROPPED = {"entered-in-error", "cancelled", "registered"}
_TAG = re.compile(r"<(/?(?:br|p|div|li|tr|h\d)\b)?[^>]*>", re.IGNORECASE)


def read_resources(text: str) -> Iterator[Raw | InputError]:
    """The reports in a FHIR file, in order; one that cannot be used yields its error.

    Raises:
        InputError: `fhir-broken`: the file is no JSON, or holds no DiagnosticReport.
    """
    resources = list(_resources(text))
    index = _index(resources)
    reports = [r for r in resources if r.get("resourceType") == "DiagnosticReport"]
    if not reports:
        raise InputError(
            "there is no DiagnosticReport in the file",
            code="fhir-broken",
            next_step="export DiagnosticReport resources, alone, in a Bundle or as NDJSON",
        )
    for report in reports:
        try:
            yield _report(report, index)
        except InputError as error:
            yield error


def _report(report: Resource, index: dict[str, Resource]) -> Raw:
    if _text(report.get("status")) in _DROPPED:
        raise InputError(
            "the report was withdrawn", code="report-withdrawn", got=_text(report["status"])
        )
    local = {f"#{r.get('id')}": r for r in _dicts(report.get("contained"))}
    known = {**index, **local}
    person = known.get(_reference(report.get("subject")), {})
    patient = _patient(person, report)
    accession = _accession(report)
    study = _study(report, known)
    return Raw(
        _body(report, known),
        patient,
        accession,
        study,
        identifying((patient, accession, study, *_identifiers(report, person))),
    )


def _patient(person: Resource, report: Resource) -> str:
    """The medical record number of the patient, else another identifier, else the reference."""
    identifiers = _dicts(person.get("identifier"))
    subject = report.get("subject")
    if isinstance(subject, dict) and isinstance(subject.get("identifier"), dict):
        identifiers.append(subject["identifier"])
    for wanted in ("MR", ""):
        for identifier in identifiers:
            if _text(identifier.get("value")) and (not wanted or wanted in _codes(identifier)):
                return _text(identifier["value"]).strip()
    reference = _reference(subject)
    return "" if reference.startswith("#") else reference.rpartition("/")[2]


def _accession(report: Resource) -> str:
    identifiers = _dicts(report.get("identifier"))
    for wanted in ("ACSN", "FILL", ""):
        for identifier in identifiers:
            if not wanted or wanted in _codes(identifier):
                return _text(identifier.get("value")).strip()
    return ""


def _study(report: Resource, known: dict[str, Resource]) -> str:
    """Study Instance UID of the (first) imaging study."""
    for link in (*_dicts(report.get("imagingStudy")), *_dicts(report.get("study"))):
        study = known.get(_reference(link), {})
        candidates = [link.get("identifier"), *_dicts(study.get("identifier"))]
        for identifier in candidates:
            if isinstance(identifier, dict):
                value = _text(identifier.get("value")).strip()
                if value:
                    return value.removeprefix("urn:oid:")
    return ""


def _body(report: Resource, known: dict[str, Resource]) -> str:
    """The whole text: the attached form, else observations and conclusion, else the narrative."""
    for form in _dicts(report.get("presentedForm")):
        kind = _text(form.get("contentType")).lower()
        if kind.startswith(("text/plain", "text/html")) and _text(form.get("data")):
            text = _attachment(form, kind)
            return _strip_tags(text) if "html" in kind else text
    pieces = []
    for link in _dicts(report.get("result")):
        value = _text(known.get(_reference(link), {}).get("valueString"))
        if value:
            pieces.append(value)
    body = "FINDINGS: " + "\n".join(pieces) if pieces else ""
    conclusion = _text(report.get("conclusion"))
    if conclusion:
        body = f"{body}\n\nIMPRESSION: {conclusion}".strip()
    if body:
        return clean_text(body)
    narrative = report.get("text")
    div = _text(narrative.get("div")) if isinstance(narrative, dict) else ""
    return clean_text(_strip_tags(div))


def _attachment(form: Resource, kind: str) -> str:
    try:
        data = base64.b64decode(_text(form["data"]), validate=False)
    except (binascii.Error, ValueError):
        raise InputError("an attachment is no base64", code="fhir-broken") from None
    charset = re.search(r"charset\s*=\s*\"?([\w.:-]+)", kind)
    try:
        return decode_text(data, charset[1] if charset else "")
    except LookupError:
        return decode_text(data)


def _identifiers(report: Resource, person: Resource) -> Iterator[str]:
    for name in _dicts(person.get("name")):
        given = [_text(part) for part in name.get("given") or () if _text(part)]
        yield _text(name.get("text"))
        yield "^".join(part for part in (_text(name.get("family")), " ".join(given)) if part)
    for identifier in (*_dicts(person.get("identifier")), *_dicts(report.get("identifier"))):
        yield _text(identifier.get("value"))
    for contact in _dicts(person.get("telecom")):
        yield _text(contact.get("value"))
    for address in _dicts(person.get("address")):
        yield from (_text(line) for line in address.get("line") or ())
        yield _text(address.get("text"))
    yield _text(person.get("birthDate"))
    for key in ("effectiveDateTime", "issued"):
        yield _text(report.get(key)).partition("T")[0]
    subject = report.get("subject")
    people = [subject] if isinstance(subject, dict) else []
    people += [*_dicts(report.get("performer")), *_dicts(report.get("resultsInterpreter"))]
    for who in people:
        yield _text(who.get("display"))


def _resources(text: str) -> Iterator[Resource]:
    """Every resource of a JSON or NDJSON file, bundles opened."""
    try:
        trees = [json.loads(text)]
    except (ValueError, RecursionError):
        try:
            trees = [json.loads(line) for line in text.splitlines() if line.strip()]
        except (ValueError, RecursionError):
            raise InputError(
                "the file is not JSON", code="fhir-broken", next_step="export it again"
            ) from None
    for tree in trees:
        for item in tree if isinstance(tree, list) else [tree]:
            if not isinstance(item, dict):
                continue
            if item.get("resourceType") == "Bundle":
                for entry in _dicts(item.get("entry")):
                    if isinstance(entry.get("resource"), dict):
                        resource = dict(entry["resource"])
                        resource["_url"] = _text(entry.get("fullUrl"))
                        yield resource
            else:
                yield item


def _index(resources: list[Resource]) -> dict[str, Resource]:
    index: dict[str, Resource] = {}
    for resource in resources:
        index[f"{resource.get('resourceType')}/{resource.get('id')}"] = resource
        if resource.get("_url"):
            index[resource["_url"]] = resource
    return index


def _codes(identifier: Resource) -> set[str]:
    kind = identifier.get("type")
    coding = _dicts(kind.get("coding")) if isinstance(kind, dict) else []
    return {_text(code.get("code")) for code in coding}


def _reference(link: Any) -> str:
    return _text(link.get("reference")) if isinstance(link, dict) else ""


def _dicts(value: Any) -> list[Resource]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _strip_tags(text: str) -> str:
    return html.unescape(_TAG.sub(lambda match: "\n" if match[1] else "", text))
