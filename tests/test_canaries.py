"""The whole way with a canary in every place that can hold one: nothing written repeats any.

The command line runs as a user runs it, on inputs that work and on inputs that fail in every
connector, killed half-way, and refused; then `leakcheck` searches everything that was written:
the dataset, the quarantine, the page of `inspect`, what an unfinished run leaves, and whatever
was printed. Files for the owner's eyes are the exception: nobody else may read them.
"""

from __future__ import annotations

import io
import itertools
import json
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import yaml
from PIL import Image, PngImagePlugin
from pydicom.dataset import Dataset

from data_connectors.dicom.quiet import quiet
from governance.leakcheck import leakcheck

from .data_connectors.deid.canary import Seeded, seeded_file, write_canaries

ROOT = Path(__file__).resolve().parents[1]
PRIVATE = (".key", ".quarantine.tsv", ".review")
FAMILY, GIVEN = "Qzxfamily", "Wvygiven"
RECORD, ACCESSION, BIRTH = "RX-90817263", "AX-55443322", "18931031"
PERSON = (f"{FAMILY}^{GIVEN}", RECORD, ACCESSION, BIRTH)
SILENT = "ZQSILENT"
"""Begins the canaries of places that have no meaning to any reader."""


class Hospital:
    """A folder of inputs, and every canary in it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.seeded = Seeded()
        every = Seeded()
        self.base = seeded_file(every)
        # Technical numbers of the seeded object give way to sound ones: they are the geometry.
        kept = a_slice(self, 0, 0)
        words = [word for word in every.canaries if word.encode() in kept]
        self.seeded.canaries += [*words, *PERSON]
        self._numbers = itertools.count(1)

    def word(self) -> str:
        """A canary of its own for a name or a text."""
        made = f"{SILENT}{next(self._numbers):04d}XV"
        self.seeded.canaries.append(made)
        return made

    def write(self, name: str, data: bytes | str) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data.encode() if isinstance(data, str) else data)
        return path


def a_slice(hospital: Hospital, number: int, series: int, **changes: object) -> bytes:
    """A CT slice with a canary in every attribute, whose geometry and pixels are sound."""
    with quiet():
        dataset = pydicom.dcmread(io.BytesIO(hospital.base))
        for element in list(dataset):
            technical = element.VR in ("DS", "IS", "FL", "FD", "US", "SS", "UL", "SL", "AT", "TM")
            lut = element.keyword.endswith(("LUTSequence", "FunctionalGroupsSequence"))
            lut |= element.keyword in ("FloatPixelData", "DoubleFloatPixelData")
            if technical or lut or element.keyword.startswith("PixelPadding"):
                del dataset[element.tag]
        values: dict[str, Any] = {
            "PatientName": PERSON[0], "PatientID": RECORD, "AccessionNumber": ACCESSION,
            "PatientBirthDate": BIRTH, "IssuerOfPatientID": None, "Modality": "CT",
            "StudyInstanceUID": "1.2.9999.1", "SeriesInstanceUID": f"1.2.9999.2.{series}",
            "FrameOfReferenceUID": "1.2.9999.3", "SOPInstanceUID": f"1.2.9999.4.{series}.{number}",
            "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"], "RescaleType": "HU",
            "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
            "ImagePositionPatient": [0, 0, 3 * number], "PixelSpacing": [1, 1],
            "SliceThickness": 3, "RescaleSlope": 1, "RescaleIntercept": -1024,
            "WindowCenter": 40, "WindowWidth": 400, "InstanceNumber": number,
            "Rows": 8, "Columns": 8, "BitsAllocated": 16, "BitsStored": 16, "HighBit": 15,
            "PixelRepresentation": 0, "SamplesPerPixel": 1, "NumberOfFrames": None,
            "PhotometricInterpretation": "MONOCHROME2", "SpecificCharacterSet": "ISO_IR 192",
        } | changes  # fmt: skip
        for keyword, value in values.items():
            if value is not None:
                setattr(dataset, keyword, value)
            elif keyword in dataset:
                delattr(dataset, keyword)
        pixels = np.random.default_rng([number, series]).integers(0, 2000, 64, dtype=np.uint16)
        dataset.PixelData = pixels.tobytes()
        dataset["PixelData"].VR = "OW"
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        buffer = io.BytesIO()
        dataset.save_as(buffer, enforce_file_format=True)
        return buffer.getvalue()


def dicom(hospital: Hospital) -> None:
    folder = f"dicom/{FAMILY} {GIVEN} {RECORD}"
    for number in range(3):
        data = a_slice(hospital, number, 1)
        hospital.write(f"{folder}/{hospital.word()}-{number}.dcm", data)
    for number in (0, 1, 3):  # a gap
        hospital.write(f"{folder}/gap/{hospital.word()}.dcm", a_slice(hospital, number, 2))
    one = a_slice(hospital, 0, 3)
    bad: dict[str, bytes] = {
        "cut": one[:-40],
        "cut in the header": one[: len(one) // 2],
        "no patient": a_slice(hospital, 0, 4, PatientID=None),
        "no pixels": a_slice(hospital, 0, 5, Rows=None),
        "lying": a_slice(hospital, 0, 6, Rows=4000),
        "a report": a_slice(hospital, 0, 7, Modality="SR"),
        "odd numbers": a_slice(hospital, 0, 8).replace(b"MONOCHROME2 ", b"MONOCHROME9 "),
        "of two": a_slice(hospital, 0, 11),
        "of another": a_slice(hospital, 1, 11, PatientID=hospital.word()),
        "on a screen": a_slice(hospital, 0, 9, SOPClassUID="1.2.840.10008.5.1.4.1.1.7"),
        "no DICOM": hospital.word().encode() * 40,
        "compressed": a_slice(hospital, 0, 10).replace(b"1.2.840.10008.1.2.1\0",
                                                       b"1.2.840.10008.1.2.5\0"),
    }  # fmt: skip
    for name, data in bad.items():
        hospital.write(f"{folder}/{name} {hospital.word()}.dcm", data)
    nested = inner = Dataset()
    for _ in range(60):
        inner.RequestAttributesSequence = [Dataset()]
        inner.PatientComments = hospital.word()
        inner = inner.RequestAttributesSequence[0]
    hospital.write(f"{folder}/{hospital.word()}", _file(nested))


def _file(dataset: Dataset) -> bytes:
    buffer = io.BytesIO()
    dataset.save_as(buffer, implicit_vr=False, little_endian=True)
    return buffer.getvalue()


def letter() -> str:
    """What a colleague writes about the patient whom the header names."""
    return (
        f"CT of {GIVEN} {FAMILY}, born 31.10.1893 (10/31/1893), MRN {RECORD}, acc {ACCESSION}.\n\n"
        f"FINDINGS: Mr. {FAMILY} has a small left pleural effusion. No pneumothorax.\n"
        f"IMPRESSION: Small effusion in {FAMILY.upper()}, {GIVEN}; record rx 90817263.\n"
    )


def reports(hospital: Hospital) -> None:
    word = hospital.word
    head = f"Patient: {GIVEN} {FAMILY}\nMRN: {RECORD}\nAccession: {ACCESSION}\nDOB: 1893-10-31\n\n"
    hospital.write(f"text/{word()}.txt", head + letter())
    hospital.write(f"text/{word()} empty.txt", f"Patient: {word()}\nMRN: {word()}\n")
    hospital.write(f"text/{word()} nobody.txt", f"{word()} has no effusion.")
    hospital.write(f"text/{word()} broken.txt", f"MRN: {word()}\n".encode() + b"\xff\xfe\x80\x81")
    lines = [
        f"MSH|^~\\&|{word()}|{word()}|{word()}|{word()}|20200101||ORU^R01|{word()}|P|2.5",
        f"PID|1|{RECORD}|{RECORD}^^^{word()}||{FAMILY}^{GIVEN}||{BIRTH}|M|||{word()}^^{word()}"
        f"||{word()}|||||{word()}",
        f"PV1|1|I|{word()}^^^{word()}||||{word()}^{word()}|{word()}^{word()}",
        f"ORC|RE|{ACCESSION}|{ACCESSION}",
        f"OBR|1|{ACCESSION}|{ACCESSION}|CT^chest|||20200101|||||||||{word()}^{word()}",
    ]
    text = [f"OBX|{k}|TX|||{line}|||||F" for k, line in enumerate(letter().splitlines(), 1) if line]
    good = "\r".join([*lines, *text]) + "\r"
    hospital.write(f"hl7/{word()}.hl7", good)
    hospital.write(f"hl7/{word()} other.hl7", good.replace("ORU^R01", f"ADT^{word()}"))
    hospital.write(f"hl7/{word()} coded.hl7", good.replace("|P|2.5", f"|P|2.5||||||{word()}"))
    hospital.write(f"hl7/{word()} none.hl7", f"{word()}|{word()}")
    report: dict[str, Any] = {
        "resourceType": "DiagnosticReport", "status": "final", "id": word(),
        "subject": {"identifier": {"value": RECORD}, "display": f"{GIVEN} {FAMILY}"},
        "identifier": [{"system": word(), "value": ACCESSION}], "conclusion": letter(),
        "performer": [{"display": word()}],
    }  # fmt: skip
    hospital.write(f"fhir/{word()}.json", json.dumps(report))
    hospital.write(f"fhir/{word()} status.json", json.dumps({**report, "status": word()}))
    hospital.write(f"fhir/{word()} cut.json", json.dumps(report)[:-9])
    hospital.write(f"fhir/{word()} kind.json", json.dumps({"resourceType": word()}))
    rows = f"patient,accession,text\n{RECORD},{ACCESSION},{json.dumps(letter())[1:-1][:60]}\n"
    hospital.write("csv/reports.csv", rows + f"{word()},{word()},\n")


def images(hospital: Hospital) -> None:
    word = hospital.word

    def png(seed: int) -> bytes:
        notes = PngImagePlugin.PngInfo()
        notes.add_text("Author", word())
        notes.add_text("Comment", f"scan of {word()}", zip=True)
        pixels = np.random.default_rng(seed).integers(0, 255, (9, 9), dtype=np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG", pnginfo=notes)
        return buffer.getvalue()

    def jpeg() -> bytes:
        exif = Image.Exif()
        exif[0x010E], exif[0x013B] = f"scan of {word()}", word()
        buffer = io.BytesIO()
        Image.new("RGB", (9, 9), (9, 99, 200)).save(buffer, "JPEG", exif=exif, comment=word())
        return buffer.getvalue()

    rows = ["file,patient,label,note"]
    names = [f"{word()}.png", f"{word()}.jpg", f"{word()} cut.png", f"{word()} text.png",
             f"{word()} label.png"]  # fmt: skip
    for name, data in zip(names, (png(1), jpeg(), png(2)[:-60], word().encode(), png(3)),
                          strict=True):  # fmt: skip
        hospital.write(f"images/{name}", data)
        label = word() if "label" in name else "normal"
        rows.append(f"{name},{word()},{label},{word()}")
    rows += [f"{word()}.png,{word()},normal,{word()}", f",{word()},normal,"]
    hospital.write("images/table.csv", "\n".join(rows) + "\n")
    hospital.write(f"images/{word()} nobody.png", png(4))


def lectures(hospital: Hospital) -> None:
    word = hospital.word
    talk = f"{FAMILY} {GIVEN}"
    said = [{"id": 0, "start": 0.5, "end": 2.0, "text": f"This is {GIVEN} {FAMILY}."}]
    hospital.write(f"lectures/{talk}/video.mp4", _video())
    hospital.write(f"lectures/{talk}/whisper.json", json.dumps({"segments": said, "text": ""}))
    hospital.write(f"lectures/{word()}/video.mp4", word().encode() * 30)
    bad = [{"id": word(), "start": 3.0, "end": 1.0, "text": word()}]
    hospital.write(f"lectures/{word()}/video.mp4", _video(1))
    path = hospital.write(f"lectures/{word()}/video.mp4", _video(2))
    hospital.write(str(path.relative_to(hospital.root).with_name("whisper.json")),
                   json.dumps({"segments": bad, word(): word()}))  # fmt: skip
    path = hospital.write(f"lectures/{word()}/video.mp4", _video(3))
    hospital.write(str(path.relative_to(hospital.root).with_name("captions.srt")),
                   f"1\n{word()} --> {word()}\n{word()}\n")  # fmt: skip


def _video(shade: int = 0) -> bytes:
    import av

    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        container.metadata["title"] = "x"
        stream = container.add_stream("libx264", rate=5)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(20):
            picture = np.full((48, 64, 3), 30 + 6 * number + shade, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    return buffer.getvalue()


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Hospital:
    made = Hospital(tmp_path_factory.mktemp("site"))
    for part in (dicom, reports, images, lectures):
        part(made)
    write_canaries(made.root / "canaries.txt", made.seeded)
    (made.root / "key").write_text("5a" * 32)
    sources: list[dict[str, Any]] = [
        {"kind": "dicom", "name": "scans", "path": "dicom", "burned_in": "accept"},
        {"kind": "dicom", "name": "again", "path": "dicom", "domain": "other"},
        *({"kind": "reports", "name": name, "path": name, "format": name}
          for name in ("text", "hl7", "fhir")),
        {"kind": "images", "name": "pictures", "path": "images", "table": "table.csv",
         "patient_column": "patient", "label_column": "label", "label_map": {"normal": "normal"}},
        {"kind": "images", "name": "more", "path": "images", "patient_per_image": True,
         "burned_in": "quarantine", "domain": "more"},
        {"kind": "lectures", "name": "theatre", "path": "lectures"},
    ]  # fmt: skip
    config = {"sources": sources, "deid": {"key_file": "key"}}
    (made.root / "ingest.yaml").write_text(yaml.safe_dump(config))
    return made


def call(hospital: Hospital, out: Path, *argv: str | Path) -> tuple[int, Path]:
    """Run a verb; what it printed becomes one more file to search."""
    done = subprocess.run(
        [sys.executable, "-m", "medvlp.cli", *map(str, argv)], cwd=out, capture_output=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=240, check=False,
    )  # fmt: skip
    said = out / f"printed-{len(list(out.glob('printed-*')))}.txt"
    said.write_bytes(done.stdout + done.stderr)
    return done.returncode, said


def check(hospital: Hospital, out: Path) -> None:
    """Nothing that may be given away repeats a canary; the rest is for the owner alone."""
    shared = []
    for path in out.iterdir():
        if path.name.endswith(PRIVATE):
            assert stat.S_IMODE(path.stat().st_mode) in (0o600, 0o700), path.name
        else:
            shared.append(path)
    found = leakcheck(hospital.root / "canaries.txt", shared)
    assert found["searched"] > 0
    assert (found["hits"], found["files"]) == (0, [])


@pytest.mark.slow
def test_the_inputs_are_seeded_and_the_search_sees_it(hospital):
    found = leakcheck(hospital.root / "canaries.txt", [hospital.root])
    assert found["canaries"] > 2000
    assert found["hits"] > found["canaries"]


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_nothing_leaks_from_inputs_good_and_bad(hospital, tmp_path, workers):
    config = hospital.root / "ingest.yaml"
    status, said = call(hospital, tmp_path, "ingest", "--config", config, "--out", "set",
                        "--workers", str(workers), "-v")  # fmt: skip
    assert status == 0, said.read_text()
    summary = json.loads(said.read_text().splitlines()[0])
    assert summary["by_source"]["scans"]["used"] >= 3
    assert all(summary["by_source"][name]["used"] for name in ("text", "hl7", "fhir", "pictures"))
    assert len(summary["by_reason"]) >= 12
    assert call(hospital, tmp_path, "inspect", "set", "--html", "page.html")[0] == 0
    assert call(hospital, tmp_path, "ingest", "--config", config, "--out", "set")[0] == 0
    check(hospital, tmp_path)
    texts = [path for path in tmp_path.iterdir() if path.name.endswith(".quarantine.tsv")]
    assert texts  # the owner's list does name the files
    assert SILENT in texts[0].read_text()


@pytest.mark.slow
def test_nothing_leaks_from_a_killed_run_or_the_next(hospital, tmp_path):
    argv = [sys.executable, "-m", "medvlp.cli", "ingest", "--config",
            str(hospital.root / "ingest.yaml"), "--out", "set", "--workers", "1"]  # fmt: skip
    with (tmp_path / "printed-killed.txt").open("wb") as said:
        process = subprocess.Popen(
            argv, cwd=tmp_path, stdout=said, stderr=said, start_new_session=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        journal, end = tmp_path / "set.partial/journal", time.monotonic() + 120
        while not (journal.exists() and journal.read_bytes().count(b"\n") >= 6):
            assert process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.002)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    left = tmp_path / "set.partial"
    assert stat.S_IMODE(left.stat().st_mode) == 0o700
    check(hospital, tmp_path)
    status, _ = call(hospital, tmp_path, *argv[3:])
    assert status == 0
    check(hospital, tmp_path)


@pytest.mark.slow
def test_nothing_leaks_from_a_refusal(hospital, tmp_path):
    word = next(word for word in hospital.seeded.canaries if word.startswith(SILENT))
    config = yaml.safe_load((hospital.root / "ingest.yaml").read_text())
    wrong = [
        {**config, "patients": [word]},
        {**config, "split": {"val": word}},
        {**config, "sources": [{**config["sources"][0], "caption": [word]}]},
        {**config, "sources": [{**config["sources"][5], "patient_column": "birth"}]},
        {**config, "deid": {**config["deid"], "burned_in": word}},
        {**config, "deid": {"key_file": "canaries.txt"}},
        {**config, "deid": {**config["deid"], "reviewed": "canaries.txt"}},
    ]
    for number, tree in enumerate(wrong):
        path = hospital.root / f"wrong{number}.yaml"
        path.write_text(yaml.safe_dump(tree))
        out = f"set{number}"
        status, said = call(hospital, tmp_path, "ingest", "--config", path, "--out", out)
        assert (status, number) == (1, number) or number == 6, said.read_text()
    check(hospital, tmp_path)


@pytest.mark.slow
def test_nothing_leaks_from_deidentified_objects(hospital, tmp_path):
    key = f"key_file={hospital.root / 'key'}"
    status, said = call(hospital, tmp_path, "deidentify", "--out", "clean", "--workers", "1",
                        "--set", key, hospital.root / "dicom")  # fmt: skip
    assert status == 0, said.read_text()
    check(hospital, tmp_path)
