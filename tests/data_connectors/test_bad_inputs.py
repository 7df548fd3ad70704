"""Bad files among good ones, through the real connectors and the whole ingest."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from pydicom.dataset import Dataset as DicomDataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from data_connectors.config import IngestConfig
from data_connectors.dataset.store import Dataset
from data_connectors.ingest.run import ingest
from governance.leakcheck import leakcheck

CANARIES = ("Zyxwv^Quillon", "19420719", "ZQX-7731", "Zyxwv", "Quillon", "ACC4711")
REPORT = """Patient: Quillon Zyxwv
MRN: ZQX-7731
Accession: ACC4711
DOB: 07/19/1942

FINDINGS: Mr. Zyxwv has a small left pleural effusion. No pneumothorax.

IMPRESSION: Small left effusion in Quillon Zyxwv, MRN ZQX7731, born 19 July 1942.
"""


def write_slice(path: Path, *, patient: str | None, study: str, series: str, number: int) -> None:
    """One CT slice of 16 x 16 pixels; `patient` None leaves the PatientID out."""
    data = DicomDataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = CTImageStorage
    data.file_meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[series, str(number)])
    data.SOPClassUID = CTImageStorage
    data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID
    if patient is not None:
        data.PatientID = patient
    data.PatientName = "Zyxwv^Quillon"
    data.PatientBirthDate = "19420719"
    data.StudyInstanceUID, data.SeriesInstanceUID = study, series
    data.AccessionNumber = f"ACC{study[-4:]}"
    data.Modality = "CT"
    data.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    data.ImagePositionPatient = [0, 0, 5 * number]
    data.PixelSpacing, data.SliceThickness = [1, 1], 5
    data.InstanceNumber = 7 - number
    data.Rows = data.Columns = 16
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit = 16, 12, 11
    data.PixelRepresentation = 0
    data.RescaleSlope, data.RescaleIntercept = 1, -1024
    rng = np.random.default_rng([number, len(patient or ""), ord(series[-1])])
    data.PixelData = rng.integers(0, 4096, (16, 16), dtype=np.uint16).tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    data.save_as(path, enforce_file_format=True)


def write_series(folder: Path, *, patient: str | None, study: str, series: str) -> None:
    for number in range(4):
        write_slice(
            folder / f"{number}.dcm", patient=patient, study=study, series=series, number=number
        )


def write_video(path: Path, *, seconds: int = 6) -> None:
    """H.264 at 5 frames a second, grey getting lighter."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(5))
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(5 * seconds):
            picture = np.full((48, 64, 3), 30 + 6 * number, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))


def write_sound_only(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), format="fltp",
                                           layout="mono")  # fmt: skip
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def whisper(*spans: tuple[float, float, str]) -> str:
    segments = [{"id": i, "start": a, "end": b, "text": t} for i, (a, b, t) in enumerate(spans)]
    return json.dumps({"text": "", "segments": segments, "language": "en"})


@pytest.fixture(scope="module")
def hospital(tmp_path_factory) -> Path:
    """A good and a bad one of everything."""
    root = tmp_path_factory.mktemp("hospital")
    dicom, reports, lectures = root / "dicom", root / "reports", root / "lectures"
    write_series(dicom / "Zyxwv_Quillon", patient="ZQX-7731", study="1.2.4711", series="1.2.1")
    write_series(dicom / "nameless", patient=None, study="1.2.4713", series="1.2.3")
    write_slice(dicom / "cut.dcm", patient="ZQX-7799", study="1.2.4714", series="1.2.4", number=0)
    whole = (dicom / "cut.dcm").read_bytes()
    (dicom / "cut.dcm").write_bytes(whole[: len(whole) - 200])
    (dicom / "note of Zyxwv.dcm").write_text("this is no DICOM file")
    reports.mkdir()
    (reports / "good ZQX-7731.txt").write_text(REPORT)
    (reports / "empty.txt").write_text("")
    (reports / "blank.txt").write_text("  \n\n")
    for name in ("good", "backwards"):
        write_video(lectures / name / "video.mp4")
    write_sound_only(lectures / "silent" / "video.mp4")
    talk = ((0.5, 2.0, "We open the peritoneum."), (2.5, 5.0, "Clip the duct of Mr Zyxwv."))
    (lectures / "good" / "whisper.json").write_text(whisper(*talk))
    (lectures / "silent" / "whisper.json").write_text(whisper(*talk))
    (lectures / "backwards" / "whisper.json").write_text(whisper((3.0, 1.0, "No."), (9, 8, "No.")))
    return root


