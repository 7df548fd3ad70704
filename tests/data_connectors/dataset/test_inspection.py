from __future__ import annotations

import io
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_connectors.dataset.inspection import inspect_dataset
from data_connectors.dataset.writer import DatasetWriter
from data_connectors.items import Payload, Refused
from medvlp.types import Finding, Geometry, Sample, Text

LONG = "There is no focal consolidation, effusion or pneumothorax. " * 5


def png(seed: int) -> Payload:
    pixels = np.random.default_rng(seed).integers(0, 256, (20, 30), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png")
    return Payload((("png", buffer.getvalue()),))


def npy(array: np.ndarray) -> Payload:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return Payload((("npy", buffer.getvalue()),))


def clip(seed: int) -> Payload:
    frames = np.random.default_rng(seed).integers(0, 256, (3, 16, 20, 3), dtype=np.uint8)
    members = []
    for number, frame in enumerate(frames):
        buffer = io.BytesIO()
        Image.fromarray(frame).save(buffer, "jpeg")
        members.append((f"{1000 * number:010d}.jpg", buffer.getvalue()))
    return Payload(tuple(members))


class Maker:
    """Writes datasets of made-up samples."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.samples: list[Sample] = []
        self.writer = DatasetWriter(folder)

    def add(self, payload: Payload | None, patient: str, split: str, **rest) -> None:
        key = f"{len(self.samples):032d}"
        rest = {"kind": "image", "modality": "DX", "provenance": "x"} | rest
        if payload is not None:
            placed = self.writer.add(key, payload)._asdict()
        else:
            placed = {}
            rest["kind"] = "text"
        self.samples.append(Sample(key, patient, "", split, **rest, **placed))

    def finish(self, quarantine=()) -> Path:
        self.writer.finish(self.samples, quarantine=quarantine)
        return self.folder


@pytest.fixture
def maker(tmp_path: Path) -> Maker:
    return Maker(tmp_path / "set")


def test_the_counts_are_those_of_the_samples(maker):
    present = Finding("mass", "mass", "present", start=2, end=6)
    absent = Finding("mass", "mass", "absent")
    text = (Text("caption", "t", "A mass."),)
    maker.add(png(1), "p1", "train", findings=(present, present), texts=text, labels=("mass",))
    maker.add(png(2), "p2", "train", findings=(absent,), texts=text, licence="CC0")
    maker.add(png(3), "p3", "test", findings=(present, absent), labels=("mass", "nodule"))
    maker.add(None, "p3", "test", provenance="y", texts=(Text("caption", "t", "a  MASS."),))
    facts = inspect_dataset(maker.finish([
        ("x/1", Refused("bad", "because", "do")), ("x/2", Refused("bad", "because", "do")),
        ("y/1", Refused("bad", "because", "do")),
    ]))  # fmt: skip
    assert (facts["samples"], facts["patients"]) == (4, 3)
    assert facts["by_kind"]["image"] == {"train": 2, "val": 0, "test": 1}
    assert facts["by_source"]["y"] == {"train": 0, "val": 0, "test": 1}
    assert facts["by_licence"]["not given"] == {"train": 1, "val": 0, "test": 2}
    assert facts["patients_by_split"] == {"train": 2, "val": 0, "test": 1}
    assert facts["findings"]["mass"] == {
        "train": {"present": 1, "absent": 1}, "val": {}, "test": {"present": 1, "absent": 1},
    }  # fmt: skip
    assert facts["labels"]["mass"] == {"train": 1, "val": 0, "test": 1}
    assert facts["texts"]["by_level"]["caption"] == {"texts": 3, "distinct": 1, "repeated": 3}
    assert facts["texts"]["samples_without_text"] == 1
    assert [(row["source"], row["inputs"]) for row in facts["quarantine"]] == [("x", 2), ("y", 1)]
    assert facts["leakage"]["clean"]


def test_a_patient_in_two_splits_is_a_leak(maker):
    maker.add(png(1), "p1", "train")
    maker.add(png(2), "p1", "test")
    leakage = inspect_dataset(maker.finish())["leakage"]
    assert leakage == {
        "patients": 1, "identical_pixels": 0, "identical_long_texts": 0, "clean": False,
    }  # fmt: skip


@pytest.mark.parametrize("make", [png, clip, lambda seed: npy(np.full((3, 9, 9), seed))])
def test_the_same_pixels_in_two_splits_are_a_leak_under_other_names(maker, make):
    kind = {"png": "image", "clip": "clip"}.get(make.__name__, "volume")
    maker.add(make(1), "p1", "train", kind=kind)
    maker.add(make(1), "p2", "train", kind=kind)
    maker.add(make(2), "p3", "test", kind=kind)
    maker.add(make(1), "p4", "val", kind=kind)
    leakage = inspect_dataset(maker.finish())["leakage"]
    assert leakage["identical_pixels"] == 1
    assert not leakage["clean"]


def test_the_same_long_report_in_two_splits_is_told(maker):
    maker.add(png(1), "p1", "train", texts=(Text("document", "r", LONG),))
    maker.add(png(2), "p2", "test", texts=(Text("document", "r", LONG.upper()),))
    maker.add(png(3), "p3", "test", texts=(Text("document", "r", "Normal."),))
    maker.add(png(4), "p4", "train", texts=(Text("document", "r", "Normal."),))
    leakage = inspect_dataset(maker.finish())["leakage"]
    assert leakage["identical_long_texts"] == 1
    assert leakage["clean"]


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))


def test_the_page_shows_every_source_and_needs_nothing_from_outside(maker, tmp_path):
    evil = "A mass <script>alert(1)</script> & more."
    mass = Finding("mass", "mass", "present", side="left", start=2, end=6)
    maker.add(png(1), "p1", "train", provenance="films", texts=(Text("caption", "t", evil),),
              findings=(mass,))  # fmt: skip
    maker.add(npy(np.arange(4 * 64).reshape(4, 8, 8).astype(np.int16)), "p2", "val", kind="volume",
              modality="CT", provenance="scans",
              geometry=Geometry(shape=(4, 8, 8), spacing_mm=(5, 1, 1), unit="HU"))  # fmt: skip
    maker.add(clip(3), "p3", "test", kind="clip", modality="ES", provenance="theatre",
              geometry=Geometry(shape=(3, 16, 20), start_s=0.0, end_s=3.0))  # fmt: skip
    maker.add(None, "p4", "train", provenance="notes", texts=(Text("document", "r", LONG),))
    out = tmp_path / "deep" / "page.html"
    inspect_dataset(maker.finish(), html=out)
    text = out.read_text()
    page = Page(text)
    assert not [tag for tag, _ in page.tags if tag in ("script", "link", "iframe")]
    sources = [attrs["src"] for tag, attrs in page.tags if tag == "img"]
    assert len(sources) == 1 + 3 + 3
    assert all(src.startswith("data:image/png;base64,") for src in sources)
    assert not re.search(r"https?://", text)
    assert '<mark class="present" title="present left mass">mass</mark>' in text
    assert "&lt;script&gt;" in text
    for name in ("films", "scans", "theatre", "notes", "4×8×8, 5×1×1 mm", "0.0–3.0 s"):
        assert name in text
