"""`medvlp ingest`: the hospital's files in, a dataset folder out.

    pull archives -> find units -> read them in processes -> shards and journal (resumable)
    -> link, split, scrub -> tables -> dataset.json

Work happens in `<out>.partial`; the finished dataset appears at `out` in one step. Units are
written in the order they were found, whatever process reads them first, so the same inputs,
config and key give the same bytes.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from data_connectors.config import AnySource, IngestConfig
from data_connectors.dataset.writer import digest_of, hash_parts, write_info, write_tables
from data_connectors.deid.gate import FLAGS, Gate
from data_connectors.deid.pseudonyms import Pseudonyms, load_key
from data_connectors.deid.review import write_review
from data_connectors.ingest.accounting import Account, account
from data_connectors.ingest.assemble import Assembled, assemble
from data_connectors.ingest.notes import Notes
from data_connectors.ingest.planning import (
    Plan,
    config_digest,
    input_state,
    locate,
    make_plan,
    public_config,
    review_digest,
)
from data_connectors.ingest.processes import Engine, build_engine, disk_full
from data_connectors.ingest.pulling import pulled_archives, remove_unkept
from data_connectors.ingest.shelving import shelve
from data_connectors.pacs.pulled import Pulled
from medvlp import audit
from medvlp.errors import ConfigError, DatasetError
from medvlp.files import disk_is_full

log = logging.getLogger(__name__)

_FOLDER = {"lectures": "video"}
"""Kinds of source whose reader is in a folder of another name."""


def ingest(
    config: IngestConfig, out: Path, *, base: Path, workers: int = 0, engine: str = "local"
) -> dict[str, Any]:
    """Read every source and write a dataset folder.

    A killed ingest goes on where it was when the same call is made again; a finished one is
    returned as it is.

    Args:
        config: What to read, and how.
        out: The dataset folder; must not exist, or be the result of this same call.
        base: Folder that relative paths of the config start from.
        workers: Reading processes; 0: one a core; 1: no extra process.
        engine: "local", or "ray" where it is installed.

    Returns:
        The summary: counts by source, kind, split and reason, and the digest.

    Raises:
        ConfigError: A source or the key file does not exist.
        DatasetError: `out` holds something else (`dataset-exists`), or the disk is full
            (`disk-full`).
        DependencyError: The engine is not installed.
        IntegrityError: An input is neither used nor quarantined.
    """
    started = time.monotonic()
    out = out.absolute()
    names = load_key(_key_file(config, out, base), create=config.deid.key_file is None)
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        return _finished(config, out, base, names)
    partial = out.with_name(out.name + ".partial")
    try:
        with pulled_archives(config, base, out) as archives:
            sources = locate(config, base, out)
            (partial / "dataset").mkdir(parents=True, exist_ok=True)
            os.chmod(partial, 0o700)
            with _alone(partial), closing(build_engine(
                engine, workers=workers, timeout_s=config.reader_timeout_s,
                preload=_needed(sources), private=partial, memory_mb=config.reader_memory_mb,
            )) as runner:  # fmt: skip
                with closing(Notes(partial / "notes", names.journal_key)) as notes:
                    plan = make_plan(config, base, sources, archives, runner, notes)
                gate = _gate(config, base, partial, names)
                summary = _build(config, plan, out, names, partial, archives, runner, gate)
            remove_unkept(config, base, out)
    except OSError as error:
        if not disk_is_full(error):
            raise
        raise disk_full() from None
    shutil.rmtree(partial, ignore_errors=True)
    return summary | {"seconds": round(time.monotonic() - started, 1)}


def _needed(sources: Sequence[AnySource]) -> list[str]:
    """Modules that every worker uses: imported once, not once a worker."""
    folders = sorted({_FOLDER.get(source.kind, source.kind) for source in sources})
    return ["data_connectors.ingest.reading"] + [
        f"data_connectors.{name}.reader" for name in folders
    ]


def _build(
    config: IngestConfig, plan: Plan, out: Path, names: Pseudonyms, partial: Path,
    archives: Mapping[str, Pulled], engine: Engine, gate: Gate,
) -> dict[str, Any]:  # fmt: skip
    """Everything between a plan and the finished folder."""
    folder = partial / "dataset"
    log_path = folder / "audit.jsonl"
    audit.append(
        log_path, "ingest-started", config=config_digest(config), key=names.check,
        units=len(plan.units), inputs=sum(len(files) for files in plan.files.values()),
    )  # fmt: skip
    for name, pulled in archives.items():
        audit.append(
            log_path, "archive-pulled", source=name, series=pulled.series, fetched=pulled.fetched,
            instances=pulled.instances, missing=len(pulled.missing),
        )  # fmt: skip
    entries, resumed = shelve(config, plan, names, partial, gate, engine)
    audit.append(log_path, "units-read", read=len(plan.units) - resumed, resumed=resumed)
    assembled = assemble(entries, config, names)
    assembled.refused[:0] = plan.refused
    audit.append(
        log_path, "texts-and-links", scrubbed=assembled.scrubbed, reports=assembled.links,
        lecture_clips_without_frames=assembled.empty_spans,
    )  # fmt: skip
    counts = account(plan, entries, assembled)
    waiting = write_review(
        out.with_name(out.name + ".review"), assembled.refused, held=gate.held, key=gate.key
    )
    judged = {"review": gate.review, "wait_for_review": waiting} | {
        flag: sum(flag in sample.flags for sample in assembled.samples) for flag in FLAGS
    }
    _write(folder, plan, assembled, counts, config, names, judged)
    _write_private_list(out, assembled, names)
    os.replace(folder, out)
    return _summary(_info(out))


@contextmanager
def _alone(partial: Path) -> Iterator[None]:
    """One ingest at a time; the lock goes with the process, however it ends."""
    with (partial / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise DatasetError(
                "another ingest is writing this dataset", code="ingest-running",
                next_step="wait for it, or choose another --out",
            ) from None  # fmt: skip
        yield


def _gate(config: IngestConfig, base: Path, partial: Path, names: Pseudonyms) -> Gate:
    """Judges the pixels; pictures for a person wait in the unfinished folder, encrypted."""
    reviewed = config.deid.reviewed and (base / config.deid.reviewed).absolute()
    policy = config.deid.model_copy(update={"reviewed": reviewed})
    return Gate(policy, partial / "held", names.journal_key, review_digest(config, base))


def _key_file(config: IngestConfig, out: Path, base: Path) -> Path:
    if config.deid.key_file is not None:
        return base / config.deid.key_file
    return out.with_name(out.name + ".key")


def _finished(config: IngestConfig, out: Path, base: Path, names: Pseudonyms) -> dict[str, Any]:
    """The summary of the dataset that is already there, if it is the one asked for."""
    try:
        info = _info(out)
    except (OSError, ValueError):
        raise DatasetError(
            "the output folder exists and is no dataset", code="dataset-exists", got=out,
            next_step="choose another --out",
        ) from None  # fmt: skip
    same = info.get("config_digest") == config_digest(config) and info.get("key") == names.check
    same = same and info.get("review", "") == review_digest(config, base)
    if not same:
        raise DatasetError(
            "the output folder holds a dataset made from another config or key",
            code="dataset-exists", got=out, next_step="choose another --out",
        )  # fmt: skip
    if info.get("input_state") != _state_now(config, base, out, info):
        raise DatasetError(
            "the inputs have changed since this dataset was made", code="dataset-exists", got=out,
            next_step="choose another --out to include what is new",
        )  # fmt: skip
    shutil.rmtree(out.with_name(out.name + ".partial"), ignore_errors=True)
    remove_unkept(config, base, out)
    log.info("the dataset is complete; nothing to do")
    return _summary(info) | {"seconds": 0.0}


def _state_now(config: IngestConfig, base: Path, out: Path, info: dict[str, Any]) -> Any:
    """What `Plan.state` says today; an archive that is not mounted now cannot have changed."""
    try:
        return input_state(locate(config, base, out))
    except (ConfigError, OSError):
        return info.get("input_state")


def _info(folder: Path) -> dict[str, Any]:
    info: dict[str, Any] = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
    return info


def _write(
    folder: Path, plan: Plan, made: Assembled, counts: Account, config: IngestConfig,
    names: Pseudonyms, judged: dict[str, Any],
) -> None:  # fmt: skip
    """Tables, the last audit entries, and dataset.json."""
    quarantine = [
        (f"{source}/{names.path(source, name)}", refused)
        for source, refused in made.refused
        for name in refused.inputs or ("",)
    ]
    write_tables(folder, made.samples, made.regions, quarantine)
    log_path = folder / "audit.jsonl"
    audit.append(
        log_path, "splits-made", patients=counts.patients, seed=config.split.seed,
        pairs_of_patients_with_shared_pixels=made.shared_pixels,
    )  # fmt: skip
    audit.append(log_path, "pixels-judged", **judged)
    head = audit.append(
        log_path, "ingest-finished", samples=len(made.samples), found=counts.found,
        used=counts.used, quarantined=counts.quarantined,
        digest=digest_of(hash_parts(folder)),
    )  # fmt: skip
    write_info(folder, {
        "config": public_config(config, names), "config_digest": config_digest(config),
        "key": names.check, "input_state": input_state(plan.sources), "audit_head": head,
        "review": judged["review"],
        "links": made.links, **counts.facts(),
    })  # fmt: skip


def _summary(info: dict[str, Any]) -> dict[str, Any]:
    names = (
        "found", "used", "quarantined", "by_source", "by_reason", "samples", "by_kind", "by_split",
        "patients", "links", "digest",
    )  # fmt: skip
    return {name: info[name] for name in names}


def _write_private_list(out: Path, made: Assembled, names: Pseudonyms) -> None:
    """Beside the dataset, for its owner's eyes: which file each quarantine row is about."""
    lines = [
        f"{source}/{names.path(source, name)}\t{refused.code}\t{name}\n"
        for source, refused in made.refused
        for name in refused.inputs
    ]
    path = out.with_name(out.name + ".quarantine.tsv")
    if not lines:
        path.unlink(missing_ok=True)
        return
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8", errors="surrogateescape") as file:
        file.writelines(lines)