@pytest.fixture(scope="module")
def made(hospital, tmp_path_factory) -> tuple[Path, dict[str, Any]]:
    config = IngestConfig.model_validate({"sources": [
        {"kind": "dicom", "name": "scans", "path": "dicom"},
        {"kind": "reports", "name": "notes", "path": "reports"},
        {"kind": "lectures", "name": "theatre", "path": "lectures"},
    ]})  # fmt: skip
    out = tmp_path_factory.mktemp("out") / "set"
    return out, ingest(config, out, base=hospital, workers=1)


def test_every_bad_input_is_quarantined_with_a_code_and_the_rest_goes_on(made):
    out, summary = made
    assert summary["by_reason"] == {
        "dicom-truncated": 1,
        "not-dicom": 1,
        "patient-id-missing": 4,
        "report-empty": 2,
        "transcript-time-order": 1,
        "video-no-stream": 2,
    }
    assert summary["by_source"] == {
        "scans": {"found": 10, "used": 4, "quarantined": 6},
        "notes": {"found": 3, "used": 1, "quarantined": 2},
        "theatre": {"found": 6, "used": 3, "quarantined": 3},
    }
    assert summary["found"] == summary["used"] + summary["quarantined"] == 19
    rows = Dataset.open(out).quarantine()
    assert len(rows) == 11
    assert all(row["reason"] and row["next_step"] and row["code"] for row in rows)


def test_what_is_good_is_complete(made):
    out, summary = made
    data = Dataset.open(out)
    (volume,) = data.select(kinds=("volume",))
    assert summary["links"] == {"accession": 1}
    assert data.visual(volume).frames.shape == (4, 16, 16)
    levels = [text.level for text in volume.texts]
    assert levels == ["document", "findings", "impression", *["sentence"] * 3]
    document = volume.texts[0].text
    stated = [(f.concept, f.polarity, f.side, document[f.start : f.end]) for f in volume.findings]
    assert ("pleural_effusion", "present", "left", "pleural effusion") in stated
    assert ("pneumothorax", "absent", None, "pneumothorax") in stated


def test_clips_are_byte_ranges_of_their_lecture(made):
    data = Dataset.open(made[0])
    clips = [sample for sample in data.samples if sample.parent is not None]
    assert [clip.texts[0].text for clip in clips] == [
        "We open the peritoneum.",
        "Clip the duct of the person.",
    ]
    for clip in clips:
        lecture = data.by_key[clip.parent]
        whole, part = data.visual(lecture), data.visual(clip)
        start, end = clip.geometry.start_s, clip.geometry.end_s
        inside = (whole.positions >= start) & (whole.positions < end)
        assert np.array_equal(part.positions, whole.positions[inside])
        assert np.array_equal(part.frames, whole.frames[inside])
        assert (clip.patient, clip.split) == (lecture.patient, lecture.split)


def test_no_identifier_is_left_in_the_dataset(made, hospital, tmp_path):
    canaries = tmp_path / "canaries.txt"
    canaries.write_text("\n".join(CANARIES))
    assert leakcheck(canaries, [made[0]])["hits"] == 0
    seeded = leakcheck(canaries, [hospital])  # the search itself does find them
    assert seeded["hits"] >= 12


def test_the_owner_can_find_the_quarantined_files(made):
    out, _ = made
    listing = out.with_name("set.quarantine.tsv")
    assert listing.stat().st_mode & 0o077 == 0
    rows = [line.split("\t") for line in listing.read_text().splitlines()]
    assert {row["source"] for row in Dataset.open(out).quarantine()} == {row[0] for row in rows}
    assert "note of Zyxwv.dcm" in {row[2] for row in rows}
