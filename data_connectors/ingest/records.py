"""What reading one unit leaves behind, and its JSON form for the journal.

The pixels are already in a shard (or in a worker's spool); here is the rest. The JSON form is
what travels from worker to engine and what the journal keeps, so a resumed ingest sees exactly
what an uninterrupted one saw.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from data_connectors.items import Refused, ReportItem, VisualItem


@dataclass(frozen=True, slots=True, eq=False)
class Stored:
    """A visual whose pixels have been written; `item.payload` is empty."""

    item: VisualItem
    key: str
    offset: int
    """In the spool until the engine has copied it, then in the shard."""
    size: int
    marks: tuple[tuple[str, int], ...]
    """(extension, offset) of every member, relative to the payload; empty unless a clip."""
    shard: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class UnitRecord:
    """Everything one unit gave, in the order it came."""

    visuals: tuple[Stored, ...] = ()
    reports: tuple[ReportItem, ...] = ()
    refused: tuple[Refused, ...] = ()

    @property
    def items(self) -> tuple[VisualItem | ReportItem, ...]:
        """What was used."""
        return (*(visual.item for visual in self.visuals), *self.reports)


T = TypeVar("T")


def to_json(value: Any) -> str:
    """A tree of dataclasses, tuples, bytes and plain values as JSON."""
    return json.dumps(_plain(value), separators=(",", ":"))


def from_json(kind: type[T], text: str | bytes) -> T:
    """The inverse of `to_json`."""
    return _build(kind, json.loads(text))  # type: ignore[no-any-return]


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if hasattr(value, "item") and hasattr(value, "dtype"):  # a numpy scalar
        return value.item()
    return value


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def _build(kind: Any, value: Any) -> Any:
    origin = get_origin(kind)
    if value is None or kind in (str, int, bool, float) or origin is Literal:
        return value
    if kind is bytes:
        return base64.b64decode(value)
    if origin in (Union, UnionType):
        return _build(next(arm for arm in get_args(kind) if arm is not NoneType), value)
    if origin is tuple:
        arms = get_args(kind)
        if arms[-1] is Ellipsis:
            return tuple(_build(arms[0], item) for item in value)
        return tuple(_build(arm, item) for arm, item in zip(arms, value, strict=True))
    if origin is dict:
        arm = get_args(kind)[1]
        return {name: _build(arm, item) for name, item in value.items()}
    hints = _hints(kind)
    return kind(**{name: _build(hints[name], item) for name, item in value.items()})
