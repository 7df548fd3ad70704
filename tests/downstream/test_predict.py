"""One case, end to end, with an encoder that sees brightness (see conftest)."""

from __future__ import annotations

import json
import logging
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image

from downstream.case import read_case
from downstream.predict import predict, relative
from medvlp.errors import ConfigError, InputError
from tests.downstream.conftest import FakeEncoder
from tests.downstream.dicom_out.conftest import write_film, write_stack

__all__ = ["write_film", "write_stack"]
LABELS = ("nodule", "pleural_effusion")


@pytest.fixture(autouse=True)
def encoder(monkeypatch) -> FakeEncoder:
    fake = FakeEncoder()
    monkeypatch.setattr("medvlp.models.checkpoint.load_encoder", lambda run, **_: fake)
    return fake


@pytest.fixture
def film(tmp_path, write_film) -> Path:
    """A radiograph with a bright square at rows 8..15, columns 24..31."""
    pixels = np.full((64, 64), 100)
    pixels[8:16, 24:32] = 200
    return write_film(tmp_path / "film.dcm", pixels)


@pytest.fixture
def stack(tmp_path, write_stack) -> Path:
    """A sagittal series with a bright block in its slices 2 and 3."""
    values = np.full((6, 32, 32), 1124)
    values[2:4, 8:16, 16:24] = 1224
    axes = np.array([[0, 1, 0], [0, 0, -1], [1, 0, 0.0]])
    return write_stack(tmp_path / "in", values, axes, (5.0, 1.0, 1.0))


def run(path: Path, out: Path, **options) -> dict:
    return predict(path, run=Path("run"), labels=LABELS, out=out, **options)


def test_a_radiograph_gets_scores_pictures_mask_and_report(film, tmp_path, program):
    facts = run(film, tmp_path / "out")
    assert facts["files"] == [
        "heat/nodule.png", "heat/pleural_effusion.png", "scores.json", "seg.dcm", "sr.dcm",
    ]  # fmt: skip
    said = json.loads((tmp_path / "out" / "scores.json").read_text())
    nodule, effusion = said["labels"]
    assert nodule["probability"] > 0.5 >= effusion["probability"]
    assert said["model_digest"] == "f" * 64
    seg = pydicom.dcmread(tmp_path / "out" / "seg.dcm")
    frame = seg.pixel_array.reshape(-1, 64, 64)[0]
    assert seg.SegmentSequence[0].SegmentLabel == "nodule"
    assert frame[11:13, 27:29].min() == frame.max() == round(nodule["probability"] * 255)
    assert frame[40:].max() == 0
    for name in ("seg.dcm", "sr.dcm"):
        checked = subprocess.run([program("dciodvfy"), tmp_path / "out" / name],
                                 capture_output=True, text=True, timeout=60)  # fmt: skip
        assert "Error" not in checked.stderr
    with Image.open(tmp_path / "out" / "heat" / "nodule.png") as picture:
        assert min(picture.size) > 300


def test_a_mask_lies_on_the_slices_that_show_the_finding(stack, tmp_path):
    run(stack, tmp_path / "out", masks="binary")
    seg = pydicom.dcmread(tmp_path / "out" / "seg.dcm")
    frames = seg.pixel_array.reshape(-1, 32, 32)
    marked = {}
    for frame, own in zip(frames, seg.PerFrameFunctionalGroupsSequence, strict=True):
        groups = own if "SegmentIdentificationSequence" in own else (
            seg.SharedFunctionalGroupsSequence[0]
        )  # fmt: skip
        if groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber == 1:
            source = own.DerivationImageSequence[0].SourceImageSequence[0]
            marked[source.ReferencedSOPInstanceUID] = frame
    # The model sees axial slices; a patch is an eighth of the side of one.
    assert {"2.25.9002", "2.25.9003"} <= marked.keys()
    frame = marked["2.25.9002"]
    assert frame[8:16, 16:24].mean() > 0.9
    assert frame.sum() < 4 * 8 * 8


def test_the_report_says_what_the_scores_say(stack, tmp_path):
    facts = run(stack, tmp_path / "out")
    import highdicom as hd

    report = hd.sr.srread(tmp_path / "out" / "sr.dcm")
    seg = pydicom.dcmread(tmp_path / "out" / "seg.dcm")
    text = str(report)
    assert seg.SOPInstanceUID in text
    values = [
        float(item.MeasuredValueSequence[0].NumericValue)
        for group in report.content.get_volumetric_roi_measurement_groups()
        for item in group
        for item in item.ContentSequence
        if item.ValueType == "NUM"
    ]
    expected = [v for row in facts["labels"] for v in (row["probability"], row["score"])]
    assert set(np.round(values, 5)) <= set(np.round(expected, 5))
    assert report.PatientID == "P-0815"


def test_nothing_of_the_patient_gets_into_log_scores_or_pictures(film, stack, tmp_path, caplog):
    with caplog.at_level(logging.DEBUG):
        said = [str(run(path, tmp_path / name)) for name, path in (("a", film), ("b", stack))]
    open_files = [p for p in tmp_path.glob("[ab]/**/*") if p.suffix in (".json", ".png")]
    assert len(open_files) == 6
    for secret in (b"Zyxwv", b"P-0815", b"ACC-4711", b"2.25.7", b"19420719"):
        assert secret.decode() not in caplog.text + "".join(said)
        assert not any(secret in path.read_bytes() for path in open_files)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o700
    assert {p.stat().st_mode & 0o777 for p in (tmp_path / "a").rglob("*") if p.is_file()} == {0o600}


def test_a_picture_and_a_zip_are_cases_too(stack, tmp_path):
    Image.fromarray(np.full((20, 30), 90, np.uint8)).save(tmp_path / "x.png")
    facts = run(tmp_path / "x.png", tmp_path / "png")
    assert facts["notes"] == ["masks are written for series of slices and single images only"]
    assert "seg.dcm" not in facts["files"]
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        for path in stack.iterdir():
            archive.write(path, path.name)
    assert read_case(tmp_path / "all.zip").digest == read_case(stack).digest


def test_what_is_no_single_case_is_refused(stack, film, tmp_path):
    film.rename(stack / "film.dcm")
    with pytest.raises(InputError) as caught:
        read_case(stack)
    assert caught.value.code == "case-several"
    assert "a series of 6 files" in str(caught.value)
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_text("nothing")
    with pytest.raises(InputError) as caught:
        read_case(tmp_path / "text")
    assert (caught.value.code, caught.value.got) == ("case-empty", "1 x not-dicom")


def test_only_a_prediction_is_replaced(film, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("precious")
    with pytest.raises(ConfigError, match="something else"):
        run(film, tmp_path / "out")
    run(film, tmp_path / "again")
    run(film, tmp_path / "again", dicom=False)
    assert not (tmp_path / "again" / "seg.dcm").exists()


def test_labels_must_differ(film, tmp_path):
    with pytest.raises(ConfigError):
        predict(film, run=Path("run"), labels=("Nodule", "nodule "), out=tmp_path / "out")


def test_relative_heat_runs_from_the_median_to_the_peak():
    heat = np.array([[[-3.0, 1, 1], [1, 2, 5]]], np.float32)
    np.testing.assert_allclose(relative(heat), [[[0, 0, 0], [0, 0.25, 1]]])
    assert not relative(np.full((1, 2, 2), 7, np.float32)).any()
