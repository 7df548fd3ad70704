"""A small hospital in memory and a hand-made encoder whose behaviour is known exactly.

The encoder sees brightness and colour: `nodule` is a bright square, `pleural_effusion` a dark
one, a phase is a colour. Texts are keywords; a negation turns the vector round.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from data_connectors.items import Region
from medvlp.types import Finding, Geometry, Sample, Text, Visual

BASE = 100
KEYWORDS = {"nodule": 0, "pleural effusion": 1, "red": 2, "green": 3, "blue": 4}
DIM = 8


class FakeMaps(NamedTuple):
    maps: Tensor
    slice_weights: Tensor


class FakeEncoder:
    """Brightness, darkness and colour as directions of the joint space."""

    def __init__(self, digest: str = "f" * 64, blind: bool = False) -> None:
        self.digest = digest
        self.blind = blind
        self.seen: list[int] = []

    def _features(self, frames: np.ndarray) -> Tensor:
        """[n, 8, 8, DIM] of the square-padded frames."""
        values = torch.from_numpy(frames.astype(np.float32))
        if values.ndim == 3:
            values = values[..., None].expand(-1, -1, -1, 3)
        n, h, w, _ = values.shape
        side = max(h, w)
        square = torch.full((n, 3, side, side), float(BASE))
        top, left = (side - h) // 2, (side - w) // 2
        square[:, :, top : top + h, left : left + w] = values.permute(0, 3, 1, 2)
        pooled = functional.adaptive_avg_pool2d(square, 8).permute(0, 2, 3, 1)
        grey = pooled.mean(-1)
        out = torch.zeros(n, 8, 8, DIM)
        out[..., 0] = (grey - BASE).clamp(min=0) / 100
        out[..., 1] = (BASE - grey).clamp(min=0) / 100
        out[..., 2:5] = (pooled - grey[..., None]).clamp(min=0) / 100
        out[..., 7] = 0.3
        return out

    def visuals(self, visuals: list[Visual]) -> Tensor:
        self.seen += [len(visual.frames) for visual in visuals]
        vectors = []
        for visual in visuals:
            features = self._features(visual.frames).flatten(0, 2)
            vector = features.amax(0)
            if self.blind:
                seed = int(np.abs(visual.frames.astype(np.int64)).sum()) % 2**31
                vector = torch.randn(DIM, generator=torch.Generator().manual_seed(seed))
            vectors.append(functional.normalize(vector, dim=0))
        return torch.stack(vectors)

    def texts(self, texts: list[str]) -> Tensor:
        rows = []
        for text in texts:
            row = torch.zeros(DIM)
            row[6] = 0.01
            for sentence in re.split(r"(?<=[.])\s+", text.lower()):
                sign = -1.0 if re.search(r"\bno\b|absent", sentence) else 1.0
                for word, place in KEYWORDS.items():
                    row[place] += sign * (word in sentence)
            rows.append(functional.normalize(row, dim=0))
        return torch.stack(rows)

    def compare(self, visuals: list[Visual], texts: Tensor) -> tuple[Tensor, Tensor]:
        """The best patch of each text, plus how much there is to see in the picture at all."""
        rows = []
        for visual in visuals:
            patches = self._features(visual.frames).flatten(0, 2)
            if self.blind:
                patches = patches * 0
            busy = float(np.abs(visual.frames.astype(np.float64) - BASE).mean())
            rows.append((patches @ texts.T).amax(0) + busy)
        return self.visuals(visuals), torch.stack(rows)

    def heat(self, visual: Visual, texts: Tensor) -> FakeMaps:
        features = self._features(visual.frames)
        if self.blind:
            features = torch.randn(features.shape, generator=torch.Generator().manual_seed(1))
        weights = features[..., :2].sum(-1).amax((1, 2)) + 1e-3
        maps = functional.normalize(features, dim=-1) @ texts.T
        return FakeMaps(maps.permute(3, 0, 1, 2), weights / weights.sum())


@dataclass
class FakeDataset:
    digest: str = "d" * 64
    rows: list[Sample] = field(default_factory=list)
    pixels: dict[str, Visual] = field(default_factory=dict)
    truth: dict[str, list[Region]] = field(default_factory=dict)

    @property
    def samples(self) -> tuple[Sample, ...]:
        return tuple(self.rows)

    def visual(self, sample: Sample) -> Visual:
        return self.pixels[sample.key]

    def regions(self, key: str) -> list[Region]:
        return self.truth.get(key, [])

    def add(self, sample: Sample, visual: Visual | None = None) -> Sample:
        self.rows.append(sample)
        if visual is not None:
            self.pixels[sample.key] = visual
        return sample


def png(mask: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray((mask.reshape(-1, mask.shape[-1]) * 255).astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def make_hospital(patients: int = 60, lectures: int = 6, seed: int = 0) -> FakeDataset:
    """Images, a volume for every third patient, and lectures; split 60 / 20 / 20."""
    rng = np.random.default_rng(seed)
    dataset = FakeDataset()
    for number in range(patients):
        split = "test" if number % 5 == 0 else "val" if number % 5 == 1 else "train"
        _add_image(dataset, rng, number, split)
        if number % 3 == 0:
            _add_volume(dataset, rng, number, split)
    for number in range(lectures):
        _add_lecture(dataset, rng, number, "test" if number % 2 == 0 else "train")
    return dataset


def _report(labels: list[str]) -> tuple[Text, ...]:
    sentences = [
        f"There is a {name}." if concept in labels else f"No {name}."
        for concept, name in (("nodule", "nodule"), ("pleural_effusion", "pleural effusion"))
    ]
    impression = Text("impression", "report", " ".join(sentences))
    return (impression, *(Text("sentence", "report", sentence) for sentence in sentences))


def _findings(labels: list[str]) -> tuple[Finding, ...]:
    return tuple(
        Finding(concept, concept, "present" if concept in labels else "absent")
        for concept in ("nodule", "pleural_effusion")
    )


def _draw(rng: Any, shape: tuple[int, ...], labels: list[str]) -> tuple[np.ndarray, dict[str, Any]]:
    frames = rng.normal(BASE, 2, size=shape)
    masks = {}
    h, w = shape[1:]
    for label in labels:
        mask = np.zeros(shape, dtype=bool)
        size = 10 if label == "nodule" else 14
        y, x = rng.integers(0, h - size), rng.integers(0, w - size)
        z = int(rng.integers(0, shape[0]))
        mask[z, y : y + size, x : x + size] = True
        if label == "pleural_effusion" and "nodule" in masks and (mask & masks["nodule"]).any():
            mask &= ~masks["nodule"]
        frames[mask] += 70 if label == "nodule" else -70
        masks[label] = mask
    return np.clip(frames, 0, 255), masks


def _labels(rng: Any) -> list[str]:
    return [c for c in ("nodule", "pleural_effusion") if rng.random() < 0.45]


def _add_image(dataset: FakeDataset, rng: Any, number: int, split: Any) -> None:
    labels = _labels(rng)
    frames, masks = _draw(rng, (1, 64, 80), labels)
    key = f"image{number:04d}"
    dataset.add(
        Sample(
            key=key, patient=f"p{number:03d}", study=f"s{number:03d}", split=split, kind="image",
            modality="CR", texts=_report(labels), findings=_findings(labels),
            labels=tuple(labels) or ("normal",), geometry=Geometry(shape=(64, 80)),
            provenance="phantom_cr",
        ),
        Visual(frames.astype(np.uint8), np.zeros(1), "image", "raw"),
    )  # fmt: skip
    dataset.truth[key] = [Region(c, None, png(m[0])) for c, m in masks.items()]


def _add_volume(dataset: FakeDataset, rng: Any, number: int, split: Any) -> None:
    labels = _labels(rng)
    frames, masks = _draw(rng, (12, 48, 40), labels)
    key = f"volume{number:04d}"
    dataset.add(
        Sample(
            key=key, patient=f"p{number:03d}", study=f"v{number:03d}", split=split, kind="volume",
            modality="CT", texts=_report(labels), findings=_findings(labels),
            labels=tuple(labels) or ("normal",), geometry=Geometry(shape=(12, 48, 40)),
            provenance="phantom_ct",
        ),
        Visual(frames.astype(np.int16), np.arange(12) * 2.5, "volume", "raw"),
    )  # fmt: skip
    dataset.truth[key] = [Region(c, None, png(m)) for c, m in masks.items()]


def _add_lecture(dataset: FakeDataset, rng: Any, number: int, split: Any) -> None:
    """30 s at 2 frames a second: red, out of body, green, blue."""
    plan = [("red_phase", 0, 10), ("out_of_body", 10, 12), ("green_phase", 12, 20),
            ("blue_phase", 20, 30)]  # fmt: skip
    positions = np.arange(60) / 2
    frames = rng.normal(BASE, 4, size=(60, 32, 40, 3))
    key = f"lecture{number:02d}"
    patient = f"surgeon{number:02d}"
    for phase, start, end in plan:
        inside = (positions >= start) & (positions < end)
        channel = {"red_phase": 0, "green_phase": 1, "blue_phase": 2}.get(phase)
        if channel is not None:
            frames[inside, ..., channel] += 60
        label = phase if phase == "out_of_body" else f"phase:{phase}"
        dataset.add(
            Sample(
                key=f"{key}_{start}", patient=patient, study=key, split=split, kind="clip",
                modality="ES", texts=(Text("phase", "keysteps", phase.replace("_", " ")),),
                labels=(label,), parent=key, provenance="theatre",
                geometry=Geometry(start_s=float(start), end_s=float(end), fps=2.0),
            )
        )  # fmt: skip
        dataset.pixels[f"{key}_{start}"] = Visual(
            np.clip(frames[inside], 0, 255).astype(np.uint8), positions[inside], "clip", "rgb"
        )
    dataset.add(
        Sample(
            key=key, patient=patient, study=key, split=split, kind="clip", modality="ES",
            texts=(Text("video", "abstract", "an operation"),), provenance="theatre",
            geometry=Geometry(start_s=0.0, end_s=30.0, fps=2.0),
        ),
        Visual(np.clip(frames, 0, 255).astype(np.uint8), positions, "clip", "rgb"),
    )  # fmt: skip


@pytest.fixture
def hospital() -> FakeDataset:
    return make_hospital()


@pytest.fixture
def encoder() -> FakeEncoder:
    return FakeEncoder()


@pytest.fixture
def blind() -> FakeEncoder:
    """Vectors that know nothing: random, the same for the same pixels."""
    return FakeEncoder(digest="b" * 64, blind=True)


@pytest.fixture
def fakes() -> Any:
    """The classes themselves, for tests that build their own."""
    return FakeFactory


class FakeFactory:
    Encoder = FakeEncoder
    Dataset = FakeDataset
    hospital = staticmethod(make_hospital)
    png = staticmethod(png)
