"""The keys of a DICOM source. Light: read by the config loader, imports no numpy."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, PositiveFloat, PositiveInt

from data_connectors.deid.policy import BurnedIn
from data_connectors.source import Source
from medvlp.config import Config


class DicomReading(Config):
    """How DICOM files are read, wherever they came from: a folder, or an archive's network."""

    labels: Path | None = None
    """CSV `uid,labels`: gold labels joined by `|`; uid is a SeriesInstanceUID or SOPInstanceUID.
    A relative path is looked for in the folder `path`, then in the folders above it."""
    regions: Path | None = None
    """CSV `uid,concept,side,mask`: where findings are; masks are PNG files in the pixels of the
    stored visual (a volume's slices stacked downwards), relative to the CSV."""
    caption: str = ""
    """One caption for every visual of this source, e.g. `Chest CT`."""
    allow_missing_patient: bool = False
    """Let the study stand in for a missing PatientID (public test files only)."""
    burned_in: BurnedIn | None = None
    """What to do with pixels that may show text; None: as `deid.burned_in` says."""

    min_slices: int = Field(default=2, ge=2)
    """Series of fewer slices (but more than one) are refused."""
    spacing_tolerance_mm: PositiveFloat = 0.1
    """How far a slice may lie from the regular grid, sideways or along the normal; never more
    than an eighth of the spacing."""
    tilt: Literal["refuse", "keep", "resample"] = "refuse"
    """What to do with gantry tilt: refuse, keep the shear in the affine, or resample the slices
    onto an orthogonal grid (linear; air outside). It is never dropped."""
    irregular: Literal["refuse", "keep"] = "refuse"
    """What to do with a stack whose slices are unevenly spaced or lack some between them: refuse,
    or keep it as slices with their true positions."""

    pet: Literal["suv", "suv-only", "stored"] = "suv"
    """PET series in standardised uptake values by body weight (unit SUV): where the header allows
    it, else as they were sent (unit raw); or only so, else refused; or always as sent."""

    for_processing: Literal["refuse", "read"] = "refuse"
    """What to do with radiographs as the detector gave them (PresentationIntentType)."""

    slide_um: PositiveFloat | None = None
    """Whole slides: the level nearest to so many microns a pixel is stored (at most half a doubling
    away); None: the largest level that `slide_max_pixels` allows."""
    slide_max_pixels: PositiveInt = 16_777_216
    """Whole slides: most pixels of the level that is stored."""

    max_files: PositiveInt = 2_000_000
    """Most files (or archive members) that are looked at."""
    max_frames: PositiveInt = 8_000
    """Most slices of a volume or frames of a multi-frame object."""
    max_bytes: PositiveInt = 2_000_000_000
    """Most bytes of one file, and of one visual once decoded."""
    jpeg_quality: int = Field(default=95, ge=1, le=100)
    """Quality of the stored frames of cine loops."""


class DicomSource(Source, DicomReading):
    """A folder, one file or one archive (zip, tar) of DICOM files; see docs/sources.md."""

    kind: Literal["dicom"] = "dicom"
