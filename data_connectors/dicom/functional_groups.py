"""What the functional groups of an enhanced object say about each frame (PS3.3 C.7.6.16)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from pydicom.datadict import keyword_for_tag
from pydicom.dataset import Dataset

from data_connectors.dicom.header import Header, number, parse_header, plane_of, text, texts, whole
from data_connectors.dicom.passes import PASS_NAMES, joined, pass_values
from data_connectors.dicom.values import Meaning, meaning_of
from medvlp.errors import InputError

_PLACES: Final = {
    "AcquisitionNumber": ("FrameContentSequence", "FrameAcquisitionNumber"),
    "TemporalPositionIdentifier": ("FrameContentSequence", "TemporalPositionIndex"),
    "AcquisitionTime": ("FrameContentSequence", "FrameAcquisitionDateTime"),
    "EchoTime": ("MREchoSequence", "EffectiveEchoTime"),
    "InversionTime": ("MRModifierSequence", "InversionTimes"),
    "DiffusionBValue": ("MRDiffusionSequence", "DiffusionBValue"),
    "DiffusionGradientOrientation": (
        "MRDiffusionSequence", "DiffusionGradientDirectionSequence",
        "DiffusionGradientOrientation",
    ),
    "FlipAngle": ("MRTimingAndRelatedParametersSequence", "FlipAngle"),
    "RepetitionTime": ("MRTimingAndRelatedParametersSequence", "RepetitionTime"),
    "NominalPercentageOfCardiacPhase": (
        "CardiacSynchronizationSequence", "NominalPercentageOfCardiacPhase",
    ),
    "TriggerTime": ("CardiacSynchronizationSequence", "NominalCardiacTriggerDelayTime"),
    "FrameReferenceTime": ("TemporalPositionSequence", "TemporalPositionTimeOffset"),
    "KVP": ("CTXRayDetailsSequence", "KVP"),
    "ConvolutionKernel": ("CTReconstructionSequence", "ConvolutionKernel"),
    "SliceThickness": ("PixelMeasuresSequence", "SliceThickness"),
}  # fmt: skip
"""Where an enhanced object holds what single slices say at the top (`passes.PASS_NAMES`)."""

_FRAME_TYPES: Final = (
    "MRImageFrameTypeSequence", "CTImageFrameTypeSequence", "PETFrameTypeSequence",
    "XRay3DFrameTypeSequence",
)  # fmt: skip
_CONVERTED: Final = (
    "UnassignedPerFrameConvertedAttributesSequence",
    "UnassignedSharedConvertedAttributesSequence",
)
"""Where a legacy converted object keeps what single slices said (PS3.3 C.8.16.5)."""

_WHERE: Final = {
    "ImagePositionPatient", "ImageOrientationPatient", "InStackPositionNumber", "StackID",
    "ImagePositionVolume", "ImageOrientationVolume", "SliceLocation", "InstanceNumber",
    "RowPositionInTotalImagePixelMatrix", "ColumnPositionInTotalImagePixelMatrix",
}  # fmt: skip
"""Dimensions that say where a frame is, not which pass it belongs to."""


class Frame(NamedTuple):
    """One frame of an enhanced object."""

    header: Header
    """As if it were a slice of its own; `name` is its number in the file, from 1."""
    meaning: Meaning
    thickness: float
    stack: str
    """StackID; empty where there is none."""


def dimension_names(dataset: Dataset) -> tuple[str, ...]:
    """The dimensions that tell passes apart, in the object's order: `dimension EchoTime`."""
    return tuple(name for _, name in _dimensions(dataset))


def frames_of(dataset: Dataset, name: str) -> list[Frame]:
    """One entry a frame; per-frame macros win over shared ones, those over the top level.

    `Header.passes` holds a value for each of `PASS_NAMES`, then for each of `dimension_names`.

    Raises:
        InputError: The groups do not match the number of frames, or there is no image.
    """
    count = max(1, whole(dataset, "NumberOfFrames"))
    per_frame = list(dataset.get("PerFrameFunctionalGroupsSequence") or [])
    shared = list(dataset.get("SharedFunctionalGroupsSequence") or []) or [Dataset()]
    if per_frame and len(per_frame) != count:
        raise InputError(
            "the functional groups do not match the number of frames", code="dicom-malformed",
            got=len(per_frame), limit=count,
        )  # fmt: skip
    top = parse_header(dataset, name)
    dimensions = list(_dimensions(dataset))
    groups = [_Groups(own, shared[0]) for own in per_frame or [Dataset()] * count]
    return [_frame(dataset, top, index, group, dimensions) for index, group in enumerate(groups)]


