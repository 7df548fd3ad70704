"""Whole sources: real files of many vendors, and files that mean harm."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from data_connectors.dicom.reader import find
from data_connectors.dicom.source import DicomSource
from data_connectors.source import Unit
from medvlp.errors import InputError


def volume_of(visual: Any) -> np.ndarray:
    return np.load(io.BytesIO(visual.payload.members[0][1]), allow_pickle=False)


def test_chest_ct_of_forty_jpeg_lossless_slices(ingest: Any, shared_data: Path) -> None:
    folder = shared_data / "dicom/ct_chest_cap002"
    visuals, refused = ingest(folder)
    assert [item.code for item in refused] == ["not-dicom"]
    [visual] = visuals
    volume = volume_of(visual)
    assert volume.shape == (40, 512, 512)
    assert volume.dtype == np.int16
    assert visual.geometry.unit == "HU"
    assert visual.geometry.spacing_mm == pytest.approx((2.0, 0.630859375, 0.630859375))
    assert visual.geometry.window == (50, 350)
    # Air and fat have known attenuation: the histogram must peak there.
    counts, edges = np.histogram(volume, bins=np.arange(-1100, 300, 10))
    air = edges[np.argmax(np.where(edges[:-1] < -700, counts, 0))]
    fat = edges[np.argmax(np.where((edges[:-1] > -200) & (edges[:-1] < -20), counts, 0))]
    assert -1030 <= air <= -950
    assert -130 <= fat <= -70
    # The slice that the header puts lowest comes first.
    lowest = min(folder.glob("*.dcm"), key=lambda p: float(dcmread(p).ImagePositionPatient[2]))
    np.testing.assert_array_equal(volume[0], dcmread(lowest).pixel_array.astype(int) - 1024)


def test_mr_from_an_archive_is_one_volume(ingest: Any, shared_data: Path) -> None:
    visuals, refused = ingest(shared_data / "dicom/mr_t1_7T_pddl.tar.gz")
    assert [item.code for item in refused] == ["not-dicom"]
    [visual] = visuals
    assert volume_of(visual).shape == (128, 384, 274)
    assert len(visual.inputs) == 128
    assert visual.geometry.spacing_mm == pytest.approx((0.6667, 0.6667, 0.7), abs=1e-4)


def test_head_ct_with_two_spacings_and_tilt_is_explained(ingest: Any, shared_data: Path) -> None:
    """Two stacks of one series, 4 and 7 mm thick, both tilted."""
    archive = shared_data / "dicom/ct_head_ge.tar.gz"
    visuals, refused = ingest(archive)
    assert not visuals
    found = [item for item in refused if item.code != "not-dicom"]
    assert [(item.code, len(item.inputs)) for item in found] == [("series-tilt", 14)] * 2
    assert "SliceThickness 1 of 2" in found[0].reason
    assert "18.5 degrees" in found[0].reason
    kept = ingest(archive, tilt="keep").visuals
    assert [item.geometry.part for item in kept] == [
        "SliceThickness 1 of 2",
        "SliceThickness 2 of 2",
    ]
    assert [round(item.geometry.spacing_mm[0], 2) for item in kept] == [4.22, 7.38]
    [whole] = ingest(archive, tilt="keep", irregular="keep").visuals
    assert whole.geometry.shape == (28, 512, 512)


@pytest.mark.parametrize(
    ("folder", "code"),
    [
        ("sliceincrement", "series-gap"),
        ("sliceorientation", "series-mixed-orientation"),
        ("gantrytilting", "series-tilt"),
        ("notavolume", "series-not-a-volume"),
    ],
)
def test_series_that_must_fail_are_refused_with_the_reason(
    ingest: Any, shared_data: Path, folder: str, code: str
) -> None:
    found = ingest(shared_data / "dicom/vendors/failing" / folder).refusal
    assert found.code == code
    assert len(found.inputs) == 4


def test_vendors_agree_over_syntaxes(ingest: Any, shared_data: Path) -> None:
    """The same four slices were coded four times; each coding alone gives the same volume."""
    generic = shared_data / "dicom/vendors/generic"
    codings = ("compressed", "compressed_jpeg", "compressed_jpegls", "compressed_rle")
    assert len({ingest(generic / coding).only.digest for coding in codings}) == 1


def test_two_b_values_become_two_volumes(ingest: Any, shared_data: Path) -> None:
    visuals, refused = ingest(shared_data / "dicom/vendors/ge/dti")
    assert not refused
    assert [volume_of(visual).shape for visual in visuals] == [(4, 128, 128)] * 2
    # The two passes over the same positions were taken with different gradients.
    names = [{name.split("-")[2][:3] for name in visual.inputs} for visual in visuals]
    assert names == [{"000"}, {"007"}]


def test_patient_without_id_is_refused_and_the_rest_goes_on(
    ingest: Any, tmp_path: Path, write_dicom: Any
) -> None:
    pixels = np.zeros((4, 4), np.int16)
    write_dicom(tmp_path / "a", pixels, PatientID="", SeriesInstanceUID="2.25.5")
    write_dicom(tmp_path / "b", pixels)
    (tmp_path / "c.dcm").write_text("this is no DICOM file")
    (tmp_path / "d.dcm").touch()
    result = ingest(tmp_path)
    assert len(result.visuals) == 1
    assert result.codes == {"patient-id-missing": 1, "not-dicom": 1, "file-empty": 1}


def test_units_are_stable_and_order_does_not_depend_on_the_file_system(
    tmp_path: Path, write_series: Any, noise: np.ndarray
) -> None:
    write_series(tmp_path, noise)
    source = DicomSource(name="x", path=tmp_path)
    first, second = ([unit for unit in find(source)] for _ in range(2))
    assert first == second
    assert isinstance(first[0], Unit)
    assert "P-0815" not in first[0].id + first[0].hint


def test_archive_members_with_unsafe_names_are_refused_and_touch_nothing(
    ingest: Any, tmp_path: Path, write_dicom: Any
) -> None:
    data = write_dicom(tmp_path / "x", np.zeros((4, 4), np.int16)).read_bytes()
    archive = tmp_path / "in.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        for name in ("good.dcm", "../escape.dcm", "/absolute.dcm"):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        link = tarfile.TarInfo("link.dcm")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    result = ingest(archive)
    assert len(result.visuals) == 1
    assert result.codes == {"archive-unsafe-name": 2, "archive-not-a-file": 1}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.tar.gz", "x"]


def test_broken_archive_is_refused_and_what_came_before_is_read(
    ingest: Any, tmp_path: Path, write_dicom: Any
) -> None:
    """The member that was read is gone again when the unit is read: refused, not raised."""
    rng = np.random.default_rng(0)
    archive = tmp_path / "in.tar"
    with tarfile.open(archive, "w") as tar:
        for k in range(3):
            pixels = rng.integers(0, 99, (64, 64)).astype(np.int16)
            series = f"2.25.5{k}"
            tar.add(write_dicom(tmp_path / f"{k}", pixels, SeriesInstanceUID=series), f"{k}.dcm")
    archive.write_bytes(archive.read_bytes()[:25_000])
    result = ingest(archive)
    assert len(result.visuals) == 2
    assert "archive-broken" in result.codes


def test_deeply_nested_sequences_are_refused(ingest: Any, tmp_path: Path, write_dicom: Any) -> None:
    path = write_dicom(tmp_path / "x", np.zeros((4, 4), np.int16))
    data = path.read_bytes()
    opening = b"\x08\x00\x40\x11SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"
    at = data.index(b"\x08\x00\x60\x00CS")
    path.write_bytes(data[:at] + opening * 20_000 + data[at:])
    assert ingest(tmp_path).refusal.code in ("dicom-malformed", "dicom-truncated")


@pytest.mark.parametrize("seed", range(4))
def test_damaged_files_never_raise(
    ingest: Any, tmp_path: Path, write_series: Any, noise: np.ndarray, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    for path in write_series(tmp_path, noise):
        data = bytearray(path.read_bytes())
        for at in rng.integers(0, len(data), 12):
            data[at] = rng.integers(0, 256)
        path.write_bytes(bytes(data[: rng.integers(len(data) // 2, len(data) + 1)]))
    visuals, refused = ingest(tmp_path)
    assert sum(len(item.inputs) for item in (*visuals, *refused)) == len(noise)


def test_objects_without_pixels_are_refused_by_name(
    ingest: Any, tmp_path: Path, write_dicom: Any
) -> None:
    pixels = np.zeros((4, 4), np.int16)
    write_dicom(tmp_path / "b/x", pixels, Modality="SR")
    assert ingest(tmp_path / "b").refusal.code == "dicom-no-image"


def test_sequence_in_the_header_does_not_hide_the_image(
    ingest: Any, tmp_path: Path, write_dicom: Any
) -> None:
    inner = Dataset()
    inner.PatientID = "other"
    request = Sequence([inner])
    write_dicom(tmp_path / "x", np.zeros((4, 4), np.int16), RequestAttributesSequence=request)
    assert ingest(tmp_path).only.identity.patient == "P-0815"


def test_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="source-missing"):
        list(find(DicomSource(name="x", path=tmp_path / "nowhere")))
