"""Closed configs: defaults in code, YAML holds what differs, `--set a.b=value` wins.

Imports no torch, so that the command line stays fast.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from medvlp.errors import ConfigError


class Config(BaseModel):
    """Base of every config: unknown keys are errors, values never change."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, hide_input_in_errors=True, use_attribute_docstrings=True
    )


C = TypeVar("C", bound=Config)


def load_config(schema: type[C], path: Path | None, overrides: Sequence[str] = ()) -> C:
    """Read YAML, apply `a.b=value` overrides in order, validate once.

    Args:
        schema: The config class.
        path: A YAML file, or None for the defaults alone.
        overrides: `dotted.key=value`; the value is read as YAML. A list item is named by its
            index (`sources.0.path=...`).

    Raises:
        ConfigError: The file cannot be read, is no YAML mapping, or does not fit the schema.
    """
    tree = _read(path)
    for item in overrides:
        _set(tree, item)
    try:
        return schema.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(
            _explain(error),
            code="config-invalid",
            got=path or "defaults and --set",
            next_step=f"see the keys of {schema.__name__}",
        ) from None


def _read(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"cannot read {path}: {type(error).__name__}", code="config-unreadable"
        ) from error
    except yaml.YAMLError as error:
        line = getattr(getattr(error, "problem_mark", None), "line", None)
        where = f" at line {line + 1}" if line is not None else ""
        raise ConfigError(f"{path} is not YAML{where}", code="config-not-yaml") from error
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(
            f"{path} must hold a mapping", code="config-not-mapping", got=type(tree).__name__
        )
    return tree


def _set(tree: dict[str, Any], item: str) -> None:
    name, separator, text = item.partition("=")
    if not separator or not name:
        raise ConfigError("an override must read key=value", code="override-syntax", got=repr(name))
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(
            f"the value of --set {name} is not YAML", code="override-syntax"
        ) from error
    node: Any = tree
    *parents, last = name.split(".")
    for part in parents:
        node = _child(node, part, name)
    if isinstance(node, list):
        node[_index(node, last, name)] = value
    else:
        node[last] = value


def _child(node: Any, part: str, name: str) -> Any:
    if isinstance(node, list):
        return node[_index(node, part, name)]
    if not isinstance(node.get(part), dict | list):
        node[part] = {}
    return node[part]


def _index(node: list[Any], part: str, name: str) -> int:
    if not part.isdigit() or int(part) >= len(node):
        raise ConfigError(
            f"--set {name}: no such list item",
            code="override-syntax",
            got=part,
            limit=f"0..{len(node) - 1}",
        )
    return int(part)


def _explain(error: ValidationError) -> str:
    """Name every wrong key with its reason, without echoing any value."""
    problems = []
    for entry in error.errors(include_input=False, include_url=False):
        where = ".".join(str(part) for part in entry["loc"]) or "(top level)"
        problems.append(f"{where}: {entry['msg']}")
    return " | ".join(problems)
