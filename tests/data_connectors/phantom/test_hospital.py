from __future__ import annotations

import csv
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pydicom
import pytest
import yaml
from PIL import Image

from data_connectors.phantom import hospital as module
from data_connectors.phantom.hospital import write_hospital
from data_connectors.phantom.procedure import PHASES
from medvlp.cli import main
from medvlp.errors import ConfigError


def digests(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_two_processes_write_the_same_bytes_as_one(
    hospital: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_CHUNK", 2)
    again = tmp_path / "again"
    write_hospital(again, patients=6, lectures=1, seed=5, workers=2)
    assert digests(again) == digests(hospital)


def test_a_patient_is_the_same_whatever_the_number_of_patients(
    hospital: Path, tmp_path: Path
) -> None:
    write_hospital(tmp_path / "two", patients=2, lectures=0, seed=5, workers=1)
    small, large = digests(tmp_path / "two"), digests(hospital)
    own = {name: value for name, value in small.items() if name.startswith(("dicom/", "reports/"))}
    assert len(own) > 40
    assert own.items() <= large.items()


def test_another_seed_gives_other_people_and_pictures(hospital: Path, tmp_path: Path) -> None:
    write_hospital(tmp_path / "other", patients=1, lectures=0, seed=6, workers=1)
    known = set(digests(hospital).values())
    own = digests(tmp_path / "other")
    private = ("dicom/", "reports/", "pseudonyms.key")
    assert "pseudonyms.key" in own
    assert not [n for n, v in own.items() if v in known and n.startswith(private)]


def test_nothing_is_left_behind_when_writing_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("disk full")

    monkeypatch.setattr(module, "write_truth", broken)
    with pytest.raises(RuntimeError, match="disk full"):
        write_hospital(tmp_path / "out", patients=1, lectures=0, seed=1, workers=1)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_something_in_it_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(ConfigError) as error:
        write_hospital(tmp_path, patients=0, lectures=0, seed=1)
    assert error.value.code == "phantom-exists"
    assert (tmp_path / "mine.txt").read_text() == "keep"


def test_what_a_killed_run_left_is_removed_and_a_live_one_is_not(tmp_path: Path) -> None:
    dead, alive = tmp_path / ".out.partial-999999999", tmp_path / f".out.partial-{os.getppid()}"
    for folder in (dead, alive):
        (folder / "dicom").mkdir(parents=True)
    write_hospital(tmp_path / "out", patients=0, lectures=0, seed=1)
    assert not dead.exists()
    assert alive.exists()


def test_the_command_line_writes_a_hospital_and_one_json_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "hospital"
    code = main(["phantom", "--out", str(out), "--patients", "1", "--lectures", "0", "--seed", "9",
                 "--workers", "1"])  # fmt: skip
    assert code == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["patients"] == 1
    assert summary["dicom_files"] == len(list((out / "dicom").rglob("*.dcm")))


def test_negative_sizes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        write_hospital(tmp_path / "out", patients=-1, lectures=0, seed=1)
    assert error.value.code == "phantom-size"


def test_an_empty_hospital_can_be_written_into_an_empty_folder(tmp_path: Path) -> None:
    summary = write_hospital(tmp_path, patients=0, lectures=0, seed=1)
    assert summary["patients"] == summary["lectures"] == 0
    assert pq.read_table(tmp_path / "truth.parquet").num_rows == 0


def test_the_ingest_config_is_valid_and_names_what_is_there(hospital: Path) -> None:
    from data_connectors.config import IngestConfig
    from medvlp.config import load_config

    config = load_config(IngestConfig, hospital / "ingest.yaml")
    assert [source.kind for source in config.sources] == ["dicom", "reports", "lectures"]
    for source in config.sources:
        assert (hospital / source.path).is_dir()
    tree = yaml.safe_load((hospital / "ingest.yaml").read_text())
    assert (hospital / tree["sources"][0]["labels"]).is_file()
    assert (hospital / tree["sources"][0]["regions"]).is_file()


def test_labels_and_regions_name_the_uids_of_the_files(hospital: Path) -> None:
    uids: dict[str, tuple[int, int]] = {}
    for path in (hospital / "dicom").rglob("*.dcm"):
        ds = pydicom.dcmread(path, stop_before_pixels=True)
        uid = ds.SeriesInstanceUID if ds.Modality == "CT" else ds.SOPInstanceUID
        slices, _ = uids.get(uid, (0, 0))
        uids[uid] = (slices + 1, int(ds.Rows))
    labels = {row["uid"]: row["labels"] for row in rows(hospital / "truth/labels.csv")}
    assert set(labels) == set(uids)
    table = pq.read_table(hospital / "truth.parquet").to_pylist()
    for patient in (row for row in table if row["kind"] == "patient"):
        concepts = "|".join(f["concept"] for f in patient["findings"]) or "normal"
        assert labels[patient["ct_uid"]] == labels[patient["dx_uid"]] == concepts
    for row in rows(hospital / "truth/regions.csv"):
        assert row["concept"] in labels[row["uid"]].split("|")
        with Image.open(hospital / "truth" / row["mask"]) as mask:
            slices, height = uids[row["uid"]]
            assert mask.mode == "L"
            assert mask.size[1] == slices * height


def test_every_canary_occurs_in_the_files_and_none_is_an_ordinary_word(hospital: Path) -> None:
    canaries = (hospital / "canaries.txt").read_text("utf-8").splitlines()
    assert len(canaries) == len(set(canaries)) >= 6 * 9
    folders = (hospital / "dicom", hospital / "reports", hospital / "lectures")
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    content = b"\n".join(path.read_bytes() for path in files if path.suffix != ".mp4")
    names = "\n".join(path.as_posix() for path in files)
    for canary in canaries:
        assert canary.encode() in content or canary in names
        assert len(canary) >= 6
    code = b"".join(path.read_bytes().lower() for path in Path(module.__file__).parent.glob("*.py"))
    assert not [canary for canary in canaries if canary.lower().encode() in code]


def test_identifiers_hide_in_a_nested_sequence_a_private_tag_and_a_file_name(
    hospital: Path,
) -> None:
    canaries = set((hospital / "canaries.txt").read_text("utf-8").splitlines())
    ds = pydicom.dcmread(next((hospital / "dicom").rglob("*.dcm")))
    request = ds.RequestAttributesSequence[0]
    assert any(name in request.RequestedProcedureDescription for name in canaries)
    assert ds.private_block(0x0011, "PHANTOM WORKS 1.0")[0x02].value in canaries
    assert {path.stem for path in (hospital / "reports/text").iterdir()} <= canaries


def test_phases_are_listed_for_prompts(hospital: Path) -> None:
    listed = yaml.safe_load((hospital / "phases.yaml").read_text())["phases"]
    assert [phase["id"] for phase in listed] == list(PHASES)
    assert len(listed) >= 7
    texts = [text for phase in listed for text in (phase["name"], phase["description"])]
    assert len(set(texts)) == len(texts)


def test_the_worker_processes_need_no_torch() -> None:
    code = "import data_connectors.phantom.hospital, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
