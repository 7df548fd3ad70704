"""The worker's part of a de-identification: some files of one folder or archive."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from data_connectors.deid.gate import Gate
from data_connectors.deid.looking import Waits, look_at
from data_connectors.deid.objects import Cleared, deidentify_object
from data_connectors.deid.options import DeidentifyConfig
from data_connectors.deid.pseudonyms import Pseudonyms
from data_connectors.files import Handle, fetch, refuse, scan
from data_connectors.items import Refused
from medvlp.errors import InputError


@dataclass(frozen=True, slots=True)
class Batch:
    """Some files to de-identify, and where the objects go."""

    root: Path
    names: tuple[str, ...]
    """Relative to the root."""
    places: tuple[str, ...]
    """Names of the results in the spool, one a file."""
    spool: Path
    config: DeidentifyConfig
    key: Pseudonyms
    gate: Gate


@dataclass(frozen=True, slots=True)
class Outcome:
    """What has become of one file; free of patient data."""

    place: str
    """Name of the result in the spool."""
    path: str = ""
    """Where it belongs in the output; empty: it was refused."""
    digest: str = ""
    size: int = 0
    flags: tuple[str, ...] = ()
    counts: tuple[tuple[str, int], ...] = ()
    code: str = ""
    reason: str = ""
    next_step: str = ""
    pixels: str = ""


def run_batch(batch: Batch) -> list[Outcome]:
    """De-identify the files of a batch; nothing that a file may hold gets out as an exception."""
    return [_one(batch, name, place) for name, place in zip(batch.names, batch.places, strict=True)]


def refused(place: str, refusal: Refused) -> Outcome:
    """The outcome of a refusal."""
    return Outcome(place, code=refusal.code, reason=refusal.reason,
                   next_step=refusal.next_step, pixels=refusal.pixels)  # fmt: skip


def lost(place: str, why: str) -> Outcome:
    """The outcome of a file whose worker died or took too long."""
    slow = why == "timeout"
    return Outcome(
        place, code="reader-timeout" if slow else "reader-crashed",
        reason="it took longer than reader_timeout_s" if slow
        else "the process that worked on this died twice",
        next_step="look at the file; it may be hostile, or too large for this machine's memory",
    )  # fmt: skip


def _one(batch: Batch, name: str, place: str) -> Outcome:
    try:
        for handle in _handles(batch, name):
            if isinstance(handle, Refused):
                return refused(place, handle)
            cleared = deidentify_object(
                handle, batch.config, batch.key,
                look=lambda dataset: look_at(
                    dataset, batch.gate, max_bytes=batch.config.max_bytes
                ),
            )  # fmt: skip
            return _kept(batch, place, cleared)
        return refused(place, Refused("input-gone", "the file is not there any more", "run again"))
    except Waits as error:
        return Outcome(place, code=error.code, reason=error.what,
                       next_step=error.next_step or "", pixels=error.pixels)  # fmt: skip
    except InputError as error:
        return refused(place, refuse(error, ()))
    except (Exception, RecursionError) as error:  # its message may quote the file
        return Outcome(place, code="reader-failed",
                       reason=f"de-identification failed with {type(error).__name__}",
                       next_step="report it if another tool can read the file")  # fmt: skip


def _handles(batch: Batch, name: str) -> Iterator[Handle | Refused]:
    """The one handle of a file: checked like every other input."""
    most = batch.config.max_bytes
    for _, handle in fetch(batch.root, [name], max_bytes=most):
        if isinstance(handle, Path):
            for entry in scan(handle, max_files=1, max_bytes=most):
                yield entry if isinstance(entry, Refused) else entry[1]
        else:
            yield handle


def _kept(batch: Batch, place: str, cleared: Cleared) -> Outcome:
    target = batch.spool / place
    with target.open("wb") as file:
        file.write(cleared.data)
        file.flush()
        os.fsync(file.fileno())
    folder = f"{cleared.patient}/{cleared.study}/{cleared.series}"
    return Outcome(
        place, path=f"{folder}/{cleared.instance}.dcm", size=len(cleared.data),
        digest=hashlib.sha256(cleared.data).hexdigest(), flags=cleared.flags,
        counts=tuple(cleared.counts.items()),
    )  # fmt: skip
