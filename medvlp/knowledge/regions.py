"""Regions of the body: where findings are. The anatomy book is package data (YAML).

A region is part of others; sided ones come in pairs ("left lung", "right lung") that are written
once in the book. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from types import MappingProxyType
from typing import Any, Literal

import yaml

from medvlp.errors import ConfigError
from medvlp.knowledge.concepts import load_concepts
from medvlp.knowledge.tokens import words
from medvlp.types import Side

RegionSide = Literal["left", "right"]

_SIDES: tuple[RegionSide, ...] = ("left", "right")
_REQUIRED = {"id", "name", "definition", "source", "licence"}
_KNOWN = _REQUIRED | {"synonyms", "sides", "side", "whole", "part_of", "uberon"}
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True, slots=True)
class Region:
    """One region of the body."""

    id: str
    name: str
    definition: str
    stem: str
    """The id without its side: `lung` of `left_lung`; the id itself where there is one only."""
    side: RegionSide | None = None
    synonyms: tuple[str, ...] = ()
    part_of: tuple[str, ...] = ()
    """Ids of the regions that it is part of, direct ones only."""
    whole: str | None = None
    """The region that it makes up together with its twin of the other side."""
    source: str = ""
    licence: str = ""
    uberon: str | None = None


@dataclass(frozen=True, slots=True)
class Home:
    """Where a concept is when a text names no place."""

    place: str
    """A region or a stem."""
    always: bool
    """Whether it is there whatever place is named: a basal effusion lies in the pleura."""


class Anatomy:
    """Regions that fit together, with the homes of concepts.

    Raises:
        ConfigError: `book-invalid`: an id or a phrase occurs twice, a region is part of an unknown
            one or of itself, or a home is unknown.
    """

    def __init__(self, regions: tuple[Region, ...], homes: Mapping[str, Home]):
        _check_phrases(regions)
        self.regions: Mapping[str, Region] = MappingProxyType({r.id: r for r in regions})
        self.above = _closure(self.regions)
        """For every region, itself and all that it is part of."""
        self.below = {
            name: frozenset(other for other in self.regions if name in self.above[other])
            for name in self.regions
        }
        """For every region, itself and all its parts."""
        self._stems: dict[str, dict[RegionSide, str]] = {}
        for region in regions:
            if region.side and region.id != region.stem:
                self._stems.setdefault(region.stem, {})[region.side] = region.id
        self._halves = {r.whole: r.stem for r in regions if r.whole}
        self.homes: Mapping[str, Home] = MappingProxyType(dict(homes))
        for concept, home in homes.items():
            if not self.candidates(home.place):
                raise ConfigError(
                    f"the home of {concept} is no region", code="book-invalid", got=home.place
                )

    def region_of(self, anatomy: str | None, side: str | None) -> tuple[str, ...]:
        """The regions that a place with a side means; see the function of this name."""
        if anatomy is None:
            return ()
        pair = self._stems.get(self._halves.get(anatomy, anatomy), {})
        if side == "bilateral" and pair:
            return tuple(pair[one] for one in _SIDES if one in pair)
        if side in ("left", "right") and pair:
            return tuple(name for one, name in pair.items() if one == side)
        region = self.regions.get(anatomy)
        if region is None:
            return tuple(pair.values()) if len(pair) == 1 else ()
        contrary = region.side and side in ("left", "right") and side != region.side
        return () if contrary else (region.id,)

    def candidates(self, anatomy: str) -> tuple[str, ...]:
        """All regions that a place can mean while its side is unknown."""
        return self.region_of(anatomy, None) or self.region_of(anatomy, "bilateral")


@lru_cache(maxsize=1)
def load_anatomy() -> Anatomy:
    """The shipped anatomy book with the homes of the shipped concepts. Read once.

    Raises:
        ConfigError: `book-invalid` when the book is inconsistent.
    """
    text = files("medvlp.knowledge").joinpath("books", "anatomy.yaml").read_text(encoding="utf-8")
    anatomy = parse_anatomy(yaml.load(text, Loader=_LOADER))
    unknown = sorted(set(anatomy.homes) - set(load_concepts()))
    if unknown:
        raise ConfigError("a home of an unknown concept", code="book-invalid", got=unknown[0])
    return anatomy


def load_regions() -> Mapping[str, Region]:
    """All regions of the shipped book, by id, in book order."""
    return load_anatomy().regions


def region_of(anatomy: str | None, side: Side | None) -> tuple[str, ...]:
    """Ids of the regions that a finding's place and side mean.

    Args:
        anatomy: An id of `anatomy:` in the rule book (`upper_lobe`), or of a region (`left_lung`,
            `lungs`).
        side: The finding's side.

    Returns:
        Both regions for bilateral; nothing where the place is unknown, where it needs a side and
        has none, or where place and side contradict each other. A region that has no side is
        meant whatever the side.
    """
    return load_anatomy().region_of(anatomy, side)


def parse_anatomy(tree: Any) -> Anatomy:
    """Regions and homes of a parsed book.

    Raises:
        ConfigError: `book-invalid`: a key is missing, unknown or of the wrong type, or the parts
            do not fit together.
    """
    if not isinstance(tree, dict) or not isinstance(tree.get("regions"), list):
        raise ConfigError("an anatomy is a mapping with a list `regions`", code="book-invalid")
    rows = [_checked(row) for row in tree["regions"]]
    sides: dict[str, tuple[RegionSide, ...]] = {
        row["id"]: tuple(row["sides"]) for row in rows if "sides" in row
    }
    regions = tuple(region for row in rows for region in _expand(row, sides))
    homes: dict[str, Home] = {}
    for kind, places in (tree.get("homes") or {}).items():
        if kind not in ("always", "unless_said"):
            raise ConfigError("homes are always or unless_said", code="book-invalid", got=kind)
        for place, concepts in places.items():
            for concept in concepts:
                if concept in homes:
                    raise ConfigError("a concept has two homes", code="book-invalid", got=concept)
                homes[concept] = Home(place, always=kind == "always")
    return Anatomy(regions, homes)


def _checked(row: Any) -> dict[str, Any]:
    if not isinstance(row, dict) or not set(row) >= _REQUIRED or not set(row) <= _KNOWN:
        keys = sorted(map(str, row)) if isinstance(row, dict) else type(row).__name__
        raise ConfigError(
            "a region lacks a key or has an unknown one",
            code="book-invalid",
            got=keys,
            limit=sorted(_REQUIRED),
        )
    for key in _REQUIRED:
        if not isinstance(row[key], str) or not row[key].strip():
            raise ConfigError(f"a region's {key} is empty", code="book-invalid", got=row["id"])
    if not set(row.get("sides", ())) <= set(_SIDES) or row.get("side", "left") not in _SIDES:
        raise ConfigError("a side is left or right", code="book-invalid", got=row["id"])
    return row


def _expand(
    row: Mapping[str, Any], sides: Mapping[str, tuple[RegionSide, ...]]
) -> Iterator[Region]:
    """The regions of one entry: one a side, or itself."""
    for side in sides.get(row["id"], (None,)):
        prefix = f"{side} " if side else ""
        uberon = row.get("uberon")
        parents = [*row.get("part_of", ()), *([row["whole"]] if row.get("whole") else [])]
        yield Region(
            id=f"{side}_{row['id']}" if side else row["id"],
            name=prefix + row["name"],
            definition=row["definition"].replace("{side}", side or ""),
            stem=row["id"],
            side=side or row.get("side"),
            synonyms=tuple(prefix + text for text in row.get("synonyms", ())),
            part_of=tuple(_parent(row["id"], one, side, sides) for one in parents),
            whole=row.get("whole"),
            source=row["source"],
            licence=row["licence"],
            uberon=uberon[side] if isinstance(uberon, dict) else uberon,
        )


def _parent(
    name: str,
    parent: str,
    side: RegionSide | None,
    sides: Mapping[str, tuple[RegionSide, ...]],
) -> str:
    """The id of a parent; a stem is the parent of the same side."""
    if parent not in sides:
        return parent
    if side not in sides[parent]:
        raise ConfigError(f"{name} is part of {parent}: which side?", code="book-invalid", got=side)
    return f"{side}_{parent}"


def _check_phrases(regions: tuple[Region, ...]) -> None:
    ids: set[str] = set()
    owner: dict[tuple[str, ...], str] = {}
    for region in regions:
        if region.id in ids:
            raise ConfigError("a region is defined twice", code="book-invalid", got=region.id)
        ids.add(region.id)
        for text in (region.name, *region.synonyms, region.definition):
            if owner.setdefault(words(text), region.id) != region.id:
                raise ConfigError(
                    f"the text {text!r} belongs to two regions",
                    code="book-invalid",
                    got=f"{owner[words(text)]} and {region.id}",
                )


def _closure(regions: Mapping[str, Region]) -> dict[str, frozenset[str]]:
    closed: dict[str, frozenset[str]] = {}

    def close(name: str, path: tuple[str, ...]) -> frozenset[str]:
        if name not in regions:
            raise ConfigError(f"{path[-1]} is part of no region", code="book-invalid", got=name)
        if name in path:
            raise ConfigError("part_of has a cycle", code="book-invalid", got=" -> ".join(path))
        if name not in closed:
            above = (close(parent, (*path, name)) for parent in regions[name].part_of)
            closed[name] = frozenset({name}).union(*above)
        return closed[name]

    for name in regions:
        close(name, ())
    return closed
