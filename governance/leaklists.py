"""What to search for: a file of canaries, or the hospital's list of patients."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from medvlp.errors import ConfigError

_FAMILY: Final = re.compile(r"(?:family|last|sur)[ _]?name|nachname|^nom$|apellido|cognome")
_GIVEN: Final = re.compile(r"(?:given|first|fore)[ _]?name|vorname|prenom|prénom|nombre")
_COMMON: Final = re.compile(
    r"^(?:sex|gender|age|status|country|city|state|language|modality|department|ward|unit|site"
    r"|race|ethnicity|marital|title|salutation|blood|type|split|notes?|comments?)"
)
"""Columns that name nobody alone."""


def read_canaries(path: Path) -> list[str]:
    """One identifier a line; empty lines and lines that begin with `# ` do not count."""
    lines = _text(path).splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith("# ")]


def read_patients(path: Path) -> list[str]:
    """Identifiers in a patient list: a table with a header, or one identifier a line.

    Every cell is one, except those of columns that name nobody (sex, ward). A family and a given
    name count together, not alone: half of them are words of clinical texts.
    """
    text = _text(path)
    first = text.splitlines()[0] if text.strip() else ""
    delimiter = next((sign for sign in "\t;,|" if sign in first), "")
    header = [cell.strip().lower() for cell in first.split(delimiter)] if delimiter else [first]
    if not delimiter or not any(_is_label(cell) for cell in header):
        return read_canaries(path)
    rows = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
    found: list[str] = []
    for row in rows:
        cells = {
            str(name).strip().strip('"').lower(): value.strip()
            for name, value in row.items()
            if isinstance(value, str) and value.strip()
        }
        found += _of_row(cells)
    return list(dict.fromkeys(found))


def _of_row(cells: dict[str, str]) -> Iterator[str]:
    family = [value for name, value in cells.items() if _FAMILY.search(name)]
    given = [value for name, value in cells.items() if _GIVEN.search(name)]
    yield from (f"{last}^{first}" for last in family for first in given)
    for name, value in cells.items():
        part = _FAMILY.search(name) or _GIVEN.search(name)
        if part and family and given:
            continue
        if not _COMMON.match(name) and not re.fullmatch(r"\d{1,4}", value):
            yield value


def _is_label(cell: str) -> bool:
    words = ("name", "id", "mrn", "birth", "dob", "patient", "accession", "number", "geburt",
             "phone")  # fmt: skip
    cell = cell.strip('"')
    return not any(char.isdigit() for char in cell) and any(word in cell for word in words)


def _text(path: Path) -> str:
    data = path.read_bytes()
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return data.decode("utf-16")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("cp1252", "replace")


def words_of(canaries: Path | None, patients: Path | None) -> list[str]:
    """Everything to search for.

    Raises:
        ConfigError: Neither file is given, or they name nothing.
    """
    if canaries is None and patients is None:
        raise ConfigError(
            "there is nothing to search for", code="canaries-empty",
            next_step="give --canaries FILE or --patients FILE",
        )  # fmt: skip
    return [
        *(read_canaries(canaries) if canaries is not None else ()),
        *(read_patients(patients) if patients is not None else ()),
    ]
