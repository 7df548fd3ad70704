"""What a model says of a case as a structured report: Comprehensive 3D SR, TID 1500 (PS3.16)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydicom.dataset import Dataset

from data_connectors.dicom.quiet import quiet
from downstream.dicom_out.codes import (
    MAKER,
    Algorithm,
    highdicom,
    label_code,
    own_code,
    scheme_identification,
)
from downstream.dicom_out.seg import SERIES_NUMBER, save
from downstream.dicom_out.source import SourceImages
from medvlp import __version__

_NO_UNIT: Final = ("1", "UCUM", "no units")


@dataclass(frozen=True, slots=True)
class Statement:
    """What the model says of one label."""

    label: str
    score: float
    probability: float
    segment: int | None
    """Its number in the segmentation; None where it has no mask."""


def write_sr(
    statements: Sequence[Statement],
    source: SourceImages,
    seg: Dataset | None,
    out: Path,
    *,
    algorithm: Algorithm,
) -> Dataset:
    """Write scores and probabilities as measurements of the source images and their masks.

    Args:
        statements: One a label.
        source: The images.
        seg: The segmentation that `Statement.segment` counts in.
        out: The file (0600).
        algorithm: What was asked, and how.

    Returns:
        What was written.
    """
    from pydicom.sr.codedict import codes

    hd = highdicom()
    with quiet():
        groups = [_group(statement, source, seg, algorithm) for statement in statements]
        device = hd.sr.ObserverContext(
            observer_type=codes.DCM.Device,
            observer_identifying_attributes=hd.sr.DeviceObserverIdentifyingAttributes(
                uid=hd.UID(), name="medvlp zero-shot", manufacturer_name=MAKER,
                model_name=__version__,
            ),
        )  # fmt: skip
        report = hd.sr.MeasurementReport(
            observation_context=hd.sr.ObservationContext(observer_device_context=device),
            procedure_reported=codes.SCT.ImagingProcedure,
            imaging_measurements=groups,
            title=codes.DCM.ImagingMeasurementReport,
        )
        evidence = [*source.headers, *([] if seg is None else [seg])]
        document = hd.sr.Comprehensive3DSR(
            evidence=evidence, content=report, series_number=SERIES_NUMBER + 1,
            series_instance_uid=hd.UID(), sop_instance_uid=hd.UID(), instance_number=1,
            manufacturer=MAKER, is_complete=True, is_final=False, is_verified=False,
        )  # fmt: skip
        document.SeriesDescription = "medvlp: scores of findings"
        document.CodingSchemeIdentificationSequence = scheme_identification()
        save(document, out)
    return document  # type: ignore[no-any-return]


def _group(
    statement: Statement, source: SourceImages, seg: Dataset | None, algorithm: Algorithm
) -> Any:
    """One measurement group: about the mask, or, without one, about the images."""
    from pydicom.sr.codedict import codes

    hd = highdicom()
    shared: dict[str, Any] = {
        "tracking_identifier": hd.sr.TrackingIdentifier(
            identifier=f"{MAKER} {statement.label}", uid=hd.UID()
        ),
        "finding_type": label_code(statement.label),
        "algorithm_id": hd.sr.AlgorithmIdentification(
            name="medvlp zero-shot", version=__version__,
            parameters=[f"model {algorithm.model_digest}", f"prompts {algorithm.prompt_digest}"],
        ),
        "measurements": [
            _number("zero_shot_prob", "Zero-shot probability", statement.probability),
            _number("zero_shot_score", "Zero-shot score", statement.score),
        ],
        "finding_category": codes.SCT.MorphologicallyAbnormalStructure,
    }  # fmt: skip
    if seg is None or statement.segment is None:
        images = [hd.sr.SourceImageForMeasurementGroup.from_source_image(source.headers[0])]
        return hd.sr.MeasurementsAndQualitativeEvaluations(source_images=images, **shared)
    # TID 1411, for a single image too: the reference of TID 1410 names frame and segment at once,
    # which dciodvfy counts as an error, and a segment of one frame says the same.
    return hd.sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
        referenced_segment=hd.sr.ReferencedSegment(
            sop_class_uid=seg.SOPClassUID,
            sop_instance_uid=seg.SOPInstanceUID,
            segment_number=statement.segment,
            source_series=hd.sr.SourceSeriesForSegmentation(source.headers[0].SeriesInstanceUID),
        ),
        **shared,
    )


def _number(code: str, meaning: str, value: float) -> Any:
    hd = highdicom()
    unit = hd.sr.CodedConcept(*_NO_UNIT)
    return hd.sr.Measurement(name=own_code(code, meaning), value=round(value, 6), unit=unit)
