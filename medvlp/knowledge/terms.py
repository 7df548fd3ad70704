"""Ontologies in memory: terms with names, synonyms and what is a kind of what.

A branch of one can extend the concept book. Readers are in `medvlp.knowledge.ontology`. Imports no
torch.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Literal

from medvlp.errors import InputError
from medvlp.knowledge.concepts import Concept
from medvlp.knowledge.tokens import words

Scope = Literal["EXACT", "NARROW", "BROAD", "RELATED"]
SCOPES: tuple[Scope, ...] = ("EXACT", "NARROW", "BROAD", "RELATED")


@dataclass(frozen=True, slots=True)
class Synonym:
    """Another phrase for a term."""

    text: str
    scope: Scope = "EXACT"


@dataclass(frozen=True, slots=True)
class Term:
    """One term."""

    id: str
    name: str
    """Empty where the file gives none."""
    definition: str = ""
    synonyms: tuple[Synonym, ...] = ()
    parents: tuple[str, ...] = ()
    """Direct is-a parents; some may be missing from the file."""
    part_of: tuple[str, ...] = ()
    xrefs: tuple[str, ...] = ()
    namespace: str = ""
    alternates: tuple[str, ...] = ()
    """Former ids of terms that were merged into this one."""


@dataclass(frozen=True, eq=False)
class Ontology:
    """Terms by id, checked: ids are unique and is-a has no cycle."""

    terms: Mapping[str, Term]
    """In file order, obsolete ones left out."""
    name: str
    version: str
    """As the header says; empty where it says nothing. So is the licence."""
    licence: str
    dangling: tuple[str, ...]
    """Parents that are named and missing, as in every slim; walks end before them."""
    obsolete: int
    """How many obsolete terms were left out."""
    problems: tuple[str, ...]
    """Lines that could not be read and were left out."""

    @classmethod
    def build(
        cls,
        terms: Iterable[Term],
        *,
        name: str,
        version: str = "",
        licence: str = "",
        obsolete: int = 0,
        problems: Iterable[str] = (),
    ) -> Ontology:
        """Check terms and join them.

        Raises:
            InputError: `ontology-empty`, `ontology-duplicate` (an id occurs twice),
                `ontology-cycle` (a term is a kind of itself).
        """
        found: dict[str, Term] = {}
        for term in terms:
            if term.id in found:
                raise InputError("a term is defined twice", code="ontology-duplicate", got=term.id)
            found[term.id] = term
        if not found:
            raise InputError("the ontology has no terms", code="ontology-empty", got=name)
        _refuse_cycles(found)
        named = {up: None for term in found.values() for up in (*term.parents, *term.part_of)}
        return cls(
            terms=MappingProxyType(found),
            name=name,
            version=version,
            licence=licence,
            dangling=tuple(up for up in named if up not in found),
            obsolete=obsolete,
            problems=tuple(problems),
        )

    def term(self, name: str) -> Term:
        """The term of an id, also of a former one.

        Raises:
            InputError: `term-unknown`.
        """
        term = self.terms.get(self._alternates.get(name, name))
        if term is None:
            raise InputError("the ontology has no such term", code="term-unknown", got=name)
        return term

    def children(self, name: str) -> tuple[str, ...]:
        """Ids of the direct kinds of a term, in file order."""
        return self._children.get(self.term(name).id, ())

    def ancestors(self, name: str, *, part_of: bool = False) -> frozenset[str]:
        """Ids of all more general terms, itself not among them.

        Args:
            name: A term's id.
            part_of: Walk from a part to its whole as well.
        """
        return self._walk(name, lambda one: self._up(one, part_of))

    def descendants(self, name: str) -> frozenset[str]:
        """Ids of all more special terms, itself not among them."""
        return self._walk(name, lambda one: self._children.get(one, ()))

    def is_a(self, name: str, other: str) -> bool:
        """Whether a term is the other one or a kind of it."""
        name, other = self.term(name).id, self.term(other).id
        return name == other or other in self.ancestors(name)

    def search(self, text: str, *, scopes: Collection[str] = ("EXACT",)) -> tuple[str, ...]:
        """Ids of the terms that a phrase names, in file order.

        Case, punctuation and plural endings do not matter; the whole phrase must fit.

        Args:
            text: The phrase.
            scopes: Which synonyms count beside the name.
        """
        hits = self._phrases.get(" ".join(words(text)), ())
        return tuple(dict.fromkeys(name for name, scope in hits if not scope or scope in scopes))

    def to_concepts(
        self,
        ids: Iterable[str],
        *,
        book: Mapping[str, Concept] = MappingProxyType({}),
        region: str = "",
        laterality: bool = True,
    ) -> tuple[Concept, ...]:
        """Concepts of some terms, so that a branch can extend a book.

        They fit the book: a phrase keeps the owner that it has there. A term whose name the book
        knows becomes no concept, and its kinds point to the book's. Of two terms with one name the
        first stays. A parent that is not among the terms gives way to its own parents. Only exact
        synonyms are taken, and no abbreviations: ALL is a word in lower case.

        Args:
            ids: Ids of terms, e.g. `descendants` of one.
            book: The concepts to extend.
            region: `Concept.region` of all.
            laterality: `Concept.laterality` of all.

        Returns:
            The new concepts, under the ontology's own ids.

        Raises:
            InputError: `term-unknown`, `term-nameless`.
        """
        owner = {words(text): concept.id for concept in book.values() for text in concept.phrases}
        chosen = {term.id: term for term in map(self.term, ids)}
        place: dict[str, str] = {}
        for term in chosen.values():
            key = words(term.name)
            if not key:
                raise InputError("a term has no name", code="term-nameless", got=term.id)
            known = owner.setdefault(key, term.id)
            if term.id in book:
                place[term.id] = term.id
            elif known == term.id or known in book:
                place[term.id] = known
        new = [term for name, term in chosen.items() if place.get(name) == name]
        return tuple(
            Concept(
                id=term.id,
                name=term.name,
                synonyms=_free(term, owner),
                is_a=self._nearest(term, place),
                laterality=laterality,
                region=region,
                source=f"{self.name} {self.version}".strip(),
            )
            for term in new
            if term.id not in book
        )

    @cached_property
    def _children(self) -> dict[str, tuple[str, ...]]:
        below: dict[str, list[str]] = {}
        for term in self.terms.values():
            for parent in term.parents:
                below.setdefault(parent, []).append(term.id)
        return {name: tuple(dict.fromkeys(children)) for name, children in below.items()}

    @cached_property
    def _alternates(self) -> dict[str, str]:
        return {
            former: term.id
            for term in self.terms.values()
            for former in term.alternates
            if former not in self.terms
        }

    @cached_property
    def _phrases(self) -> dict[str, list[tuple[str, str]]]:
        """Normal phrase -> (term, scope); the scope of a name is empty."""
        found: dict[str, list[tuple[str, str]]] = {}
        for term in self.terms.values():
            named = ((term.name, ""), *((one.text, one.scope) for one in term.synonyms))
            for text, scope in named:
                key = " ".join(words(text))
                if key:
                    found.setdefault(key, []).append((term.id, scope))
        return found

    def _up(self, name: str, part_of: bool) -> tuple[str, ...]:
        term = self.terms[name]
        above = (*term.parents, *term.part_of) if part_of else term.parents
        return tuple(parent for parent in above if parent in self.terms)

    def _walk(self, name: str, step: Callable[[str], Iterable[str]]) -> frozenset[str]:
        start = self.term(name).id
        seen, todo = {start}, [start]
        while todo:
            for other in step(todo.pop()):
                if other not in seen:
                    seen.add(other)
                    todo.append(other)
        return frozenset(seen - {start})

    def _nearest(self, term: Term, place: Mapping[str, str]) -> tuple[str, ...]:
        """Concepts of the nearest chosen ancestors of a term, itself not among them."""
        found: dict[str, None] = {}
        seen, todo = set(term.parents), deque(term.parents)
        while todo:
            name = todo.popleft()
            if name in place:
                found[place[name]] = None
                continue
            for parent in self._up(name, False) if name in self.terms else ():
                if parent not in seen:
                    seen.add(parent)
                    todo.append(parent)
        return tuple(found)


def _free(term: Term, owner: dict[tuple[str, ...], str]) -> tuple[str, ...]:
    """The exact synonyms that no other concept has; they are the term's from now on."""
    found = []
    for synonym in term.synonyms:
        key = words(synonym.text)
        if synonym.scope != "EXACT" or not key or _is_abbreviation(synonym.text):
            continue
        if key not in owner:
            owner[key] = term.id
            found.append(synonym.text)
    return tuple(found)


def _is_abbreviation(text: str) -> bool:
    return " " not in text and (text.isupper() or len(text) < 4)


def _refuse_cycles(terms: Mapping[str, Term]) -> None:
    """Take terms without parents away until none is left; what stays lies on or below a cycle."""
    waiting = {
        name: sum(parent in terms for parent in set(term.parents)) for name, term in terms.items()
    }
    below: dict[str, list[str]] = {}
    for name, term in terms.items():
        for parent in set(term.parents):
            below.setdefault(parent, []).append(name)
    todo = [name for name, count in waiting.items() if not count]
    while todo:
        name = todo.pop()
        del waiting[name]
        for child in below.get(name, ()):
            waiting[child] -= 1
            if not waiting[child]:
                todo.append(child)
    if not waiting:
        return
    path: dict[str, None] = {}
    name = next(iter(waiting))
    while name not in path:  # every one that stays has a parent that stays
        path[name] = None
        name = next(parent for parent in terms[name].parents if parent in waiting)
    cycle = [*path][[*path].index(name) :]
    shown = " -> ".join([*cycle[:10], "..." if len(cycle) > 10 else name])
    raise InputError("is-a has a cycle", code="ontology-cycle", got=shown)
