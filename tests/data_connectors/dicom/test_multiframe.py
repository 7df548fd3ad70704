from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from data_connectors.config import IngestConfig
from data_connectors.dataset.store import Dataset as Folder
from data_connectors.ingest.run import ingest as run_ingest

ENHANCED_CT = "1.2.840.10008.5.1.4.1.1.2.1"


def item(**values: Any) -> Dataset:
    dataset = Dataset()
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    return dataset


def groups(
    places: list[tuple[float, float, float]], *, slopes: list[float] | None = None
) -> dict[str, Any]:
    """Functional groups of an axial stack; slope and window are per frame where given."""
    shared = item(
        PlaneOrientationSequence=Sequence([item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])]),
        PixelMeasuresSequence=Sequence([item(PixelSpacing=[0.8, 0.6], SliceThickness=2)]),
        PixelValueTransformationSequence=Sequence(
            [item(RescaleSlope=1, RescaleIntercept=-1024, RescaleType="HU")]
        ),
    )
    frames = []
    for k, place in enumerate(places):
        frame = item(PlanePositionSequence=Sequence([item(ImagePositionPatient=list(place))]))
        frame.FrameVOILUTSequence = Sequence([item(WindowCenter=40 + k, WindowWidth=400)])
        if slopes:
            transformation = item(RescaleSlope=slopes[k], RescaleIntercept=0, RescaleType="HU")
            frame.PixelValueTransformationSequence = Sequence([transformation])
        frames.append(frame)
    return {
        "SOPClassUID": ENHANCED_CT,
        "SharedFunctionalGroupsSequence": Sequence([shared]),
        "PerFrameFunctionalGroupsSequence": Sequence(frames),
        "NumberOfFrames": len(places),
        "RescaleSlope": None,
        "RescaleIntercept": None,
        "ImagePositionPatient": None,
        "ImageOrientationPatient": None,
        "PixelSpacing": None,
    }


def volume_of(visual: Any) -> np.ndarray:
    return np.load(io.BytesIO(visual.payload.members[0][1]), allow_pickle=False)


def test_frames_are_sorted_by_position(
    ingest: Any, tmp_path: Path, write_dicom: Any, noise: np.ndarray
) -> None:
    order = [3, 0, 2, 1]
    places = [(0.0, 0.0, 5.0 * k) for k in order]
    write_dicom(tmp_path / "x", noise[order], **groups(places))
    visual = ingest(tmp_path).only
    np.testing.assert_array_equal(volume_of(visual), noise[:4] - 1024)
    assert visual.geometry.unit == "HU"
    assert visual.geometry.spacing_mm == pytest.approx((5.0, 0.8, 0.6))
    assert visual.geometry.window == (42, 400)  # of the frame at 10 mm, the third given


def test_slope_of_every_frame_wins_over_the_shared_one(
    ingest: Any, tmp_path: Path, write_dicom: Any, noise: np.ndarray
) -> None:
    places = [(0.0, 0.0, 5.0 * k) for k in range(4)]
    write_dicom(tmp_path / "x", noise[:4], **groups(places, slopes=[0.5, 1, 1.5, 2]))
    expected = noise[:4] * np.array([0.5, 1, 1.5, 2])[:, None, None]
    np.testing.assert_allclose(volume_of(ingest(tmp_path).only), expected)


@pytest.mark.parametrize(
    ("heights", "code"),
    [
        ([0, 5, 15, 20], "series-gap"),
        ([0, 5, 5, 10], "series-duplicate-position"),
        ([0, 0, 0, 0], "series-not-a-volume"),
    ],
)
def test_irregular_frames_are_refused(
    ingest: Any,
    tmp_path: Path,
    write_dicom: Any,
    noise: np.ndarray,
    heights: list[float],
    code: str,
) -> None:
    write_dicom(tmp_path / "x", noise[:4], **groups([(0.0, 0.0, float(z)) for z in heights]))
    assert ingest(tmp_path).refusal.code == code


