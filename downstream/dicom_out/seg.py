"""Masks in the geometry of their source images as a DICOM Segmentation (PS3.3 A.51)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import RLELossless

from data_connectors.dicom.quiet import quiet
from downstream.dicom_out.codes import (
    MAKER,
    Algorithm,
    algorithm_identification,
    highdicom,
    label_code,
    scheme_identification,
)
from downstream.dicom_out.source import SourceImages
from downstream.prompting import concept_name
from medvlp import __version__
from medvlp.errors import InputError
from medvlp.files import whole

SERIES_NUMBER: Final = 9001
"""Far from the numbers that scanners give."""


@dataclass(frozen=True, slots=True)
class Segment:
    """What one mask shows."""

    label: str
    """Concept id of the knowledge book, or any words."""
    description: str
    """What a value of the mask means."""


def write_seg(
    masks: np.ndarray,
    source: SourceImages,
    segments: Sequence[Segment],
    out: Path,
    *,
    algorithm: Algorithm,
) -> Dataset:
    """Write masks as a DICOM Segmentation that lies on its source images pixel for pixel.

    Every frame names the SOP instance that it belongs to; frames without any mask are left out.

    Args:
        masks: [k, d, h, w] in the grid that the model saw; bool (BINARY), or a float type in
            [0, 1] (FRACTIONAL, PROBABILITY, in steps of 1/255).
        source: The images, and the way back to them.
        segments: Of each mask.
        out: The file; for its owner alone (0600), because it names the patient.
        algorithm: What made the masks.

    Returns:
        What was written.

    Raises:
        InputError: A mask has not the shape of the images (`mask-shape`), none has anything in
            it (`mask-empty`), or values lie outside [0, 1] (`mask-range`).
        DependencyError: highdicom is not installed.
    """
    hd = highdicom()
    stacked = np.stack([source.as_acquired(mask) for mask in masks], axis=-1)
    _check(stacked)
    binary = stacked.dtype == np.bool_
    with quiet():
        seg = hd.seg.Segmentation(
            source_images=list(source.headers),
            pixel_array=stacked,
            segmentation_type="BINARY" if binary else "FRACTIONAL",
            segment_descriptions=[
                _description(number, segment, algorithm)
                for number, segment in enumerate(segments, start=1)
            ],
            series_instance_uid=hd.UID(),
            series_number=SERIES_NUMBER,
            sop_instance_uid=hd.UID(),
            instance_number=1,
            manufacturer=MAKER,
            manufacturer_model_name="medvlp zero-shot",
            software_versions=__version__,
            device_serial_number=algorithm.model_digest[:16],
            content_description="Where a model sees findings; not a diagnosis",
        )
        seg.SeriesDescription = "medvlp: where findings are seen"
        seg.CodingSchemeIdentificationSequence = scheme_identification()
        if not source.placed:
            # Only a position makes it dispensable (PS3.3 C.7.6.1.1.1).
            seg.PatientOrientation = source.headers[0].get("PatientOrientation") or None
        if not binary:  # named, because GDCM's encoder, which comes first, aborts the process
            seg.compress(RLELossless, encoding_plugin="pylibjpeg", generate_instance_uid=False)
        save(seg, out)
    return seg  # type: ignore[no-any-return]


def _check(stacked: np.ndarray) -> None:
    if not stacked.any():
        raise InputError("no mask has anything in it", code="mask-empty")
    if stacked.dtype != np.bool_ and not (stacked.min() >= 0 and stacked.max() <= 1):
        raise InputError("mask values lie outside [0, 1]", code="mask-range")


def _description(number: int, segment: Segment, algorithm: Algorithm) -> Any:
    from pydicom.sr.codedict import codes

    hd = highdicom()
    description = hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=concept_name(segment.label)[:64],
        segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
        segmented_property_type=label_code(segment.label),
        algorithm_type="AUTOMATIC",
        algorithm_identification=algorithm_identification(algorithm),
        tracking_uid=hd.UID(),
        tracking_id=f"{MAKER} {segment.label}"[:64],
    )
    description.SegmentDescription = segment.description
    return description


def save(dataset: Dataset, out: Path) -> None:
    """Write an object, whole or not at all, for its owner alone."""
    with whole(out) as partial:
        os.close(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600))
        dataset.save_as(partial, enforce_file_format=True)
