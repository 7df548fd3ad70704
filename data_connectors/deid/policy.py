"""What an ingest config may say about persons in pixels. Imports no reader."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import PositiveInt

from medvlp.config import Config

BurnedIn = Literal["quarantine", "ocr", "ocr-all", "accept"]
"""What to do with pixels that may show text.

quarantine  a person must have looked (see `DeidConfig.reviewed`)
ocr         the same, unless text recognition over every frame finds nothing
ocr-all     text recognition also where the header gives no reason
accept      take them as they are: public data, data whose pixels were cleaned before
"""
Faces = Literal["flag", "remove", "refuse", "keep"]
"""What to do with volumes from which a face could be made.

flag        mark the sample (`flags` in samples.parquet)
remove      blank the face (see `deface`); refuse where no head is found
refuse      quarantine
keep        nothing
"""


class PixelPolicy(Config):
    """How persons leave the pixels."""

    burned_in: BurnedIn = "quarantine"
    """DICOM objects whose header says that their pixels may show text (ultrasound, screens,
    photographs, ...). A source's own `burned_in` goes before this one. Images and videos without
    a DICOM header are taken as they are unless their source says otherwise."""
    mask_text: bool = False
    """Black out the text that recognition finds, instead of refusing the object."""
    ocr_timeout_s: PositiveInt = 120
    """Text recognition of one image, or of 50 frames, that takes longer has cleared nothing."""
    reviewed: Path | None = None
    """A person's decisions: the `review.tsv` of an earlier run, filled in; relative to the config
    file. Pixels are known by their digest, whatever the key and the output folder."""
    faces: Faces = "flag"
    """CT, MR and PET volumes of the head."""
