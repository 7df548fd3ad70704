from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

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
