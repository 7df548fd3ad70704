"""The whole way: seeded files and a synthetic hospital through the verb, and what comes after."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from data_connectors.deid.options import DeidentifyConfig
from data_connectors.deid.run import deidentify
from data_connectors.dicom import load_volume
from data_connectors.phantom.hospital import write_hospital
from governance.leakcheck import leakcheck
from medvlp.cli import main

from .canary import Seeded, seeded_file, write_canaries
from .test_objects import errors_of

KEY = "00112233445566778899aabbccddeeff" * 2


@pytest.mark.slow
def test_no_canary_is_in_anything_written_or_said_on_success_and_on_failure(tmp_path):
    """Whole, cut, damaged and refused objects, in a folder and as files named after people."""
    seeded = Seeded()
    folder = tmp_path / "in" / str(seeded.value("SH"))
    folder.mkdir(parents=True)
    for number, syntax in enumerate(("1.2.840.10008.1.2.1", "1.2.840.10008.1.2")):
        data = seeded_file(seeded, syntax=syntax)
        (folder / f"{seeded.value('SH')}.dcm").write_bytes(data)
        (folder / f"{seeded.value('SH')}.dcm").write_bytes(data[: len(data) // (2 + number)])
        damaged = bytearray(data)
        damaged[2000:90000:997] = b"\xff" * len(damaged[2000:90000:997])
        (folder / f"{seeded.value('SH')}.dcm").write_bytes(bytes(damaged))
    (folder / f"{seeded.value('SH')}.txt").write_text(str(seeded.value("LT")))
    canaries = write_canaries(tmp_path / "canaries.txt", seeded)
    (tmp_path / "c.yaml").write_text("burned_in: accept\ndates: shift\nmax_shift_days: 30\n")
    call = [sys.executable, "-m", "medvlp.cli", "deidentify", "-v", "--workers", "2", "--config",
            str(tmp_path / "c.yaml"), "--out", str(tmp_path / "out")]  # fmt: skip
    done = subprocess.run(
        [*call, str(tmp_path / "in")], capture_output=True, timeout=300, cwd=Path.cwd()
    )
    assert done.returncode == 0
    (tmp_path / "said.txt").write_bytes(done.stdout + done.stderr)
    summary = json.loads(done.stdout)
    assert summary["written"] >= 2
    assert summary["quarantined"] >= 3
    found = leakcheck(canaries, [tmp_path / "out", tmp_path / "said.txt"])
    assert (found["hits"], found["files"]) == (0, [])
    assert leakcheck(canaries, [tmp_path / "in"])["hits"] > 1000


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("deid") / "hospital"
    write_hospital(out, patients=2, lectures=0, seed=3, workers=1)
    (out / "key").write_text(KEY)
    return out


@pytest.fixture(scope="module")
def cleaned(hospital: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("deid") / "clean"
    config = DeidentifyConfig(
        key_file=Path("key"), dates="shift", clean_descriptors=True, domain="phantom"
    )
    summary = deidentify(config, out, [hospital / "dicom"], base=hospital, workers=1)
    assert summary["quarantined"] == 0
    return out


@pytest.mark.slow
def test_volumes_are_the_same_voxels_at_the_same_place(hospital, cleaned):
    import pydicom

    before: dict[str, list[Path]] = {}
    for path in (hospital / "dicom").rglob("*.dcm"):
        series = pydicom.dcmread(path, stop_before_pixels=True).SeriesInstanceUID
        before.setdefault(series, []).append(path)
    from data_connectors.deid.pseudonyms import load_key

    names = load_key(hospital / "key", create=False)
    compared = 0
    for series, paths in before.items():
        after = sorted(cleaned.rglob(f"{names.uid(series)}/*.dcm"))
        assert len(after) == len(paths)
        if len(paths) > 1:
            one, two = load_volume(sorted(paths)), load_volume(after)
            assert np.array_equal(one.array, two.array)
            assert np.array_equal(one.affine, two.affine)
            compared += 1
    assert compared > 0


@pytest.mark.slow
def test_a_dataset_made_with_the_key_has_the_same_pseudonyms(hospital, cleaned, tmp_path):
    (tmp_path / "key").write_text(KEY)
    (tmp_path / "ingest.yaml").write_text(json.dumps({
        "sources": [{"kind": "dicom", "name": "a", "path": str(hospital / "dicom"),
                     "domain": "phantom"}],
        "deid": {"key_file": "key"}, "split": {"val": 0.0, "test": 0.0},
    }))  # fmt: skip
    out = tmp_path / "set"
    assert main(["ingest", "--config", str(tmp_path / "ingest.yaml"), "--out", str(out),
                 "--workers", "1"]) == 0  # fmt: skip
    table = pd.read_parquet(out / "samples.parquet")
    assert set(table["patient"]) == {path.name for path in cleaned.iterdir() if path.is_dir()}


@pytest.mark.slow
def test_no_canary_of_the_hospital_is_left_and_no_object_is_less_valid(hospital, cleaned, program):
    found = leakcheck(hospital / "canaries.txt", [cleaned])
    assert (found["hits"], found["files"]) == (0, [])
    validator = program("dciodvfy")
    before = next(iter(sorted((hospital / "dicom").rglob("*.dcm"))))
    known = errors_of(validator, before) or {}
    for path in sorted(cleaned.rglob("*.dcm"))[::7]:
        made = errors_of(validator, path)
        assert made is not None
        assert set(made) <= set(known), path.name
