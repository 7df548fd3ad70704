"""What findings look like: definitions and radiographic facets as data (DeViDe).

DeViDe (Luo et al. 2024, arXiv 2404.03618) describes a finding by short radiographic statements
and lets one image match several of them. The statements here are of our own writing; some are
dropped in training, so that a model does not rest on one. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from types import MappingProxyType
from typing import Any

import numpy as np
import yaml

from medvlp.errors import ConfigError, InputError
from medvlp.knowledge.concepts import Concept, load_concepts
from medvlp.knowledge.tokens import normal_text

KINDS = ("shape", "texture", "border", "location", "opacity", "pattern")
"""The six facets, in the order in which they are told."""
TEMPLATES = ("{Name}: {facet}.", "{Name}, {kind}: {facet}.", "{Kind} of {name}: {facet}.")
"""Sentences made of a facet. The first is the plain one."""

_KEYS = {"definition", "facets", "source", "licence"}
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True, slots=True)
class Facet:
    """One aspect of how a finding looks."""

    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class Description:
    """The entry of one concept."""

    concept: str
    definition: str
    """A noun phrase."""
    facets: tuple[Facet, ...]
    """In the order of `KINDS`."""
    source: str
    licence: str
    see: str = ""
    """A public glossary where the fact can be read."""


@dataclass(frozen=True, slots=True)
class FacetBook:
    """Descriptions by concept."""

    entries: Mapping[str, Description]
    concepts: Mapping[str, Concept]

    @classmethod
    def parse(
        cls, tree: Any, concepts: Mapping[str, Concept], base: FacetBook | None = None
    ) -> FacetBook:
        """The book of a parsed YAML file, checked against the concepts.

        Args:
            tree: The file's content.
            concepts: All concepts that may be described.
            base: A book to extend; an entry of the file takes the place of the base's.

        Raises:
            ConfigError: `book-invalid`: a concept is unknown, a key is missing or unknown, a facet
                is none of the six, or a text is empty or occurs twice.
        """
        if not isinstance(tree, dict) or not isinstance(tree.get("facets"), dict):
            raise ConfigError("a facet book is a mapping with `facets`", code="book-invalid")
        entries = dict(base.entries) if base else {}
        for name, row in tree["facets"].items():
            if name not in concepts:
                raise ConfigError("facets of an unknown concept", code="book-invalid", got=name)
            entries[name] = _description(name, row)
        owner: dict[str, str] = {}
        for name, entry in entries.items():
            for text in (entry.definition, *(facet.text for facet in entry.facets)):
                key = normal_text(text)
                if key in owner:
                    raise ConfigError(
                        f"the text {text!r} occurs twice",
                        code="book-invalid",
                        got=f"{owner[key]} and {name}",
                        next_step="say what tells the two apart",
                    )
                owner[key] = name
        return cls(MappingProxyType(entries), concepts)

    def facet_texts(
        self, concept: str, rng: np.random.Generator | None = None, drop: float = 0.0
    ) -> tuple[str, ...]:
        """Sentences of a concept's facets.

        Args:
            concept: A concept id.
            rng: Draws the dropped facets and a template for each that remains. None: all facets
                in the plain template.
            drop: Probability that a facet is left out (facet dropout); at least one remains.

        Returns:
            One sentence a facet; none for a concept that the book does not describe.

        Raises:
            InputError: `concept-unknown`.
            ValueError: `drop` is no probability, or there is no `rng` for it.
        """
        if not 0 <= drop <= 1 or (drop and rng is None):
            raise ValueError("facet dropout needs a probability and a random generator")
        facets = self._facets(concept)
        if rng is None or not facets:
            return tuple(self._sentence(concept, facet, TEMPLATES[0]) for facet in facets)
        kept = rng.random(len(facets)) >= drop
        if not kept.any():
            kept[rng.integers(len(facets))] = True
        chosen = rng.integers(len(TEMPLATES), size=len(facets))
        return tuple(
            self._sentence(concept, facet, TEMPLATES[which])
            for facet, keep, which in zip(facets, kept, chosen, strict=True)
            if keep
        )

    def definitions(self, concept: str) -> tuple[str, ...]:
        """Sentences that define a concept: one that names it and one that does not.

        Returns:
            None for a concept that the book does not describe.

        Raises:
            InputError: `concept-unknown`.
        """
        self._facets(concept)
        entry = self.entries.get(concept)
        if entry is None:
            return ()
        name = _upper(self.concepts[concept].name)
        return (f"{name}: {entry.definition}.", f"{_upper(entry.definition)}.")

    def _facets(self, concept: str) -> tuple[Facet, ...]:
        if concept not in self.concepts:
            raise InputError(
                "no such concept",
                code="concept-unknown",
                got=concept,
                next_step="use an id of medvlp/knowledge/books",
            )
        entry = self.entries.get(concept)
        return entry.facets if entry else ()

    def _sentence(self, concept: str, facet: Facet, template: str) -> str:
        name = self.concepts[concept].name
        return template.format(
            name=name,
            Name=_upper(name),
            kind=facet.kind,
            Kind=_upper(facet.kind),
            facet=facet.text,
        )


@lru_cache(maxsize=1)
def load_facets() -> FacetBook:
    """The shipped book. Read once.

    Raises:
        ConfigError: `book-invalid` when the book is inconsistent.
    """
    text = files("medvlp.knowledge").joinpath("books", "facets.yaml").read_text(encoding="utf-8")
    return FacetBook.parse(yaml.load(text, Loader=_LOADER), load_concepts())


def facet_texts(
    concept: str, rng: np.random.Generator | None = None, drop: float = 0.0
) -> tuple[str, ...]:
    """`FacetBook.facet_texts` of the shipped book."""
    return load_facets().facet_texts(concept, rng, drop)


def definitions(concept: str) -> tuple[str, ...]:
    """`FacetBook.definitions` of the shipped book."""
    return load_facets().definitions(concept)


def _description(name: str, row: Any) -> Description:
    if not isinstance(row, dict) or not _KEYS <= set(row) <= _KEYS | {"see"}:
        keys = sorted(map(str, row)) if isinstance(row, dict) else type(row).__name__
        raise ConfigError(
            f"the entry of {name} lacks a key or has an unknown one",
            code="book-invalid",
            got=keys,
            limit=sorted(_KEYS),
        )
    facets = row["facets"]
    if not isinstance(facets, dict) or not facets or not set(facets) <= set(KINDS):
        raise ConfigError(
            f"a facet of {name} is none of the six",
            code="book-invalid",
            got=_names(facets),
            limit=KINDS,
        )
    texts = {**facets, **{key: row[key] for key in sorted(_KEYS - {"facets"})}}
    for key, text in texts.items():
        if not isinstance(text, str) or not any(char.isalnum() for char in text):
            raise ConfigError(f"the {key} of {name} has no words", code="book-invalid", got=text)
    return Description(
        concept=name,
        definition=row["definition"],
        facets=tuple(Facet(kind, facets[kind]) for kind in KINDS if kind in facets),
        source=row["source"],
        licence=row["licence"],
        see=str(row.get("see", "")),
    )


def _names(facets: object) -> object:
    return sorted(map(str, facets)) if isinstance(facets, Collection) else facets


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:]
