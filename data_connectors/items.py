"""What connectors yield: things found, before de-identification, linking and splits.

A connector reads one configured source and yields items in a stable order. Every input file it
finds appears in an item's `inputs`, in several only if it holds several visuals: used +
quarantined = found.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from medvlp.types import Finding, Geometry, Kind, Report, Text


@dataclass(frozen=True, slots=True)
class Identity:
    """Who and what an item belongs to: raw identifiers, never written to the dataset."""

    patient: str
    study: str = ""
    accession: str = ""
    phi: tuple[str, ...] = ()
    """Further strings that identify the person (names, numbers, dates), to scrub from texts."""


@dataclass(frozen=True, slots=True)
class PixelFacts:
    """What a header says about persons in the pixels: names of reasons, free of patient data."""

    text: tuple[str, ...] = ()
    """Why the pixels may show text; empty: nothing says so."""
    face: tuple[str, ...] = ()
    """Why a face may be made from the pixels; empty: nothing says so."""

    def __or__(self, other: PixelFacts) -> PixelFacts:
        """Of a series: what any of its slices says."""
        if self == other:
            return self
        return PixelFacts(
            tuple(sorted({*self.text, *other.text})), tuple(sorted({*self.face, *other.face}))
        )


@dataclass(frozen=True, slots=True, eq=False)
class Payload:
    """The bytes of one visual as members of a WebDataset sample: (extension, data) in order.

    image   `png` or `jpg` (8 or 16 bit grey, or RGB)
    volume  `npy` (int16 or float32 [D, H, W], canonical LPS)
    clip    `<milliseconds, 10 digits>.jpg` for each frame, ascending
    """

    members: tuple[tuple[str, bytes], ...]


@dataclass(frozen=True, slots=True)
class Span:
    """A clip inside a lecture: its frames are a contiguous part of the lecture's frames."""

    level: str
    start_s: float
    end_s: float
    texts: tuple[Text, ...]
    labels: tuple[str, ...] = ()
    parent: int | None = None
    """Index of the enclosing span in the lecture's spans; None: the lecture itself."""


@dataclass(frozen=True, slots=True)
class Region:
    """Where a finding is, in the pixels of the stored visual (see `schema.REGIONS`)."""

    concept: str
    side: str | None = None
    mask_png: bytes | None = None
    box: tuple[float, float, float, float] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class VisualItem:
    """One image, volume or lecture, with whatever texts came along with it."""

    identity: Identity
    kind: Kind
    modality: str
    payload: Payload
    geometry: Geometry
    inputs: tuple[str, ...]
    """Paths relative to the source's root (for counting and resuming; not stored)."""
    digest: str
    """SHA-256 over the stored pixels: names the sample, finds duplicates."""
    texts: tuple[Text, ...] = ()
    findings: tuple[Finding, ...] = ()
    labels: tuple[str, ...] = ()
    spans: tuple[Span, ...] = ()
    regions: tuple[Region, ...] = ()
    licence: str = ""
    provenance: str = ""
    pixels: PixelFacts = PixelFacts()
    """What the header says about persons in the pixels; judged before they are stored."""
    flags: tuple[str, ...] = ()
    """What was decided about the pixels (see `data_connectors.deid.gate`)."""


@dataclass(frozen=True, slots=True, eq=False)
class ReportItem:
    """One report, to be linked to the visuals of its study."""

    identity: Identity
    report: Report
    inputs: tuple[str, ...]
    source: str = "report"
    licence: str = ""
    provenance: str = ""


@dataclass(frozen=True, slots=True)
class Refused:
    """Inputs that cannot be used, with a stable code. `reason` carries no patient data."""

    code: str
    reason: str
    next_step: str
    inputs: tuple[str, ...] = field(default_factory=tuple)
    pixels: str = ""
    """Digest of pixels that wait for a person's decision, or that a person has rejected."""


Item = VisualItem | ReportItem | Refused
