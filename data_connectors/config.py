"""What an ingest config may say. Imports no torch and no reader: the command line stays fast."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, PositiveInt, model_validator

from data_connectors.deid.policy import PixelPolicy
from data_connectors.dicom.source import DicomSource
from data_connectors.images.source import ImagesSource
from data_connectors.pacs.source import DicomwebSource, DimseSource
from data_connectors.reports.source import ReportsSource
from data_connectors.video.source import LecturesSource
from medvlp.config import Config

AnySource = Annotated[
    DicomSource | ImagesSource | ReportsSource | LecturesSource, Field(discriminator="kind")
]
"""A source of files: what connectors read."""
ConfiguredSource = Annotated[
    DicomSource | ImagesSource | ReportsSource | LecturesSource | DicomwebSource | DimseSource,
    Field(discriminator="kind"),
]
"""What a config may name; archives on the network are pulled into a folder first."""
LinkBy = Literal["accession", "study", "patient"]


class DeidConfig(PixelPolicy):
    """How identifiers leave the data: texts here, pixels in `PixelPolicy`."""

    key_file: Path | None = None
    """The pseudonym key (64 hex digits); relative to the config file. None: `<out>.key` beside
    the dataset, made on the first run. The same key gives the same pseudonyms, so datasets made
    with one key can be joined by patient, and nobody without it can undo them."""
    scrub_texts: bool = True
    """Remove the patient's own identifiers from reports, captions and narration."""
    scrub_generic: bool = True
    """Also remove what looks like an identifier on its own: titled names, full dates, phone
    numbers, e-mail addresses, labelled record numbers."""


class SplitConfig(Config):
    """How patients (lectures, operations) are divided."""

    seed: int = 0
    val: float = Field(default=0.1, ge=0, lt=1)
    """Share of the patients of every source."""
    test: float = Field(default=0.2, ge=0, lt=1)
    """Share of the patients of every source; at least one patient where a source has three."""

    @model_validator(mode="after")
    def _leave_something_to_train_on(self) -> SplitConfig:
        if self.val + self.test >= 1:
            raise ValueError("val + test must be below 1")
        return self


class LinkConfig(Config):
    """How reports find the visuals they describe."""

    by: tuple[LinkBy, ...] = ("accession", "study", "patient")
    """Tried in order; the first that finds a visual decides. `patient` links only when the
    patient has one such report and one imaging study."""


class IngestConfig(Config):
    """An ingest: sources in, one dataset folder out."""

    sources: tuple[ConfiguredSource, ...] = Field(min_length=1)
    deid: DeidConfig = DeidConfig()
    split: SplitConfig = SplitConfig()
    link: LinkConfig = LinkConfig()
    shard_mb: PositiveInt = 256
    """A new shard begins after this many megabytes (10^6 bytes)."""
    reader_timeout_s: PositiveInt = 3600
    """A unit (a series, a lecture) that takes longer to read is quarantined."""
    reader_memory_mb: int = Field(default=8_000, ge=300)
    """Most memory of a reading process in megabytes (10^6 bytes); a unit that needs more is
    quarantined. A volume needs about four times its own size. Does not bind `--workers 1`, which
    reads in the main process."""

    @model_validator(mode="after")
    def _names_are_distinct(self) -> IngestConfig:
        names = [source.name for source in self.sources]
        if len(set(names)) != len(names):
            raise ValueError("every source needs its own name")
        return self
