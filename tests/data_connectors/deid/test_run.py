from __future__ import annotations

import io
import json
import os
import signal
import stat
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pydicom
import pytest
from pydicom.data import get_testdata_file

from data_connectors.deid.options import DeidentifyConfig
from data_connectors.deid.run import deidentify
from medvlp import audit
from medvlp.cli import main
from medvlp.errors import DatasetError

KEY = "00112233445566778899aabbccddeeff" * 2
CONFIG = {"dates": "shift", "retain_patient_characteristics": True}


def config(**more: object) -> DeidentifyConfig:
    return DeidentifyConfig.model_validate(CONFIG | {"key_file": "key"} | more)


def slice_of(number: int, **values: object) -> bytes:
    dataset = pydicom.dcmread(get_testdata_file("CT_small.dcm"))
    dataset.InstanceNumber = number
    dataset.SOPInstanceUID = f"1.2.826.0.1.3680043.8.498.77.{number}"
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    for name, value in values.items():
        setattr(dataset, name, value)
    buffer = io.BytesIO()
    dataset.save_as(buffer)
    return buffer.getvalue()


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """A folder, a zip and a tar of slices, and files that are none."""
    folder = tmp_path / "archive" / "Doe^Jane MRN-77123"
    folder.mkdir(parents=True)
    for number in range(6):
        (folder / f"{number}.dcm").write_bytes(slice_of(number, PatientID="MRN-77123"))
    (folder / "again.dcm").write_bytes(slice_of(1, PatientID="MRN-77123"))
    (folder / "other.dcm").write_bytes(slice_of(2, PatientID="MRN-77123", KVP="90"))
    (folder / "note of Doe Jane.txt").write_text("Jane Doe MRN-77123")
    (folder / "cut.dcm").write_bytes(slice_of(9)[:-400])
    (folder / "ecg.dcm").write_bytes(
        slice_of(10, SOPClassUID="1.2.840.10008.5.1.4.1.1.9.1.1", PatientID="MRN-77123")
    )
    (folder / "screen.dcm").write_bytes(slice_of(11, ConversionType="WSD", PatientID="MRN-77123"))
    (folder / "nobody.dcm").write_bytes(slice_of(12, PatientID=""))
    with zipfile.ZipFile(tmp_path / "archive" / "export.zip", "w") as packed:
        packed.writestr("Doe/20.dcm", slice_of(20, PatientID="MRN-77123"))
    with tarfile.open(tmp_path / "archive" / "export.tar.gz", "w:gz") as packed:
        data = slice_of(21, PatientID="MRN-99")
        info = tarfile.TarInfo("b/21.dcm")
        info.size = len(data)
        packed.addfile(info, io.BytesIO(data))
    (tmp_path / "key").write_text(KEY)
    return tmp_path / "archive"


def run(archive: Path, out: Path, workers: int = 1, **more: object) -> dict[str, object]:
    return deidentify(config(**more), out, [archive], base=archive.parent, workers=workers)


def test_every_file_is_written_or_quarantined_with_its_reason(archive, tmp_path):
    summary = run(archive, tmp_path / "clean")
    assert summary["by_reason"] == {
        "burned-in-risk": 1, "deid-conflict": 1, "deid-duplicate": 1, "deid-unsupported": 1,
        "dicom-truncated": 1, "not-dicom": 1, "patient-id-missing": 1,
    }  # fmt: skip
    assert (summary["found"], summary["written"], summary["quarantined"]) == (15, 8, 7)
    assert (summary["patients"], summary["studies"], summary["series"]) == (2, 2, 2)
    files = sorted((tmp_path / "clean").rglob("*.dcm"))
    assert len(files) == 8
    for path in files:
        dataset = pydicom.dcmread(path)
        patient, study, series, name = path.relative_to(tmp_path / "clean").parts
        assert dataset.PatientID == patient
        assert (dataset.StudyInstanceUID, dataset.SeriesInstanceUID) == (study, series)
        assert name == f"{dataset.SOPInstanceUID}.dcm"
    quarantine = pd.read_parquet(tmp_path / "clean" / "quarantine.parquet")
    assert len(quarantine) == 7
    assert quarantine["next_step"].str.len().min() > 5
    private = tmp_path / "clean.quarantine.tsv"
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    assert "note of Doe Jane.txt" in private.read_text()
    info = json.loads((tmp_path / "clean" / "deid.json").read_text())
    assert audit.verify(tmp_path / "clean" / "audit.jsonl", anchor=info["audit_head"]) == 1


def test_nothing_written_or_logged_holds_an_identifier(archive, tmp_path, caplog):
    from governance.leakcheck import leakcheck

    canaries = tmp_path / "canaries.txt"
    canaries.write_text("DOE^JANE\nMRN-77123\nCompressedSamples^CT1\n1CT1\nJFK IMAGING CENTER\n")
    with caplog.at_level("DEBUG"):
        run(archive, tmp_path / "clean")
    (tmp_path / "log.txt").write_text(caplog.text)
    assert leakcheck(canaries, [archive])["hits"] > 10
    found = leakcheck(canaries, [tmp_path / "clean", tmp_path / "log.txt"])
    assert (found["hits"], found["files"]) == (0, [])
    assert not (tmp_path / "clean.partial").exists()


