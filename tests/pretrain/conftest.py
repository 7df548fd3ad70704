"""A small dataset folder of images, volumes and clips in which a bright square is a nodule."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_connectors.dataset.store import Dataset
from data_connectors.dataset.writer import DatasetWriter
from data_connectors.items import Payload
from medvlp.config import load_config
from medvlp.types import Finding, Geometry, Sample, Text
from pretrain.config import PretrainConfig

SMOKE = Path(__file__).resolve().parents[2] / "configs" / "pretrain" / "smoke.yaml"


def _png(frame: np.ndarray, form: str = "png") -> bytes:
    file = io.BytesIO()
    Image.fromarray(frame).save(file, "PNG" if form == "png" else "JPEG")
    return file.getvalue()


def _payload(kind: str, sick: bool, rng: np.random.Generator) -> tuple[Payload, Geometry]:
    n = {"image": 1, "volume": 7, "clip": 5}[kind]
    frames = rng.normal(90, 10, (n, 24, 28))
    if sick:
        frames[:, 8:16, 8:16] += 90
    if kind == "volume":
        file = io.BytesIO()
        np.save(file, (frames * 5 - 600).astype(np.int16))
        geometry = Geometry(shape=frames.shape, spacing_mm=(2.5, 1.0, 1.0), unit="HU")
        return Payload((("npy", file.getvalue()),)), geometry
    grey = frames.clip(0, 255).astype(np.uint8)
    if kind == "image":
        return Payload((("png", _png(grey[0])),)), Geometry(unit="raw")
    colour = [np.repeat(frame[..., None], 3, axis=2) for frame in grey]
    members = tuple((f"{500 * i:010d}.jpg", _png(frame, "jpg")) for i, frame in enumerate(colour))
    return Payload(members), Geometry(start_s=0.0, end_s=2.5, fps=2.0, unit="rgb")


def _sample(i: int, kind: str, sick: bool, placed, geometry: Geometry) -> Sample:
    sentences = (
        ("There is a nodule.", "A nodule is seen.") if sick else ("No nodule.", "Lungs are clear.")
    )
    texts = tuple(Text("sentence", "report", text) for text in sentences)
    return Sample(
        key=f"s{i:03d}", patient=f"p{i}", study=f"p{i}",
        split="train" if i % 4 else "test", kind=kind, modality="X",  # type: ignore[arg-type]
        texts=(*texts, Text("document", "report", " ".join(sentences))),
        findings=(Finding("nodule", "nodule", "present" if sick else "absent"),),
        labels=("nodule",) if sick else (), geometry=geometry,
        provenance={"image": "xray", "volume": "ct", "clip": "video"}[kind],
        shard=placed.shard, offset=placed.offset, size=placed.size,
    )  # fmt: skip


@pytest.fixture(scope="session")
def dataset_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dataset")
    rng = np.random.default_rng(0)
    with DatasetWriter(folder) as writer:
        samples = []
        for i in range(32):
            kind, sick = ("image", "volume", "clip")[i % 3], bool(rng.integers(2))
            payload, geometry = _payload(kind, sick, rng)
            samples.append(_sample(i, kind, sick, writer.add(f"s{i:03d}", payload), geometry))
        writer.finish(samples)
    return folder


@pytest.fixture(scope="session")
def dataset(dataset_path: Path) -> Dataset:
    return Dataset.open(dataset_path)


@pytest.fixture
def smoke():
    """The smoke config with overrides."""

    def make(*overrides: str) -> PretrainConfig:
        return load_config(PretrainConfig, SMOKE, overrides)

    return make
