"""Vectors of samples and texts, each computed once and shared by the tasks."""

from __future__ import annotations

import hashlib
import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch

from downstream.interfaces import HeatMaps, SampleStore, VisionTextEncoder
from medvlp.models.config import AnswerConfig
from medvlp.types import Sample, Visual

Floats = npt.NDArray[np.float64]
Disturb = Callable[[Sample, Visual], Visual]

log = logging.getLogger(__name__)

_DEFAULT_SCALE = 1 / 0.07
"""CLIP's initial logit scale, for encoders that do not tell theirs."""


class Embedder:
    """One encoder over one dataset, with a cache.

    Args:
        name: Shown in progress.
        encoder: The model.
        dataset: Where samples are read from.
        batch_frames: Frames encoded at once; a longer visual goes alone.
        disturb: Changes a visual before it is encoded (the noise control).
    """

    def __init__(
        self,
        name: str,
        encoder: VisionTextEncoder,
        dataset: SampleStore,
        *,
        batch_frames: int = 256,
        disturb: Disturb | None = None,
    ) -> None:
        self.name = name
        self.digest = encoder.digest
        self.scale = float(getattr(encoder, "logit_scale", _DEFAULT_SCALE))
        self.answers: AnswerConfig = getattr(encoder, "answers", AnswerConfig())
        self._encoder = encoder
        self._dataset = dataset
        self.batch_frames = batch_frames
        self._disturb = disturb
        self._samples: dict[str, Floats] = {}
        self._texts: dict[str, Floats] = {}
        self._evidence: dict[tuple[str, bytes], Floats] = {}

    def read(self, sample: Sample) -> Visual:
        """What the model is shown of a sample."""
        visual = self._dataset.visual(sample)
        return visual if self._disturb is None else self._disturb(sample, visual)

    def samples(self, samples: Sequence[Sample]) -> Floats:
        """Unit vectors [b, e] of samples, in their order."""
        missing = [sample for sample in samples if sample.key not in self._samples]
        done = progress(missing, f"{self.name}: encoding samples")
        for batch in self._batches((sample.key, self.read(sample)) for sample in done):
            vectors = self.visuals([visual for _, visual in batch])
            for (key, _), vector in zip(batch, vectors, strict=True):
                self._samples[key] = vector
        return np.stack([self._samples[sample.key] for sample in samples])

    def evidence(self, samples: Sequence[Sample], texts: Floats) -> Floats:
        """How strongly texts are seen in the patches of samples, [b, m].

        Args:
            samples: Their vectors are kept too.
            texts: Unit vectors [m, e].
        """
        question = hashlib.sha256(texts.tobytes()).digest()
        missing = [s for s in samples if (s.key, question) not in self._evidence]
        asked = torch.from_numpy(texts).float()
        done = progress(missing, f"{self.name}: looking at patches")
        for batch in self._batches((sample.key, self.read(sample)) for sample in done):
            vectors, evidence = self._encoder.compare([visual for _, visual in batch], asked)
            for (key, _), vector, row in zip(
                batch, _to_numpy(vectors), _to_numpy(evidence), strict=True
            ):
                self._samples[key] = vector
                self._evidence[key, question] = row
        return np.stack([self._evidence[sample.key, question] for sample in samples])

    def visuals(self, visuals: list[Visual]) -> Floats:
        """Unit vectors [b, e] of visuals that are not kept."""
        return _to_numpy(self._encoder.visuals(visuals))

    def texts(self, texts: Sequence[str]) -> Floats:
        """Unit vectors [m, e] of texts, in their order."""
        missing = sorted({text for text in texts if text not in self._texts})
        for start in range(0, len(missing), 256):
            part = missing[start : start + 256]
            vectors = _to_numpy(self._encoder.texts(part))
            self._texts.update(zip(part, vectors, strict=True))
        return np.stack([self._texts[text] for text in texts])

    def ensemble(self, texts: Sequence[str]) -> Floats:
        """The unit vector [e] of several texts that say the same: their normalised mean."""
        return unit(self.texts(texts).mean(axis=0))

    def heat(self, sample: Sample, texts: Floats) -> HeatMaps:
        """Where texts [m, e] are seen in a sample, not kept."""
        maps: HeatMaps = self._encoder.heat(self.read(sample), torch.from_numpy(texts).float())
        return maps

    def _batches(self, visuals: Iterable[tuple[str, Visual]]) -> Iterator[list[tuple[str, Visual]]]:
        batch: list[tuple[str, Visual]] = []
        frames = 0
        for key, visual in visuals:
            if batch and frames + len(visual.frames) > self.batch_frames:
                yield batch
                batch, frames = [], 0
            batch.append((key, visual))
            frames += len(visual.frames)
        if batch:
            yield batch


def unit(vectors: Floats) -> Floats:
    """Vectors of length 1 along the last axis; a zero vector stays zero."""
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    normal: Floats = vectors / np.maximum(length, 1e-12)
    return normal


def noise(sample: Sample, visual: Visual) -> Visual:
    """Uniform noise of the visual's shape, over the whole range of its unit; seeded by the key."""
    seed = int.from_bytes(hashlib.sha256(sample.key.encode()).digest()[:8], "little")
    rng = np.random.default_rng(seed)
    low, high = (-1000, 1000) if visual.unit == "HU" else (0, 256)
    values = rng.integers(low, high, size=visual.frames.shape)
    return Visual(
        frames=values.astype(visual.frames.dtype),
        positions=visual.positions,
        kind=visual.kind,
        unit=visual.unit,
        window=visual.window if visual.unit == "HU" else (128.0, 256.0),
    )


def progress(items: Sequence[Sample], label: str, every_s: float = 5.0) -> Iterator[Sample]:
    """Yield the items; say how far we are on stderr, at most every few seconds."""
    started = last = time.monotonic()
    live = sys.stderr.isatty()
    for index, item in enumerate(items):
        yield item
        now = time.monotonic()
        if now - last >= (0.2 if live else every_s):
            last = now
            left = (now - started) / (index + 1) * (len(items) - index - 1)
            line = f"{label}: {index + 1}/{len(items)}, about {left:.0f} s left"
            if live:
                sys.stderr.write(f"\r\x1b[K{line}")
                sys.stderr.flush()
            else:
                log.info("%s", line)
    if live and items:
        sys.stderr.write("\r\x1b[K")
        sys.stderr.flush()
    if items:
        log.info("%s: %d in %.1f s", label, len(items), time.monotonic() - started)


def _to_numpy(tensor: object) -> Floats:
    array: Floats = np.asarray(tensor.detach().cpu().double().numpy())  # type: ignore[attr-defined]
    return array
