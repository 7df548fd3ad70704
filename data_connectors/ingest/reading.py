"""The worker's part of an ingest: read one unit, spool its pixels, return the rest as JSON."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from io import BufferedIOBase, BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np

from data_connectors.as_json import to_json
from data_connectors.connectors import connector_of
from data_connectors.dataset.writer import tar_payload
from data_connectors.deid.gate import Gate
from data_connectors.deid.policy import BurnedIn
from data_connectors.deid.pseudonyms import Pseudonyms
from data_connectors.files import refuse
from data_connectors.ingest.records import Stored, UnitRecord
from data_connectors.items import Identity, Item, Payload, Refused, ReportItem, VisualItem
from data_connectors.source import Unit
from medvlp.errors import InputError
from medvlp.files import disk_is_full


@dataclass(frozen=True, slots=True)
class Task:
    """One unit to read, and where its pixels go."""

    source: Any
    unit: Unit
    spool: Path
    names: Pseudonyms
    gate: Gate

    @property
    def burned_in(self) -> BurnedIn | None:
        """What the source itself says about text in pixels."""
        return getattr(self.source, "burned_in", None)


def read_unit(task: Task) -> str:
    """Read one unit; nothing that a file may hold gets out of here as an exception.

    Returns:
        A `UnitRecord` as JSON; offsets are places in the spool file.
    """
    with task.spool.open("wb") as spool:
        return _read(task, spool)


class Sent(NamedTuple):
    """What a worker without our disk left, in its answer."""

    text: str
    spool: np.ndarray
    """uint8; an array, because Ray shares it without a copy."""
    held: dict[str, bytes]
    """Pictures for a person's eyes, encrypted, by file name."""


def read_and_send(task: Task) -> Sent:
    """Read one unit on a machine whose disk is not ours: everything comes back as bytes."""
    spool = BytesIO()
    with TemporaryDirectory(prefix="medvlp-") as folder:
        held = Path(folder) / "held"
        text = _read(replace(task, gate=replace(task.gate, held=held)), spool)
        pictures = held.iterdir() if held.is_dir() else ()
        return Sent(
            text,
            np.frombuffer(spool.getbuffer(), np.uint8),
            {path.name: path.read_bytes() for path in pictures},
        )


def _read(task: Task, spool: BufferedIOBase) -> str:
    visuals: list[Stored] = []
    reports: list[ReportItem] = []
    refused: list[Refused] = []
    claimed: set[str] = set()
    for item in _guarded(task):
        claimed.update(item.inputs)
        if isinstance(item, Refused):
            refused.append(item)
            continue
        if not item.identity.patient.strip():
            refused.append(_nameless(item))
            continue
        identity = in_domain(item.identity, task.source.domain)
        if isinstance(item, ReportItem):
            reports.append(replace(item, identity=identity))
        else:
            try:
                judged = task.gate.judge(item, task.source.kind, task.burned_in)
                if isinstance(judged, Refused):
                    refused.append(judged)
                    continue
                visuals.append(_spooled(replace(judged, identity=identity), task.names, spool))
            except Exception as error:
                refused.append(_why(error, item.inputs))
    rest = tuple(name for name in task.unit.inputs if name not in claimed)
    if rest:
        refused.append(Refused(
            "input-unread", "the reader took this input for a part of something but gave nothing",
            "look at the other inputs of the same folder in the quarantine list", rest,
        ))  # fmt: skip
    return to_json(UnitRecord(tuple(visuals), tuple(reports), tuple(refused)))


def in_domain(identity: Identity, domain: str) -> Identity:
    """The identity with a patient that no other domain has; the raw identifier becomes phi."""
    if not domain:
        return identity
    patient = f"{domain}\x1f{identity.patient.strip()}"
    return replace(identity, patient=patient, phi=(*identity.phi, identity.patient))


def lost(unit: Unit, why: str) -> str:
    """The record of a unit whose reader died or took too long."""
    if why == "timeout":
        refusal = Refused(
            "reader-timeout", "reading took longer than reader_timeout_s",
            "raise reader_timeout_s, or look at the file", unit.inputs,
        )  # fmt: skip
    else:
        refusal = Refused(
            "reader-crashed", "the process that read this died twice",
            "the file may be hostile or too large for this machine's memory", unit.inputs,
        )  # fmt: skip
    return to_json(UnitRecord(refused=(refusal,)))


def _guarded(task: Task) -> Iterator[Item]:
    """The items of a unit; an exception becomes the refusal of the inputs not yet claimed."""
    claimed: set[str] = set()
    try:
        for item in connector_of(task.source).read(task.source, task.unit):
            claimed.update(item.inputs)
            yield item
    except Exception as error:
        rest = tuple(name for name in task.unit.inputs if name not in claimed)
        yield _why(error, rest or task.unit.inputs)


def _why(error: Exception, inputs: tuple[str, ...]) -> Refused:
    """An exception as the refusal of its inputs.

    Raises:
        OSError: The disk is full; the unit is not to blame.
    """
    if isinstance(error, InputError):
        return refuse(error, inputs)
    if isinstance(error, MemoryError):
        return Refused(
            "reader-out-of-memory", "reading it takes more memory than reader_memory_mb",
            "raise reader_memory_mb if it is genuine", inputs,
        )  # fmt: skip
    if disk_is_full(error):
        raise error
    return Refused(
        "reader-failed",
        f"the reader failed with {type(error).__name__}",  # its message may quote the file
        "check the file with another reader; report it if that one can read it",
        inputs,
    )


def _spooled(item: VisualItem, names: Pseudonyms, spool: BufferedIOBase) -> Stored:
    key = names.visual(item.identity.patient, item.digest)
    offset = spool.tell()
    blocks, marks = tar_payload(key, item.payload)
    spool.write(blocks)
    kept = tuple((mark.extension, mark.offset) for mark in marks) if item.kind == "clip" else ()
    return Stored(replace(item, payload=Payload(())), key, offset, len(blocks), kept)


def _nameless(item: VisualItem | ReportItem) -> Refused:
    return Refused(
        "patient-missing", "there is no patient identifier, so no split can be honest",
        "add the identifier at the source, or map it in a table", item.inputs,
    )  # fmt: skip


def discard(spool: Path) -> None:
    """Remove a spool file that has been copied."""
    if spool.exists():
        os.unlink(spool)