def test_functional_groups_must_match_the_number_of_frames(
    ingest: Any, tmp_path: Path, write_dicom: Any, noise: np.ndarray
) -> None:
    change = groups([(0.0, 0.0, 5.0 * k) for k in range(4)])
    change["NumberOfFrames"] = 3
    write_dicom(tmp_path / "x", noise[:4], **change)
    assert ingest(tmp_path).refusal.code == "dicom-malformed"


def test_one_frame_keeps_its_hounsfield_units(
    ingest: Any, tmp_path: Path, write_dicom: Any, noise: np.ndarray
) -> None:
    write_dicom(tmp_path / "x", noise[:1], **groups([(0.0, 0.0, 5.0)]))
    visual = ingest(tmp_path).only
    assert visual.kind == "volume"
    np.testing.assert_array_equal(volume_of(visual), noise[:1] - 1024)


def passes(
    count: int, slices: int, told: Callable[[int], dict[str, Any]], *, stacks: bool = False
) -> dict[str, Any]:
    """Functional groups of several passes over the same places, slice by slice."""
    frames = [(k // count, k % count) for k in range(count * slices)]
    change = groups([(0.0, 0.0, 5.0 * place) for place, _ in frames])
    for (place, turn), frame in zip(
        frames, change["PerFrameFunctionalGroupsSequence"], strict=True
    ):
        for keyword, value in told(turn).items():
            setattr(frame, keyword, value)
        content = item(InStackPositionNumber=place + 1, StackID=str(turn) if stacks else "1")
        content.update(frame.get("FrameContentSequence", [Dataset()])[0])
        frame.FrameContentSequence = Sequence([content])
    return change


def echo(turn: int) -> dict[str, Any]:
    return {"MREchoSequence": Sequence([item(EffectiveEchoTime=10.0 + turn)])}


def b_value(turn: int) -> dict[str, Any]:
    return {"MRDiffusionSequence": Sequence([item(DiffusionBValue=500.0 * turn)])}


def time(turn: int) -> dict[str, Any]:
    return {"FrameContentSequence": Sequence([item(TemporalPositionIndex=turn + 1)])}


def trigger(turn: int) -> dict[str, Any]:
    group = item(NominalCardiacTriggerDelayTime=40.0 * turn)
    return {"CardiacSynchronizationSequence": Sequence([group])}


def frame_type(turn: int) -> dict[str, Any]:
    kind = item(FrameType=["ORIGINAL", "PRIMARY", "X", "NONE"], ComplexImageComponent=[
        "MAGNITUDE", "PHASE", "REAL"][turn])  # fmt: skip
    return {"MRImageFrameTypeSequence": Sequence([kind])}


def converted(turn: int) -> dict[str, Any]:
    group = item(EchoTime=10.0 + turn)
    return {"UnassignedPerFrameConvertedAttributesSequence": Sequence([group])}


@pytest.mark.parametrize(
    ("told", "part"),
    [
        (echo, "EchoTime"),
        (b_value, "DiffusionBValue"),
        (time, "TemporalPositionIdentifier"),
        (trigger, "TriggerTime"),
        (frame_type, "ImageType"),
        (converted, "EchoTime"),
    ],
)
def test_passes_of_one_object_are_volumes_of_their_own(
    ingest: Any, tmp_path: Path, write_dicom: Any, noise: np.ndarray, told: Any, part: str
) -> None:
    write_dicom(tmp_path / "x", noise[:9], **passes(3, 3, told))
    visuals, refused = ingest(tmp_path)
    assert not refused
    assert [visual.geometry.part for visual in visuals] == [f"{part} {k} of 3" for k in (1, 2, 3)]
    for turn, visual in enumerate(visuals):
        np.testing.assert_array_equal(volume_of(visual), noise[turn:9:3] - 1024)
    assert [visual.inputs for visual in visuals] == [("x",), (), ()]


def test_a_dimension_of_the_object_tells_passes_apart(
    ingest: Any, tmp_path: Path, write_dicom: Any, noise: np.ndarray
) -> None:
    """No attribute that we know varies, but the object says what its dimensions are."""

    def index(turn: int) -> dict[str, Any]:
        return {"FrameContentSequence": Sequence([item(DimensionIndexValues=[turn + 1, 1])])}

    change = passes(2, 4, index)
    pointers = [tag_for_keyword("ContrastBolusAgentNumber"), tag_for_keyword("StackID")]
    change["DimensionIndexSequence"] = Sequence(
        [item(DimensionIndexPointer=pointer) for pointer in pointers]
    )
    write_dicom(tmp_path / "x", noise[:8], **change)
    visuals, _ = ingest(tmp_path)
    assert [visual.geometry.part for visual in visuals] == [
        f"dimension ContrastBolusAgentNumber {k} of 2" for k in (1, 2)
    ]
    np.testing.assert_array_equal(volume_of(visuals[1]), noise[1:8:2] - 1024)


def test_one_bad_stack_is_refused_by_its_frames_and_the_other_used(
    ingest: Any, tmp_path: Path, write_dicom: Any, noise: np.ndarray
) -> None:
    change = passes(2, 4, lambda turn: {}, stacks=True)
    lost = change["PerFrameFunctionalGroupsSequence"]
    lost[5].PlanePositionSequence[0].ImagePositionPatient = [0, 0, 11]
    write_dicom(tmp_path / "x", noise[:8], **change)
    visuals, refused = ingest(tmp_path)
    assert [visual.geometry.part for visual in visuals] == ["StackID 1 of 2"]
    [found] = refused
    assert found.code == "series-variable-spacing"
    assert found.reason.startswith("StackID 2 of 2: ")
    assert "frame 4 and frame 6" in found.reason


def test_private_slopes_are_not_the_real_values(
    ingest: Any, tmp_path: Path, write_dicom: Any, noise: np.ndarray
) -> None:
    """Philips writes others at the top and in private elements; the standard's group decides."""
    change = groups([(0.0, 0.0, 5.0 * k) for k in range(4)], slopes=[0.5, 1, 1.5, 2])
    change |= {"RescaleSlope": 7, "RescaleIntercept": 9}
    path = write_dicom(tmp_path / "x", noise[:4], **change)
    dataset = dcmread(path)
    for frame in dataset.PerFrameFunctionalGroupsSequence:
        block = frame.private_block(0x2005, "Philips MR Imaging DD 001", create=True)
        block.add_new(0x0E, "FL", 3.0)
    dataset.save_as(path)
    expected = noise[:4] * np.array([0.5, 1, 1.5, 2])[:, None, None]
    np.testing.assert_allclose(volume_of(ingest(tmp_path).only), expected)


def test_legacy_conversion_by_highdicom_gives_the_volumes_of_its_slices(
    ingest: Any, tmp_path: Path, write_series: Any, noise: np.ndarray
) -> None:
    """Ten slices of two echoes, converted by another implementation, in scrambled order."""
    highdicom = pytest.importorskip("highdicom")
    places = [(-10.0, -20.0, 3.0 * (k % 5)) for k in range(10)]
    each = [{"EchoTime": 10.0 + 70 * (k // 5)} for k in range(10)]
    more = {
        "SOPClassUID": "1.2.840.10008.5.1.4.1.1.4", "Modality": "MR", "RescaleIntercept": 3,
        "PatientBirthDate": "", "PatientSex": "", "StudyDate": "20200101", "StudyTime": "",
        "StudyID": "", "ReferringPhysicianName": "", "SeriesNumber": 1, "Manufacturer": "x",
        "SeriesDate": "20200101", "SeriesTime": "101112", "AcquisitionDate": "20200101",
        "AcquisitionTime": "101112", "ContentDate": "20200101", "ContentTime": "101112",
        "LossyImageCompression": "00", "BodyPartExamined": "HEAD", "Laterality": None,
        "PositionReferenceIndicator": "", "PatientPosition": "HFS", "DeviceSerialNumber": "1",
        "ManufacturerModelName": "x", "SoftwareVersions": "1", "SpacingBetweenSlices": 3,
        "ScanningSequence": "SE", "SequenceVariant": "NONE", "ScanOptions": "",
        "MRAcquisitionType": "2D", "EchoTrainLength": 1, "RepetitionTime": 500,
        "ImageType": ["ORIGINAL", "PRIMARY", "OTHER"], "PixelPresentation": "MONOCHROME",
    }  # fmt: skip
    more.pop("Laterality")
    paths = write_series(tmp_path / "single", noise, positions=places, each=each, **more)
    datasets = [dcmread(paths[k]) for k in (7, 2, 9, 1, 5, 0, 3, 8, 6, 4)]
    enhanced = highdicom.legacy.LegacyConvertedEnhancedMRImage(
        datasets, series_instance_uid="2.25.88", series_number=2,
        sop_instance_uid="2.25.89", instance_number=1,
    )  # fmt: skip
    (tmp_path / "enhanced").mkdir()
    enhanced.save_as(tmp_path / "enhanced" / "x.dcm")
    single, whole = ingest(tmp_path / "single"), ingest(tmp_path / "enhanced")
    assert not single.refused
    assert not whole.refused
    for one, other, echo_pixels in zip(
        single.visuals, whole.visuals, (noise[:5], noise[5:]), strict=True
    ):
        np.testing.assert_array_equal(volume_of(other), echo_pixels + 3)
        np.testing.assert_array_equal(volume_of(one), volume_of(other))
        np.testing.assert_allclose(one.geometry.affine, other.geometry.affine)
        assert one.geometry.part == other.geometry.part


def test_enhanced_mr_of_three_vendors(ingest: Any, shared_data: Path) -> None:
    vendors = shared_data / "dicom/vendors"
    for folder, shape in [
        ("philips_enhanced", (256, 256, 8)),
        ("siemens_multiframe", (8, 256, 256)),
        ("hyperfine", (8, 138, 112)),
    ]:
        visual = ingest(vendors / folder).only
        assert volume_of(visual).shape == shape
        assert volume_of(visual).std() > 0


def test_ingest_accounts_for_a_file_of_several_volumes(
    tmp_path: Path, write_dicom: Any, noise: np.ndarray
) -> None:
    change = passes(2, 4, lambda turn: {}, stacks=True)
    lost = change["PerFrameFunctionalGroupsSequence"]
    lost[5].PlanePositionSequence[0].ImagePositionPatient = [0, 0, 11]
    write_dicom(tmp_path / "in" / "half.dcm", noise[:8], **change)
    more = passes(2, 4, echo) | {"SOPInstanceUID": "2.25.7", "SeriesInstanceUID": "2.25.8"}
    write_dicom(tmp_path / "in" / "both.dcm", noise[:8] + 1, **more)
    source = {"kind": "dicom", "name": "ct", "path": str(tmp_path / "in")}
    config = IngestConfig.model_validate({"sources": [source], "split": {"val": 0, "test": 0}})
    info = run_ingest(config, tmp_path / "dataset", base=tmp_path)
    assert (info["found"], info["used"], info["quarantined"], info["samples"]) == (2, 2, 0, 3)
    dataset = Folder.open(tmp_path / "dataset")
    assert sorted(str(sample.geometry.part) for sample in dataset.samples) == [
        "EchoTime 1 of 2", "EchoTime 2 of 2", "StackID 1 of 2",
    ]  # fmt: skip
    assert [row["code"] for row in dataset.quarantine()] == ["series-variable-spacing"]
