"""Mosaics against nibabel's reader, and against the same slices as single files."""

from __future__ import annotations

import gzip
import io
import struct
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nibabel.nicom import csareader, dicomwrappers
from pydicom import dcmread
from pydicom.dataset import Dataset

from data_connectors.dicom.csa import parse_csa

BUNDLED = Path(nibabel.__file__).parent / "nicom" / "tests" / "data"
MR = {
    "SOPClassUID": "1.2.840.10008.5.1.4.1.1.4",
    "Modality": "MR",
    "ImageType": ["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"],
    "RescaleSlope": None,
    "RescaleIntercept": None,
}


def csa(**elements: list[Any]) -> bytes:
    """A CSA2 header, written from its description."""
    data = b"SV10\4\3\2\1" + struct.pack("<2I", len(elements), 77)
    for name, values in elements.items():
        head = (name.encode(), len(values), b"FD", 4, len(values), 77)
        data += struct.pack("<64si4siii", *head)
        for value in values:
            text = str(value).encode() + b"\0"
            data += struct.pack("<4i", len(text), len(text), 77, len(text))
            data += text + b"\0" * (-len(text) % 4)
    return data


def mosaic_of(volume: np.ndarray) -> np.ndarray:
    """Slices as tiles of a square picture, left to right and downwards."""
    tiles = int(np.ceil(np.sqrt(len(volume))))
    _, rows, columns = volume.shape
    picture = np.zeros((tiles * rows, tiles * columns), volume.dtype)
    for k, plane in enumerate(volume):
        top, left = k // tiles * rows, k % tiles * columns
        picture[top : top + rows, left : left + columns] = plane
    return picture


def write(path: Path, write_dicom: Any, volume: np.ndarray, header: bytes, **change: Any) -> None:
    write_dicom(path, mosaic_of(volume), **{**MR, "SpacingBetweenSlices": 3.0, **change})
    dataset = dcmread(path)
    if header:
        block = dataset.private_block(0x29, "SIEMENS CSA HEADER", create=True)
        block.add_new(0x10, "OB", header + b"\0" * (len(header) % 2))
    dataset.save_as(path)


def volume_of(visual: Any) -> np.ndarray:
    return np.load(io.BytesIO(visual.payload.members[0][1]), allow_pickle=False)


@pytest.mark.parametrize("name", ["siemens_dwi_0.dcm.gz", "siemens_dwi_1000.dcm.gz"])
def test_same_voxels_and_places_as_nibabel(ingest: Any, tmp_path: Path, name: str) -> None:
    path = tmp_path / "x.dcm"
    path.write_bytes(gzip.decompress((BUNDLED / name).read_bytes()))
    visual = ingest(path, allow_missing_patient=True).only
    volume = volume_of(visual)
    oracle = dicomwrappers.wrapper_from_data(dcmread(path))
    expected = oracle.get_data()
    assert volume.size == expected.size
    index = np.stack(np.meshgrid(*map(np.arange, expected.shape), indexing="ij"), -1)
    world = index.reshape(-1, 3) @ oracle.affine[:3, :3].T + oracle.affine[:3, 3]
    affine = np.array(visual.geometry.affine).reshape(4, 4)
    ours = (world - affine[:3, 3]) @ np.linalg.inv(affine[:3, :3]).T
    assert np.abs(ours - np.rint(ours)).max() < 1e-3
    d, h, w = np.rint(ours).astype(int).T
    np.testing.assert_array_equal(volume[d, h, w], expected.ravel())


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(
    "orientation",
    [
        (1, 0, 0, 0, 1, 0),
        (0, 1, 0, 0, 0, -1),
        (1, 0, 0, 0, 0, -1),
        (0.8, 0.6, 0, -0.48, 0.64, 0.6),
    ],
)
def test_same_as_its_slices_one_by_one(
    ingest: Any,
    tmp_path: Path,
    write_dicom: Any,
    write_series: Any,
    noise: np.ndarray,
    sign: int,
    orientation: tuple[float, ...],
) -> None:
    row, column = np.array(orientation[:3]), np.array(orientation[3:])
    normal = sign * np.cross(row, column)
    first = np.array([11.0, -7.0, 30.0])
    places = [list(np.round(first + 3.0 * k * normal, 6)) for k in range(10)]
    plain = {**MR, "ImageType": ["ORIGINAL", "PRIMARY"], "PixelSpacing": [0.8, 0.6]}
    write_series(
        tmp_path / "a", noise, positions=places, **plain, ImageOrientationPatient=list(orientation)
    )
    # The header's position is that of a slice of 4 x 4 tiles about the same centre.
    corner = first - 1.5 * 6 * 0.8 * column - 1.5 * 5 * 0.6 * row
    write(
        tmp_path / "b/x", write_dicom, noise,
        csa(NumberOfImagesInMosaic=[10], SliceNormalVector=list(normal)),
        ImageOrientationPatient=list(orientation), ImagePositionPatient=list(np.round(corner, 9)),
        AcquisitionNumber=4, RepetitionTime=2500,
    )  # fmt: skip
    series, mosaic = ingest(tmp_path / "a").only, ingest(tmp_path / "b").only
    np.testing.assert_array_equal(volume_of(mosaic), volume_of(series))
    np.testing.assert_allclose(mosaic.geometry.affine, series.geometry.affine, atol=1e-5)
    assert mosaic.digest == series.digest
    assert mosaic.geometry.start_s == 7.5


