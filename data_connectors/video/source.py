"""Config of the surgical-video connector. Imports nothing heavy.

- kind: lectures
  name: theatre
  path: lectures
  fps: 1.0

- kind: lectures
  name: pocus
  path: us_pocus
  format: clips
  fps: 4.0
  table: metadata.csv
  columns: {file: Filename, texts: [MD2, MD3], label: Label, patient: Patient ID / Name}
  label_map: {regular: normal, COVID-19: covid_19}
"""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, PositiveFloat, PositiveInt, field_validator, model_validator

from data_connectors.deid.policy import BurnedIn
from data_connectors.source import Source
from medvlp.config import Config

Format = Literal["folder", "svl", "cholect50", "clips"]


class ClipColumns(Config):
    """Which column of the clips' table holds what."""

    file: str = "file"
    """File name of the clip, with or without its ending."""
    texts: tuple[str, ...] = ()
    """Columns with free-text descriptions; each becomes one caption."""
    label: str | None = None
    """Gold label; evaluation truth, never used in training."""
    patient: str | None = None
    licence: str | None = None


class LecturesSource(Source):
    """Narrated operations, annotated operations, or a table of short clips.

    `folder`     one sub-folder a lecture: `video.*` and, all optional, `whisper.json`,
                 `captions.srt` or `captions.vtt`, `aws.json`, `keysteps.csv`, `abstract.txt`
    `svl`        the SurgVLP layout: `videos/<id>.*`, `aws_narration_texts/<id>.csv`,
                 `whisper_narration_texts/`, `keystep_texts/`, `abstract_texts/`
    `cholect50`  `VID75.json` beside `frames/000013.png`, or `labels/` beside `videos/VID75/`
    `clips`      short videos, GIFs and pictures with a table
    """

    kind: Literal["lectures"] = "lectures"
    format: Format = "folder"
    modality: str | None = None
    """DICOM modality of the pictures; by default US for clips, ES (endoscopy) otherwise."""

    fps: PositiveFloat = Field(default=1.0, le=1000.0)
    """Rate of the stored frames: one picture is kept for every multiple of 1/fps seconds."""
    long_side: PositiveInt = 256
    """Longer side of a stored frame in pixels; smaller frames are never enlarged."""
    jpeg_quality: int = Field(default=85, ge=1, le=95)
    backend: Literal["pyav", "decord"] = "pyav"
    """Decoder. decord is used only where its frame times agree with the container's."""
    min_decodable: float = Field(default=0.9, ge=0.0, le=1.0)
    """A video of which less than this share of its declared length can be read is refused."""

    min_clip_s: PositiveFloat = 4.0
    """A clip around an utterance is widened to this (SurgVLP: 4 s)."""
    max_clip_s: PositiveFloat = 120.0
    """An utterance longer than this makes no clip: it says nothing about one moment."""
    narrations: int = Field(default=8, ge=0)
    """At most this many narrated sentences accompany the texts of a step or phase."""
    out_of_body: tuple[str, ...] = ("out_of_body", "outside_body", "out_of_patient")
    """Key-step names (lower case, `_` between words) of stretches outside the body."""

    burned_in: BurnedIn | None = None
    """What to do with pixels that may show text; None: accept, no header says more about them."""

    patient_pattern: str | None = None
    """Regular expression on the folder name or file stem; its first group, or the whole match,
    is the patient key. Where it does not match, the whole name is."""
    table: str | None = None
    """`clips`: the table, relative to `path`."""
    columns: ClipColumns = ClipColumns()
    label_map: dict[str, str] = Field(default_factory=dict)
    """`clips`: label in the table -> concept id."""
    missing: tuple[str, ...] = ("", "n/a", "na", "nan", "n.a.", "nd", "none", "unknown", "-")
    """`clips`: cells, in lower case, that mean "not given"."""

    @field_validator("patient_pattern")
    @classmethod
    def _compiles(cls, pattern: str | None) -> str | None:
        if pattern is not None:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"not a regular expression: {error}") from None
        return pattern

    @model_validator(mode="after")
    def _consistent(self) -> LecturesSource:
        if self.min_clip_s > self.max_clip_s:
            raise ValueError("min_clip_s is above max_clip_s")
        if (self.format == "clips") != (self.table is not None):
            raise ValueError("`table` belongs to format clips, which needs it")
        return self

    @property
    def modality_code(self) -> str:
        """The DICOM modality of this source's pictures."""
        return self.modality or ("US" if self.format == "clips" else "ES")

    def patient_of(self, name: str) -> str:
        """The patient key of a lecture folder or a file stem."""
        found = re.search(self.patient_pattern, name) if self.patient_pattern else None
        if found is None:
            return name
        return next((group for group in found.groups() if group), found.group())
