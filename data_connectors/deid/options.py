"""What a de-identification of DICOM objects may keep. Light: read by the config loader."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, PositiveInt, StringConstraints

from data_connectors.deid.policy import BurnedIn
from medvlp.config import Config

SafePrivate = Annotated[str, StringConstraints(pattern=r"^[^/\\]+/[0-9A-Fa-f]{4}/[0-9A-Fa-f]{2}$")]
"""`creator/group/element`, e.g. `SIEMENS MR HEADER/0019/0C`: the element's last two digits."""


class Options(Config):
    """The options of PS3.15 Annex E. Every default removes."""

    dates: Literal["remove", "shift", "keep"] = "remove"
    """Retain Longitudinal Temporal Information: `shift` moves every date of a patient by the same
    number of days, made from the key; `keep` leaves them. Times of day stay in both. The birth
    date is removed in any case."""
    max_shift_days: PositiveInt = Field(default=3650, ge=30)
    """Dates move into the past, by 1 to this many days."""
    retain_device: bool = False
    """Serial numbers, station and device names."""
    retain_institution: bool = False
    """Name, address and department of the institution."""
    retain_patient_characteristics: bool = False
    """Age (over 89: `090Y`), sex, size, weight, smoking, pregnancy."""
    retain_uids: bool = False
    """Leave the UIDs as they are."""
    retain_safe_private: bool = False
    """Keep the private elements that are known to be numbers of the physics (a list in
    `safe_private.yaml`, after PS3.15 table E.3.10-1) and those of `safe_private`."""
    safe_private: tuple[SafePrivate, ...] = ()
    """Further private elements to keep, `creator/group/element`."""
    clean_descriptors: bool = False
    """Keep the medical and technical words of descriptions (`vocabulary.py`), without the
    patient's identifiers; every other word goes."""
    clean_structured_content: bool = False
    """Accept structured reports, their texts cleaned word by word."""
    clean_graphics: bool = False
    """Accept presentation states, the texts of their annotations cleaned word by word. Overlay
    planes and curves are removed in any case."""
    words: tuple[str, ...] = ()
    """Further words that are no identifiers (another language, local protocols)."""

    @property
    def keeps_private(self) -> bool:
        """Whether any private element may stay."""
        return self.retain_safe_private or bool(self.safe_private)


class DeidentifyConfig(Options):
    """What `medvlp deidentify` is told."""

    key_file: Path | None = None
    """The pseudonym key, as in an ingest; relative to the config file. None: `<out>.key`. The
    same key gives the same pseudonyms as `medvlp ingest`, on any machine."""
    domain: str = Field(default="", pattern=r"^[A-Za-z0-9_.\-]*$")
    """Who gave out the patient identifiers, as in a source of an ingest."""
    allow_missing_patient: bool = False
    """Let the study stand in for a missing PatientID (public test files only)."""
    burned_in: BurnedIn = "quarantine"
    """Objects whose header says that their pixels may show text, as in an ingest."""
    ocr_timeout_s: PositiveInt = 120
    """Text recognition that takes longer has cleared nothing."""
    reviewed: Path | None = None
    """A person's decisions about pixels, `review.tsv`; relative to the config file."""
    faces: Literal["flag", "refuse", "keep"] = "flag"
    """CT, MR and PET of the head: counted, refused or neither."""
    max_files: PositiveInt = 2_000_000
    """Most files of one folder or archive."""
    max_bytes: PositiveInt = 2_000_000_000
    """Most bytes of one file."""
    reader_timeout_s: PositiveInt = 900
    """A file that takes longer is quarantined."""
    reader_memory_mb: int = Field(default=8_000, ge=300)
    """Most memory of a working process in megabytes; does not bind `--workers 1`."""
