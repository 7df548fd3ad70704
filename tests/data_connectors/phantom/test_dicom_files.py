"""The DICOM files read back with pydicom alone."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pydicom
import pytest

from data_connectors.phantom.anatomy import draw_anatomy
from data_connectors.phantom.dicom_files import write_ct, write_radiograph
from data_connectors.phantom.findings import draw_findings
from data_connectors.phantom.grid import Grid
from data_connectors.phantom.identity import draw_person
from data_connectors.phantom.radiograph import draw_exposure
from data_connectors.phantom.render import render
from data_connectors.phantom.scanner import Codec, Scan, acquire, draw_scan
from data_connectors.phantom.seeds import stream

CODECS: tuple[Codec, ...] = ("implicit", "explicit", "rle", "jpeg_ls", "jpeg_2000")


def series(folder: Path) -> dict[str, list[pydicom.Dataset]]:
    found: dict[str, list[pydicom.Dataset]] = {}
    for path in folder.rglob("*.dcm"):
        ds = pydicom.dcmread(path)
        found.setdefault(ds.SeriesInstanceUID, []).append(ds)
    return found


@pytest.fixture(scope="module")
def truth(hospital: Path) -> list[dict[str, Any]]:
    table = pq.read_table(hospital / "truth.parquet").to_pylist()
    return [row for row in table if row["kind"] == "patient"]


@pytest.fixture(scope="module")
def found(hospital: Path) -> dict[str, list[pydicom.Dataset]]:
    return series(hospital / "dicom")


def test_a_series_sorted_by_position_is_the_planted_chest(
    truth: list[dict[str, Any]], found: dict[str, list[pydicom.Dataset]]
) -> None:
    """Rendered again from the seed, without the scanner: equal within its noise."""
    for row in truth[:3]:
        slices = sorted(found[row["ct_uid"]], key=lambda ds: ds.ImagePositionPatient[2])
        hu = np.stack(
            [ds.pixel_array * float(ds.RescaleSlope) + float(ds.RescaleIntercept) for ds in slices]
        )
        first, second = (np.array(ds.ImagePositionPatient, float) for ds in slices[:2])
        rows, columns = (float(v) for v in slices[0].PixelSpacing)
        grid = Grid(
            hu.shape, (float(second[2] - first[2]), rows, columns),
            (float(first[2]), float(first[1]), float(first[0])),
        )  # fmt: skip
        body = draw_anatomy(stream(5, "patient", row["index"], "anatomy"))
        findings = draw_findings(stream(5, "patient", row["index"], "findings"), body)
        # In front of the table: behind it the scanner adds what is no patient.
        front = hu.shape[1] // 2
        error = (hu - render(body, findings, grid).hu)[:, :front]
        plain = np.abs(render(body, findings, grid).hu[:, :front] + 500) < 480  # not clipped
        assert abs(float(error[plain].mean())) < 1.0
        assert float(error[plain].std()) == pytest.approx(row["ct_noise_hu"], rel=0.1)


def test_geometry_is_axial_regular_and_scrambled(
    truth: list[dict[str, Any]], found: dict[str, list[pydicom.Dataset]]
) -> None:
    orders = []
    for row in truth:
        slices = found[row["ct_uid"]]
        assert [len(slices), slices[0].Rows, slices[0].Columns] == row["ct_shape"]
        assert all(ds.ImageOrientationPatient == [1, 0, 0, 0, 1, 0] for ds in slices)
        by_place = sorted(slices, key=lambda ds: ds.ImagePositionPatient[2])
        gaps = np.diff([float(ds.ImagePositionPatient[2]) for ds in by_place])
        np.testing.assert_allclose(gaps, row["ct_spacing_mm"][0], atol=1e-3)
        numbers = [int(ds.InstanceNumber) for ds in by_place]
        assert sorted(numbers) == list(range(1, len(slices) + 1))
        orders.append(numbers)
        names = sorted(slices, key=lambda ds: str(ds.filename))
        orders.append([int(ds.InstanceNumber) for ds in names])
    assert all(order not in (sorted(order), sorted(order)[::-1]) for order in orders)


def test_patients_differ_in_slope_or_polarity_and_codec(truth: list[dict[str, Any]]) -> None:
    assert len({row["ct_codec"] for row in truth} | {row["dx_codec"] for row in truth}) >= 2
    drawn = [stream(5, "patient", i, "acquisition").uniform() for i in range(4)]
    assert len(set(drawn)) == 4


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize(("slope", "intercept", "signed"), [(1, -1024, False), (2, -1000, True)])
def test_every_codec_gives_the_stored_values_back(
    codec: Codec, slope: float, intercept: float, signed: bool, tmp_path: Path
) -> None:
    grid = Grid((3, 32, 40), (11.0, 3.0, 3.0), (-10.0, -46.5, -58.5))
    scan = Scan(grid, 20.0, 300.0, slope, intercept, signed, codec)
    hu = np.linspace(-1100, 3200, 3 * 32 * 40, dtype=np.float32).reshape(grid.shape)
    stored = acquire(hu, scan, np.random.default_rng(0))
    person = draw_person(np.random.default_rng(0), "patient", 0)
    names = iter(tmp_path / f"{i}.dcm" for i in range(3))
    write_ct(person, scan, stored, np.array([2, 3, 1]), lambda: next(names))
    for d in range(3):
        ds = pydicom.dcmread(tmp_path / f"{d}.dcm")
        np.testing.assert_array_equal(ds.pixel_array, stored[d])
        assert ds.InstanceNumber == [2, 3, 1][d]
        assert ds.ImagePositionPatient == [-58.5, -46.5, -10 + 11 * d]
        values = ds.pixel_array * float(ds.RescaleSlope) + float(ds.RescaleIntercept)
        assert values.min() >= -1026
        assert values.max() <= 3073


def test_monochrome1_is_the_negative_of_monochrome2(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    exposure = draw_exposure(rng, 150.0)
    image = rng.integers(0, 4096, (40, 40), dtype=np.uint16)
    person = draw_person(rng, "patient", 1)
    read = []
    for inverse in (False, True):
        path = tmp_path / f"{inverse}.dcm"
        write_radiograph(person, exposure, image, inverse, "explicit", path)
        read.append(pydicom.dcmread(path))
    assert [ds.PhotometricInterpretation for ds in read] == ["MONOCHROME2", "MONOCHROME1"]
    np.testing.assert_array_equal(read[0].pixel_array, image)
    np.testing.assert_array_equal(read[0].pixel_array + read[1].pixel_array, 4095)
    assert read[0].PatientOrientation == ["L", "F"]


def test_about_a_third_of_the_radiographs_are_monochrome1() -> None:
    inverse = 0
    for index in range(120):
        acquisition = stream(1, "patient", index, "acquisition")
        body = draw_anatomy(stream(1, "patient", index, "anatomy"))
        scan = draw_scan(acquisition, body)
        acquisition.permutation(scan.grid.shape[0])
        draw_exposure(acquisition, body.half_width)
        inverse += bool(acquisition.uniform() < 1 / 3)
    assert 0.2 < inverse / 120 < 0.47


def test_files_of_one_patient_share_the_study_and_the_accession(
    truth: list[dict[str, Any]], found: dict[str, list[pydicom.Dataset]]
) -> None:
    everything = [ds for group in found.values() for ds in group]
    for row in truth:
        own = [ds for ds in everything if ds.PatientID == row["patient_id"]]
        assert {ds.Modality for ds in own} == {"CT", "DX"}
        assert {ds.AccessionNumber for ds in own} == {row["accession"]}
        assert {ds.StudyInstanceUID for ds in own} == {row["study_uid"]}
        assert len({ds.SOPInstanceUID for ds in own}) == len(own)
        assert all(len(ds.SOPInstanceUID) <= 64 for ds in own)


def test_an_independent_validator_finds_no_error(
    truth: list[dict[str, Any]], found: dict[str, list[pydicom.Dataset]]
) -> None:
    if shutil.which("dciodvfy") is None:
        pytest.skip("dciodvfy (Debian package dicom3tools) is not installed")
    for row in truth:
        group = [ds for some in found.values() for ds in some if ds.PatientID == row["patient_id"]]
        for modality in ("CT", "DX"):
            ds = next(ds for ds in group if ds.Modality == modality)
            run = subprocess.run(["dciodvfy", str(ds.filename)], capture_output=True, check=False)
            lines = (run.stdout + run.stderr).decode("utf-8", "replace").splitlines()
            assert not [line for line in lines if line.startswith("Error")]
