"""Trees of dataclasses as JSON: what travels from a worker to the engine and what a journal keeps.

A resumed ingest reads the same text that an uninterrupted one got from its workers.
"""

from __future__ import annotations

import base64
import json
from dataclasses import fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

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
