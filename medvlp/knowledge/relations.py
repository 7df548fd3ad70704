"""Which finding is where: the ternary matrix of a sample's findings over regions.

MedKLIP (Wu et al. 2023, arXiv 2301.02228) and MeDSLIP (Fan et al. 2024, arXiv 2403.10635) learn
from triplets (finding, region, exists). Here the triplets follow from findings by rules, so that a
denial stays where it was said and nothing is denied that nobody spoke of. numpy only.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import lru_cache

import numpy as np
from jaxtyping import Int8

from medvlp.errors import InputError
from medvlp.knowledge.concepts import NORMAL, Concept, ancestors, load_concepts
from medvlp.knowledge.regions import Anatomy, load_anatomy
from medvlp.types import Finding, Polarity, Side

Statement = tuple[str, Polarity, Side | None, str | None]
"""Concept, polarity, side, place: all of a finding that matters here."""

_PRESENT, _DOUBTED, _ABSENT = 3, 2, 1
_LEVEL: dict[Polarity, int] = {"present": _PRESENT, "uncertain": _DOUBTED, "absent": _ABSENT}
_VALUE = np.array([0, -1, 2, 1], dtype=np.int8)
_REMEMBERED = 2_048


class RelationTable:
    """Compiled for some concepts (rows) and regions (columns).

    * A present finding is present in the regions named and in all they are part of. Where the
      text names no place it is at the concept's home; where the side is open, in what both sides
      are part of. Nothing is said of other regions.
    * An uncertain one likewise.
    * An absent one without a place is absent everywhere; with a side only, in all regions of that
      side; with a place, there and in all its parts. What is absent in all parts of a pair (both
      lungs) is absent in the whole (`lungs`).
    * More general concepts inherit present, and uncertain where nothing is said of them; more
      special ones inherit absent where nothing is said of them (as in `ClaimSlots.stated`).
    * `normal` denies what it denies; its own row stays 0.

    Args:
        concepts: Concept ids in the order of the rows.
        regions: Region ids in the order of the columns.
        book: The concepts with their is-a; the shipped ones by default.
        anatomy: The regions with the homes of concepts; the shipped ones by default.

    Raises:
        InputError: `concept-unknown`, `region-unknown`.
    """

    def __init__(
        self,
        concepts: Collection[str],
        regions: Collection[str],
        *,
        book: Mapping[str, Concept] | None = None,
        anatomy: Anatomy | None = None,
    ):
        book = load_concepts() if book is None else book
        self._anatomy = load_anatomy() if anatomy is None else anatomy
        self._row = {name: at for at, name in enumerate(book)}
        self._regions = tuple(self._anatomy.regions)
        columns = {name: at for at, name in enumerate(self._regions)}
        _refuse_unknown(concepts, self._row, "concept")
        _refuse_unknown(regions, columns, "region")
        self._rows = np.array([self._row[name] for name in concepts], dtype=np.intp)
        self._columns = np.array([columns[name] for name in regions], dtype=np.intp)
        above = ancestors(book)
        self._up = [sorted(self._row[other] for other in above[name]) for name in book]
        # Row by column: 1 where the column is more general; a product then counts denied parents.
        self._down = np.zeros((len(book), len(book)), dtype=np.float32)
        for row, parents in enumerate(self._up):
            self._down[row, parents] = 1.0
        self._denies = book[NORMAL].denies if NORMAL in book else ()
        wholes = dict.fromkeys(r.whole for r in self._anatomy.regions.values() if r.whole)
        self._wholes = [columns[whole] for whole in wholes]
        self._parts = np.zeros((len(columns), len(wholes)), dtype=np.float32)
        for at, whole in enumerate(wholes):
            self._parts[[columns[part] for part in self._anatomy.below[whole] - {whole}], at] = 1.0
        self._mask = lru_cache(maxsize=65_536)(self._make_mask)
        self._remember = lru_cache(maxsize=_REMEMBERED)(self._matrix)

    def of(self, findings: Iterable[Finding]) -> Int8[np.ndarray, "s r"]:
        """The matrix: 1 present, -1 absent, 2 uncertain, 0 not mentioned.

        Where several findings speak of one cell, present wins over uncertain, uncertain over
        absent. Findings of concepts that the book does not hold are left out.
        """
        return self._remember(frozenset(self._statements(findings))).copy()

    def _statements(self, findings: Iterable[Finding]) -> Iterator[Statement]:
        for finding in findings:
            if finding.concept == NORMAL:
                if finding.polarity == "present":
                    for name in self._denies:
                        yield name, "absent", None, None
            elif finding.concept in self._row:
                yield finding.concept, finding.polarity, finding.side, finding.anatomy

    def _matrix(self, statements: frozenset[Statement]) -> Int8[np.ndarray, "s r"]:
        evidence = np.zeros((len(self._row), len(self._regions)), dtype=np.int8)
        touched: set[int] = set()
        for statement in statements:
            row = self._row[statement[0]]
            np.maximum(evidence[row], self._mask(statement), out=evidence[row])
            touched.add(row)
        rows = sorted(touched)
        self._generalise(evidence, rows)
        self._specialise(evidence, rows)
        denied_parts = (evidence == _ABSENT).astype(np.float32) @ self._parts
        whole = evidence[:, self._wholes]
        whole[(denied_parts == self._parts.sum(axis=0)) & (whole == 0)] = _ABSENT
        evidence[:, self._wholes] = whole
        return _VALUE.take(evidence.take(self._rows, axis=0).take(self._columns, axis=1))

    def _generalise(self, evidence: Int8[np.ndarray, "c q"], touched: list[int]) -> None:
        direct = evidence.copy()
        for row in touched:
            if direct[row].max() < _DOUBTED:
                continue
            present, doubted = direct[row] == _PRESENT, direct[row] == _DOUBTED
            for parent in self._up[row]:
                # Doubt about a kind does not undo what is said of the whole.
                open_to_doubt = doubted & (direct[parent] == 0) & (evidence[parent] == 0)
                evidence[parent][open_to_doubt] = _DOUBTED
                evidence[parent][present] = _PRESENT

    def _specialise(self, evidence: Int8[np.ndarray, "c q"], touched: list[int]) -> None:
        denied = (evidence[touched] == _ABSENT).astype(np.float32)
        inherited = self._down[:, touched] @ denied  # how many parents are denied there
        evidence[(inherited > 0) & (evidence == 0)] = _ABSENT

    def _make_mask(self, statement: Statement) -> Int8[np.ndarray, " q"]:
        """The cells of its row that one statement speaks of, at its level."""
        concept, polarity, side, place = statement
        if polarity == "absent":
            named = self._denied(side, place)
        else:
            named = self._stated(concept, side, place)
        level = _LEVEL[polarity]
        return np.array([level * (name in named) for name in self._regions], dtype=np.int8)

    def _denied(self, side: Side | None, place: str | None) -> Collection[str]:
        regions, below = self._anatomy.regions, self._anatomy.below
        if place is None:
            return [r for r in regions if side not in ("left", "right") or regions[r].side == side]
        if side in ("left", "right"):
            named = self._anatomy.region_of(place, side)
            # A denial of one side says nothing of a place that has no sides.
            named = tuple(name for name in named if regions[name].side == side)
        else:
            named = self._anatomy.candidates(place)
        return {part for name in named for part in below[name]}

    def _stated(self, concept: str, side: Side | None, place: str | None) -> Collection[str]:
        named = set() if place is None else self._certain(place, side)
        home = self._anatomy.homes.get(concept)
        if home is not None and (home.always or place is None):
            named |= self._certain(home.place, side)
        return named

    def _certain(self, place: str, side: Side | None) -> set[str]:
        """The regions that surely hold something at this place."""
        above = self._anatomy.above
        named = self._anatomy.region_of(place, side)
        if named or side in ("left", "right"):
            return {region for name in named for region in above[name]}
        # Which side is open: it is in what both are part of.
        either = [above[name] for name in self._anatomy.candidates(place)]
        return set(frozenset.intersection(*either)) if either else set()


@lru_cache(maxsize=8)
def _table(concepts: tuple[str, ...], regions: tuple[str, ...]) -> RelationTable:
    return RelationTable(concepts, regions)


def relations(
    findings: Iterable[Finding], concepts: Collection[str], regions: Collection[str]
) -> Int8[np.ndarray, "s r"]:
    """The ternary matrix of a sample's findings with the shipped books; see `RelationTable`.

    Args:
        findings: All findings of one sample.
        concepts: Concept ids in the order of the rows (`load_concepts()` gives all).
        regions: Region ids in the order of the columns (`load_regions()` gives all).

    Returns:
        int8 [s, r]: 1 present in the region, -1 absent, 2 uncertain, 0 not mentioned.

    Raises:
        InputError: `concept-unknown`, `region-unknown`.
    """
    return _table(tuple(concepts), tuple(regions)).of(findings)


def _refuse_unknown(names: Iterable[str], known: Mapping[str, int], kind: str) -> None:
    for name in names:
        if name not in known:
            raise InputError(
                f"no such {kind}",
                code=f"{kind}-unknown",
                got=name,
                next_step="use an id of medvlp/knowledge/books",
            )
