"""The eleven phantom series of the field's readers, and what else befalls a series."""

from __future__ import annotations

import io
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.encaps import encapsulate, get_frame
from pydicom.uid import JPEG2000Lossless

from data_connectors.items import VisualItem


def volume_of(item: VisualItem) -> np.ndarray:
    [(extension, data)] = item.payload.members
    assert extension == "npy"
    return np.load(io.BytesIO(data), allow_pickle=False)


def affine_of(item: VisualItem) -> np.ndarray:
    assert item.geometry.affine is not None
    return np.array(item.geometry.affine).reshape(4, 4)


class TestElevenPhantoms:
    """Ten slices, 2 mm apart, one thing wrong with each series."""

    def test_normal_series(
        self, ingest: Any, tmp_path: Path, write_series: Any, noise: np.ndarray
    ) -> None:
        write_series(tmp_path, noise)
        item = ingest(tmp_path).only
        np.testing.assert_array_equal(volume_of(item), noise - 1024)
        assert volume_of(item).dtype == np.int16
        np.testing.assert_allclose(item.geometry.spacing_mm, (2.0, 0.8, 0.6))
        np.testing.assert_allclose(affine_of(item) @ [0, 0, 0, 1], [-10, -20, 30, 1])
        np.testing.assert_allclose(affine_of(item) @ [9, 5, 4, 1], [-7.6, -16, 48, 1])
        assert (item.kind, item.modality, item.geometry.unit) == ("volume", "CT", "HU")

    @pytest.mark.parametrize(
        "numbers", [[7, 2, 9, 1, 5, 10, 3, 8, 6, 4], [1] * 10, list(range(10, 0, -1))]
    )
    def test_scrambled_equal_or_reversed_numbers_do_not_matter(
        self, ingest: Any, tmp_path: Path, write_series: Any, noise: np.ndarray, numbers: list[int]
    ) -> None:
        write_series(tmp_path, noise, numbers=numbers)
        np.testing.assert_array_equal(volume_of(ingest(tmp_path).only), noise - 1024)

    def test_missing_middle_slice(
        self, ingest: Any, tmp_path: Path, write_series: Any, noise: np.ndarray
    ) -> None:
        write_series(tmp_path, noise)[4].unlink()
        found = ingest(tmp_path).refusal
        assert found.code == "series-gap"
        assert "slices 4 and 5" in found.reason
        assert len(found.inputs) == 9

    def test_duplicate_position(
        self, ingest: Any, tmp_path: Path, write_series: Any, noise: np.ndarray
    ) -> None:
        places = [(0.0, 0.0, 2.0 * k) for k in (0, 1, 2, 3, 4, 4, 5, 6, 7, 8)]
        write_series(tmp_path, noise, positions=places)
        found = ingest(tmp_path).refusal
        assert found.code == "series-duplicate-position"
        assert "slices 5 and 6" in found.reason

    def test_variable_gap(
        self, ingest: Any, tmp_path: Path, write_series: Any, noise: np.ndarray
    ) -> None:
        places = [(0.0, 0.0, z) for z in (0, 2, 4, 6, 8, 11.1, 13.1, 15.1, 17.1, 19.1)]
        write_series(tmp_path, noise, positions=places)
        assert ingest(tmp_path).refusal.code == "series-variable-spacing"

    def test_gantry_tilt(
        self, ingest: Any, tmp_path: Path, write_series: Any, noise: np.ndarray
    ) -> None:
        shear = float(np.tan(np.radians(15)))
        places = [(0.0, 2.0 * k * shear, 2.0 * k) for k in range(10)]
        write_series(tmp_path, noise, positions=places)
        found = ingest(tmp_path).refusal
        assert found.code == "series-tilt"
        assert "15.0 degrees" in found.reason
        kept = ingest(tmp_path, tilt="keep").only
        np.testing.assert_allclose(affine_of(kept) @ [7, 0, 0, 1], [*places[7], 1])

    def test_missing_last_slice_cannot_be_known(
        self, ingest: Any, tmp_path: Path, write_series: Any, noise: np.ndarray
    ) -> None:
        write_series(tmp_path, noise)[-1].unlink()
        assert volume_of(ingest(tmp_path).only).shape == (9, 6, 5)

    def test_slope_of_every_slice(
        self, ingest: Any, tmp_path: Path, write_series: Any, noise: np.ndarray
    ) -> None:
        slopes = [0.5 + 0.25 * k for k in range(10)]
        each = [{"RescaleSlope": slope, "RescaleIntercept": 3} for slope in slopes]
        write_series(tmp_path, noise, each=each, Modality="PT", SOPClassUID=PET)
        item = ingest(tmp_path).only
        expected = noise.astype(np.float64) * np.array(slopes)[:, None, None] + 3
        np.testing.assert_allclose(volume_of(item), expected, rtol=1e-6)
        assert volume_of(item).dtype == np.float32
        assert item.geometry.unit == "raw"

    def test_jitter(
        self, ingest: Any, tmp_path: Path, write_series: Any, noise: np.ndarray
    ) -> None:
        jitter = np.random.default_rng(1).uniform(-0.05, 0.05, 10)
        write_series(
            tmp_path, noise, positions=[(0, 0, round(2 * k + jitter[k], 4)) for k in range(10)]
        )
        assert ingest(tmp_path).only.geometry.spacing_mm[0] == pytest.approx(2.0, abs=0.02)  # type: ignore[index]


