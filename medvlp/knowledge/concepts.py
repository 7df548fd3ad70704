"""Concepts: what a text can state about a body. Books of concepts are package data (YAML).

Imports no torch, so that configs and prompts stay light.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from types import MappingProxyType
from typing import Any

import yaml

from medvlp.errors import ConfigError
from medvlp.knowledge.tokens import words

NORMAL = "normal"
"""The pseudo-concept of a wholly normal examination: labels use it, texts deny concepts instead."""


@dataclass(frozen=True, slots=True)
class Concept:
    """One thing that can be present or absent."""

    id: str
    name: str
    synonyms: tuple[str, ...] = ()
    """Plain phrases, the name not among them."""
    is_a: tuple[str, ...] = ()
    """Ids of the more general concepts, direct ones only."""
    laterality: bool = True
    """Whether left and right mean something for it."""
    region: str = ""
    denies: tuple[str, ...] = ()
    """For `normal` only: what a wholly normal examination denies."""
    source: str = ""
    """The book or ontology it comes from."""

    @property
    def phrases(self) -> tuple[str, ...]:
        """The name and the synonyms."""
        return (self.name, *self.synonyms)


@lru_cache(maxsize=1)
def load_concepts() -> Mapping[str, Concept]:
    """All concepts of the shipped books, by id, in book order. Read once.

    Raises:
        ConfigError: `book-invalid` when a book is inconsistent.
    """
    concepts: list[Concept] = []
    folder = files("medvlp.knowledge").joinpath("books")
    for entry in sorted(folder.iterdir(), key=lambda item: item.name):
        if not entry.name.endswith(".yaml"):
            continue
        tree = yaml.load(entry.read_text(encoding="utf-8"), Loader=_LOADER)
        if "concepts" in tree:
            concepts.extend(parse_book(tree))
    return MappingProxyType(check_concepts(concepts))


_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def parse_book(tree: Any) -> list[Concept]:
    """Concepts of a parsed book.

    Raises:
        ConfigError: `book-invalid`: a key is missing, unknown or of the wrong type.
    """
    if not isinstance(tree, dict) or not isinstance(tree.get("concepts"), list):
        raise ConfigError("a book is a mapping with a list `concepts`", code="book-invalid")
    source, region = str(tree.get("source", "")), str(tree.get("region", ""))
    known = {"id", "name", "synonyms", "is_a", "laterality", "region", "denies", "source"}
    concepts = []
    for row in tree["concepts"]:
        if not isinstance(row, dict) or not {"id", "name"} <= set(row) <= known:
            keys = sorted(row) if isinstance(row, dict) else type(row).__name__
            raise ConfigError("a concept needs id and name", code="book-invalid", got=keys)
        concepts.append(
            Concept(
                id=str(row["id"]),
                name=str(row["name"]),
                synonyms=tuple(str(text) for text in row.get("synonyms") or ()),
                is_a=tuple(str(parent) for parent in row.get("is_a") or ()),
                laterality=bool(row.get("laterality", True)),
                region=str(row.get("region", region)),
                denies=tuple(str(other) for other in row.get("denies") or ()),
                source=str(row.get("source", source)),
            )
        )
    return concepts


def check_concepts(concepts: Iterable[Concept]) -> dict[str, Concept]:
    """Concepts by id, after checking that they fit together.

    Raises:
        ConfigError: `book-invalid`: an id or a phrase occurs twice, a parent is unknown, or is-a
            has a cycle.
    """
    found: dict[str, Concept] = {}
    owner: dict[tuple[str, ...], str] = {}
    for concept in concepts:
        if concept.id in found:
            raise ConfigError("a concept is defined twice", code="book-invalid", got=concept.id)
        found[concept.id] = concept
        for phrase in concept.phrases:
            key = words(phrase)
            if not key:
                raise ConfigError("a phrase has no words", code="book-invalid", got=concept.id)
            if owner.setdefault(key, concept.id) != concept.id:
                raise ConfigError(
                    f"the phrase {phrase!r} belongs to two concepts",
                    code="book-invalid",
                    got=f"{owner[key]} and {concept.id}",
                    next_step="give it to the more specific one",
                )
    for concept in found.values():
        for other in (*concept.is_a, *concept.denies):
            if other not in found:
                raise ConfigError(
                    f"{concept.id} names an unknown concept", code="book-invalid", got=other
                )
    ancestors(found)
    return found


def ancestors(concepts: Mapping[str, Concept]) -> dict[str, frozenset[str]]:
    """For every concept, all more general ones (itself not among them).

    Raises:
        ConfigError: `book-invalid`: is-a has a cycle.
    """
    closed: dict[str, frozenset[str]] = {}

    def close(name: str, path: tuple[str, ...]) -> frozenset[str]:
        if name in path:
            raise ConfigError("is-a has a cycle", code="book-invalid", got=" -> ".join(path))
        if name not in closed:
            parents = [parent for parent in concepts[name].is_a if parent in concepts]
            above = (close(parent, (*path, name)) for parent in parents)
            closed[name] = frozenset(parents).union(*above)
        return closed[name]

    for name in concepts:
        close(name, ())
    return closed


def descendants(concepts: Mapping[str, Concept]) -> dict[str, frozenset[str]]:
    """For every concept, all more special ones (itself not among them)."""
    below: dict[str, set[str]] = {name: set() for name in concepts}
    for name, above in ancestors(concepts).items():
        for parent in above:
            below[parent].add(name)
    return {name: frozenset(children) for name, children in below.items()}
