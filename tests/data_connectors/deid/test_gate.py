from __future__ import annotations

import io
import json
import stat
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from data_connectors.config import IngestConfig
from data_connectors.dataset.store import Dataset as Store
from data_connectors.deid.review import read_decisions
from data_connectors.ingest.run import ingest
from medvlp.errors import ConfigError

US, CT = "1.2.840.10008.5.1.4.1.1.6.1", "1.2.840.10008.5.1.4.1.1.2"


def write(path: Path, pixels: np.ndarray, *, sop_class: str = US, modality: str = "US",
          **attributes: object) -> None:  # fmt: skip
    """One grey object."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = sop_class
    uid = generate_uid(entropy_srcs=[path.name])
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = uid
    dataset.PatientID, dataset.StudyInstanceUID = f"P-{path.stem}", f"1.2.{len(path.stem)}"
    dataset.SeriesInstanceUID = generate_uid(entropy_srcs=[path.stem, "s"])
    dataset.Modality = modality
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 8 * pixels.dtype.itemsize
    dataset.HighBit, dataset.PixelRepresentation = dataset.BitsStored - 1, 0
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    dataset.PixelData = pixels.tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)


def noise(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (24, 32), dtype=np.uint8)


def run(base: Path, out: str, workers: int = 1, **deid: object) -> dict:
    config = IngestConfig.model_validate({
        "sources": [{"kind": "dicom", "name": "scans", "path": "scans"}],
        "deid": {"key_file": "key", **deid},
    })  # fmt: skip
    return ingest(config, base / out, base=base, workers=workers)


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """Two ultrasound images and a radiograph."""
    (tmp_path / "key").write_text("ab" * 32)
    write(tmp_path / "scans/one.dcm", noise(1))
    write(tmp_path / "scans/two.dcm", noise(2), BurnedInAnnotation="NO")
    write(tmp_path / "scans/three.dcm", noise(3), sop_class="1.2.840.10008.5.1.4.1.1.1.1",
          modality="DX")  # fmt: skip
    return tmp_path


def rows(path: Path) -> list[dict[str, str]]:
    lines = path.read_text().splitlines()
    return [dict(zip(lines[0].split("\t"), line.split("\t"), strict=True)) for line in lines[1:]]


def decide(path: Path, decisions: dict[str, str]) -> None:
    """Fill in a review list as a person would, by file."""
    found = rows(path)
    for row in found:
        if row["file"] in decisions:
            row |= {"decision": decisions[row["file"]], "reviewer": "dr-a", "date": "2026-11-22"}
    text = ["\t".join(found[0]), *("\t".join(row.values()) for row in found)]
    path.write_text("\n".join(text) + "\n")


def test_pixels_at_risk_wait_for_a_person_and_come_in_after_the_decision(scans):
    first = run(scans, "out")
    assert first["by_reason"] == {"burned-in-risk": 2}
    assert first["samples"] == 1
    folder = scans / "out.review"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
    waiting = rows(folder / "review.tsv")
    assert sorted(row["file"] for row in waiting) == ["one.dcm", "two.dcm"]
    shown = {row["file"]: Image.open(folder / f"{row['digest']}.png") for row in waiting}
    assert np.array_equal(np.asarray(shown["one.dcm"]), noise(1))

    decide(folder / "review.tsv", {"one.dcm": "accept", "two.dcm": "reject"})
    second = run(scans, "again", reviewed="out.review/review.tsv")
    assert second["by_reason"] == {"burned-in-rejected": 1}
    flags = {sample.modality: sample.flags for sample in Store.open(scans / "again").samples}
    assert flags == {"US": ("text-reviewed",), "DX": ()}
    assert not (scans / "again.review").exists()
    told = [json.loads(line) for line in (scans / "again/audit.jsonl").read_text().splitlines()]
    (judged,) = [entry["facts"] for entry in told if entry["action"] == "pixels-judged"]
    assert judged["text-reviewed"] == 1
    assert len(judged["review"]) == 64


def test_a_decision_holds_for_these_pixels_alone(scans):
    run(scans, "out")
    decide(scans / "out.review/review.tsv", {"one.dcm": "accept"})
    changed = noise(1)
    changed[0, 0] ^= 1
    write(scans / "scans/one.dcm", changed)
    summary = run(scans, "again", reviewed="out.review/review.tsv")
    assert summary["by_reason"] == {"burned-in-risk": 2}


def test_new_decisions_make_another_dataset(scans):
    path = scans / "mine.tsv"
    run(scans, "out")
    path.write_bytes((scans / "out.review/review.tsv").read_bytes())
    run(scans, "again", reviewed="mine.tsv")
    decide(path, {"one.dcm": "accept"})
    with pytest.raises(Exception, match="dataset-exists"):
        run(scans, "again", reviewed="mine.tsv")


def test_what_waits_is_the_same_with_several_processes(scans):
    one, two = run(scans, "one", workers=1), run(scans, "two", workers=2)
    assert one["digest"] == two["digest"]
    read = [(path.name, path.read_bytes()) for path in sorted((scans / "one.review").iterdir())]
    assert read == [(p.name, p.read_bytes()) for p in sorted((scans / "two.review").iterdir())]


def test_a_config_may_accept_and_the_samples_say_so(scans):
    summary = run(scans, "out", burned_in="accept")
    assert summary["samples"] == 3
    flags = [sample.flags for sample in Store.open(scans / "out").samples]
    assert sorted(flags) == [(), ("text-risk-accepted",), ("text-risk-accepted",)]


@pytest.mark.parametrize(
    "line",
    ["{d}\tmaybe\tdr-a\t2026-11-22", "{d}\taccept\t\t2026-11-22", "{d}\taccept\tdr-a\tyesterday",
     "abc\taccept\tdr-a\t2026-11-22",
     "{d}\taccept\tdr-a\t2026-11-22\n{d}\treject\tdr-b\t2026-11-23"],
    ids=range(5),
)  # fmt: skip
def test_a_decision_that_is_none_is_refused(tmp_path, line):
    path = tmp_path / "review.tsv"
    path.write_text("digest\tdecision\treviewer\tdate\n" + line.format(d="0" * 64) + "\n")
    with pytest.raises(ConfigError) as caught:
        read_decisions(path)
    assert caught.value.code == "review-invalid"


def test_a_head_is_flagged_or_refused(scans):
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 999, (8, 8)).astype(np.uint16)
        write(scans / f"scans/head{number}.dcm", pixels, sop_class=CT, modality="CT",
              BodyPartExamined="HEAD", PatientID="P-h", StudyInstanceUID="1.9",
              SeriesInstanceUID="1.9.1", ImagePositionPatient=[0, 0, number * 3],
              ImageOrientationPatient=[1, 0, 0, 0, 1, 0], PixelSpacing=[1, 1],
              FrameOfReferenceUID="1.9.2")  # fmt: skip
    run(scans, "out")
    (volume,) = Store.open(scans / "out").select(kinds=("volume",))
    assert volume.flags == ("face",)
    assert run(scans, "no", faces="refuse")["by_reason"]["face-visible"] == 3
    run(scans, "kept", faces="keep")
    (volume,) = Store.open(scans / "kept").select(kinds=("volume",))
    assert volume.flags == ()


def test_images_without_a_header_follow_their_source(tmp_path):
    (tmp_path / "pictures").mkdir()
    buffer = io.BytesIO()
    Image.fromarray(noise(5)).save(buffer, "PNG")
    (tmp_path / "pictures/p_1.png").write_bytes(buffer.getvalue())

    def codes(out: str, **keys: object) -> dict[str, int]:
        source = {"kind": "images", "name": "pics", "path": "pictures", "patient_per_image": True}
        config = IngestConfig.model_validate({"sources": [{**source, **keys}]})
        return ingest(config, tmp_path / out, base=tmp_path, workers=1)["by_reason"]

    assert codes("a") == {}
    assert codes("b", burned_in="quarantine") == {"burned-in-risk": 1}
