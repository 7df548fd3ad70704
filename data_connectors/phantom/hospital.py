"""Write a synthetic hospital: the phantom behind `medvlp phantom`.

The same (seed, patients, lectures) give the same bytes with the same libraries on the same kind of
processor, whatever the number of processes; patient i is the same whatever the number of patients.
"""

from __future__ import annotations

import hashlib
import json
import logging
import multiprocessing
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import psutil
import yaml
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from data_connectors.phantom.lecture import LectureRecord, write_lecture
from data_connectors.phantom.patient import PatientRecord, write_patient
from data_connectors.phantom.truth import write_truth
from medvlp.errors import ConfigError

log = logging.getLogger(__name__)

_FOLDERS = ("dicom", "reports/text", "reports/hl7", "reports/fhir", "lectures", "truth/masks")
KEY_FILE = "pseudonyms.key"
_CHUNK = 8
Record = PatientRecord | LectureRecord
Task = tuple[str, str, int, tuple[int, ...]]
"""Folder, patient or lecture, seed, indices."""


def write_hospital(
    out: Path, *, patients: int, lectures: int, seed: int, workers: int = 0
) -> dict[str, Any]:
    """Write a hospital of so many patients and lectures to a new folder.

    Args:
        out: The folder; it appears when everything in it is written.
        patients: Each has a CT series, a radiograph and a report.
        lectures: Each has a video, two transcripts, captions, key steps and an abstract.
        seed: Names the hospital.
        workers: Processes; 0: one a core.

    Returns:
        Counts, for the command line.

    Raises:
        ConfigError: `phantom-size` (a negative number), `phantom-exists` (the folder holds
            something already).
    """
    if patients < 0 or lectures < 0 or seed < 0 or workers < 0:
        raise ConfigError(
            "patients, lectures, seed and workers must not be negative", code="phantom-size"
        )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(
            "the output folder holds something already",
            code="phantom-exists",
            next_step="choose another --out, or remove it",
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    _clear_abandoned(out)
    building = out.with_name(f".{out.name}.partial-{os.getpid()}")
    try:
        for folder in _FOLDERS:
            (building / folder).mkdir(parents=True)
        tasks = _tasks(building, patients, lectures, seed)
        records = _run(tasks, workers or _cores(), patients + lectures)
        people = [r for r in records if isinstance(r, PatientRecord)]
        talks = [r for r in records if isinstance(r, LectureRecord)]
        write_truth(building, people, talks)
        _write_config(building, patients, lectures, seed)
        summary = _summary(building, people, talks, seed)
        if out.exists():
            out.rmdir()
        os.replace(building, out)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return {"out": str(out), **summary}


def _clear_abandoned(out: Path) -> None:
    """Remove what killed runs left behind; a run that is still alive keeps its folder."""
    for left in out.parent.glob(f".{out.name}.partial-*"):
        process = left.name.rpartition("-")[2]
        if process.isdigit() and not psutil.pid_exists(int(process)):
            shutil.rmtree(left, ignore_errors=True)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _tasks(folder: Path, patients: int, lectures: int, seed: int) -> list[Task]:
    """Lectures first: they take longest."""
    tasks: list[Task] = [(str(folder), "lecture", seed, (i,)) for i in range(lectures)]
    for first in range(0, patients, _CHUNK):
        indices = tuple(range(first, min(first + _CHUNK, patients)))
        tasks.append((str(folder), "patient", seed, indices))
    return tasks


def _write(task: Task) -> list[Record]:
    folder, kind, seed, indices = task
    write: Callable[[Path, int, int], Record]
    write = write_lecture if kind == "lecture" else write_patient
    return [write(Path(folder), seed, index) for index in indices]


def _run(tasks: list[Task], workers: int, total: int) -> list[Record]:
    """Every record, in the order of the tasks."""
    done: dict[int, list[Record]] = {}
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
               TimeElapsedColumn())  # fmt: skip
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task("patients and lectures", total=total)
        count = 0
        for number, records in _results(tasks, workers):
            done[number] = records
            progress.advance(bar, len(records))
            before, count = count, count + len(records)
            if not console.is_terminal and 4 * count // total > 4 * before // total:
                log.info("wrote %d of %d patients and lectures", count, total)
    return [record for number in sorted(done) for record in done[number]]


def _results(tasks: list[Task], workers: int) -> Iterator[tuple[int, list[Record]]]:
    if workers <= 1 or len(tasks) <= 1:
        yield from ((number, _write(task)) for number, task in enumerate(tasks))
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(tasks)), mp_context=context) as pool:
        futures = {pool.submit(_write, task): number for number, task in enumerate(tasks)}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _write_config(out: Path, patients: int, lectures: int, seed: int) -> None:
    """An ingest config for everything that is there."""
    licence = "CC0-1.0"
    sources: list[dict[str, Any]] = []
    if patients:
        sources += [
            {
                "kind": "dicom",
                "name": "phantom_dicom",
                "path": "dicom",
                "labels": "truth/labels.csv",
                "regions": "truth/regions.csv",
                "licence": licence,
            },
            {
                "kind": "reports",
                "name": "phantom_reports",
                "path": "reports/text",
                "format": "text",
                "licence": licence,
            },
        ]
    if lectures:
        sources.append(
            {
                "kind": "lectures",
                "name": "phantom_lectures",
                "path": "lectures",
                "format": "folder",
                "fps": 1.0,
                "licence": licence,
            }
        )
    # No secret is needed to hide people who do not exist, and a seed then gives the same
    # pseudonyms, the same split and the same results anywhere.
    key = hashlib.sha256(f"medvlp/phantom/{seed}".encode()).hexdigest()
    (out / KEY_FILE).write_text(key + "\n", encoding="ascii")
    deid = {"key_file": KEY_FILE}
    config: dict[str, Any] = {"sources": sources, "deid": deid, "split": {}, "link": {}}
    text = yaml.safe_dump(config, sort_keys=False)
    (out / "ingest.yaml").write_text(text, encoding="utf-8")


def _summary(
    out: Path, people: list[PatientRecord], talks: list[LectureRecord], seed: int
) -> dict[str, Any]:
    counts: dict[str, int] = {}
    for person in people:
        for finding in person.row["findings"]:
            counts[finding["concept"]] = counts.get(finding["concept"], 0) + 1
    summary: dict[str, Any] = {
        "seed": seed,
        "patients": len(people),
        "lectures": len(talks),
        "dicom_files": sum(p.row["ct_shape"][0] + 1 for p in people),
        "findings": dict(sorted(counts.items())),
        "normal": sum(not p.row["findings"] for p in people),
        "lecture_seconds": round(sum(t.row["duration_s"] for t in talks), 1),
    }
    (out / "phantom.json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    return summary
