from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, get_frame
from pydicom.uid import (
    JPEG2000Lossless,
    JPEGExtended12Bit,
    JPEGLSLossless,
    RLELossless,
)

from data_connectors.dicom.decode import check_pixels, stored_frame
from data_connectors.dicom.header import read_dataset
from data_connectors.dicom.values import real_values
from medvlp.errors import InputError

LIMITS = {"max_bytes": 10**9, "max_frames": 1000}
LOSSLESS = ("1.2", "1.2.1", "1.2.1.99", "1.2.2", "1.2.5", "4.57", "4.70", "4.80", "4.90")
LOSSY = {"4.50": 20.0, "4.51": 5.0, "4.53": 5.0, "4.55": 5.0, "4.81": 3.0, "4.91": 1.0}
"""End of the transfer syntax UID -> largest mean difference in HU inside the body."""


def code_of(dataset: Dataset, **limits: int) -> str:
    with pytest.raises(InputError) as caught:
        check_pixels(dataset, **{**LIMITS, **limits})
    return caught.value.code


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless, JPEG2000Lossless])
@pytest.mark.parametrize("dtype", [np.int16, np.uint16, np.uint8])
def test_lossless_syntaxes_give_back_what_was_written(
    tmp_path: Path, write_dicom: Any, syntax: str, dtype: Any
) -> None:
    limits = np.iinfo(dtype)
    pixels = np.random.default_rng(3).integers(limits.min, limits.max, (40, 36)).astype(dtype)
    dataset = read_dataset(write_dicom(tmp_path / "x", pixels, syntax=syntax))
    check_pixels(dataset, **LIMITS)
    np.testing.assert_array_equal(stored_frame(dataset, 0), pixels)


@pytest.fixture(scope="module")
def one_image(shared_data: Path) -> tuple[dict[str, Path], np.ndarray]:
    """One CT image in fifteen transfer syntaxes, and its values by plain numpy."""
    folder = shared_data / "dicom" / "syntaxes_ct" / "testImages"
    paths = {p.name.rsplit("1.2.840.10008.", 1)[1][:-4]: p for p in folder.glob("CTImage.dcm_*")}
    plain = dcmread(paths["1.2.1"])
    stored = np.frombuffer(plain.PixelData, "<i2").reshape(512, 512)
    return {name.removeprefix("1.2.4.") and name: p for name, p in paths.items()}, stored - 1024.0


def test_all_fifteen_syntaxes_are_there(one_image: Any) -> None:
    paths, _ = one_image
    ends = {name.removeprefix("1.2.") if name.startswith("1.2.4.") else name for name in paths}
    assert ends == {*LOSSLESS, *LOSSY}


@pytest.mark.parametrize("syntax", LOSSLESS)
def test_lossless_syntaxes_of_one_image_agree(one_image: Any, syntax: str) -> None:
    paths, expected = one_image
    dataset = read_dataset(paths[syntax if syntax in paths else f"1.2.{syntax}"])
    check_pixels(dataset, **LIMITS)
    values = real_values(stored_frame(dataset, 0), dataset)
    np.testing.assert_array_equal(values, expected)


@pytest.mark.parametrize("syntax", LOSSY)
def test_lossy_syntaxes_of_one_image_agree_within_their_loss(one_image: Any, syntax: str) -> None:
    paths, expected = one_image
    dataset = read_dataset(paths[f"1.2.{syntax}"])
    check_pixels(dataset, **LIMITS)
    values = real_values(stored_frame(dataset, 0), dataset)
    body = expected > -1000
    assert np.abs(values - expected)[body].mean() < LOSSY[syntax]


def test_fragmented_12_bit_jpeg_without_offset_table(shared_data: Path) -> None:
    """The same two frames exist uncompressed, stored 1024 lower."""
    folder = shared_data / "dicom"
    coded = read_dataset(
        folder / "syntaxes_ct/testImages/CT0012.fragmented_no_bot_jpeg_baseline.51.dcm"
    )
    plain = dcmread(folder / "pydicom_data/eCT_Supplemental.dcm").pixel_array
    for index in range(2):
        difference = stored_frame(coded, index).astype(int) - plain[index]
        assert np.abs(difference - 1023).max() <= 16


def test_truncated_12_bit_jpeg_is_refused(shared_data: Path) -> None:
    [path] = (shared_data / "dicom/syntaxes_ct/testImages").glob("*10008.1.2.4.51.dcm")
    dataset = read_dataset(path)
    frame = get_frame(dataset.PixelData, 0, number_of_frames=1)
    dataset.PixelData = encapsulate([frame[: len(frame) // 2]])
    assert dataset.file_meta.TransferSyntaxUID == JPEGExtended12Bit
    with pytest.raises(InputError, match="dicom-not-decodable"):
        stored_frame(dataset, 0)


def test_pixels_that_end_early_are_truncated(tmp_path: Path, write_dicom: Any) -> None:
    path = write_dicom(tmp_path / "x", np.zeros((64, 64), np.int16))
    path.write_bytes(path.read_bytes()[:-100])
    assert code_of(read_dataset(path)) == "dicom-truncated"


@pytest.mark.parametrize(
    ("keyword", "value", "code"),
    [
        ("Rows", 65, "dicom-lying-geometry"),
        ("NumberOfFrames", 2, "dicom-lying-geometry"),
        ("Rows", 65_535, "dicom-lying-geometry"),
        ("NumberOfFrames", 999_999, "dicom-too-large"),
        ("BitsAllocated", 12, "dicom-malformed"),
        ("SamplesPerPixel", 3, "dicom-lying-geometry"),
    ],
)
def test_header_that_claims_more_than_there_is(
    tmp_path: Path, write_dicom: Any, keyword: str, value: int, code: str
) -> None:
    dataset = dcmread(write_dicom(tmp_path / "x", np.zeros((64, 64), np.int16)))
    setattr(dataset, keyword, value)
    assert code_of(dataset) == code


def test_size_is_checked_before_anything_is_allocated(tmp_path: Path, write_dicom: Any) -> None:
    """65535 x 65535 x 1000 frames would be 8.6 TB; the check must return at once."""
    path = write_dicom(tmp_path / "x", np.zeros((8, 8), np.int16), syntax=RLELossless)
    dataset = dcmread(path)
    dataset.Rows = dataset.Columns = 65_535
    dataset.NumberOfFrames = 1000
    assert code_of(dataset) == "dicom-too-large"


def test_encoded_image_of_another_size_than_the_header_is_refused(
    tmp_path: Path, write_dicom: Any
) -> None:
    path = write_dicom(tmp_path / "x", np.zeros((64, 64), np.uint16), syntax=JPEG2000Lossless)
    dataset = dcmread(path)
    dataset.Rows, dataset.Columns = 128, 32
    with pytest.raises(InputError, match=r"dicom-lying-geometry.*64 x 64.*128 x 32"):
        stored_frame(dataset, 0)


def test_missing_pixels_and_unknown_syntaxes_are_named(tmp_path: Path, write_dicom: Any) -> None:
    dataset = dcmread(write_dicom(tmp_path / "x", np.zeros((4, 4), np.int16)))
    dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.100"  # MPEG-2
    with pytest.raises(InputError, match=r"dicom-not-decodable.*MPEG2"):
        check_pixels(dataset, **LIMITS)
    dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
    del dataset.PixelData
    assert code_of(dataset) == "dicom-no-pixels"
