"""The real process, killed with SIGKILL wherever it is: the same dataset comes out."""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from data_connectors.deid.pseudonyms import load_key
from medvlp import audit
from tests.data_connectors.dicom.conftest import dataset_of, save

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
ROOT = Path(__file__).resolve().parents[3]
SERIES, SLICES, IMAGES = 40, 8, 90
UNITS = SERIES + IMAGES


@pytest.fixture(scope="module")
def archive(tmp_path_factory) -> Path:
    """Series of small slices, pictures that fill two shards, and some that are broken."""
    folder = tmp_path_factory.mktemp("archive")
    rng = np.random.default_rng(0)
    for series in range(SERIES):
        for k in range(SLICES):
            pixels = rng.integers(0, 2000, (16, 16)).astype(np.int16)
            dataset = dataset_of(
                pixels, SOPInstanceUID=f"2.25.{series}.{k}", SeriesInstanceUID=f"2.25.{series}",
                PatientID=f"P{series % 17}", ImagePositionPatient=[0.0, 0.0, 2.0 * k],
            )  # fmt: skip
            save(dataset, folder / "dicom" / f"{series:02d}" / f"{k}.dcm")
    (folder / "dicom" / "broken.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"\xff" * 60)
    (folder / "images").mkdir()
    for number in range(IMAGES):
        pixels = rng.integers(0, 256, (128, 128), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"q{number:02d}_1.png")
    (folder / "images" / "bad_1.png").write_bytes(b"\x89PNG\r\n\x1a\n no")
    (folder / "key").write_text("ab" * 32)
    (folder / "ingest.yaml").write_text(yaml.safe_dump({
        "sources": [
            {"kind": "dicom", "name": "scans", "path": "dicom"},
            {"kind": "images", "name": "pngs", "path": "images", "burned_in": "accept",
             "patient_pattern": r"([^/_]+)_\d+\.png$"},
        ],
        "deid": {"key_file": "key"}, "shard_mb": 1,
    }))  # fmt: skip
    return folder


def start(archive: Path, out: Path, workers: int, **options) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "medvlp.cli", "ingest", "--config", archive / "ingest.yaml",
         "--out", out, "--workers", str(workers)],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        **options,
    )  # fmt: skip


def finish(archive: Path, out: Path, workers: int) -> str:
    said, log = start(archive, out, workers).communicate(timeout=600)
    assert said, log.decode()
    summary = json.loads(said)
    assert summary["found"] == summary["used"] + summary["quarantined"]
    info = json.loads((out / "dataset.json").read_text())
    assert audit.verify(out / "audit.jsonl", anchor=info["audit_head"]) >= 5
    assert not out.with_name(out.name + ".partial").exists()
    return str(summary["digest"])


@pytest.fixture(scope="module")
def undisturbed(archive, tmp_path_factory) -> str:
    return finish(archive, tmp_path_factory.mktemp("whole") / "out", 1)


def kill_when(run: subprocess.Popen, condition: Callable[[], bool]) -> bool:
    """Kill as soon as the condition holds; False if the process was faster."""
    deadline = time.monotonic() + 300
    while not condition():
        if run.poll() is not None:
            run.communicate()
            return False
        assert time.monotonic() < deadline
        time.sleep(0.0005)
    os.kill(run.pid, signal.SIGKILL)
    run.communicate()
    return True


def lines(path: Path) -> int:
    try:
        return path.read_bytes().count(b"\n")
    except FileNotFoundError:
        return 0


