"""Runs the real `medvlp ingest` in a process of its own and watches memory and files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pyarrow.parquet as pq
import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(HERE))


class Outcome(NamedTuple):
    """What an ingest of hostile files left behind."""

    returncode: int
    summary: dict[str, Any]
    codes: dict[str, set[str]]
    """Input -> codes of its quarantine rows."""
    rows: list[dict[str, Any]]
    stderr: str
    peak_mb: float
    """Most resident memory of any process of the run."""
    seconds: float
    new: set[str]
    """Files that were not there before, relative to the folder of the run."""


Run = Callable[..., Outcome]


@pytest.fixture(scope="session")
def run_ingest() -> Run:
    """`run_ingest(folder, sources)`: paths of the sources are relative to the folder."""

    def run(folder: Path, sources: list[dict[str, Any]], *, memory_mb: int = 600) -> Outcome:
        config = {"sources": sources, "reader_memory_mb": memory_mb, "reader_timeout_s": 60}
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "tmp").mkdir()
        before = files(folder)
        command = [sys.executable, "-m", "medvlp.cli", "ingest", "--config", "config.json",
                   "--out", "set", "--workers", "2"]  # fmt: skip
        environment = {**os.environ, "TMPDIR": str(folder / "tmp"), "PYTHONPATH": str(ROOT)}
        begin = time.monotonic()
        process = subprocess.Popen(
            command, cwd=folder, env=environment, text=True, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )  # fmt: skip
        peak = Peak(process.pid)
        stdout, stderr = process.communicate(timeout=280)
        seconds = time.monotonic() - begin
        summary = json.loads(stdout.splitlines()[-1]) if process.returncode == 0 else {}
        rows, codes = [], {}
        if summary:
            rows = pq.read_table(folder / "set/quarantine.parquet").to_pylist()
            listing = folder / "set.quarantine.tsv"
            for line in listing.read_text().splitlines() if listing.exists() else ():
                _, code, name = line.split("\t")
                codes.setdefault(name, set()).add(code)
        new = {name for name in files(folder) - before if not name.startswith("set/")}
        new -= {"set.key", "set.quarantine.tsv"}
        return Outcome(
            process.returncode, summary, codes, rows, stderr, peak.stop(), seconds, new
        )  # fmt: skip

    return run


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")} - {"set"}


class Peak:
    """The most memory that any process of a tree holds at a time, seen fifty times a second."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._most = 0
        self._go = True
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> float:
        self._go = False
        self._thread.join()
        return self._most / 1e6

    def _watch(self) -> None:
        while self._go:
            try:
                root = psutil.Process(self._pid)
                tree = [root, *root.children(recursive=True)]
            except psutil.Error:
                return
            for process in tree:
                try:
                    self._most = max(self._most, process.memory_info().rss)
                except psutil.Error:
                    continue
            time.sleep(0.02)
