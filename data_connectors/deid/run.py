"""`medvlp deidentify`: DICOM files in, de-identified DICOM files out, everything accounted for.

    list files -> de-identify in processes (journal, resumable) -> place -> deid.json

Work happens in `<out>.partial`; the finished folder appears at `out` in one step. The same files,
config and key give the same bytes, whatever the number of workers and of kills.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from data_connectors.dataset.writer import digest_of, write_quarantine
from data_connectors.deid.batches import Batch, Outcome, lost, run_batch
from data_connectors.deid.gate import Gate
from data_connectors.deid.ledger import Ledger
from data_connectors.deid.options import DeidentifyConfig
from data_connectors.deid.policy import PixelPolicy
from data_connectors.deid.pseudonyms import Pseudonyms, load_key
from data_connectors.deid.review import write_review
from data_connectors.files import files_below
from data_connectors.ingest.processes import Lost, build_engine
from data_connectors.ingest.progress import Meter, shown
from data_connectors.items import Refused
from medvlp import __version__, audit
from medvlp.errors import ConfigError, DatasetError
from medvlp.files import file_digest, write_json

log = logging.getLogger(__name__)

SCHEMA_VERSION = 1
_BATCH = 16
"""Files that a worker takes at a time."""
_PRELOAD = ("data_connectors.deid.batches", "numpy", "pydicom", "yaml")


def deidentify(
    config: DeidentifyConfig, out: Path, paths: Sequence[Path], *, base: Path, workers: int = 0
) -> dict[str, Any]:
    """De-identify files, folders and archives of DICOM objects.

    Args:
        config: What may stay.
        out: The folder to write; must not exist, or be the result of this same call.
        paths: What to read.
        base: Folder that relative paths of the config start from.
        workers: Processes; 0: one a core; 1: no extra process.

    Returns:
        The summary: files found, written and quarantined, by reason, and the digest.

    Raises:
        ConfigError: A path or the key file does not exist.
        DatasetError: `out` holds something else (`deid-exists`), or another call is writing it.
    """
    started = time.monotonic()
    out = out.absolute()
    for path in paths:
        if not path.exists():
            raise ConfigError("no such file or folder", code="path-missing", got=path)
    key_file = base / config.key_file if config.key_file else out.with_name(out.name + ".key")
    names = load_key(key_file, create=config.key_file is None)
    files = _listed(paths, out, key_file)
    facts = _facts(config, names, files, base)
    if out.exists() and any(out.iterdir()):
        return _finished(out, facts)
    partial = out.with_name(out.name + ".partial")
    (partial / "spool").mkdir(parents=True, exist_ok=True)
    os.chmod(partial, 0o700)
    with _alone(partial):
        gate = _gate(config, base, partial, names)
        outcomes = _work(config, names, gate, files, partial, workers)
        summary = _finish(out, partial, outcomes, files, names, gate, facts)
    shutil.rmtree(partial, ignore_errors=True)
    return summary | {"seconds": round(time.monotonic() - started, 1)}


Files = list[tuple[int, Path, str, int, int]]
"""(number of the root, root, name, bytes, time) of every file."""


def _listed(paths: Sequence[Path], out: Path, key_file: Path) -> Files:
    """Every file below the paths; what this call itself writes is no input."""
    own = {out, out.with_name(out.name + ".partial"), out.with_name(out.name + ".review"),
           out.with_name(out.name + ".quarantine.tsv"), key_file.absolute()}  # fmt: skip
    return [
        (number, root.absolute(), name, size, changed)
        for number, root in enumerate(paths)
        for name, (size, changed) in sorted(files_below(root).items())
        if not own & {(root / name).absolute(), *(root / name).absolute().parents}
    ]


def _facts(config: DeidentifyConfig, names: Pseudonyms, files: Files, base: Path) -> dict[str, Any]:
    """What a finished folder is known by; free of places of the site."""
    tree: dict[str, Any] = config.model_dump(mode="json")
    tree |= {name: tree[name] and "given" for name in ("key_file", "reviewed")}
    review = file_digest(base / config.reviewed) if config.reviewed else ""
    state = digest_of({f"{number}/{names.path(str(number), name)}": f"{size}"
                       for number, _, name, size, _ in files})  # fmt: skip
    return {"config": tree, "key": names.check, "review": review, "input_state": state}


def _gate(config: DeidentifyConfig, base: Path, partial: Path, names: Pseudonyms) -> Gate:
    policy = PixelPolicy(
        burned_in=config.burned_in, ocr_timeout_s=config.ocr_timeout_s, faces=config.faces,
        reviewed=(base / config.reviewed).absolute() if config.reviewed else None,
    )  # fmt: skip
    review = file_digest(policy.reviewed) if policy.reviewed else ""
    return Gate(policy, partial / "held", names.journal_key, review)


def _work(
    config: DeidentifyConfig, names: Pseudonyms, gate: Gate, files: Files, partial: Path,
    workers: int,
) -> list[Outcome]:  # fmt: skip
    """One outcome a file, in the order of the files."""
    how = f"{__version__} {config.model_dump_json()} {gate.review}"
    places = [names.part("deid", how, *file[:1], *file[2:]) for file in files]
    allowed = _limited(files, config.max_files)
    sizes = dict(zip(places, (size for *_, size, _ in files), strict=True))
    meter = Meter("de-identifying", "files", len(files), sum(sizes.values()))
    with Ledger(partial) as ledger, shown(meter) as progress:
        known = ledger.known(set(places))
        progress.skip(len(known), sum(sizes[place] for place in known))
        todo = [i for i, place in enumerate(places) if place not in known and i in allowed]
        for outcome in _mapped(config, names, gate, files, places, todo, partial, workers):
            ledger.append(outcome)
            known[outcome.place] = outcome
            progress.add(1, sizes[outcome.place])
    too_many = Outcome("", code="too-many-files", reason="there are more files than max_files",
                       next_step="raise max_files")  # fmt: skip
    return [known.get(place, replace(too_many, place=place)) for place in places]


def _limited(files: Files, most: int) -> set[int]:
    """The files within the limit of each root."""
    counts: Counter[int] = Counter()
    allowed = set()
    for index, file in enumerate(files):
        counts[file[0]] += 1
        if counts[file[0]] <= most:
            allowed.add(index)
    return allowed


def _mapped(
    config: DeidentifyConfig, names: Pseudonyms, gate: Gate, files: Files,
    places: Sequence[str], todo: Sequence[int], partial: Path, workers: int,
) -> Iterator[Outcome]:  # fmt: skip
    """Outcomes as they come; a batch that was lost is tried again file by file."""

    def batch(group: Sequence[int]) -> Batch:
        return Batch(
            files[group[0]][1], tuple(files[i][2] for i in group), tuple(places[i] for i in group),
            partial / "spool", config, names, gate,
        )  # fmt: skip

    engine = build_engine(
        "local", workers=workers, timeout_s=config.reader_timeout_s, preload=_PRELOAD,
        private=partial, memory_mb=config.reader_memory_mb,
    )  # fmt: skip
    groups = _groups(files, todo)
    again: list[list[int]] = []
    for group, result in zip(
        groups, engine.map(run_batch, [batch(g) for g in groups]), strict=True
    ):
        if not isinstance(result, Lost):
            yield from result
        elif len(group) > 1:
            again += [[index] for index in group]
        else:
            yield lost(places[group[0]], result.why)
    for group, result in zip(again, engine.map(run_batch, [batch(g) for g in again]), strict=True):
        if isinstance(result, Lost):
            yield lost(places[group[0]], result.why)
        else:
            yield from result


def _groups(files: Files, todo: Sequence[int]) -> list[list[int]]:
    """Runs of files of one root."""
    groups: list[list[int]] = []
    for index in todo:
        last = groups[-1] if groups else []
        if not last or len(last) == _BATCH or files[last[0]][0] != files[index][0]:
            groups.append([index])
        else:
            last.append(index)
    return groups


def _finish(
    out: Path, partial: Path, outcomes: Sequence[Outcome], files: Files, names: Pseudonyms,
    gate: Gate, facts: dict[str, Any],
) -> dict[str, Any]:  # fmt: skip
    """Place the objects, write the lists and deid.json, and show the folder."""
    folder = partial / "objects"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    placed, outcomes = _place(partial / "spool", folder, outcomes)
    rows = [
        (f"{number}/{names.path(str(number), name)}", name,
         Refused(o.code, o.reason, o.next_step, (name,), o.pixels))
        for (number, _, name, _, _), o in zip(files, outcomes, strict=True) if o.code
    ]  # fmt: skip
    write_quarantine(folder, [(source, refused) for source, _, refused in rows])
    waiting = write_review(
        out.with_name(out.name + ".review"),
        [(source.partition("/")[0], refused) for source, _, refused in rows],
        held=gate.held, key=gate.key,
    )  # fmt: skip
    info = facts | {
        "schema_version": SCHEMA_VERSION, "version": __version__,
        "found": len(files), "written": len(placed), "quarantined": len(rows),
        "by_reason": dict(sorted(Counter(refused.code for *_, refused in rows).items())),
        "patients": len({path.split("/")[0] for path in placed}),
        "studies": len({path.rsplit("/", 2)[0] for path in placed}),
        "series": len({path.rsplit("/", 1)[0] for path in placed}),
        "flags": dict(sorted(Counter(f for o in outcomes if o.path for f in o.flags).items())),
        "elements": _elements(outcomes), "wait_for_review": waiting,
        "digest": digest_of(placed | {"quarantine": file_digest(folder / "quarantine.parquet")}),
    }  # fmt: skip
    info["audit_head"] = audit.append(folder / "audit.jsonl", "deidentified", **info)
    write_json(folder / "deid.json", info, sort_keys=True)
    _write_private_list(out, rows)
    if out.exists():
        out.rmdir()  # an empty one
    os.replace(folder, out)
    return _summary(info)


def _place(
    spool: Path, folder: Path, outcomes: Sequence[Outcome]
) -> tuple[dict[str, str], list[Outcome]]:
    """Link each object to its place; the second of one name is refused.

    Returns:
        Digest by path, and the outcomes with those refusals.
    """
    placed: dict[str, str] = {}
    found = []
    for outcome in outcomes:
        if outcome.path in placed:
            same = placed[outcome.path] == outcome.digest
            outcome = Outcome(
                outcome.place, code="deid-duplicate" if same else "deid-conflict",
                reason="the same object again" if same
                else "another object with the same UIDs, and other content",
                next_step="nothing; the first one is used" if same
                else "find out which of the two is right; the first one is used",
            )  # fmt: skip
        elif outcome.path:
            target = folder / outcome.path
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(spool / outcome.place, target)
            except OSError:  # a file system without links
                shutil.copy2(spool / outcome.place, target)
            placed[outcome.path] = outcome.digest
        found.append(outcome)
    return placed, found


def _elements(outcomes: Sequence[Outcome]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for outcome in outcomes:
        if outcome.path:
            total.update(dict(outcome.counts))
    return dict(sorted(total.items()))


def _finished(out: Path, facts: dict[str, Any]) -> dict[str, Any]:
    """The summary of what is already there, if it is what was asked for."""
    try:
        info: dict[str, Any] = json.loads((out / "deid.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        info = {}
    if any(info.get(name) != value for name, value in facts.items()):
        raise DatasetError(
            "the output folder exists and is not the result of this call", code="deid-exists",
            got=out, next_step="choose another --out",
        )  # fmt: skip
    shutil.rmtree(out.with_name(out.name + ".partial"), ignore_errors=True)
    log.info("everything is done already; nothing to do")
    return _summary(info) | {"seconds": 0.0}


def _summary(info: dict[str, Any]) -> dict[str, Any]:
    names = ("found", "written", "quarantined", "by_reason", "patients", "studies", "series",
             "flags", "wait_for_review", "digest")  # fmt: skip
    return {name: info[name] for name in names}


def _write_private_list(out: Path, rows: Sequence[tuple[str, str, Refused]]) -> None:
    """Beside the output, for its owner's eyes: which file each quarantine row is about."""
    path = out.with_name(out.name + ".quarantine.tsv")
    if not rows:
        path.unlink(missing_ok=True)
        return
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8", errors="surrogateescape") as file:
        file.writelines(f"{source}\t{refused.code}\t{name}\n" for source, name, refused in rows)


@contextmanager
def _alone(partial: Path) -> Iterator[None]:
    """One call at a time; the lock goes with the process, however it ends."""
    with (partial / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise DatasetError(
                "another call is writing this folder", code="deid-running",
                next_step="wait for it, or choose another --out",
            ) from None  # fmt: skip
        yield
