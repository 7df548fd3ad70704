"""The keys of a source of reports. Light: read by the config loader."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, PositiveInt, field_validator

from data_connectors.source import Source

ReportFormat = Literal["text", "csv", "openi_xml", "hl7", "fhir"]
HeaderField = Literal[
    "patient", "name", "accession", "study", "birth", "date", "referring", "other"
]

PATTERNS: dict[ReportFormat, str] = {
    "text": "**/*.txt",
    "csv": "**/*.csv",
    "openi_xml": "**/*.xml",
    "hl7": "**/*.hl7",
    "fhir": "**/*.json",
}
HEADER_PATTERNS: dict[HeaderField, str] = {
    "patient": r"patient\s*(?:id|number|no\.?)|mrn|medical record (?:number|no\.?)|pid",
    "name": r"(?:patient(?:'s)?\s*)?name|patient",
    "accession": r"accession(?:\s*(?:number|no\.?))?|order(?:\s*number)?",
    "study": r"study\s*(?:instance\s*)?uid|study\s*id",
    "birth": r"dob|date of birth|birth\s*date|born",
    "date": r"(?:exam|study|report|service)(?:ination)?\s*date|date(?: of (?:exam|service|study))?",
    "referring": r"referring(?: physician| doctor)?|ordering(?: physician| provider)?|requested by"
    r"|radiologist|attending",
    "other": r"sex|gender|age|ward|location|department|modality|phone|address|institution|hospital",
}


class ReportsSource(Source):
    """A folder, a file or a `.tar`/`.tar.gz` of reports."""

    kind: Literal["reports"] = "reports"
    format: ReportFormat = "text"
    """text: one file a report. csv: one row a report. openi_xml: Open-I XML. hl7: ORU messages,
    plain or MLLP framed. fhir: DiagnosticReport, alone, in a Bundle or as NDJSON."""
    pattern: str = ""
    """Which files are reports, as a glob relative to `path`; empty: by format (`**/*.txt`, ...)."""
    path_pattern: str = ""
    """Regular expression on the relative path with any of the groups `patient`, `accession`,
    `study`: where the identifiers are when the text does not hold them."""

    header_patterns: dict[HeaderField, str] = HEADER_PATTERNS
    """text: what a header line at the top starts with, before its colon, as regular expressions.
    Its values are identifiers: they are no part of the report and are scrubbed from it."""

    text_columns: tuple[str, ...] = Field(default=("text",), min_length=1)
    """csv: columns that make up the report. Several are joined under their names as headings."""
    patient_column: str = "patient"
    accession_column: str = ""
    study_column: str = ""
    phi_columns: tuple[str, ...] = ()
    """csv: further columns whose values identify the person, to scrub from the text."""
    delimiter: str = Field(default=",", min_length=1, max_length=1)

    encoding: str = ""
    """Character set of the files; empty: UTF-8 (or UTF-16 with a mark), else Windows-1252."""
    max_bytes: PositiveInt = 10_000_000
    """Most bytes of one report."""
    max_table_bytes: PositiveInt = 4_000_000_000
    """Most bytes of a file that holds many reports."""
    max_files: PositiveInt = 5_000_000
    """Most files (or archive members) that are looked at."""

    @field_validator("path_pattern")
    @classmethod
    def _compiles(cls, value: str) -> str:
        try:
            groups = set(re.compile(value).groupindex)
        except re.error as error:
            raise ValueError(f"no regular expression: {error.msg}") from None
        if not groups <= {"patient", "accession", "study"}:
            raise ValueError("groups must be patient, accession or study")
        return value

    @field_validator("header_patterns")
    @classmethod
    def _all_compile(cls, value: dict[HeaderField, str]) -> dict[HeaderField, str]:
        for pattern in value.values():
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"no regular expression: {error.msg}") from None
        return value

    @field_validator("encoding")
    @classmethod
    def _is_known(cls, value: str) -> str:
        if value:
            try:
                "".encode(value)
            except LookupError:
                raise ValueError("unknown character set") from None
        return value

    @property
    def many(self) -> bool:
        """Whether one file may hold several reports."""
        return self.format in ("csv", "hl7", "fhir")
