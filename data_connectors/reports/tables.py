"""Reports in a CSV table: one row a report."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path

from data_connectors.reports.decoding import clean_text
from data_connectors.reports.plain import Raw, identifying
from data_connectors.reports.source import ReportsSource
from medvlp.errors import InputError

_FIELD_LIMIT = 16_000_000


def count_rows(path: Path, source: ReportsSource) -> int:
    """How many rows a table has below its header.

    Raises:
        InputError: `table-unreadable` or `table-columns`.
    """
    return sum(1 for _ in _rows(path, source))


def read_rows(
    path: Path, source: ReportsSource, first: int, last: int
) -> Iterator[tuple[int, Raw]]:
    """Rows first..last (half open, counted from 0) as (number, report).

    Raises:
        InputError: `table-unreadable` or `table-columns`.
    """
    for number, row in enumerate(_rows(path, source)):
        if number >= last:
            return
        if number >= first:
            yield number, _report(row, source)


def _report(row: dict[str, str], source: ReportsSource) -> Raw:
    def value(column: str) -> str:
        return clean_text((row.get(column) or "").strip()) if column else ""

    texts = [(column, value(column)) for column in source.text_columns]
    written = [(column, text) for column, text in texts if text]
    if len(source.text_columns) == 1:
        text = written[0][1] if written else ""
    else:
        text = "\n\n".join(f"{column.upper()}: {text}" for column, text in written)
    patient, accession, study = (
        value(column)
        for column in (source.patient_column, source.accession_column, source.study_column)
    )
    further = (value(column) for column in source.phi_columns)
    return Raw(text, patient, accession, study, identifying((patient, accession, study, *further)))


def _rows(path: Path, source: ReportsSource) -> Iterator[dict[str, str]]:
    csv.field_size_limit(_FIELD_LIMIT)
    encoding = source.encoding or _guess(path)
    try:
        with path.open(encoding=encoding, newline="") as stream:
            # Strict: an unclosed quote would otherwise swallow all rows after it without a word.
            reader = csv.DictReader(stream, delimiter=source.delimiter, strict=True)
            _check_columns(reader.fieldnames or (), source)
            for row in reader:
                yield {name: text for name, text in row.items() if isinstance(text, str)}
    except UnicodeDecodeError:
        raise InputError(
            "the bytes do not fit the character set",
            code="report-encoding",
            got=encoding,
            next_step="set `encoding` of this source to what the exporting system writes",
        ) from None
    except (csv.Error, OSError) as error:
        raise InputError(
            f"the table cannot be read ({type(error).__name__})", code="table-unreadable"
        ) from None


def _check_columns(present: object, source: ReportsSource) -> None:
    columns = set(present) if isinstance(present, list | tuple) else set()
    needed = {
        *source.text_columns,
        *source.phi_columns,
        source.patient_column,
        source.accession_column,
        source.study_column,
    } - {""}
    if missing := sorted(needed - columns):
        raise InputError(
            "the table lacks a column",
            code="table-columns",
            got=", ".join(missing),
            next_step="set text_columns, patient_column and the other columns of this source",
        )


def _guess(path: Path) -> str:
    """UTF-8 if the whole file is, else Windows-1252 as spreadsheets write it."""
    decoder = io.TextIOWrapper(path.open("rb"), encoding="utf-8")
    try:
        with decoder as stream:
            while stream.read(1 << 20):
                pass
    except UnicodeDecodeError:
        return "cp1252"
    return "utf-8-sig"