def points(out: Path) -> list[tuple[str, Callable[[], bool]]]:
    """Moments of an ingest, in their order, as seen from outside."""
    partial = out.with_name(out.name + ".partial")
    dataset, journal, notes = partial / "dataset", partial / "journal", partial / "notes"
    shards = dataset / "shards"

    def there(*names: str) -> Callable[[], bool]:
        return lambda: any((dataset / name).exists() or (out / name).exists() for name in names)

    return [
        ("the folder is made", partial.exists),
        ("planning has begun", lambda: lines(notes) >= 1),
        ("planning goes on", lambda: lines(notes) >= 4),
        ("reading has begun", lambda: (shards / "000000.tar").exists()),
        ("the first unit is written", lambda: lines(journal) >= 1),
        ("in the middle", lambda: lines(journal) >= SERIES // 2),
        ("pixels are being written", lambda: (shards / "000000.tar").exists()
         and (shards / "000000.tar").stat().st_size > 600_000),
        ("the second shard", (shards / "000001.tar").exists),
        ("nearly all is read", lambda: lines(journal) >= UNITS - 3),
        ("tables", there(".samples.parquet.part", "samples.parquet")),
        ("the last table", there(".quarantine.parquet.part", "quarantine.parquet")),
        ("dataset.json", there(".dataset.json.part", "dataset.json")),
        ("the rename", out.exists),
    ]  # fmt: skip


@pytest.mark.parametrize("workers", [1, 2])
def test_killed_at_every_stage(archive, undisturbed, tmp_path, workers):
    out = tmp_path / "out"
    killed = []
    for name, condition in points(out):
        if kill_when(start(archive, out, workers), condition):
            killed.append(name)
    assert len(killed) >= 9, killed
    assert finish(archive, out, workers) == undisturbed


def test_killed_at_random_moments_with_changing_workers(archive, undisturbed, tmp_path):
    rng = random.Random(7)
    out = tmp_path / "out"
    began = time.monotonic()
    assert kill_when(start(archive, out, 2), out.with_name("out.partial").exists)
    boot = time.monotonic() - began
    kills = 0
    for turn in range(14):
        until = time.monotonic() + boot + rng.uniform(0, 1.2)
        kills += kill_when(
            start(archive, out, (1, 2, 4)[turn % 3]), lambda until=until: time.monotonic() > until
        )
    assert kills >= 5
    assert finish(archive, out, 4) == undisturbed


@pytest.mark.parametrize("torn", ["journal", "notes", "dataset/audit.jsonl", "shard"])
def test_a_torn_end_is_made_good(archive, undisturbed, tmp_path, torn):
    """What a kill in the middle of a write, or a full disk, leaves."""
    out = tmp_path / "out"
    partial = tmp_path / "out.partial"
    assert kill_when(start(archive, out, 2), lambda: lines(partial / "journal") >= 60)
    path = partial / (torn if torn != "shard" else "dataset/shards/000000.tar")
    data = path.read_bytes()
    path.write_bytes(data[: -min(37, len(data) // 2)])
    assert finish(archive, out, 2) == undisturbed


@pytest.mark.parametrize(("workers", "limit"), [(1, 300_000), (2, 300_000), (2, 9_000)])
def test_a_full_disk_stops_it_and_it_goes_on_when_there_is_room(
    archive, undisturbed, tmp_path, workers, limit
):
    def small() -> None:  # no file may grow beyond the limit: the system says EFBIG
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))

    out = tmp_path / "out"
    run = start(archive, out, workers, preexec_fn=small)
    _, log = run.communicate(timeout=600)
    assert run.returncode == 1
    last = log.decode().splitlines()[-1]
    assert "[disk-full]" in last
    assert "same command" in last
    assert finish(archive, out, workers) == undisturbed


def test_a_small_file_system_is_a_full_disk(archive, undisturbed, tmp_path):
    room = tmp_path / "small"
    room.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=700k", "none", room],
                             capture_output=True)  # fmt: skip
    if mounted.returncode:
        pytest.skip("this user may not mount a file system")
    try:
        run = start(archive, room / "out", 2)
        _, log = run.communicate(timeout=600)
        assert (run.returncode, b"[disk-full]" in log) == (1, True), log.decode()
        subprocess.run(["mount", "-o", "remount,size=50m", room], check=True)
        assert finish(archive, room / "out", 2) == undisturbed
    finally:
        subprocess.run(["umount", room], check=True)


def test_a_key_is_there_whole_or_not_at_all(tmp_path, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", killed)
    with pytest.raises(KeyboardInterrupt):
        load_key(tmp_path / "key", create=True)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    first = load_key(tmp_path / "key", create=True)
    assert first.check == load_key(tmp_path / "key", create=True).check
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
