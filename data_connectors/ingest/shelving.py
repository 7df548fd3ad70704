"""Reads the units of a plan in processes and puts their pixels on the shelves: the shards."""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from data_connectors.config import IngestConfig
from data_connectors.dataset.writer import ShardWriter
from data_connectors.deid.gate import Gate
from data_connectors.deid.pseudonyms import Pseudonyms
from data_connectors.ingest import journal
from data_connectors.ingest.assemble import Entry
from data_connectors.ingest.planning import Plan, Planned
from data_connectors.ingest.processes import Lost, build_engine
from data_connectors.ingest.reading import Task, discard, lost, read_unit
from data_connectors.ingest.records import Stored, UnitRecord, from_json
from data_connectors.items import Refused

log = logging.getLogger(__name__)

_FOLDER = {"lectures": "video"}
"""Kinds of source whose reader is in a folder of another name."""
_TELL_S = 15.0


def shelve(
    config: IngestConfig,
    plan: Plan,
    names: Pseudonyms,
    partial: Path,
    gate: Gate,
    *,
    workers: int,
    engine: str,
) -> tuple[list[Entry], int]:
    """Read every unit that the journal does not have yet.

    Args:
        config: Shard size and time limit.
        plan: The units, in order.
        names: Makes the keys of the samples.
        partial: Folder of the unfinished ingest.
        gate: Which pixels may be stored.
        workers: See `build_engine`.
        engine: Likewise.

    Returns:
        What every unit gave, in order, and how many of them came from the journal.
    """
    shutil.rmtree(partial / "spool", ignore_errors=True)
    spool = partial / "spool" / str(os.getpid())  # workers of a killed run may still write theirs
    spool.mkdir(parents=True)
    book = journal.Journal(partial / "journal", names.journal_key)
    done = book.begin([planned.fingerprint for planned in plan.units], partial / "dataset")
    shard, offset = (done[-1].shard, done[-1].offset) if done else (0, 0)
    shelf = _Shelf(ShardWriter(
        partial / "dataset", limit=config.shard_mb * 1_000_000, shard=shard, offset=offset
    ))  # fmt: skip
    records = [entry.record for entry in done]
    for record in records:
        shelf.remember(record)
    if done:
        log.info("going on after %d of %d units", len(done), len(plan.units))
    todo = plan.units[len(done) :]
    pool = build_engine(
        engine, workers=workers, timeout_s=config.reader_timeout_s, preload=_needed(plan),
        memory_mb=config.reader_memory_mb,
    )  # fmt: skip
    tasks = [
        Task(planned.source, planned.unit, spool / f"{number:09d}", names, gate)
        for number, planned in enumerate(todo)
    ]
    with _progress(len(plan.units), len(done)) as advance:
        for planned, task, answer in zip(todo, tasks, pool.map(read_unit, tasks), strict=True):
            text = lost(planned.unit, answer.why) if isinstance(answer, Lost) else answer
            record = shelf.put(from_json(UnitRecord, text), task.spool)
            book.append(journal.Entry(
                planned.fingerprint, shelf.writer.shard, shelf.writer.offset, record
            ))  # fmt: skip
            records.append(record)
            discard(task.spool)
            advance()
    shelf.writer.close()
    book.close()
    return [_entry(p, r) for p, r in zip(plan.units, records, strict=True)], len(done)


def _needed(plan: Plan) -> list[str]:
    """Modules that every worker uses: imported once, not once a worker."""
    folders = sorted({_FOLDER.get(source.kind, source.kind) for source in plan.sources})
    return ["data_connectors.ingest.reading"] + [
        f"data_connectors.{name}.reader" for name in folders
    ]


class _Shelf:
    """The shards, and which visuals already lie in them."""

    def __init__(self, writer: ShardWriter) -> None:
        self.writer = writer
        self._known: set[str] = set()

    def remember(self, record: UnitRecord) -> None:
        """Visuals of a unit that an earlier run has written."""
        self._known.update(visual.key for visual in record.visuals)

    def put(self, record: UnitRecord, spool: Path) -> UnitRecord:
        """Copy the visuals of a unit from its spool; a visual already there becomes a refusal."""
        visuals: list[Stored] = []
        refused = list(record.refused)
        if record.visuals:
            with spool.open("rb") as file:
                for visual in record.visuals:
                    if visual.key in self._known:
                        refused.append(_duplicate(visual))
                        continue
                    self._known.add(visual.key)
                    file.seek(visual.offset)
                    placed = self.writer.append(file.read(visual.size))
                    visuals.append(replace(visual, shard=placed.shard, offset=placed.offset))
        self.writer.flush()
        return replace(record, visuals=tuple(visuals), refused=tuple(refused))


def _duplicate(visual: Stored) -> Refused:
    return Refused(
        "duplicate-visual", "the same patient already has a visual with exactly these pixels",
        "nothing to do; the first one is used", visual.item.inputs,
    )  # fmt: skip


def _entry(planned: Planned, record: UnitRecord) -> Entry:
    return Entry(planned.source.name, planned.order, planned.unit.id, record)


@contextmanager
def _progress(total: int, done: int) -> Iterator[Callable[[], None]]:
    """A bar with the time left on a terminal, a line now and then in a log file."""
    console = Console(stderr=True)
    columns = (
        TextColumn("reading"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        number = bar.add_task("reading", total=total, completed=done)
        began = told = time.monotonic()
        count = 0

        def advance() -> None:
            nonlocal told, count
            bar.advance(number)
            count += 1
            now = time.monotonic()
            if not console.is_terminal and now - told > _TELL_S:
                told = now
                left = (now - began) / count * (total - done - count)
                log.info("read %d of %d units, about %.0f s left", done + count, total, left)

        yield advance
