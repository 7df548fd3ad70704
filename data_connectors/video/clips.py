"""Short clips, GIFs and pictures described by a table: one row a file."""

from __future__ import annotations

import io
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path, PurePosixPath

from PIL import Image

from data_connectors.items import Identity, Item, Payload, Refused, VisualItem
from data_connectors.source import Unit
from data_connectors.video.files import VIDEO_SUFFIXES, listed, refused, unit, unknown
from data_connectors.video.frames import digest_of, read_picture, store_video
from data_connectors.video.parsing import read_text
from data_connectors.video.source import LecturesSource
from data_connectors.video.tables import identifier, parse_table
from medvlp.errors import ConfigError, InputError
from medvlp.types import Geometry, Text

_PICTURES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})
Row = dict[str, str]


def find_clips(source: LecturesSource) -> Iterator[Unit | Refused]:
    """One unit a video or picture that the table describes once.

    Raises:
        ConfigError: `table-missing`, `table-column-missing`, `table-not-parseable`.
    """
    assert source.table is not None
    rows = _rows(source)
    others = []
    for name in listed(source.path):
        path = PurePosixPath(name)
        if name == source.table:
            continue  # configuration, as the label map is
        if path.suffix.lower() not in VIDEO_SUFFIXES | _PICTURES:
            others.append(name)
            continue
        match len(_matching(rows, path)):
            case 1:
                yield unit(source.path, [name])
            case 0:
                yield Refused("clip-not-in-table", "no row of the table names this file",
                              "add a row, or correct columns.file", (name,))  # fmt: skip
            case count:
                yield Refused("clip-ambiguous", f"{count} rows of the table name this file",
                              "keep one row a file", (name,))  # fmt: skip
    yield from unknown(others)


def read_clip(source: LecturesSource, item: Unit) -> Iterator[Item]:
    """Decode one clip or picture with its row."""
    (name,) = item.inputs
    path = PurePosixPath(name)
    (row,) = _matching(_rows(source), path)
    try:
        yield _clip(source, name, row)
    except InputError as error:
        yield refused(error, [name])


def _clip(source: LecturesSource, name: str, row: Row) -> VisualItem:
    patient = _patient(source, PurePosixPath(name).stem, row)
    labels = _labels(source, row)
    texts = tuple(
        Text("caption", identifier(column), said)
        for column in source.columns.texts
        if (said := _cell(source, row, column))
    )
    if PurePosixPath(name).suffix.lower() in _PICTURES:
        picture = read_picture(source.path / name, source.long_side)
        payload = Payload((("png", _png(picture)),))
        geometry = Geometry(shape=picture.shape[:2], unit="rgb" if picture.ndim == 3 else "raw")
        kind = "image"
    else:
        media, stored = store_video(source.path / name, source)
        payload, kind = stored.payload, "clip"
        geometry = Geometry(
            shape=stored.shape, start_s=0.0, end_s=media.duration_s, fps=source.fps, unit="rgb"
        )
    return VisualItem(
        identity=Identity(patient=patient, study=PurePosixPath(name).stem),
        kind="image" if kind == "image" else "clip",
        modality=source.modality_code,
        payload=payload,
        geometry=geometry,
        inputs=(name,),
        digest=digest_of(payload),
        texts=texts,
        labels=labels,
        licence=_cell(source, row, source.columns.licence) or source.licence,
        provenance=source.name,
    )


def _patient(source: LecturesSource, stem: str, row: Row) -> str:
    """The table's patient; else what the pattern finds; else, where no column is named, the stem.

    Raises:
        InputError: `patient-id-missing`: guessing could put one person into two splits.
    """
    given = _cell(source, row, source.columns.patient)
    if given:
        return given
    found = source.patient_of(stem)
    if source.columns.patient is not None and found == stem:
        raise InputError("the table names no patient for this file", code="patient-id-missing",
                         next_step="fill the column, or set patient_pattern")  # fmt: skip
    return found


def _labels(source: LecturesSource, row: Row) -> tuple[str, ...]:
    value = _cell(source, row, source.columns.label)
    if not value:
        return ()
    known = {identifier(key): concept for key, concept in source.label_map.items()}
    if not known:
        return (identifier(value),)
    if identifier(value) not in known:
        raise InputError("the label of this file is not in label_map", code="label-unknown",
                         next_step="add it to label_map")  # fmt: skip
    return (known[identifier(value)],)


def _cell(source: LecturesSource, row: Row, column: str | None) -> str:
    value = "" if column is None else " ".join(row[column.strip().lower()].split())
    return "" if value.lower() in source.missing else value


def _matching(rows: dict[str, tuple[Row, ...]], path: PurePosixPath) -> tuple[Row, ...]:
    return rows.get(path.name) or rows.get(path.stem) or ()


def _rows(source: LecturesSource) -> dict[str, tuple[Row, ...]]:
    assert source.table is not None
    path = source.path / source.table
    if not path.is_file():
        raise ConfigError("the clips' table is not there", code="table-missing",
                          got=source.table, next_step="correct `table`")  # fmt: skip
    columns = source.columns
    needed = [columns.file, *columns.texts, columns.label, columns.patient, columns.licence]
    wanted = tuple(c.strip().lower() for c in needed if c is not None)
    return _read_table(path, path.stat().st_mtime_ns, wanted)


@lru_cache(maxsize=4)
def _read_table(path: Path, changed: int, wanted: tuple[str, ...]) -> dict[str, tuple[Row, ...]]:
    """Rows by the file they name; `changed` makes an edited table a new one."""
    try:
        rows = parse_table(read_text(path, code="table-not-parseable"), wanted,
                           code="table-not-parseable")  # fmt: skip
    except InputError as error:
        raise ConfigError(f"the clips' table: {error.what}", code=error.code, got=error.got,
                          next_step="correct the table or `columns`") from None  # fmt: skip
    named: dict[str, tuple[Row, ...]] = {}
    for _, row in rows:
        name = row[wanted[0]].strip()
        named[name] = (*named.get(name, ()), row)
    return named


def _png(picture: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")  # type: ignore[arg-type]
    return buffer.getvalue()
