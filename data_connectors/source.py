"""What every configured source has, and the two steps of every connector.

A connector is a module with two functions:

    find(source, spread) -> Iterator[Unit | Refused | Consulted]   cheap: what belongs together
    read(source, unit) -> Iterator[Item]                           expensive: decode one unit

so that the ingest engine can spread units over processes and resume after a kill. Every input
file of a source is in exactly one unit or refusal, and every input of a unit is in the `inputs`
of at least one of the items that reading it yields (of several where one file holds several
volumes).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from medvlp.config import Config


class NamedSource(Config):
    """What every entry of an ingest config's `sources:` says, wherever its data lies."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_\-]*$")
    """Short name; becomes the `provenance` of every sample."""
    licence: str = ""
    domain: str = Field(default="", pattern=r"^[A-Za-z0-9_.\-]*$")
    """Who gave out the patient identifiers. Sources of one domain share patients (images, reports
    and videos of one hospital); collections that number their patients 1, 2, 3 each need one."""


class Source(NamedSource):
    """A source of files; each connector adds its own `kind` and keys."""

    path: Path
    """Folder or file; a relative path is relative to the config file."""


@dataclass(frozen=True, slots=True)
class Unit:
    """Inputs that are read together: a series, one image, a lecture with its transcripts."""

    id: str
    """Stable across runs: a digest of what it is made of; no patient data."""
    inputs: tuple[str, ...]
    """Paths relative to the source's path."""
    hint: str = ""
    """Whatever `find` learnt that `read` needs, as text."""


@dataclass(frozen=True, slots=True)
class Consulted:
    """Inputs that were read for what they say about others: used, but no sample comes of them."""

    inputs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Chunk:
    """Files that one process looks at, on the way to units."""

    source: Any
    names: tuple[str, ...]
    """As `files.scan` gives them."""


Spread = Callable[[Callable[[Chunk], str], Sequence[Chunk]], Iterator[str | None]]
"""How `find` has many files looked at, here or in processes that may die instead of us: calls a
function on each chunk and yields what it says, in order; None where the process was lost."""


def directly(look: Callable[[Chunk], str], chunks: Sequence[Chunk]) -> Iterator[str | None]:
    """Look at one chunk after the other, right here."""
    yield from map(look, chunks)
