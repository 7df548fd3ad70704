"""What the rows of an image say: labels, findings, captions and texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from data_connectors.deid.vocabulary import is_safe
from data_connectors.images.source import ImagesSource
from data_connectors.images.table import Row, cell, fill
from medvlp.errors import InputError
from medvlp.types import Finding, Text

NORMAL = "normal"


class Said(NamedTuple):
    """Everything the table says about one image."""

    labels: tuple[str, ...]
    findings: tuple[Finding, ...]
    texts: tuple[Text, ...]


def describe(source: ImagesSource, rows: Sequence[Row]) -> Said:
    """Read the rows of one image.

    Raises:
        InputError: A label is not in the source's map (`label-unmapped`).
    """
    words = _label_words(source, rows)
    findings = [Finding(concept, word, "present") for concept, word in words.items()]
    if source.closed_world and words:
        every = {c: _words(source, raw) for raw, c in source.label_map.items() if c}
        findings += [Finding(c, w, "absent") for c, w in every.items() if c not in words]
    texts = [*_captions(source, rows, words), *_row_texts(source, rows)]
    return Said(tuple(words), tuple(findings), tuple(dict.fromkeys(texts)))


def _label_words(source: ImagesSource, rows: Sequence[Row]) -> dict[str, str]:
    """Concept id -> words, in the table's order."""
    found: dict[str, str] = {}
    for row in rows:
        for part in cell(row, source.label_column).split(source.label_separator):
            raw = part.strip()
            if not raw:
                continue
            if source.label_map and raw not in source.label_map:
                raise InputError(
                    "a label is not in label_map", code="label-unmapped",
                    got=repr(raw) if is_safe(raw) else None,
                    next_step="map it to a concept id, or to an empty string to drop it",
                )  # fmt: skip
            concept = source.label_map.get(raw, _snake(raw))
            if concept:
                found.setdefault(concept, _words(source, raw))
    return found


def _captions(source: ImagesSource, rows: Sequence[Row], words: dict[str, str]) -> list[Text]:
    if not words:
        return []
    templates = source.captions
    if tuple(words) == (NORMAL,) and source.normal_captions:
        templates = source.normal_captions
    values = {
        "labels": _listed(list(words.values())),
        "view": cell(rows[0], source.view_column),
        "modality": cell(rows[0], source.modality_column) or source.modality,
    }
    filled = [fill(template, values) for template in templates]
    return [Text("caption", "table", caption) for caption in filled if caption]


def _row_texts(source: ImagesSource, rows: Sequence[Row]) -> list[Text]:
    found = []
    for row in rows:
        if source.text_template:
            found.append(fill(source.text_template, row))
        found += [cell(row, column) for column in source.text_columns]
    return [Text(source.text_level, "table", text) for text in found if text]


def _words(source: ImagesSource, raw: str) -> str:
    return source.label_words.get(raw, raw.replace("_", " ").lower())


def _snake(raw: str) -> str:
    letters = "".join(letter if letter.isalnum() else " " for letter in raw.lower())
    return "_".join(letters.split())


def _listed(words: list[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
