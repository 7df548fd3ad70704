from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from data_connectors.dicom.image import store_grey
from data_connectors.dicom.volume import Stored

DX = {
    "SOPClassUID": "1.2.840.10008.5.1.4.1.1.1.1",
    "Modality": "DX",
    "RescaleIntercept": 0,
    "ImagePositionPatient": None,
    "ImageOrientationPatient": None,
    "PixelSpacing": None,
    "BitsStored": 12,
    "HighBit": 11,
}


def pixels_of(stored: Any) -> np.ndarray:
    [(_, data)] = stored.payload.members
    return np.asarray(Image.open(io.BytesIO(data)))


@pytest.fixture
def ramp() -> np.ndarray:
    return np.arange(0, 4096, 64, dtype=np.uint16).reshape(8, 8)


def test_radiograph_keeps_its_12_bits(
    ingest: Any, tmp_path: Path, write_dicom: Any, ramp: np.ndarray
) -> None:
    write_dicom(tmp_path / "x", ramp, ImagerPixelSpacing=[0.2, 0.3], **DX)
    item = ingest(tmp_path).only
    np.testing.assert_array_equal(pixels_of(item), ramp)
    assert (item.kind, item.modality, item.geometry.unit) == ("image", "DX", "raw")
    assert item.geometry.spacing_mm == (0.2, 0.3)


def test_monochrome1_is_inverted_once_and_its_window_with_it(
    ingest: Any, tmp_path: Path, write_dicom: Any, ramp: np.ndarray
) -> None:
    """The same exposure stored both ways must give the same pixels, window and digest."""
    write_dicom(tmp_path / "a/x", ramp, WindowCenter=1000, WindowWidth=600, **DX)
    write_dicom(
        tmp_path / "b/x",
        4095 - ramp,
        PhotometricInterpretation="MONOCHROME1",
        WindowCenter=3095,
        WindowWidth=600,
        **DX,
    )
    plain, inverse = ingest(tmp_path / "a").only, ingest(tmp_path / "b").only
    np.testing.assert_array_equal(pixels_of(plain), pixels_of(inverse))
    assert inverse.geometry.window == plain.geometry.window == (1000, 600)
    assert inverse.digest == plain.digest


def test_signed_monochrome1_is_inverted_over_its_signed_range(
    ingest: Any, tmp_path: Path, write_dicom: Any
) -> None:
    stored = np.array([[-2048, 0], [100, 2047]], np.int16)
    write_dicom(tmp_path / "x", stored, PhotometricInterpretation="MONOCHROME1", **DX)
    assert pixels_of(ingest(tmp_path).only).tolist() == [[4095, 2047], [1947, 0]]


def test_padding_is_black_even_when_inverted(
    ingest: Any, tmp_path: Path, write_dicom: Any, ramp: np.ndarray
) -> None:
    stored = ramp + 50
    stored[0] = 0
    change = {"PhotometricInterpretation": "MONOCHROME1", "PixelPaddingValue": 0, **DX}
    write_dicom(tmp_path / "x", stored, **change)
    shown = pixels_of(ingest(tmp_path).only)
    assert (shown[0] == shown.min()).all()
    np.testing.assert_array_equal(shown[1:], 4095 - stored[1:])


def test_eight_bit_image_stays_eight_bit(ingest: Any, tmp_path: Path, write_dicom: Any) -> None:
    stored = np.arange(64, dtype=np.uint8).reshape(8, 8)
    write_dicom(tmp_path / "x", stored, **{**DX, "BitsStored": 8, "HighBit": 7})
    assert pixels_of(ingest(tmp_path).only).dtype == np.uint8


def test_colour_secondary_capture_is_rgb(ingest: Any, tmp_path: Path, write_dicom: Any) -> None:
    rgb = np.random.default_rng(0).integers(0, 255, (5, 4, 3)).astype(np.uint8)
    change = {
        "SOPClassUID": "1.2.840.10008.5.1.4.1.1.7",
        "Modality": "OT",
        "SamplesPerPixel": 3,
        "PhotometricInterpretation": "RGB",
        "PlanarConfiguration": 0,
    }
    write_dicom(tmp_path / "x", rgb, **change)
    item = ingest(tmp_path).only
    np.testing.assert_array_equal(pixels_of(item), rgb)
    assert item.geometry.unit == "rgb"


@settings(deadline=None)
@given(
    values=arrays(np.float32, (4, 4), elements=st.floats(-5000, 70_000, width=32)),
    whole=st.booleans(),
)
def test_window_shows_the_same_picture_before_and_after_storing(
    values: np.ndarray, whole: bool
) -> None:
    values = np.rint(values) if whole else values
    window = (500.0, 2000.0)
    stored: Stored = store_grey(values, window, None)
    moved = stored.geometry.window
    assert moved is not None

    def shown(array: np.ndarray, window: tuple[float, float]) -> np.ndarray:
        return np.clip((array.astype(np.float64) - window[0]) / window[1] + 0.5, 0, 1)

    before, after = shown(values, window), shown(pixels_of(stored), moved)
    quantum = max(1.0, float(np.ptp(values)) / 65535) / window[1]
    assert (
        np.abs(before - after).max()
        <= quantum * (0 if whole and np.ptp(values) < 65535 else 1) + 1e-9
    )


def test_whole_numbers_that_fit_are_stored_as_they_are() -> None:
    values = np.array([[3, 40_000]], np.float32)
    np.testing.assert_array_equal(pixels_of(store_grey(values, None, None)), [[3, 40_000]])
