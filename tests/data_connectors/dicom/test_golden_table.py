"""The golden table: eleven phantom series on which readers differ, further kinds, and real series.

Each row is compared, voxel by voxel in the patient's space, with highdicom or SimpleITK where that
reader is right, and with what was written; where the data is bad, the refusal must name the slices.
"""

from __future__ import annotations

import gzip
import io
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import nibabel
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nibabel.nicom import dicomwrappers
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from scipy.spatial.transform import Rotation

from data_connectors.items import VisualItem

MR = {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.4", "Modality": "MR"}
PET = {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.128", "Modality": "PT"}
START = np.array([-10.0, -20.0, 30.0])


class Placed(NamedTuple):
    """Voxels and where they are."""

    array: np.ndarray
    """[i, j, k]"""
    affine: np.ndarray
    """[4, 4]; [i, j, k, 1] -> LPS mm."""


def ours(item: VisualItem) -> Placed:
    [(extension, data)] = item.payload.members
    assert extension == "npy"
    assert item.geometry.affine is not None
    affine = np.array(item.geometry.affine).reshape(4, 4)
    return Placed(np.load(io.BytesIO(data), allow_pickle=False), affine)


def written(noise: np.ndarray, step: float = 2.0) -> Placed:
    affine = np.eye(4)
    affine[:3, :3] = [[0, 0, 0.6], [0, 0.8, 0], [step, 0, 0]]
    affine[:3, 3] = START
    return Placed(noise.astype(np.float64) - 1024, affine)


def highdicom(paths: list[Path]) -> Placed:
    image = pytest.importorskip("highdicom.image")
    volume = image.get_volume_from_series([placed(path) for path in paths])
    return Placed(volume.array, volume.affine)


def placed(path: Path) -> Dataset:
    """A file with a frame of reference, which highdicom insists on and some public files lack."""
    dataset = dcmread(path)
    if "FrameOfReferenceUID" not in dataset:
        dataset.FrameOfReferenceUID = "2.25.4"
    return dataset


def simpleitk(folder: Path, names: list[str] | None = None) -> Placed:
    sitk = pytest.importorskip("SimpleITK")
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(names or reader.GetGDCMSeriesFileNames(str(folder)))
    image = reader.Execute()
    affine = np.eye(4)
    direction = np.array(image.GetDirection()).reshape(3, 3)
    affine[:3, :3] = (direction * image.GetSpacing())[:, ::-1]
    affine[:3, 3] = image.GetOrigin()
    return Placed(sitk.GetArrayFromImage(image), affine)


def assert_same(one: Placed, other: Placed, *, places_mm: float = 1e-3, rtol: float = 0.0) -> None:
    """Every voxel of one is at the place of a voxel of the other, with its value."""
    assert sorted(one.array.shape) == sorted(other.array.shape)
    index = np.indices(one.array.shape).reshape(3, -1)
    world = one.affine[:3, :3] @ index + one.affine[:3, 3:]
    there = np.linalg.solve(other.affine[:3, :3], world - other.affine[:3, 3:])
    nearest = np.rint(there).astype(int)
    off = np.abs(other.affine[:3, :3] @ (there - nearest))
    assert off.max() <= places_mm
    values = other.array[tuple(nearest)]
    np.testing.assert_allclose(one.array.ravel(), values, rtol=rtol, atol=1e-6)


def heights(*values: float) -> list[tuple[float, float, float]]:
    return [(START[0], START[1], START[2] + value) for value in values]


class TestRowsThatAreRight:
    @pytest.mark.parametrize(
        "numbers",
        [None, list(range(10, 0, -1)), [7, 2, 9, 1, 5, 10, 3, 8, 6, 4], [1] * 10],
        ids=["normal", "reversed numbering", "InstanceNumber scrambled", "InstanceNumber equal"],
    )
    @pytest.mark.parametrize("names", ["rising", "scrambled"])
    def test_numbers_and_names_decide_nothing(
        self, ingest: Any, tmp_path: Path, write_series: Any, noise: np.ndarray,
        numbers: list[int] | None, names: str,
    ) -> None:  # fmt: skip
        order = range(10) if names == "rising" else [4, 8, 0, 9, 2, 6, 1, 7, 3, 5]
        called = [f"IM{k}" for k in order]
        paths = write_series(tmp_path, noise, numbers=numbers, names=called)
        found = ours(ingest(tmp_path).only)
        np.testing.assert_array_equal(found.array, noise - 1024)
        assert_same(found, written(noise))
        assert_same(found, highdicom(paths))
        assert_same(found, simpleitk(tmp_path))

    def test_last_slice_missing_cannot_be_known(
        self, ingest: Any, tmp_path: Path, write_series: Any, noise: np.ndarray
    ) -> None:
        """The files are a whole stack; only the archive's own count can tell (`pacs`)."""
        paths = write_series(tmp_path, noise[:9])
        assert_same(ours(ingest(tmp_path).only), highdicom(paths))

    def test_slope_of_every_slice(
        self, ingest: Any, tmp_path: Path, write_series: Any, noise: np.ndarray
    ) -> None:
        each = [{"RescaleSlope": 0.5 + 0.25 * k, "RescaleIntercept": 0} for k in range(10)]
        paths = write_series(tmp_path, noise, each=each, **PET)
        found = ours(ingest(tmp_path).only)
        slopes = (0.5 + 0.25 * np.arange(10))[:, None, None]
        assert_same(found, Placed(noise * slopes, written(noise).affine), rtol=1e-6)
        assert_same(found, highdicom(paths), rtol=1e-6)

    def test_jitter_of_a_twentieth_of_a_millimetre(
        self, ingest: Any, tmp_path: Path, write_series: Any, noise: np.ndarray
    ) -> None:
        jitter = np.random.default_rng(1).uniform(-0.05, 0.05, 10)
        places = heights(*(round(2 * k + jitter[k], 4) for k in range(10)))
        write_series(tmp_path, noise, positions=places)
        found = ours(ingest(tmp_path).only)
        assert_same(found, written(noise), places_mm=0.1)
        for k, place in enumerate(places):
            assert np.abs(found.affine @ [k, 0, 0, 1] - [*place, 1]).max() < 0.1

    def test_mosaic(self, ingest: Any, tmp_path: Path) -> None:
        bundled = Path(nibabel.__file__).parent / "nicom/tests/data/siemens_dwi_0.dcm.gz"
        (tmp_path / "x").write_bytes(gzip.decompress(bundled.read_bytes()))
        oracle = dicomwrappers.wrapper_from_data(dcmread(tmp_path / "x"))
        found = ours(ingest(tmp_path / "x", allow_missing_patient=True).only)
        assert_same(found, Placed(oracle.get_data(), oracle.affine), places_mm=1e-2)

    def test_enhanced(
        self, ingest: Any, tmp_path: Path, write_dicom: Any, noise: np.ndarray
    ) -> None:
        order = [3, 0, 9, 5, 1, 8, 2, 7, 4, 6]
        change = enhanced([(-10.0, -20.0, 30 + 2.0 * k) for k in order])
        write_dicom(tmp_path / "x", noise[order], **change)
        assert_same(ours(ingest(tmp_path).only), written(noise))

    def test_enhanced_of_three_vendors_is_what_highdicom_reads(
        self, ingest: Any, shared_data: Path
    ) -> None:
        image = pytest.importorskip("highdicom.image")
        for vendor in ("philips_enhanced", "siemens_multiframe", "hyperfine"):
            [path] = (shared_data / "dicom/vendors" / vendor).rglob("*.dcm")
            found = ours(ingest(path).only)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                volume = image.Image.from_dataset(placed(path)).get_volume(
                    apply_real_world_transform=False, apply_modality_transform=True, rtol=0.02
                )
            assert_same(found, Placed(volume.array, volume.affine), places_mm=0.02, rtol=1e-6)

    def test_mixed_echo(
        self, ingest: Any, tmp_path: Path, write_series: Any, noise: np.ndarray
    ) -> None:
        places = heights(*(2.0 * (k % 5) for k in range(10)))
        each = [{"EchoTime": 10.0 + 70 * (k // 5)} for k in range(10)]
        paths = write_series(tmp_path, noise, positions=places, each=each, **MR)
        visuals, refused = ingest(tmp_path)
        assert not refused
        for item, echo, files in zip(
            visuals, (noise[:5], noise[5:]), (paths[:5], paths[5:]), strict=True
        ):
            assert_same(ours(item), written(echo))
            assert_same(ours(item), highdicom(files))

    def test_localiser(
        self, ingest: Any, tmp_path: Path, write_series: Any, noise: np.ndarray
    ) -> None:
        """A coronal scout in the series, once by its type and once by its orientation alone."""
        scout = {
            "ImageOrientationPatient": [1.0, 0, 0, 0, 0, -1],
            "ImagePositionPatient": [0, 9, 0],
        }
        for name, more in (
            ("typed", {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}),
            ("not", {}),
        ):
            each: list[dict[str, Any]] = [{} for _ in noise]
            each[0] = {**scout, **more}
            paths = write_series(tmp_path / name, noise, each=each)
            visuals, refused = ingest(tmp_path / name)
            assert not refused
            assert sorted(item.kind for item in visuals) == ["image", "volume"]
            [volume] = [item for item in visuals if item.kind == "volume"]
            assert_same(ours(volume), highdicom(paths[1:]))


class TestRowsThatAreRefused:
    @pytest.mark.parametrize("lost", range(1, 9))
    def test_missing_slice(
        self, ingest: Any, tmp_path: Path, write_series: Any, noise: np.ndarray, lost: int
    ) -> None:
        write_series(tmp_path, noise)[lost].unlink()
        found = ingest(tmp_path).refusal
        assert found.code == "series-gap"
        low, high = 28 + 2 * lost, 32 + 2 * lost
        assert f"slices {lost} and {lost + 1} ({low:.2f} and {high:.2f} mm" in found.reason
        assert f"instance {lost} and instance {lost + 2}" in found.reason
        assert found.inputs == tuple(f"{k:03d}.dcm" for k in range(10) if k != lost)

    def test_duplicate_position(
        self, ingest: Any, tmp_path: Path, write_series: Any, noise: np.ndarray
    ) -> None:
        places = heights(*(2.0 * k for k in (0, 1, 2, 3, 4, 4, 5, 6, 7, 8)))
        write_series(tmp_path, noise, positions=places)
        found = ingest(tmp_path).refusal
        assert found.code == "series-duplicate-position"
        assert "slices 5 and 6 (38.00 and 38.00 mm, instance 5 and instance 6)" in found.reason

    def test_variable_gap(
        self, ingest: Any, tmp_path: Path, write_series: Any, noise: np.ndarray
    ) -> None:
        places = heights(0, 2, 4, 6, 8, 11.1, 13.1, 15.1, 17.1, 19.1)
        write_series(tmp_path, noise, positions=places)
        found = ingest(tmp_path).refusal
        assert found.code == "series-variable-spacing"
        assert "slices 5 and 6 (38.00 and 41.10 mm, instance 5 and instance 6)" in found.reason

    def test_gantry_tilt(
        self, ingest: Any, tmp_path: Path, write_series: Any, noise: np.ndarray
    ) -> None:
        shear = 2 * float(np.tan(np.radians(15)))
        places = [(-10.0, -20 + k * shear, 30 + 2.0 * k) for k in range(10)]
        write_series(tmp_path, noise, positions=places)
        found = ingest(tmp_path).refusal
        assert found.code == "series-tilt"
        assert "15.0 degrees, all 10 slices" in found.reason
        affine = written(noise).affine
        affine[1, 0] = shear
        assert_same(ours(ingest(tmp_path, tilt="keep").only), Placed(noise - 1024.0, affine))

    @pytest.mark.parametrize(
        ("folder", "code", "named"),
        [
            ("sliceincrement", "series-gap", "instance 9 and instance 10"),
            ("sliceorientation", "series-mixed-orientation", "2 of 4 differ"),
            ("gantrytilting", "series-tilt", "14.0 degrees, all 4 slices"),
            ("notavolume", "series-not-a-volume", "4 slices: instance 23"),
        ],
    )
    def test_real_series_that_must_fail(
        self, ingest: Any, shared_data: Path, folder: str, code: str, named: str
    ) -> None:
        found = ingest(shared_data / "dicom/vendors/failing" / folder).refusal
        assert found.code == code
        assert named in found.reason
        assert len(found.inputs) == 4


def enhanced(places: list[tuple[float, ...]]) -> dict[str, Any]:
    """Functional groups of an axial CT."""

    def item(**values: Any) -> Dataset:
        dataset = Dataset()
        for keyword, value in values.items():
            setattr(dataset, keyword, value)
        return dataset

    shared = item(
        PlaneOrientationSequence=Sequence([item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])]),
        PixelMeasuresSequence=Sequence([item(PixelSpacing=[0.8, 0.6], SliceThickness=2)]),
        PixelValueTransformationSequence=Sequence(
            [item(RescaleSlope=1, RescaleIntercept=-1024, RescaleType="HU")]
        ),
    )
    frames = [
        item(PlanePositionSequence=Sequence([item(ImagePositionPatient=list(place))]))
        for place in places
    ]
    gone = ("RescaleSlope", "RescaleIntercept", "ImagePositionPatient", "ImageOrientationPatient",
            "PixelSpacing")  # fmt: skip
    return {
        "SOPClassUID": "1.2.840.10008.5.1.4.1.1.2.1",
        "SharedFunctionalGroupsSequence": Sequence([shared]),
        "PerFrameFunctionalGroupsSequence": Sequence(frames),
        "NumberOfFrames": len(places),
        **dict.fromkeys(gone),
    }


class TestRealSeries:
    @pytest.mark.parametrize(
        "folder",
        [
            "vendors/generic/anatomical/001", "vendors/generic/anatomical/001_implicit",
            "vendors/generic/anatomical/002_non_isotropic", "vendors/generic/compressed/001",
            "vendors/generic/compressed_jpeg/001", "vendors/generic/compressed_jpegls/001",
            "vendors/generic/compressed_rle/001", "vendors/siemens/anatomical/001",
            pytest.param("ct_chest_cap002", marks=pytest.mark.slow),
        ],
    )  # fmt: skip
    def test_whole_series_like_highdicom_and_simpleitk(
        self, ingest: Any, shared_data: Path, folder: str
    ) -> None:
        path = shared_data / "dicom" / folder
        visuals, refused = ingest(path, allow_missing_patient=True)
        assert {item.code for item in refused} <= {"not-dicom"}
        [item] = visuals
        assert_same(ours(item), highdicom([path / name for name in item.inputs]), rtol=1e-6)
        assert_same(ours(item), simpleitk(path), places_mm=2e-2, rtol=1e-6)

    def test_both_passes_of_a_diffusion_series(self, ingest: Any, shared_data: Path) -> None:
        path = shared_data / "dicom/vendors/ge/dti"
        visuals, refused = ingest(path)
        assert not refused
        assert len(visuals) == 2
        for item in visuals:
            assert_same(ours(item), highdicom([path / name for name in item.inputs]), rtol=1e-6)

    @pytest.mark.slow
    def test_brain_at_7_tesla_like_simpleitk(
        self, ingest: Any, shared_data: Path, tmp_path: Path
    ) -> None:
        archive = shared_data / "dicom/mr_t1_7T_pddl.tar.gz"
        shutil.unpack_archive(archive, tmp_path)
        visuals, refused = ingest(archive, allow_missing_patient=True)
        assert {item.code for item in refused} <= {"not-dicom"}
        [item] = visuals
        [folder] = {(tmp_path / name).parent for name in item.inputs}
        assert_same(ours(item), simpleitk(folder), places_mm=2e-2, rtol=1e-6)

    @pytest.mark.slow
    def test_tilted_head_of_two_thicknesses_is_not_shuffled(
        self, ingest: Any, shared_data: Path, tmp_path: Path
    ) -> None:
        """Kept, every slice is where its own header says, with its own pixels."""
        archive = shared_data / "dicom/ct_head_ge.tar.gz"
        shutil.unpack_archive(archive, tmp_path)
        visuals, _ = ingest(archive, tilt="keep")
        assert [len(item.inputs) for item in visuals] == [14, 14]
        for item in visuals:
            found = ours(item)
            for name in item.inputs:
                dataset = dcmread(tmp_path / name)
                place = [*dataset.ImagePositionPatient, 1]
                index = np.rint(np.linalg.solve(found.affine, place)).astype(int)
                assert np.abs(found.affine @ [*index[:3], 1] - place).max() < 0.1
                pixels = dataset.pixel_array * dataset.RescaleSlope + dataset.RescaleIntercept
                inside = dataset.pixel_array != dataset.get("PixelPaddingValue")
                np.testing.assert_array_equal(found.array[index[0]][inside], pixels[inside])

    def test_series_of_the_dicomdir_examples_are_sane(self, ingest: Any, shared_data: Path) -> None:
        """Scouts, single slices and thinned series of real patients: volumes in place, or codes."""
        root = shared_data / "dicom/pydicom/src/pydicom/data/test_files/dicomdirtests"
        visuals, refused = ingest(root)
        for item in visuals:
            if item.kind == "volume":
                files = [root / name for name in item.inputs]
                if len(files) > 1:
                    assert_same(ours(item), highdicom(files))
        codes = {item.code for item in refused if item.code.startswith("series-")}
        assert codes <= {
            "series-too-short", "series-gap", "series-variable-spacing",
            "series-mixed-orientation", "series-duplicate-position", "series-not-a-volume",
        }  # fmt: skip


ANY = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@ANY
@given(
    order=st.permutations(range(6)),
    seed=st.integers(0, 10_000),
    step=st.floats(0.3, 12),
    spacing=st.tuples(st.floats(0.2, 4), st.floats(0.2, 4)),
)
def test_any_order_orientation_and_spacing_gives_the_analytic_truth(
    ingest: Any, tmp_path_factory: Any, write_series: Any, noise: np.ndarray,
    order: list[int], seed: int, step: float, spacing: tuple[float, float],
) -> None:  # fmt: skip
    folder = tmp_path_factory.mktemp("series")
    row, column, normal = Rotation.random(rng=seed).as_matrix()
    affine = np.eye(4)
    affine[:3, :3] = np.stack([normal * step, column * spacing[0], row * spacing[1]], axis=1)
    affine[:3, 3] = START

    def text(values: Any) -> list[str]:
        return [f"{value:.12g}"[:16] for value in values]

    write_series(
        folder, noise[:6], names=[f"IM{k}" for k in order], numbers=list(order),
        positions=[START for _ in range(6)],
        each=[{"ImagePositionPatient": text(START + k * step * normal)} for k in range(6)],
        ImageOrientationPatient=text([*row, *column]), PixelSpacing=text(spacing),
    )  # fmt: skip
    assert_same(ours(ingest(folder).only), Placed(noise[:6] - 1024.0, affine))


@ANY
@given(count=st.integers(4, 9), data=st.data(), step=st.floats(0.05, 15), seed=st.integers(0, 9999))
def test_removing_any_inner_slice_is_always_refused(
    ingest: Any, tmp_path_factory: Any, write_series: Any, noise: np.ndarray,
    count: int, data: Any, step: float, seed: int,
) -> None:  # fmt: skip
    """From four slices on; of three, the two that are left could have been all."""
    folder = tmp_path_factory.mktemp("series")
    normal = Rotation.random(rng=seed).as_matrix()
    places = [[round(float(v), 6) for v in START + k * step * normal[2]] for k in range(count)]
    cosines = [round(float(v), 9) for v in (*normal[0], *normal[1])]
    each = [{"AcquisitionNumber": 1 + k * 2 // count, "EchoTime": 1 + k % 2} for k in range(count)]
    paths = write_series(
        folder, noise[:count], positions=places, each=each, ImageOrientationPatient=cosines
    )
    paths[data.draw(st.integers(1, count - 2))].unlink()
    found = ingest(folder).refusal
    assert found.code in ("series-gap", "series-variable-spacing")
    assert "between slices" in found.reason


def test_the_tolerance_is_as_stated(
    ingest: Any, tmp_path: Path, write_series: Any, noise: np.ndarray
) -> None:
    """A tenth of a millimetre off the fitted grid, never more than an eighth of the spacing."""

    def moved(step: float, by: float) -> Callable[[], Any]:
        places = heights(*(step * k + by * (k == 5) for k in range(10)))
        return lambda: write_series(tmp_path, noise, positions=places)

    for step, by, fits in ((2, 0.1, True), (2, 0.13, False), (0.4, 0.05, True), (0.4, 0.07, False)):
        moved(step, by)()
        assert bool(ingest(tmp_path).visuals) is fits