class _Groups(NamedTuple):
    """The functional groups that hold for one frame."""

    own: Dataset
    shared: Dataset

    def macro(self, keyword: str) -> Dataset:
        """The item of one group; empty where there is none."""
        for group in (self.own, self.shared):
            items = group.get(keyword)
            if items:
                return items[0]  # type: ignore[no-any-return]
        return Dataset()

    def value(self, path: tuple[str, ...]) -> Any:
        """The value at the end of a path of sequences, or None."""
        item = self.macro(path[0])
        for keyword in path[1:-1]:
            items = item.get(keyword)
            item = items[0] if items else Dataset()
        return item.get(path[-1])


def _frame(
    dataset: Dataset, top: Header, index: int, groups: _Groups, dimensions: list[tuple[int, str]]
) -> Frame:
    content = groups.macro("FrameContentSequence")
    measures = groups.macro("PixelMeasuresSequence")
    kinds = [groups.macro(keyword) for keyword in _FRAME_TYPES]
    frame_type = next((texts(kind, "FrameType") for kind in kinds if "FrameType" in kind), ())
    complex_part = next((text(kind, "ComplexImageComponent") for kind in kinds if kind), "")
    values = content.get("DimensionIndexValues")
    indices = [values] if isinstance(values, int) else list(values or ())
    header = Header(
        name=str(index + 1),
        sop_class=top.sop_class,
        sop_uid=str(index + 1),
        series=top.series,
        study=top.study,
        patient=top.patient,
        modality=top.modality,
        image_type=tuple(
            part.upper() for part in (*(frame_type or top.image_type), complex_part) if part
        ),
        rows=top.rows,
        columns=top.columns,
        frames=1,
        samples=top.samples,
        bits=top.bits,
        plane=plane_of(
            groups.macro("PlanePositionSequence"),
            groups.macro("PlaneOrientationSequence"),
            measures,
        ),
        frame_of_reference=top.frame_of_reference,
        passes=(
            *_passes(groups, frame_type),
            *(str(indices[at]) if at < len(indices) else "" for at, _ in dimensions),
        ),
    )
    transform = groups.macro("PixelValueTransformationSequence")
    return Frame(
        header=header,
        # Philips also writes private slopes, for display; the standard's are the real values.
        meaning=meaning_of(
            dataset, transform=transform or None, view=groups.macro("FrameVOILUTSequence")
        ),
        thickness=abs(number(measures, "SliceThickness") or 1.0),
        stack=text(content, "StackID"),
    )


def _passes(groups: _Groups, frame_type: tuple[str, ...]) -> Iterator[str]:
    """A text for each of `PASS_NAMES`, from its group or what was converted."""
    converted: dict[str, str] = {}
    for keyword in _CONVERTED:
        for name, value in zip(PASS_NAMES, pass_values(groups.macro(keyword)), strict=True):
            if value:
                converted.setdefault(name, value)
    for name in PASS_NAMES:
        if name == "ImageType":
            yield joined(frame_type)
        else:
            path = _PLACES.get(name)
            yield (joined(groups.value(path)) if path else "") or converted.get(name, "")


def _dimensions(dataset: Dataset) -> Iterator[tuple[int, str]]:
    """Place in DimensionIndexValues and name of each dimension that tells passes apart."""
    for at, item in enumerate(dataset.get("DimensionIndexSequence") or []):
        pointer = item.get("DimensionIndexPointer")
        keyword = keyword_for_tag(pointer) if pointer is not None else ""
        if keyword not in _WHERE:
            yield at, f"dimension {keyword or at + 1}"