def test_the_result_is_the_same_whatever_the_workers_and_the_place(archive, tmp_path):
    first = run(archive, tmp_path / "one")
    moved = tmp_path / "elsewhere" / "deep"
    moved.parent.mkdir()
    archive.rename(moved)
    second = deidentify(config(), tmp_path / "two", [moved], base=tmp_path, workers=2)
    assert first["digest"] == second["digest"]
    bytes_of = {p.name: p.read_bytes() for p in (tmp_path / "one").rglob("*.dcm")}
    assert bytes_of == {p.name: p.read_bytes() for p in (tmp_path / "two").rglob("*.dcm")}


def test_another_key_gives_nothing_in_common(archive, tmp_path):
    run(archive, tmp_path / "one")
    (tmp_path / "key").write_text(KEY[::-1])
    run(archive, tmp_path / "two")
    names = [
        {part for p in (tmp_path / out).rglob("*") for part in p.relative_to(tmp_path / out).parts}
        for out in ("one", "two")
    ]
    assert names[0] & names[1] == {"deid.json", "audit.jsonl", "quarantine.parquet"}


def test_a_finished_folder_is_returned_and_never_overwritten(archive, tmp_path):
    first = run(archive, tmp_path / "clean")
    again = run(archive, tmp_path / "clean")
    assert again | {"seconds": 0} == first | {"seconds": 0}
    with pytest.raises(DatasetError) as caught:
        run(archive, tmp_path / "clean", dates="remove")
    assert caught.value.code == "deid-exists"
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "thesis.doc").write_text("mine")
    with pytest.raises(DatasetError):
        run(archive, tmp_path / "foreign")
    assert (tmp_path / "foreign" / "thesis.doc").read_text() == "mine"


def test_pixels_at_risk_go_on_when_a_person_has_looked(archive, tmp_path):
    run(archive, tmp_path / "clean")
    review = tmp_path / "clean.review" / "review.tsv"
    lines = review.read_text().splitlines()
    assert len(lines) == 2
    fields = lines[1].split("\t")
    fields[1:4] = ["accept", "R. Eviewer", "2026-11-22"]
    decided = tmp_path / "decided.tsv"
    decided.write_text(lines[0] + "\n" + "\t".join(fields) + "\n")
    summary = run(archive, tmp_path / "two", reviewed="decided.tsv")
    assert summary["written"] == 9
    assert "burned-in-risk" not in summary["by_reason"]
    marked = [
        dataset
        for path in (tmp_path / "two").rglob("*.dcm")
        if "113101" in str((dataset := pydicom.dcmread(path)).DeidentificationMethodCodeSequence)
    ]
    assert [dataset.BurnedInAnnotation for dataset in marked] == ["NO"]


@pytest.mark.slow
def test_a_killed_run_goes_on_and_ends_the_same(archive, tmp_path):
    more = archive / "more"
    more.mkdir()
    for number in range(100, 220):
        (more / f"{number}.dcm").write_bytes(slice_of(number, PatientID="MRN-5"))
    whole = run(archive, tmp_path / "whole")
    (tmp_path / "c.yaml").write_text(json.dumps(CONFIG | {"key_file": "key"}))
    call = [sys.executable, "-m", "medvlp.cli", "deidentify", "--config", str(tmp_path / "c.yaml"),
            "--workers", "1", "--out", str(tmp_path / "cut"), str(archive)]  # fmt: skip
    process = subprocess.Popen(call, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    ledger = tmp_path / "cut.partial" / "ledger.jsonl"
    wait_for(lambda: ledger.exists() and ledger.stat().st_size > 20_000)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "cut").exists()
    with ledger.open("ab") as file:
        file.write(b'{"torn')
    before = ledger.read_bytes().count(b"\n")
    assert before > 20
    resumed = run(archive, tmp_path / "cut")
    assert resumed["digest"] == whole["digest"]


def wait_for(done: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_the_verb_prints_its_summary_and_one_line_on_refusal(archive, tmp_path, capsys):
    options = ["--set", f"key_file={tmp_path / 'key'}", "--workers", "1"]
    assert main(["deidentify", "--out", str(tmp_path / "out"), *options, str(archive)]) == 0
    assert json.loads(capsys.readouterr().out)["written"] == 8
    assert main(["deidentify", "--out", str(tmp_path / "out2"), *options, "nowhere"]) == 1
    assert "[path-missing]" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore:Invalid value")
def test_paths_in_uids_write_nothing_outside(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "key").write_text(KEY)
    evil = {"StudyInstanceUID": "../../evil", "SeriesInstanceUID": "/tmp/evil", "PatientID": "../x"}
    (tmp_path / "in" / "a.dcm").write_bytes(slice_of(1, **evil))
    for number, options in enumerate(({}, {"retain_uids": True})):
        out = tmp_path / "work" / f"out{number}"
        summary = deidentify(config(**options), out, [tmp_path / "in"], base=tmp_path, workers=1)
        assert summary["written"] == 1
        assert len(list(out.rglob("*.dcm"))) == 1
    assert {p.name for p in tmp_path.iterdir()} == {"in", "key", "work"}
