"""What PS3.15 Annex E says is done with each attribute: the table as data, and its options.

The table leaves a choice where it names several actions (X/Z/D: which one depends on the type of
the attribute in the object's IOD). Here a value that may be a dummy becomes one, because a dummy
is valid whatever the type; one that may be empty and not a dummy becomes empty. What the table
does not name is not kept for that: `judge` sends it to `judging.py`, where text is refused unless
it consists of known words.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from importlib.resources import files
from typing import Final

from data_connectors.deid.options import Options

COLUMNS: Final = (
    "safe_private", "uids", "device", "institution", "patient", "full_dates", "modified_dates",
    "descriptors", "structured", "graphics",
)  # fmt: skip
_TRAILING_PADDING: Final = 0xFFFCFFFC


class Action(Enum):
    """What is done with one element."""

    REMOVE = "remove"
    EMPTY = "empty"
    DUMMY = "dummy"
    """A fixed value of the same VR and multiplicity."""
    UID = "uid"
    """Another UID, the same one for the same UID everywhere."""
    KEEP = "keep"
    SHIFT = "shift"
    CLEAN = "clean"
    """Known words stay, everything else goes."""
    RECURSE = "recurse"
    """A sequence stays; each element of its items has its own action."""
    STRICT = "strict"
    """A sequence's structure stays, everything in it becomes a dummy."""
    JUDGE = "judge"
    """Not in the table: by VR, attribute and value."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row of table E.1-1."""

    tag: int | None
    """None for repeating groups and private attributes."""
    keyword: str
    basic: str
    columns: Mapping[str, str]


@lru_cache(maxsize=1)
def load_profile() -> dict[str, Row]:
    """The table by tag, eight lower-case hex digits (`50xxxxxx`, `private`)."""
    text = files("data_connectors.deid").joinpath("profile.csv").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    table = {}
    for row in csv.DictReader(lines):
        repeating = "x" in row["tag"] or row["tag"] == "private"
        columns = {name: row[name] for name in COLUMNS if row[name]}
        number = None if repeating else int(row["tag"], 16)
        table[row["tag"]] = Row(number, row["keyword"], row["basic"], columns)
    return table


def action_of(tag: int, vr: str, options: Options) -> Action:
    """What is done with an element, its value unseen.

    Args:
        tag: Group and element in one number.
        vr: Its value representation, two letters.
        options: What may be kept.
    """
    group, element = tag >> 16, tag & 0xFFFF
    if group % 2 or element == 0 or group < 0x0008 or tag == _TRAILING_PADDING:
        return Action.REMOVE  # private (its allow-list is elsewhere), group lengths, commands
    if group >> 8 in (0x50, 0x60):
        return Action.REMOVE  # curves and overlays, every attribute: descriptions leak, too
    row = _by_tag().get(tag)
    if row is None:
        return Action.RECURSE if vr == "SQ" else Action.JUDGE
    return _chosen(row, vr, options)


def describes(tag: int) -> bool:
    """Whether an attribute is a description in words (the table's Clean Descriptors column)."""
    row = _by_tag().get(tag)
    return row is not None and "descriptors" in row.columns


@lru_cache(maxsize=1)
def _by_tag() -> dict[int, Row]:
    return {row.tag: row for row in load_profile().values() if row.tag is not None}


def _chosen(row: Row, vr: str, options: Options) -> Action:
    """The action of an option that is on, else that of the basic profile.

    Where one option would keep and another clean, the value is cleaned.
    """
    on = {
        "uids": options.retain_uids, "device": options.retain_device,
        "institution": options.retain_institution,
        "patient": options.retain_patient_characteristics,
        "full_dates": options.dates == "keep", "modified_dates": options.dates == "shift",
        "descriptors": options.clean_descriptors, "structured": options.clean_structured_content,
        "graphics": options.clean_graphics,
    }  # fmt: skip
    said = {row.columns[name]: name for name in row.columns if on.get(name)}
    if "C" in said:
        if vr == "SQ":
            return Action.RECURSE
        if said["C"] == "modified_dates":
            return Action.SHIFT
        return Action.CLEAN if vr in _TEXTS else _basic(row.basic, vr)
    if "K" in said:
        if vr == "SQ":
            return Action.RECURSE
        # Dates of a device are dates first: they would undo the removal or shift of the others.
        if vr in _DATES and said["K"] != "full_dates":
            return _basic(row.basic, vr)
        return Action.KEEP
    return _basic(row.basic, vr)


_TEXTS: Final = {"AE", "CS", "LO", "LT", "SH", "ST", "UC", "UT"}
_DATES: Final = {"DA", "DT"}


def _basic(code: str, vr: str) -> Action:
    choices = code.split("/")
    if vr == "SQ":
        if "U*" in choices:
            return Action.RECURSE  # only the references in it matter, and those are UIDs
        if choices == ["D"]:
            return Action.STRICT
        return Action.EMPTY if "Z" in choices else Action.REMOVE
    return _plain(choices)


def _plain(choices: list[str]) -> Action:
    if "U" in choices:
        return Action.UID
    if "D" in choices:
        return Action.DUMMY
    return Action.EMPTY if "Z" in choices else Action.REMOVE