PET = "1.2.840.10008.5.1.4.1.1.128"
MR = "1.2.840.10008.5.1.4.1.1.4"


@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(order=st.permutations(range(10)), numbers=st.permutations(range(1, 11)))
def test_names_and_numbers_never_change_the_volume(
    ingest: Any,
    tmp_path_factory: Any,
    write_series: Any,
    noise: np.ndarray,
    order: list[int],
    numbers: list[int],
) -> None:
    folder = tmp_path_factory.mktemp("series")
    write_series(folder, noise, names=[f"IM{k}" for k in order], numbers=numbers)
    item = ingest(folder).only
    np.testing.assert_array_equal(volume_of(item), noise - 1024)
    assert item.identity.patient == "P-0815"
    shutil.rmtree(folder)


def test_agrees_with_simpleitk_on_oblique_and_sagittal_series(
    ingest: Any, tmp_path: Path, write_series: Any, noise: np.ndarray
) -> None:
    """An independent reader puts every voxel at the same place with the same value."""
    sitk = pytest.importorskip("SimpleITK")
    angle = np.radians(12)
    turns = {
        "sagittal": ((0.0, 1, 0, 0, 0, -1), (1.0, 0, 0)),
        "coronal": ((1.0, 0, 0, 0, 0, -1), (0.0, -1, 0)),
        "oblique": (
            (1.0, 0, 0, 0, float(np.cos(angle)), float(np.sin(angle))),
            (0.0, -float(np.sin(angle)), float(np.cos(angle))),
        ),
    }
    for name, (cosines, normal) in turns.items():
        folder = tmp_path / name
        places = [tuple(np.array([5, -7, 9]) + 3 * k * np.array(normal)) for k in range(10)]
        write_series(folder, noise, positions=places, ImageOrientationPatient=list(cosines))
        item = ingest(folder).only
        reader = sitk.ImageSeriesReader()
        reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
        image = reader.Execute()
        volume = volume_of(item)
        assert image.GetNumberOfPixels() == volume.size
        for index in np.ndindex(volume.shape):
            place = [float(value) for value in (affine_of(item) @ [*index, 1])[:3]]
            assert image[image.TransformPhysicalPointToIndex(place)] == volume[index]


def test_truncated_slice_is_refused_and_the_rest_has_a_gap(
    ingest: Any, tmp_path: Path, write_series: Any, noise: np.ndarray
) -> None:
    paths = write_series(tmp_path, noise)
    paths[4].write_bytes(paths[4].read_bytes()[:-20])
    visuals, refused = ingest(tmp_path)
    assert not visuals
    assert {item.code: item.inputs for item in refused}["dicom-truncated"] == ("004.dcm",)
    assert {item.code: len(item.inputs) for item in refused} == {
        "dicom-truncated": 1,
        "series-gap": 9,
    }


def test_truncated_last_slice_leaves_a_shorter_volume(
    ingest: Any, tmp_path: Path, write_series: Any, noise: np.ndarray
) -> None:
    paths = write_series(tmp_path, noise)
    paths[9].write_bytes(paths[9].read_bytes()[:-20])
    visuals, refused = ingest(tmp_path)
    assert [item.code for item in refused] == ["dicom-truncated"]
    np.testing.assert_array_equal(volume_of(visuals[0]), noise[:9] - 1024)