def test_every_volume_of_a_series_is_one_item(
    ingest: Any, tmp_path: Path, write_dicom: Any, noise: np.ndarray
) -> None:
    header = csa(NumberOfImagesInMosaic=[9], SliceNormalVector=[0, 0, 1])
    for k in range(3):
        change = {"SOPInstanceUID": f"2.25.{k}", "AcquisitionNumber": k + 1, "RepetitionTime": 2000}
        write(tmp_path / f"{k}", write_dicom, np.roll(noise[:9], k, 0), header, **change)
    visuals = ingest(tmp_path).visuals
    assert sorted(visual.geometry.start_s for visual in visuals) == [0, 2, 4]
    for visual in visuals:
        expected = np.roll(noise[:9], int(visual.geometry.start_s / 2), 0)
        np.testing.assert_array_equal(volume_of(visual), expected)


@pytest.mark.parametrize(
    ("header", "change", "code"),
    [
        ({}, {}, "dicom-mosaic-header"),
        ({"SliceNormalVector": [0, 0, 1]}, {}, "dicom-mosaic-header"),
        ({"NumberOfImagesInMosaic": [9]}, {}, "dicom-mosaic-header"),
        (
            {"NumberOfImagesInMosaic": [9], "SliceNormalVector": [0, 1, 0]},
            {},
            "dicom-mosaic-header",
        ),
        (
            {"NumberOfImagesInMosaic": [-9], "SliceNormalVector": [0, 0, 1]},
            {},
            "dicom-mosaic-header",
        ),
        ({"NumberOfImagesInMosaic": [50], "SliceNormalVector": [0, 0, 1]}, {}, "dicom-mosaic-lay"),
        (
            {"NumberOfImagesInMosaic": [9], "SliceNormalVector": [0, 0, 1]},
            {"SpacingBetweenSlices": 0},
            "dicom-mosaic-header",
        ),
        (
            {"NumberOfImagesInMosaic": [9], "SliceNormalVector": [0, 0, 1]},
            {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.4.1"},
            "dicom-unsupported",
        ),
    ],
)
def test_mosaic_that_does_not_say_how_it_lies_is_refused(
    ingest: Any,
    tmp_path: Path,
    write_dicom: Any,
    noise: np.ndarray,
    header: dict[str, Any],
    change: dict[str, Any],
    code: str,
) -> None:
    write(tmp_path / "x", write_dicom, noise[:9], csa(**header) if header else b"", **change)
    assert ingest(tmp_path).refusal.code.startswith(code)


def test_shrunk_mosaics_of_nibabel_are_refused(ingest: Any) -> None:
    """48 slices do not fit into 256 x 256 as 7 x 7 tiles: these pictures were cut for a test."""
    for name in ("0.dcm", "1.dcm"):
        assert ingest(BUNDLED / name).refusal.code == "dicom-mosaic-layout"


@pytest.mark.parametrize("name", ["csa2_b0.bin", "csa2_b1000.bin"])
def test_private_header_as_nibabel_reads_it(name: str) -> None:
    data = (BUNDLED / name).read_bytes()
    theirs = csareader.read(data)["tags"]
    ours = parse_csa(data)
    assert set(ours) == set(theirs)
    for key, element in theirs.items():
        told = [value for value in element["items"] if value != ""]
        assert len(ours[key]) == len(told)
        for mine, value in zip(ours[key], told, strict=True):
            assert mine == value.strip() if isinstance(value, str) else float(mine) == value


@given(st.binary(max_size=400), st.integers(0, 200), st.integers(1, 60))
def test_hostile_private_headers_end_quietly(noise: bytes, at: int, cut: int) -> None:
    good = csa(NumberOfImagesInMosaic=[9], SliceNormalVector=[0, 0, 1])
    for data in (noise, b"SV10" + noise, good[:at] + noise[:8] + good[at + 8 :], good[:-cut]):
        found = parse_csa(data)
        claimed = sum(len(name) + sum(map(len, values)) for name, values in found.items())
        assert claimed <= len(data)  # nothing is said that the bytes do not hold
    assert set(parse_csa(good)) == {"NumberOfImagesInMosaic", "SliceNormalVector"}


def test_huge_counts_take_no_time() -> None:
    """A million elements of a billion items are claimed by a few bytes."""
    element = struct.pack("<64si4siii", b"x", 1, b"FD", 4, 2**31 - 1, 77)
    item = struct.pack("<4i", 0, -4, 77, 0)
    assert parse_csa(b"SV10\0\0\0\0" + struct.pack("<2I", 2**32 - 1, 77) + element + item) == {}
    assert parse_csa(Dataset().get("x", b"")) == {}
