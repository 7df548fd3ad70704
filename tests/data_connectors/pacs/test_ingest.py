"""The command line against a real archive: 200 series, killed twice, nothing missing or twice."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import pydicom
import pytest
import yaml

from data_connectors.config import IngestConfig
from data_connectors.dataset.store import Dataset
from data_connectors.ingest.run import ingest
from data_connectors.pacs.source import ArchiveSource
from tests.data_connectors.pacs.conftest import PASSWORD, FakeArchive, reply, slice_of, write

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


def by_api(source: ArchiveSource, folder: Path, out: str = "out", **rest: object) -> dict[str, Any]:
    (folder / "key").write_text("ab" * 32)
    config = IngestConfig.model_validate(config_of(source, **rest))
    return ingest(config, folder / out, base=folder, workers=1)


def test_an_archive_becomes_a_dataset_and_everything_is_accounted_for(faked, tmp_path):
    datasets = many(3, 4)

    class Lacking(FakeArchive):
        def whole(self, handler, uids):
            super().whole(handler, [uid for uid in uids if uid != "1.2.840.2.7.3"])

        def one(self, handler, uid):
            reply(handler, status=404)

    source, _ = faked(Lacking(datasets, tmp_path / "files"))
    summary = by_api(source, tmp_path)
    assert summary["by_source"]["pacs"] == {"found": 12, "used": 8, "quarantined": 4}
    assert summary["by_reason"] == {"pacs-incomplete": 4}
    assert summary["samples"] == 2
    data = Dataset.open(tmp_path / "out")
    told = [json.loads(line) for line in (data.path / "audit.jsonl").read_text().splitlines()]
    (facts,) = [entry["facts"] for entry in told if entry["action"] == "archive-pulled"]
    assert facts == {
        "source": "pacs", "series": 3, "fetched": 11, "instances": 8, "missing": 4
    }  # fmt: skip


def test_no_credential_identifier_or_address_gets_into_what_is_written(
    orthanc, anyway, tmp_path, caplog, capsys
):
    orthanc.store(write(tmp_path / "in", many(4, 3)))
    with caplog.at_level("DEBUG"):
        by_api(anyway(), tmp_path)
    written = b"".join(
        file.read_bytes()
        for root in ("out", "out.partial")
        for file in (tmp_path / root).rglob("*")
        if file.is_file()
    )
    spoken = capsys.readouterr()
    said = (caplog.text + spoken.out + spoken.err).encode()
    for canary in (PASSWORD, "Zyxwv", "1.2.840.2", "P-0", str(orthanc.http), str(orthanc.dicom)):
        assert canary.encode() not in written, canary
        assert canary.encode() not in said, canary


def test_a_finished_dataset_is_returned_without_asking_the_archive(faked, tmp_path):
    source, server = faked(FakeArchive(many(1, 3), tmp_path / "files"))
    first = by_api(source, tmp_path)
    asked = len(server.seen)
    again = by_api(source, tmp_path)
    assert len(server.seen) == asked
    assert again["digest"] == first["digest"]


@pytest.mark.parametrize("keep", [True, False])
def test_the_pulled_folder_is_kept_unless_the_config_says_otherwise(faked, tmp_path, keep):
    source, _ = faked(FakeArchive(many(1, 3), tmp_path / "files"), keep=keep)
    first = by_api(source, tmp_path)
    assert (tmp_path / "out.pulled").exists() == keep
    assert by_api(source, tmp_path)["digest"] == first["digest"]


def test_datasets_can_share_a_store_and_pull_only_what_is_new(faked, tmp_path):
    archive = FakeArchive(many(2, 3), tmp_path / "files")
    source, server = faked(archive, store=tmp_path / "store")
    by_api(source, tmp_path)
    server.seen.clear()
    summary = by_api(source, tmp_path, out="second")
    assert summary["used"] == 6
    assert not [path for path in server.paths if re.search(r"/series/[\d.]+$", path)]


def test_what_a_pull_brings_is_read_like_the_folder_it_was_stored_from(faked, tmp_path):
    datasets = many(3, 3)
    source, _ = faked(FakeArchive(datasets, tmp_path / "files"))
    pulled = by_api(source, tmp_path)
    folder = write(tmp_path / "in", datasets)
    config = {
        "sources": [{"kind": "dicom", "name": "pacs", "path": str(folder)}],
        "deid": {"key_file": "key"},
    }
    local = ingest(
        IngestConfig.model_validate(config), tmp_path / "local", base=tmp_path, workers=1
    )
    for name in ("samples", "found", "by_kind", "by_split", "patients"):
        assert pulled[name] == local[name]
    one, other = (Dataset.open(tmp_path / out).samples for out in ("out", "local"))
    assert {sample.key for sample in one} == {sample.key for sample in other}


def test_labels_are_beside_the_config(faked, tmp_path):
    source, _ = faked(FakeArchive(many(1, 3), tmp_path / "files"), labels="labels.csv")
    (tmp_path / "labels.csv").write_text("uid,labels\n1.2.840.1.7,nodule\n")
    by_api(source, tmp_path)
    (sample,) = Dataset.open(tmp_path / "out").samples
    assert sample.labels == ("nodule",)