def test_slice_that_does_not_decode_is_left_out(
    ingest: Any, tmp_path: Path, write_series: Any
) -> None:
    large = np.random.default_rng(2).integers(0, 2000, (4, 64, 64)).astype(np.int16)
    paths = write_series(tmp_path, large, syntax=JPEG2000Lossless)
    dataset = dcmread(paths[0])
    code_stream = get_frame(dataset.PixelData, 0, number_of_frames=1)
    dataset.PixelData = encapsulate([code_stream[: len(code_stream) // 2]])
    dataset.save_as(paths[0])
    visuals, refused = ingest(tmp_path)
    assert [(item.code, item.inputs) for item in refused] == [("dicom-not-decodable", ("000.dcm",))]
    np.testing.assert_array_equal(volume_of(visuals[0]), large[1:] - 1024)


def test_second_copies_are_named_and_change_nothing(
    ingest: Any, tmp_path: Path, write_series: Any, noise: np.ndarray
) -> None:
    paths = write_series(tmp_path, noise)
    shutil.copy(paths[3], tmp_path / "zz copy.dcm")
    visuals, refused = ingest(tmp_path)
    np.testing.assert_array_equal(volume_of(visuals[0]), noise - 1024)
    assert [(item.code, item.inputs) for item in refused] == [
        ("dicom-duplicate-instance", ("zz copy.dcm",))
    ]


def test_copies_that_differ_are_refused(
    ingest: Any, tmp_path: Path, write_series: Any, write_dicom: Any, noise: np.ndarray
) -> None:
    write_series(tmp_path, noise)
    write_dicom(
        tmp_path / "copy.dcm",
        noise[0],
        SOPInstanceUID="2.25.10003",
        ImagePositionPatient=[-10.0, -20.0, 36.0],
    )
    assert ingest(tmp_path).refusal.code == "series-conflicting-copies"


def test_echoes_become_volumes_of_their_own(
    ingest: Any, tmp_path: Path, write_series: Any, noise: np.ndarray
) -> None:
    places = [(0.0, 0.0, 3.0 * (k % 5)) for k in range(10)]
    each = [{"EchoTime": 10.0 + 70 * (k // 5)} for k in range(10)]
    write_series(tmp_path, noise, positions=places, each=each, SOPClassUID=MR, Modality="MR")
    visuals, refused = ingest(tmp_path)
    assert not refused
    assert len(visuals) == 2
    for item, echo in zip(visuals, (noise[:5], noise[5:]), strict=True):
        np.testing.assert_array_equal(volume_of(item), echo - 1024)


def test_repeats_that_nothing_tells_apart_stay_refused(
    ingest: Any, tmp_path: Path, write_series: Any, noise: np.ndarray
) -> None:
    places = [(0.0, 0.0, 3.0 * (k % 5)) for k in range(10)]
    write_series(tmp_path, noise, positions=places)
    assert ingest(tmp_path).refusal.code == "series-duplicate-position"


def test_repeats_within_an_echo_refuse_the_series_as_a_whole(
    ingest: Any, tmp_path: Path, write_series: Any, noise: np.ndarray
) -> None:
    places = [(0.0, 0.0, 3.0 * (k % 2)) for k in range(8)]
    each = [{"EchoTime": 10.0 + 70 * (k // 4)} for k in range(8)]
    write_series(tmp_path, noise[:8], positions=places, each=each, SOPClassUID=MR, Modality="MR")
    assert len(ingest(tmp_path).refusal.inputs) == 8


def test_a_time_that_splits_unevenly_is_not_trusted(
    ingest: Any, tmp_path: Path, write_series: Any, noise: np.ndarray
) -> None:
    """Two times whose slices visit different places: nobody knows what belongs together."""
    places = [(0.0, 0.0, 3.0 * k) for k in (0, 1, 2, 3, 4, 3, 4, 5, 6, 7)]
    each = [{"ContentTime": f"1015{k // 5:02d}"} for k in range(10)]
    write_series(tmp_path, noise, positions=places, each=each, SOPClassUID=MR, Modality="MR")
    assert ingest(tmp_path).refusal.code == "series-duplicate-position"


def test_acquisitions_of_different_length_become_volumes_that_say_which_they_are(
    ingest: Any, tmp_path: Path, write_series: Any, noise: np.ndarray
) -> None:
    """A multi-phase CT under one series UID: the second phase goes further down."""
    places = [(0.0, 0.0, 3.0 * k) for k in (0, 1, 2, 3, 4, 3, 4, 5, 6, 7)]
    each = [{"AcquisitionNumber": 1 + k // 5} for k in range(10)]
    write_series(tmp_path, noise, positions=places, each=each)
    visuals, refused = ingest(tmp_path)
    assert not refused
    assert [item.geometry.part for item in visuals] == [
        "AcquisitionNumber 1 of 2", "AcquisitionNumber 2 of 2",
    ]  # fmt: skip
    for item, phase in zip(visuals, (noise[:5], noise[5:]), strict=True):
        np.testing.assert_array_equal(volume_of(item), phase - 1024)


def test_localiser_in_the_series_is_an_image_of_its_own(
    ingest: Any, tmp_path: Path, write_series: Any, noise: np.ndarray
) -> None:
    each: list[dict[str, Any]] = [{} for _ in noise]
    each[0] = {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}
    write_series(tmp_path, noise, each=each)
    visuals, refused = ingest(tmp_path)
    assert not refused
    assert sorted(item.kind for item in visuals) == ["image", "volume"]
    volume = next(item for item in visuals if item.kind == "volume")
    np.testing.assert_array_equal(volume_of(volume), noise[1:] - 1024)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"PatientID": "P-0816"}, "series-mixed-patient"),
        ({"StudyInstanceUID": "2.25.99"}, "series-mixed-study"),
        ({"FrameOfReferenceUID": "2.25.99"}, "series-mixed-frame-of-reference"),
        ({"PixelSpacing": [0.9, 0.6]}, "series-mixed-spacing"),
        ({"ImagePositionPatient": None}, "series-missing-position"),
        ({"ImageOrientationPatient": [0.0, 1, 0, 0, 0, -1]}, "series-mixed-orientation"),
        ({"RescaleType": "US"}, "series-mixed-unit"),
    ],
)
def test_one_slice_of_another_kind_refuses_the_series(
    ingest: Any,
    tmp_path: Path,
    write_series: Any,
    noise: np.ndarray,
    change: dict[str, Any],
    code: str,
) -> None:
    each: list[dict[str, Any]] = [{} for _ in noise]
    each[5] = change
    write_series(tmp_path, noise, each=each)
    found = ingest(tmp_path).refusal
    assert found.code == code
    assert "0815" not in found.reason + found.next_step


def test_slice_of_another_size_refuses_the_series(
    ingest: Any, tmp_path: Path, write_series: Any, write_dicom: Any, noise: np.ndarray
) -> None:
    write_series(tmp_path, noise)
    wide = np.zeros((6, 7), np.int16)
    place = [-10.0, -20.0, 50.0]
    write_dicom(tmp_path / "x", wide, SOPInstanceUID="2.25.55", ImagePositionPatient=place)
    assert ingest(tmp_path).refusal.code == "series-mixed-size"


def test_single_axial_ct_keeps_its_hounsfield_units(
    ingest: Any, tmp_path: Path, write_dicom: Any, noise: np.ndarray
) -> None:
    write_dicom(tmp_path / "x", noise[0])
    item = ingest(tmp_path).only
    np.testing.assert_array_equal(volume_of(item), noise[:1] - 1024)
    assert (item.kind, item.geometry.unit) == ("volume", "HU")
    assert item.geometry.spacing_mm == pytest.approx((2.0, 0.8, 0.6))


def test_single_mr_slice_is_an_image(
    ingest: Any, tmp_path: Path, write_dicom: Any, noise: np.ndarray
) -> None:
    write_dicom(tmp_path / "x", noise[0], SOPClassUID=MR, Modality="MR", RescaleIntercept=0)
    item = ingest(tmp_path).only
    assert (item.kind, item.geometry.unit, item.payload.members[0][0]) == ("image", "raw", "png")
    assert item.geometry.spacing_mm == (0.8, 0.6)


def test_lone_survivor_of_a_broken_series_is_not_a_volume(
    ingest: Any, tmp_path: Path, write_series: Any, noise: np.ndarray
) -> None:
    for path in write_series(tmp_path, noise)[1:]:
        path.write_bytes(path.read_bytes()[:-20])
    visuals, refused = ingest(tmp_path)
    assert not visuals
    assert sorted({item.code for item in refused}) == ["dicom-truncated", "series-too-short"]


def test_too_few_slices_are_refused(
    ingest: Any, tmp_path: Path, write_series: Any, noise: np.ndarray
) -> None:
    write_series(tmp_path, noise[:3])
    assert ingest(tmp_path, min_slices=4).refusal.code == "series-too-short"


def test_volume_above_the_limit_is_refused_before_decoding(
    ingest: Any, tmp_path: Path, write_series: Any, noise: np.ndarray
) -> None:
    write_series(tmp_path, noise)
    assert ingest(tmp_path, max_frames=9).refusal.code == "dicom-too-large"


def test_padding_becomes_air(
    ingest: Any, tmp_path: Path, write_series: Any, noise: np.ndarray
) -> None:
    stored = noise.copy()
    stored[:, 0, 0] = -2000
    write_series(tmp_path, stored, PixelPaddingValue=-2000)
    volume = volume_of(ingest(tmp_path).only)
    assert (volume[:, 0, 0] == -1024).all()
    np.testing.assert_array_equal(volume[:, 1:], noise[:, 1:] - 1024)


def test_window_comes_from_the_middle_slice(
    ingest: Any, tmp_path: Path, write_series: Any, noise: np.ndarray
) -> None:
    each = [{"WindowCenter": [40 + k, -600], "WindowWidth": [400, 1500]} for k in range(10)]
    write_series(tmp_path, noise, each=each)
    assert ingest(tmp_path).only.geometry.window == (45, 400)
