"""Every kind of object is read for what it is, or refused by name."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

STORAGE = "1.2.840.10008.5.1.4.1.1."
BARE = {
    "RescaleSlope": None,
    "RescaleIntercept": None,
    "ImagePositionPatient": None,
    "ImageOrientationPatient": None,
}


def item(**values: Any) -> Dataset:
    dataset = Dataset()
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    return dataset


def volume_of(visual: Any) -> np.ndarray:
    return np.load(io.BytesIO(visual.payload.members[0][1]), allow_pickle=False)


def pixels_of(visual: Any) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(visual.payload.members[0][1])))


def tomogram(order: list[int], apart: float, **change: Any) -> dict[str, Any]:
    detector = item(
        ImagePositionPatient=[-10.0, -20.0, 30.0], ImageOrientationPatient=[1, 0, 0, 0, 1, 0]
    )
    return {
        **BARE,
        "SOPClassUID": STORAGE + "20",
        "Modality": "NM",
        "ImageType": ["ORIGINAL", "PRIMARY", "RECON TOMO", "EMISSION"],
        "NumberOfFrames": len(order),
        "SliceVector": [k + 1 for k in order],
        "SpacingBetweenSlices": apart,
        "DetectorInformationSequence": Sequence([detector]),
        **change,
    }


@pytest.mark.parametrize("apart", [4.0, -4.0])
def test_nuclear_tomogram_is_a_volume(
    ingest: Any, tmp_path: Path, write_dicom: Any, noise: np.ndarray, apart: float
) -> None:
    """Frames in any order; a negative spacing stacks them against the normal of the first."""
    order = [2, 0, 1, 3]
    write_dicom(tmp_path / "x", noise[order], **tomogram(order, apart))
    visual = ingest(tmp_path).only
    expected = noise[:4] if apart > 0 else noise[:4][::-1]
    np.testing.assert_array_equal(volume_of(visual), expected)
    affine = np.array(visual.geometry.affine).reshape(4, 4)
    np.testing.assert_allclose(affine[:3, 3], [-10, -20, 30 if apart > 0 else 18])
    np.testing.assert_allclose(affine[:3, :3], [[0, 0, 0.6], [0, 0.8, 0], [4, 0, 0]], atol=1e-12)
    assert visual.geometry.spacing_mm == (4.0, 0.8, 0.6)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"SpacingBetweenSlices": None}, "series-missing-position"),
        ({"SliceVector": [1, 2]}, "series-missing-position"),
        ({"DetectorInformationSequence": None}, "series-missing-position"),
        ({"SliceVector": [1, 2, 2, 3]}, "series-duplicate-position"),
        ({"SliceVector": [1, 2, 3, 5]}, "series-gap"),
    ],
)
def test_tomogram_without_a_place_is_refused(
    ingest: Any,
    tmp_path: Path,
    write_dicom: Any,
    noise: np.ndarray,
    change: dict[str, Any],
    code: str,
) -> None:
    header = {**tomogram([0, 1, 2, 3], 4.0), **change}
    header = {k: v for k, v in header.items() if v is not None or k in BARE}
    write_dicom(tmp_path / "x", noise[:4], **header)
    assert ingest(tmp_path).refusal.code == code


@pytest.mark.parametrize(
    "kind", ["STATIC", "WHOLE BODY", "DYNAMIC", "GATED", "TOMO", "GATED TOMO", "RECON GATED TOMO"]
)
def test_other_nuclear_frames_are_refused_by_name(
    ingest: Any, tmp_path: Path, write_dicom: Any, noise: np.ndarray, kind: str
) -> None:
    header = tomogram([0, 1, 2, 3], 4.0, ImageType=["ORIGINAL", "PRIMARY", kind, "EMISSION"])
    write_dicom(tmp_path / "x", noise[:4], **header)
    refusal = ingest(tmp_path).refusal
    assert refusal.code == "dicom-unsupported"
    assert kind in refusal.reason


def test_breast_tomosynthesis_is_a_volume_with_its_oblique_place(
    ingest: Any, tmp_path: Path, write_dicom: Any, noise: np.ndarray
) -> None:
    """A left MLO view, 45 degrees: the slices go along the compression."""
    row, column = np.array([0.0, 1.0, 0.0]), np.array([-np.sqrt(0.5), 0, -np.sqrt(0.5)])
    normal = np.cross(row, column)
    frames = [
        item(PlanePositionSequence=Sequence([item(ImagePositionPatient=list(5.0 + k * normal))]))
        for k in range(6)
    ]
    shared = item(
        PlaneOrientationSequence=Sequence([item(ImageOrientationPatient=[*row, *column])]),
        PixelMeasuresSequence=Sequence([item(PixelSpacing=[0.1, 0.1], SliceThickness=1)]),
        FrameVOILUTSequence=Sequence([item(WindowCenter=500, WindowWidth=200)]),
        PixelValueTransformationSequence=Sequence(
            [item(RescaleSlope=1, RescaleIntercept=0, RescaleType="US")]
        ),
    )
    write_dicom(
        tmp_path / "x", noise[:6], SOPClassUID=STORAGE + "13.1.3", Modality="MG", NumberOfFrames=6,
        SharedFunctionalGroupsSequence=Sequence([shared]),
        PerFrameFunctionalGroupsSequence=Sequence(frames),
        **{**BARE, "PixelSpacing": None, "SliceThickness": None},
    )  # fmt: skip
    visual = ingest(tmp_path).only
    assert (visual.kind, visual.geometry.window) == ("volume", (500, 200))
    affine = np.array(visual.geometry.affine).reshape(4, 4)
    volume = volume_of(visual)
    inverse = np.linalg.inv(affine)
    for k in range(6):
        for r, c in ((0, 0), (5, 4), (2, 3)):
            world = 5.0 + k * normal + 0.1 * c * row + 0.1 * r * column
            d, h, w = np.rint(inverse[:3] @ [*world, 1]).astype(int)
            assert volume[d, h, w] == noise[k, r, c]


@pytest.mark.parametrize("times", [False, True])
@pytest.mark.parametrize("end", ["7.2", "77.1.5.4", "7"])
def test_frames_without_times_are_pictures(
    ingest: Any, tmp_path: Path, write_dicom: Any, end: str, times: bool
) -> None:
    frames = np.random.default_rng(0).integers(0, 255, (3, 8, 6)).astype(np.uint8)
    change = {**BARE, "SOPClassUID": STORAGE + end, "Modality": "OT", "NumberOfFrames": 3}
    if times:
        change["FrameTime"] = 100
    write_dicom(tmp_path / "x", frames, **change)
    visuals, refused = ingest(tmp_path)
    assert not refused
    assert [visual.kind for visual in visuals] == (["clip"] if times else ["image"] * 3)
    assert visuals[0].inputs == ("x",)
    if not times:
        for visual, frame in zip(visuals, frames, strict=True):
            np.testing.assert_array_equal(pixels_of(visual), frame)


def test_angiography_without_times_is_refused(
    ingest: Any, tmp_path: Path, write_dicom: Any
) -> None:
    frames = np.zeros((3, 8, 6), np.uint8)
    change = {**BARE, "SOPClassUID": STORAGE + "12.1", "Modality": "XA", "NumberOfFrames": 3}
    write_dicom(tmp_path / "x", frames, **change)
    assert ingest(tmp_path).refusal.code == "dicom-no-frame-time"


@pytest.mark.parametrize("end", ["12.1", "12.2", "3.1"])
def test_loops_of_angiography_and_fluoroscopy_are_clips(
    ingest: Any, tmp_path: Path, write_dicom: Any, end: str
) -> None:
    frames = np.random.default_rng(0).integers(0, 255, (3, 8, 6)).astype(np.uint8)
    change = {**BARE, "SOPClassUID": STORAGE + end, "NumberOfFrames": 3, "FrameTime": 66.7}
    write_dicom(tmp_path / "x", frames, Modality="XA", **change)
    visual = ingest(tmp_path).only
    assert visual.kind == "clip"
    assert visual.geometry.fps == pytest.approx(15, abs=0.05)


@pytest.mark.parametrize(
    ("end", "word"), [("6.2", "ultrasound"), ("13.1.4", "projections"), ("13.1.5", "projections")]
)
def test_kinds_that_are_not_read_are_named(
    ingest: Any, tmp_path: Path, write_dicom: Any, noise: np.ndarray, end: str, word: str
) -> None:
    write_dicom(tmp_path / "x", noise[:4], SOPClassUID=STORAGE + end, NumberOfFrames=4)
    refusal = ingest(tmp_path).refusal
    assert refusal.code == "dicom-unsupported"
    assert word in refusal.reason


@pytest.mark.parametrize(
    ("header", "refused"),
    [
        ({"SOPClassUID": STORAGE + "1.1"}, False),
        ({"SOPClassUID": STORAGE + "1.1.1"}, True),
        ({"SOPClassUID": STORAGE + "1.2"}, False),
        ({"SOPClassUID": STORAGE + "1.2", "PresentationIntentType": "FOR PRESENTATION"}, False),
        ({"SOPClassUID": STORAGE + "1", "PresentationIntentType": "FOR PROCESSING"}, True),
    ],
)
def test_raw_detector_data_is_refused_unless_it_is_wanted(
    ingest: Any, tmp_path: Path, write_dicom: Any, header: dict[str, Any], refused: bool
) -> None:
    write_dicom(tmp_path / "x", np.zeros((4, 4), np.uint16), Modality="DX", **BARE, **header)
    found = ingest(tmp_path)
    assert list(found.codes) == (["dicom-for-processing"] if refused else [])
    assert ingest(tmp_path, for_processing="read").only.kind == "image"
