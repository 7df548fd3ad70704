"""What an ingest is going to read: files found, units, refusals, and a name for each unit."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_connectors.config import AnySource, ConfiguredSource, IngestConfig
from data_connectors.connectors import connector_of, files_of
from data_connectors.deid.policy import PixelPolicy
from data_connectors.deid.pseudonyms import Pseudonyms
from data_connectors.deid.review import read_decisions
from data_connectors.files import Files
from data_connectors.ingest.notes import Notes
from data_connectors.ingest.processes import Engine
from data_connectors.ingest.pulling import as_folder
from data_connectors.ingest.scouting import Scout
from data_connectors.items import Refused
from data_connectors.pacs.pulled import Pulled
from data_connectors.pacs.source import ArchiveSource
from data_connectors.source import Consulted, Unit
from medvlp import __version__
from medvlp.errors import ConfigError

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Planned:
    """One unit of one source."""

    order: int
    """Number of the source in the config."""
    source: AnySource
    unit: Unit
    fingerprint: str
    """Equal for the same unit of the same unchanged files, read by the same code."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that will be read, in order."""

    sources: tuple[AnySource, ...]
    files: dict[str, Files]
    """Source name -> every file under it."""
    tables: dict[str, set[str]] = field(default_factory=dict)
    """Source name -> files that its config names (tables of labels) or that were consulted (an
    index of a medium): used, but not units."""
    units: list[Planned] = field(default_factory=list)
    refused: list[tuple[str, Refused]] = field(default_factory=list)
    """(source name, refusal) of what `find` did not accept."""


def make_plan(
    config: IngestConfig,
    base: Path,
    sources: tuple[AnySource, ...],
    archives: Mapping[str, Pulled],
    engine: Engine,
    notes: Notes,
) -> Plan:
    """Look through every source.

    Args:
        config: What will be read, and how.
        base: Folder that its relative paths start from.
        sources: The sources, as `locate` gives them.
        archives: Source name -> what was pulled; what is missing of it is quarantined.
        engine: Where headers are looked at.
        notes: What an earlier run that was killed has already looked at.
    """
    policy = config.deid.model_dump_json(include={*PixelPolicy.model_fields} - {"reviewed"})
    judged = policy + review_digest(config, base)
    plan = Plan(sources, {source.name: files_of(source) for source in sources})
    for order, source in enumerate(sources):
        files = plan.files[source.name]
        log.info("looking through source %s: %d files", source.name, len(files))
        _plan_source(plan, order, source, config, judged, Scout(engine, notes, files))
    for name, pulled in archives.items():
        plan.files[name] |= {missing: (size, 0) for missing, size in pulled.missing.items()}
        plan.refused.extend((name, refused) for refused in pulled.refused)
    return plan


def locate(config: IngestConfig, base: Path, out: Path) -> tuple[AnySource, ...]:
    """The sources with absolute paths; an archive is the folder that it is pulled into.

    Raises:
        ConfigError: A source does not exist.
    """
    return tuple(_located(source, base, out) for source in config.sources)


def input_state(sources: Sequence[AnySource]) -> dict[str, list[int]]:
    """Number and total size of the inputs of every source: tells whether something was added."""
    state = {}
    for source in sources:
        sizes = [size for size, _ in files_of(source).values()]
        state[source.name] = [len(sizes), sum(sizes)]
    return state


def _located(source: ConfiguredSource, base: Path, out: Path) -> AnySource:
    if isinstance(source, ArchiveSource):
        return as_folder(source, base, out)
    path = (base / source.path).resolve()
    if not path.exists():
        raise ConfigError(
            f"source {source.name}: there is no such file or folder", code="path-missing",
            got=source.path, next_step="paths are relative to the config file",
        )  # fmt: skip
    if source.kind == "dicom" and path.name.upper() == "DICOMDIR" and path.is_file():
        path = path.parent  # the index of a medium stands for the medium
    return source.model_copy(update={"path": path})


def _plan_source(
    plan: Plan,
    order: int,
    source: AnySource,
    config: IngestConfig,
    judged: str,
    scout: Scout,
) -> None:
    files = plan.files[source.name]
    claimed: set[str] = set()
    consulted: set[str] = set()
    units: list[Unit] = []
    for found in connector_of(source).find(source, scout):
        claimed.update(found.inputs)
        if isinstance(found, Refused):
            plan.refused.append((source.name, found))
        elif isinstance(found, Consulted):
            consulted.update(found.inputs)
        else:
            units.append(found)
    # Folders list in any order; a copy of the archive must give the same dataset.
    units.sort(key=lambda unit: (unit.inputs, unit.id))
    how = f"{config.shard_mb} {source.model_dump_json(exclude={'path'})} {judged}"
    for unit in units:
        plan.units.append(Planned(order, source, unit, _fingerprint(how, unit, files)))
    plan.tables[source.name] = (_named_in(source) | consulted) & files.keys()
    rest = tuple(sorted(files.keys() - claimed - plan.tables[source.name]))
    if rest:
        plan.refused.append((source.name, Refused(
            "file-unclaimed", f"no {source.kind} reader knows what to do with this file",
            "move it, or add a source of another kind for it", rest,
        )))  # fmt: skip


def _named_in(source: AnySource) -> set[str]:
    """Files that the source's own keys may name."""
    values = [getattr(source, name) for name in type(source).model_fields if name != "path"]
    return {str(value) for value in values if isinstance(value, str | Path)}


def _fingerprint(how: str, unit: Unit, files: Files) -> str:
    state = [(name, *files.get(name, (-1, -1))) for name in unit.inputs]
    facts = json.dumps([__version__, how, unit.id, unit.hint, state])
    return hashlib.sha256(facts.encode("utf-8", "surrogateescape")).hexdigest()


def review_digest(config: IngestConfig, base: Path) -> str:
    """SHA-256 of the decisions about pixels that the config names; empty without one.

    Raises:
        ConfigError: The file cannot be read, or holds what is no decision.
    """
    if config.deid.reviewed is None:
        return ""
    path = base / config.deid.reviewed
    read_decisions(path)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def config_digest(config: IngestConfig) -> str:
    """Names a config: equal for equal values, defaults included."""
    return hashlib.sha256(config.model_dump_json().encode()).hexdigest()


def public_config(config: IngestConfig, names: Pseudonyms) -> dict[str, Any]:
    """The config without places of the site: folder names may hold a name."""
    tree: dict[str, Any] = config.model_dump(mode="json")
    for number, source in enumerate(config.sources):
        if isinstance(source, ArchiveSource):
            tree["sources"][number] = source.public()
        else:
            tree["sources"][number]["path"] = names.path("source", str(source.path))
    for key in ("key_file", "reviewed"):
        tree["deid"][key] = tree["deid"][key] and "given"
    return tree
