"""Reads the units of a plan in processes and puts their pixels on the shelves: the shards."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from io import BufferedIOBase, BytesIO
from pathlib import Path
from typing import NamedTuple

from data_connectors.as_json import from_json
from data_connectors.config import IngestConfig
from data_connectors.dataset.writer import ShardWriter
from data_connectors.deid.gate import Gate
from data_connectors.deid.pseudonyms import Pseudonyms
from data_connectors.ingest import journal
from data_connectors.ingest.assemble import Entry
from data_connectors.ingest.planning import Plan, Planned
from data_connectors.ingest.processes import Engine, Lost
from data_connectors.ingest.progress import Meter, shown
from data_connectors.ingest.reading import Task, discard, lost, read_and_send, read_unit
from data_connectors.ingest.records import Stored, UnitRecord
from data_connectors.items import Refused
from medvlp.files import whole

log = logging.getLogger(__name__)


def shelve(
    config: IngestConfig,
    plan: Plan,
    names: Pseudonyms,
    folder: Path,
    gate: Gate,
    engine: Engine,
) -> tuple[list[Entry], int]:
    """Read every unit that the journal does not have yet.

    Args:
        config: The shard size.
        plan: The units, in order.
        names: Makes the keys of the samples.
        folder: Of the unfinished ingest.
        gate: Which pixels may be stored.
        engine: Where units are read.

    Returns:
        What every unit gave, in order, and how many of them came from the journal.
    """
    shutil.rmtree(folder / "spool", ignore_errors=True)
    spool = folder / "spool" / str(os.getpid())  # workers of a killed run may still write theirs
    spool.mkdir(parents=True)
    book = journal.Journal(folder / "journal", names.journal_key)
    done = book.begin([planned.fingerprint for planned in plan.units], folder / "dataset")
    shard, offset = (done[-1].shard, done[-1].offset) if done else (0, 0)
    shelf = _Shelf(ShardWriter(
        folder / "dataset", limit=config.shard_mb * 1_000_000, shard=shard, offset=offset
    ))  # fmt: skip
    records = [entry.record for entry in done]
    for record in records:
        shelf.remember(record)
    if done:
        log.info("going on after %d of %d units", len(done), len(plan.units))
    todo = plan.units[len(done) :]
    tasks = [
        Task(planned.source, planned.unit, spool / f"{number:09d}", names, gate)
        for number, planned in enumerate(todo)
    ]
    sizes = [_size(plan, planned) for planned in plan.units]
    with shown(Meter("reading", "units", len(sizes), sum(sizes))) as shows:
        shows.skip(len(done), sum(sizes[: len(done)]))
        for planned, answer, size in zip(
            todo, _read(engine, tasks), sizes[len(done) :], strict=True
        ):
            with answer.spool() as pixels:
                record = shelf.put(from_json(UnitRecord, answer.text), pixels)
            book.append(journal.Entry(
                planned.fingerprint, shelf.writer.shard, shelf.writer.offset, record
            ))  # fmt: skip
            records.append(record)
            shows.add(1, size)
    shelf.writer.close()
    book.close()
    return [_entry(p, r) for p, r in zip(plan.units, records, strict=True)], len(done)


class _Answer(NamedTuple):
    """What reading a unit gave: the record, and how to get at its pixels."""

    text: str
    spool: Callable[[], BufferedIOBase]


def _read(engine: Engine, tasks: Sequence[Task]) -> Iterator[_Answer]:
    """Read units wherever the engine does it; a spool is gone when the next answer is asked for."""
    if engine.shares_disk:
        for task, answer in zip(tasks, engine.map(read_unit, tasks), strict=True):
            if isinstance(answer, Lost):
                yield _Answer(lost(task.unit, answer.why), BytesIO)
            else:
                yield _Answer(answer, partial(_open, task.spool))
            discard(task.spool)
        return
    for task, sent in zip(tasks, engine.map(read_and_send, tasks), strict=True):
        if isinstance(sent, Lost):
            yield _Answer(lost(task.unit, sent.why), BytesIO)
        else:
            for name, picture in sent.held.items():
                task.gate.held.mkdir(exist_ok=True)
                with whole(task.gate.held / name) as path:
                    path.write_bytes(picture)
            yield _Answer(sent.text, partial(BytesIO, sent.spool.data))


def _open(path: Path) -> BufferedIOBase:
    return path.open("rb")


def _size(plan: Plan, planned: Planned) -> int:
    """Bytes of the inputs of a unit."""
    files = plan.files[planned.source.name]
    return sum(max(0, files.get(name, (0, 0))[0]) for name in planned.unit.inputs)


class _Shelf:
    """The shards, and which visuals already lie in them."""

    def __init__(self, writer: ShardWriter) -> None:
        self.writer = writer
        self._known: set[str] = set()

    def remember(self, record: UnitRecord) -> None:
        """Visuals of a unit that an earlier run has written."""
        self._known.update(visual.key for visual in record.visuals)

    def put(self, record: UnitRecord, spool: BufferedIOBase) -> UnitRecord:
        """Copy the visuals of a unit from its spool; a visual already there becomes a refusal."""
        visuals: list[Stored] = []
        refused = list(record.refused)
        for visual in record.visuals:
            if visual.key in self._known:
                refused.append(_duplicate(visual))
                continue
            self._known.add(visual.key)
            spool.seek(visual.offset)
            placed = self.writer.append(spool.read(visual.size))
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
