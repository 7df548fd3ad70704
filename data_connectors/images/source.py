"""The keys of an image source. Light: read by the config loader, imports no numpy."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from pydantic import Field, PositiveInt, model_validator

from data_connectors.deid.policy import BurnedIn
from data_connectors.source import Source


class ImagesSource(Source):
    """A folder (or zip or tar archive) of images, with or without a table.

    Images are PNG, JPEG and GIF; NIfTI files (`.nii`, `.nii.gz`) are volumes.

    The table is CSV with a header line, or a JSON list of objects; a row belongs to the image
    that `file_column` names by path, name or name without extension. Several rows may describe
    one image.
    """

    kind: Literal["images"] = "images"
    table: Path | None = None
    """Relative to `path`. None: every image stands for itself."""
    file_column: str = "file"

    patient_column: str | None = None
    patient_pattern: str | None = None
    """Regular expression with one group, searched in the image's path: the patient."""
    patient_per_image: bool = False
    """Say that every image is another patient's, where nothing names them."""
    study_column: str | None = None

    modality: str = "OT"
    modality_column: str | None = None
    view_column: str | None = None
    licence_column: str | None = None
    volume_unit: Literal["raw", "HU"] = "raw"
    """What the values of NIfTI volumes are; their headers cannot say."""
    unit_column: str | None = None
    """Column that says it for each volume: `HU` or `raw`."""

    label_column: str | None = None
    label_separator: str = "|"
    label_map: dict[str, str] = Field(default_factory=dict)
    """Raw label -> concept id (`normal` for no finding); an empty id drops the label. With a map,
    an image with a label that is not in it is refused."""
    label_words: dict[str, str] = Field(default_factory=dict)
    """Raw label -> words in a caption; default: the raw label in lower case."""
    closed_world: bool = False
    """The table names every finding of the map that is there: the others are absent."""

    captions: tuple[str, ...] = ()
    """Templates for images with labels: `{labels}`, `{view}`, `{modality}`. All are stored."""
    normal_captions: tuple[str, ...] = ()
    """Templates for images whose label is `normal`; default: as `captions`."""
    text_columns: tuple[str, ...] = ()
    """Columns whose text is stored as it is."""
    text_template: str | None = None
    """A text made of each row, e.g. `{question} {answer}`; rows that lack a column give none."""
    text_level: Literal["document", "findings", "impression", "sentence", "caption"] = "caption"
    """Level of the texts from `text_columns` and `text_template`."""

    burned_in: BurnedIn | None = None
    """What to do with pixels that may show text; None: accept, no header says more about them."""

    max_files: PositiveInt = 2_000_000
    """Most files that are looked at."""
    max_bytes: PositiveInt = 2_000_000_000
    """Most bytes of one file, and of a volume once decompressed."""
    max_pixels: PositiveInt = 100_000_000
    """Most pixels of one image, checked before it is decoded."""

    @model_validator(mode="after")
    def _consistent(self) -> ImagesSource:
        named = self.patient_column or self.patient_pattern
        if not named and not self.patient_per_image:
            raise ValueError(
                "say who the patient is: patient_column, patient_pattern, or patient_per_image"
            )
        if self.patient_pattern and re.compile(self.patient_pattern).groups != 1:
            raise ValueError("patient_pattern needs exactly one group")
        if self.table is None and (self.patient_column or self.label_column or self.text_columns):
            raise ValueError("columns need a table")
        if (self.captions or self.normal_captions) and not self.label_column:
            raise ValueError("captions need a label_column")
        return self
