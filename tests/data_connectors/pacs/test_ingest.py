"""The command line against a real archive: 200 series, killed twice, nothing missing or twice."""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pydicom
import pytest
import yaml

from data_connectors.pacs.source import ArchiveSource
from tests.data_connectors.pacs.conftest import slice_of, write

REPO = Path(__file__).resolve().parents[3]
SERIES, SLICES = 200, 3


def many(count: int = SERIES, slices: int = SLICES) -> list[pydicom.Dataset]:
    return [
        slice_of(f"1.2.840.{n}", f"1.2.840.{n}.7", k, patient=f"P-{n // 4}", )
        for n in range(1, count + 1)
        for k in range(slices)
    ]  # fmt: skip


def config_of(*sources: ArchiveSource, **rest: object) -> dict[str, object]:
    listed = [source.model_dump(mode="json", exclude_defaults=True) | {"kind": source.kind}
              for source in sources]  # fmt: skip
    return {"sources": listed, "deid": {"key_file": "key"}, **rest}


def start(folder: Path, out: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "medvlp.cli", "ingest", "--config", str(folder / "ingest.yaml"),
         "--out", str(folder / out), "--workers", "1"],
        cwd=REPO, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip


def stored(folder: Path) -> int:
    """How many instances the ledger of a running pull has."""
    path = folder / "out.pulled" / "pacs" / "ledger.sqlite"
    with suppress(sqlite3.Error):
        db = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
        try:
            return int(db.execute(
                "SELECT count(*) FROM instances WHERE state = 'stored'"
            ).fetchone()[0])  # fmt: skip
        finally:
            db.close()
    return 0


def kill_after(folder: Path, count: int) -> int:
    """Start, kill -9 the whole process group once so many instances are there; how many were."""
    run = start(folder, "out")
    deadline = time.monotonic() + 120
    while stored(folder) < count:
        assert run.poll() is None, run.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(run.pid, signal.SIGKILL)
    run.communicate()
    assert not (folder / "out").exists()
    return stored(folder)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_200_series_killed_twice_are_all_there_once(orthanc, anyway, tmp_path, record_property):
    wanted = many()
    orthanc.store(write(tmp_path / "in", wanted))
    (tmp_path / "key").write_text("ab" * 32)
    (tmp_path / "ingest.yaml").write_text(yaml.safe_dump(config_of(anyway())))
    points = sorted(random.sample(range(20, SERIES * SLICES - 60), 2))
    began = time.monotonic()
    seen = [kill_after(tmp_path, point) for point in points]
    run = start(tmp_path, "out")
    answer, _ = run.communicate(timeout=400)
    seconds = time.monotonic() - began
    assert run.returncode == 0
    summary = json.loads(answer.splitlines()[-1])
    held = Counter(
        str(pydicom.dcmread(file, stop_before_pixels=True).SOPInstanceUID)
        for file in (tmp_path / "out.pulled/pacs/dicom").rglob("*")
        if file.is_file()
    )
    assert held == Counter(d.SOPInstanceUID for d in wanted)
    assert (summary["found"], summary["used"], summary["quarantined"]) == (
        SERIES * SLICES, SERIES * SLICES, 0,
    )  # fmt: skip
    assert summary["samples"] == SERIES
    whole = start(tmp_path, "whole")
    undisturbed = json.loads(whole.communicate(timeout=400)[0].splitlines()[-1])
    assert undisturbed["digest"] == summary["digest"]
    print(f"\n{anyway().kind}: killed at {seen} of {SERIES * SLICES} instances; "  # noqa: T201
          f"{seconds:.1f} s with two kills, {undisturbed['seconds']} s undisturbed")  # fmt: skip
    record_property("seconds", seconds)
