"""Finds the units of a source of reports and reads them (see `data_connectors.source`)."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from io import BytesIO
from pathlib import Path, PurePosixPath

from data_connectors.files import Handle, fetch, is_archive, refuse, scan
from data_connectors.items import Identity, Item, Refused, ReportItem
from data_connectors.reports.decoding import decode_text
from data_connectors.reports.fhir import read_resources
from data_connectors.reports.hl7 import read_messages
from data_connectors.reports.openi import read_openi
from data_connectors.reports.plain import Raw, read_plain
from data_connectors.reports.sections import parse_report
from data_connectors.reports.source import PATTERNS, ReportsSource
from data_connectors.reports.tables import count_rows, read_rows
from data_connectors.source import Spread, Unit, directly
from medvlp.errors import InputError
from medvlp.knowledge.findings import report_findings
from medvlp.types import Report

ROWS_A_UNIT = 5_000
"""A table is read in pieces of this many rows, so that they spread over processes."""


def find(source: ReportsSource, spread: Spread = directly) -> Iterator[Unit | Refused]:
    """One unit a file or member of an archive; a table is cut into pieces.

    Raises:
        InputError: The source's path does not exist.
    """
    alone = source.path.is_file() and not is_archive(source.path)
    limit = source.max_table_bytes if source.many else source.max_bytes
    for entry in scan(source.path, max_files=source.max_files, max_bytes=limit):
        if isinstance(entry, Refused):
            yield _renamed(entry)
            continue
        name, handle = entry
        if not alone and not _matches(name, source):
            continue
        if source.format != "csv" or isinstance(handle, BytesIO):
            yield Unit(_digest(name), (name,))
            continue
        try:
            rows = count_rows(handle, source)
        except InputError as error:
            yield refuse(error, (name,))
            continue
        if not rows:
            yield Refused("report-empty", "the table has no rows", "remove it", (name,))
        for first in range(0, rows, ROWS_A_UNIT):
            span = f"{first}:{min(first + ROWS_A_UNIT, rows)}"
            yield Unit(_digest(f"{name}#{span}"), (name,), span)


def read(source: ReportsSource, unit: Unit) -> Iterator[Item]:
    """The reports of one unit, or why a report cannot be used."""
    for name, handle in fetch(source.path, unit.inputs):
        if source.format == "csv":
            yield from _read_table(source, name, handle, unit.hint)
        else:
            yield from _read_file(source, name, _bytes(handle), (name,))


def _read_file(
    source: ReportsSource, name: str, data: bytes, inputs: tuple[str, ...]
) -> Iterator[Item]:
    try:
        found = list(_parse(source, data))
    except InputError as error:
        yield refuse(error, inputs)
        return
    for raw in found:
        if isinstance(raw, InputError):
            yield refuse(raw, inputs)
        else:
            yield _item(source, name, raw, inputs)


def _parse(source: ReportsSource, data: bytes) -> Iterator[Raw | InputError]:
    """The reports in the bytes of one file."""
    if not data.strip():
        raise InputError("the file is empty", code="report-empty", next_step="export it again")
    match source.format:
        case "text":
            yield read_plain(decode_text(data, source.encoding), source.header_patterns)
        case "openi_xml":
            yield read_openi(data)
        case "hl7":
            yield from read_messages(data, source.encoding)
        case "fhir":
            yield from read_resources(decode_text(data, source.encoding))
        case "csv":
            raise InputError(
                "a table inside an archive is not read",
                code="table-in-archive",
                next_step="unpack the archive",
            )


def _read_table(source: ReportsSource, name: str, handle: Handle, hint: str) -> Iterator[Item]:
    first, last = (int(part) for part in hint.split(":"))
    assert isinstance(handle, Path)
    try:
        for number, raw in read_rows(handle, source, first, last):
            item = _item(source, name, raw, (name,))
            if isinstance(item, Refused):
                reason = f"row {number + 1}: {item.reason}"
                item = Refused(item.code, reason, item.next_step, item.inputs)
            yield item
    except InputError as error:
        yield refuse(error, (name,))


def _item(source: ReportsSource, name: str, raw: Raw, inputs: tuple[str, ...]) -> Item:
    """One report as an item, or why it is refused."""
    try:
        report = _report(source, raw)
        identity = _identity(source, name, raw)
    except InputError as error:
        return refuse(error, inputs)
    return ReportItem(
        identity=identity,
        report=report,
        inputs=inputs,
        licence=source.licence,
        provenance=source.name,
    )


def _report(source: ReportsSource, raw: Raw) -> Report:
    size = len(raw.text.encode("utf-8", "surrogatepass"))
    if size > source.max_bytes:
        raise InputError(
            "the report is too large to be one", code="report-too-large", got=f"{size} bytes",
            limit=source.max_bytes, next_step="raise max_bytes if it is genuine",
        )  # fmt: skip
    report = parse_report(raw.text)
    return Report(report.text, report.sections, report.sentences, report_findings(report))


def _identity(source: ReportsSource, name: str, raw: Raw) -> Identity:
    """Identifiers in the text win over those in the path."""
    match = re.search(source.path_pattern, name) if source.path_pattern else None
    place = {key: value or "" for key, value in match.groupdict().items()} if match else {}
    patient = raw.patient or place.get("patient", "")
    if not patient.strip():
        raise InputError(
            "the report names no patient, so it cannot be kept out of other splits",
            code="report-no-patient",
            next_step="set path_pattern, patient_column or header_patterns of this source",
        )
    return Identity(
        patient=patient.strip(),
        study=(raw.study or place.get("study", "")).strip(),
        accession=(raw.accession or place.get("accession", "")).strip(),
        phi=tuple(dict.fromkeys((*raw.phi, *(value for value in place.values() if value)))),
    )


def _matches(name: str, source: ReportsSource) -> bool:
    pattern = source.pattern or PATTERNS[source.format]
    # `**/` also stands for no folder at all.
    return fnmatchcase(name, pattern) or (
        pattern.startswith("**/") and fnmatchcase(PurePosixPath(name).name, pattern[3:])
    )


def _bytes(handle: Handle) -> bytes:
    return handle.getvalue() if isinstance(handle, BytesIO) else handle.read_bytes()


def _renamed(refused: Refused) -> Refused:
    """The general codes of `files.scan` under the names that reports have had for them."""
    code = {"file-empty": "report-empty", "file-too-large": "report-too-large"}.get(refused.code)
    return Refused(code or refused.code, refused.reason, refused.next_step, refused.inputs)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:24]
