"""The table beside the images: rows by image."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from data_connectors.images.source import ImagesSource
from medvlp.errors import ConfigError

Row = Mapping[str, str]
_MISSING = {"", "null", "nan"}
_FIELD = re.compile(r"\{([^{}]+)\}")


class Matched(NamedTuple):
    """Which rows belong to which image."""

    rows: dict[str, list[int]]
    """Image name -> row numbers."""
    missing: list[int]
    """Rows whose image is not there."""
    ambiguous: list[int]
    """Rows whose name fits several images."""
    nameless: list[int]
    """Rows that name no image."""


def table_path(source: ImagesSource) -> Path | None:
    """Where the table is, or None."""
    if source.table is None:
        return None
    folder = source.path if source.path.is_dir() else source.path.parent
    return folder / source.table


def read_table(source: ImagesSource) -> tuple[Row, ...]:
    """All rows, as text; kept in memory until the file changes.

    Raises:
        ConfigError: The table cannot be read, or lacks a column that the source names.
    """
    path = table_path(source)
    if path is None:
        return ()
    try:
        state = path.stat()
        rows = _rows(path, (state.st_mtime_ns, state.st_size))
    except (OSError, ValueError, csv.Error) as error:
        raise ConfigError(
            f"source {source.name}: the table cannot be read ({type(error).__name__})",
            code="table-unreadable", got=source.table,
            next_step="it must be UTF-8 CSV with a header, or a JSON list of objects",
        ) from None  # fmt: skip
    columns = set().union(*(row.keys() for row in rows[:100]))
    absent = sorted(needed_columns(source) - columns)
    if rows and absent:
        raise ConfigError(
            f"source {source.name}: the table lacks a column", code="table-column",
            got=", ".join(absent), limit=", ".join(sorted(columns)),
        )  # fmt: skip
    return rows


def needed_columns(source: ImagesSource) -> set[str]:
    """Every column that the source names."""
    named = (
        source.file_column, source.patient_column, source.study_column, source.modality_column,
        source.view_column, source.licence_column, source.unit_column, source.label_column,
        *source.text_columns,
        *_FIELD.findall(source.text_template or ""),
    )  # fmt: skip
    return {name for name in named if name}


def cell(row: Row, column: str | None) -> str:
    """A value, stripped; empty where it is missing (empty, NULL or NaN)."""
    value = row.get(column, "").strip() if column else ""
    return "" if value.lower() in _MISSING else value


def fill(template: str, row: Row) -> str:
    """A template with its `{column}` fields filled; empty if one of them is missing."""
    fields = {name: cell(row, name) for name in _FIELD.findall(template)}
    if not all(fields.values()):
        return ""
    return " ".join(_FIELD.sub(lambda match: fields[match[1]], template).split())


def match_rows(source: ImagesSource, rows: Iterable[Row], names: Iterable[str]) -> Matched:
    """Find the image of every row: by path, else by name, else by name without extension.

    The first way that fits at all decides; if it fits several images, the row is ambiguous.
    """
    indexes: tuple[dict[str, list[str]], ...] = ({}, {}, {})
    for name in names:
        pure = PurePosixPath(name)
        for index, key in zip(indexes, (name, pure.name, _stem(pure)), strict=True):
            index.setdefault(key, []).append(name)
    matched = Matched({}, [], [], [])
    for number, row in enumerate(rows):
        wanted = cell(row, source.file_column)
        if not wanted:
            matched.nameless.append(number)
            continue
        keys = (str(PurePosixPath(wanted)), PurePosixPath(wanted).name, wanted)
        fits = next(
            (index[key] for index, key in zip(indexes, keys, strict=True) if key in index), []
        )
        if len(fits) == 1:
            matched.rows.setdefault(fits[0], []).append(number)
        elif fits:
            matched.ambiguous.append(number)
        else:
            matched.missing.append(number)
    return matched


def _stem(path: PurePosixPath) -> str:
    """The name without its extension, which is `.nii.gz` as a whole."""
    name = path.name
    return name[:-7] if name.lower().endswith(".nii.gz") else path.stem


@lru_cache(maxsize=8)
def _rows(path: Path, _changed: tuple[int, int]) -> tuple[Row, ...]:
    text = path.read_text(encoding="utf-8-sig")
    if path.suffix.lower() == ".json":
        found = json.loads(text)
        if not isinstance(found, list) or not all(isinstance(row, dict) for row in found):
            raise ValueError("not a list of objects")
        return tuple({str(k): _text(v) for k, v in row.items()} for row in found)
    # Strict: an unclosed quote would otherwise swallow all rows after it without a word.
    lines = csv.DictReader(io.StringIO(text, newline=""), restval="", strict=True)
    return tuple({k: v for k, v in row.items() if isinstance(k, str)} for row in lines)


def _text(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
