"""The nouns that flow through the platform. numpy only, so that reading data loads no torch.

`Batch`, `Embeddings` and `Prediction` hold tensors: they live in `medvlp.batch` and are nouns of
this module too; naming one of them loads torch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from medvlp.errors import GeometryError, InputError

if TYPE_CHECKING:
    from medvlp.batch import Batch as Batch
    from medvlp.batch import Embeddings as Embeddings
    from medvlp.batch import Prediction as Prediction

Kind = Literal["image", "volume", "clip", "text"]
Split = Literal["train", "val", "test"]
Unit = Literal["HU", "SUV", "raw", "rgb"]
Polarity = Literal["present", "absent", "uncertain"]
Side = Literal["left", "right", "bilateral", "midline"]
Level = Literal["document", "findings", "impression", "sentence", "caption",
                "task", "step", "phase", "video"]  # fmt: skip

KINDS: tuple[Kind, ...] = ("image", "volume", "clip", "text")


@dataclass(frozen=True, slots=True, eq=False)
class Volume:
    """A 3D image in canonical axes and units, on a regular grid unless it has positions.

    Index axes follow LPS: `d` grows towards the head (S), `h` towards the back (P), `w` towards
    the patient's left (L), up to the obliqueness that the affine holds. With positions the slices
    as acquired are `d`, and the axes follow the patient's in the same directions.
    """

    array: np.ndarray
    """int16 or float32 [D, H, W], original values (HU for CT, SUV for PET where its header allows
    it); float64 where float32 would lose something of deep pixel data."""
    affine: np.ndarray
    """float64 [4, 4]; index [d, h, w, 1] -> LPS+ millimetres."""
    unit: Unit
    window: tuple[float, float] | None = None
    """(centre, width) from the header, if it names one."""
    positions_mm: np.ndarray | None = None
    """float64 [D], from 0, ascending: slice d lies `positions_mm[d]` along the first column of the
    affine (whose length is their median distance); None: evenly spaced, as the affine says."""

    def __post_init__(self) -> None:
        if self.array.ndim != 3 or 0 in self.array.shape:
            raise GeometryError("Volume.array must be [D, H, W]", got=self.array.shape)
        if self.positions_mm is not None and self.positions_mm.shape != self.array.shape[:1]:
            raise GeometryError("one position a slice", got=self.positions_mm.shape)
        if self.affine.shape != (4, 4) or abs(np.linalg.det(self.affine)) < 1e-9:
            raise GeometryError("Volume.affine must be an invertible [4, 4]")

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance between neighbours along d, h, w."""
        d, h, w = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(d), float(h), float(w)


@dataclass(frozen=True, slots=True, eq=False)
class Visual:
    """What a sample shows: a sequence of frames at positions. An image is one frame."""

    frames: np.ndarray
    """uint8, uint16, int16, float32 or float64 [n, h, w] (grey) or uint8 [n, h, w, 3] (colour)."""
    positions: np.ndarray
    """float64 [n]: millimetres for a volume, seconds for a clip, 0 for an image; ascending."""
    kind: Kind
    unit: Unit
    window: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if self.frames.ndim not in (3, 4) or len(self.frames) == 0:
            raise InputError("a visual needs at least one frame", got=self.frames.shape)
        if self.frames.ndim == 4 and self.frames.shape[-1] != 3:
            raise InputError("colour frames must be [n, h, w, 3]", got=self.frames.shape)
        if self.positions.shape != (len(self.frames),):
            raise InputError("one position a frame", got=self.positions.shape)


@dataclass(frozen=True, slots=True)
class Finding:
    """One statement of a text about one concept."""

    concept: str
    """Stable id in the knowledge book, e.g. `pleural_effusion`."""
    name: str
    polarity: Polarity
    certainty: float = 1.0
    anatomy: str | None = None
    side: Side | None = None
    severity: str | None = None
    start: int = -1
    """Character span in the text it was found in; -1 when it comes from a table."""
    end: int = -1


@dataclass(frozen=True, slots=True)
class Sentence:
    """One sentence of a report, with its place in the report's text."""

    text: str
    start: int
    end: int
    section: str


@dataclass(frozen=True, slots=True)
class Report:
    """A radiology report: the text, its sections and sentences as character spans of it."""

    text: str
    sections: dict[str, tuple[int, int]]
    sentences: tuple[Sentence, ...]
    findings: tuple[Finding, ...] = ()

    def __post_init__(self) -> None:
        if not self.text.strip():
            raise InputError("the report is empty", code="report-empty")

    def section(self, name: str) -> str | None:
        """The text of one section, or None."""
        span = self.sections.get(name)
        return None if span is None else self.text[span[0] : span[1]].strip()


@dataclass(frozen=True, slots=True)
class Word:
    """One spoken word; times are None where the recogniser gave none."""

    text: str
    start_s: float | None
    end_s: float | None
    interpolated: bool = False


@dataclass(frozen=True, slots=True)
class Utterance:
    """One timed piece of speech."""

    text: str
    start_s: float
    end_s: float
    words: tuple[Word, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.start_s < self.end_s:
            raise InputError(
                "an utterance must end after it starts",
                code="transcript-time-order",
                got=f"{self.start_s}..{self.end_s} s",
            )


@dataclass(frozen=True, slots=True)
class Transcript:
    """What one recogniser heard in one recording."""

    recogniser: str
    utterances: tuple[Utterance, ...]

    def between(self, start_s: float, end_s: float) -> tuple[Utterance, ...]:
        """The utterances that overlap a window, in order."""
        return tuple(u for u in self.utterances if u.start_s < end_s and u.end_s > start_s)


@dataclass(frozen=True, slots=True)
class Text:
    """One text of a sample."""

    level: Level
    source: str
    text: str
    start_s: float | None = None
    end_s: float | None = None


@dataclass(frozen=True, slots=True)
class Geometry:
    """Where a visual sits in space or time; fields that do not apply are None."""

    shape: tuple[int, ...] | None = None
    spacing_mm: tuple[float, ...] | None = None
    affine: tuple[float, ...] | None = None
    """Row-major [4, 4], index [d, h, w, 1] -> LPS mm."""
    start_s: float | None = None
    end_s: float | None = None
    fps: float | None = None
    unit: Unit | None = None
    window: tuple[float, float] | None = None
    positions_mm: tuple[float, ...] | None = None
    """Of unevenly spaced slices: as in `Volume`."""
    part: str | None = None
    """What sets it apart from the rest of the series it was split from, `EchoTime 2 of 3`."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One visual with its texts; a row of `samples.parquet`."""

    key: str
    patient: str
    study: str
    split: Split
    kind: Kind
    modality: str
    texts: tuple[Text, ...] = ()
    findings: tuple[Finding, ...] = ()
    labels: tuple[str, ...] = ()
    geometry: Geometry = field(default_factory=Geometry)
    parent: str | None = None
    licence: str = ""
    provenance: str = ""
    """Which source of the ingest config it came from, and how; no names, no paths of the site."""
    shard: str | None = None
    offset: int = -1
    size: int = 0
    flags: tuple[str, ...] = ()
    """What was decided about persons in the pixels at ingest, e.g. `face`, `text-reviewed`."""


def __getattr__(name: str) -> Any:
    """The nouns that hold tensors, loaded when they are asked for."""
    if name in ("Batch", "Embeddings", "Prediction"):
        from medvlp import batch

        return getattr(batch, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
