"""What stored values mean, against float64 arithmetic by hand and against pydicom."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.pixels.processing import apply_voi, apply_windowing
from pydicom.sequence import Sequence

from data_connectors.dicom.header import read_dataset
from data_connectors.dicom.values import meaning_of, narrow, padding_mask, rescale
from data_connectors.dicom.voi import show, voi_table_of, window_of


def item(**values: Any) -> Dataset:
    dataset = Dataset()
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    return dataset


def grey(**values: Any) -> Dataset:
    """A 12-bit unsigned grey header."""
    known = {
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": 16,
        "BitsStored": 12,
        "PixelRepresentation": 0,
    }
    return item(**{**known, **values})


def table(entries: list[int], first: int = 0, bits: int = 16) -> Sequence:
    lut = Dataset()
    lut.add_new("LUTDescriptor", "US" if first >= 0 else "SS", [len(entries), first, bits])
    lut.add_new("LUTData", "US", entries)
    return Sequence([lut])


def volume_of(visual: Any) -> np.ndarray:
    return np.load(io.BytesIO(visual.payload.members[0][1]), allow_pickle=False)


def pixels_of(visual: Any) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(visual.payload.members[0][1])))


@settings(deadline=None)
@given(
    stored=arrays(np.int16, (3, 4)),
    slope=st.sampled_from([1.0, 2.0, -1.0, 0.5, 0.00103, 1e5]),
    intercept=st.sampled_from([0.0, -1024.0, 33.9, 1e6]),
)
def test_rescale_is_exact_in_int16_or_float32(
    stored: np.ndarray, slope: float, intercept: float
) -> None:
    expected = stored.astype(np.float64) * slope + intercept
    values = rescale(stored, slope, intercept)
    if values.dtype == np.int16:
        np.testing.assert_array_equal(values, expected)
    else:
        np.testing.assert_array_equal(values, expected.astype(np.float32))
        fits = expected.min() >= -32768 and expected.max() <= 32767
        assert not (fits and float(slope).is_integer() and float(intercept).is_integer())


def test_rescale_widens_unsigned_values_that_do_not_fit() -> None:
    stored = np.array([[0, 40_000, 65_535]], np.uint16)
    assert rescale(stored, 1, 0).tolist() == [[0.0, 40_000.0, 65_535.0]]
    assert rescale(stored, 1, -32_768).dtype == np.int16


@pytest.mark.parametrize(
    ("value", "limit", "expected"),
    [(-2000, None, 1), (63536, None, 1), (-2000, -1999, 2), (7, None, 0)],
)
def test_padding_is_found_whatever_the_sign_of_its_header(
    value: int, limit: int | None, expected: int
) -> None:
    dataset = Dataset()
    dataset.add_new("PixelPaddingValue", "SS" if value < 0 else "US", value)
    if limit is not None:
        dataset.add_new("PixelPaddingRangeLimit", "SS", limit)
    mask = padding_mask(np.array([[-2000, -1999, 0]], np.int16), dataset)
    assert (0 if mask is None else int(mask.sum())) == expected


@pytest.mark.parametrize("header", [{}, {"RescaleSlope": 0}, {"RescaleSlope": ""}])
def test_slope_that_is_missing_or_zero_is_one(header: dict[str, Any]) -> None:
    stored = np.array([[0, 7]], np.uint16)
    values = meaning_of(grey(RescaleIntercept=-5, **header)).apply(stored)
    assert values.tolist() == [[-5, 2]]


@pytest.mark.parametrize("dtype", [np.uint32, np.int32])
def test_32_bit_integers_are_never_rounded(dtype: Any) -> None:
    limits = np.iinfo(dtype)
    stored = np.array([[limits.min, 16_777_217, limits.max]], dtype)
    header = grey(BitsAllocated=32, BitsStored=32, RescaleSlope=1, RescaleIntercept=-1)
    values = meaning_of(header).apply(stored)
    assert values.tolist() == [[int(limits.min) - 1, 16_777_216, int(limits.max) - 1]]


def test_32_bit_integers_of_a_small_range_are_int16() -> None:
    assert rescale(np.array([[3_000_000_000]], np.uint32), 1, -3_000_000_000).dtype == np.int16


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_float_pixel_data_is_kept_to_the_last_bit(
    ingest: Any, tmp_path: Path, write_series: Any, dtype: Any
) -> None:
    """Float pixel data has an element of its own; CT is the class at hand that stacks."""
    volume = np.random.default_rng(1).normal(size=(3, 6, 5)).astype(dtype) * 1e-3
    volume[1, 2, 3] = np.nan
    for path, plane in zip(
        write_series(tmp_path, np.zeros((3, 6, 5), np.int32)), volume, strict=True
    ):
        dataset = read_dataset(path)
        keyword = "FloatPixelData" if dtype == np.float32 else "DoubleFloatPixelData"
        dataset.BitsAllocated = dtype().itemsize * 8
        for gone in ("BitsStored", "HighBit", "PixelRepresentation", "PixelData"):
            del dataset[gone]
        dataset.RescaleIntercept, dataset.Modality = 0, "OT"
        setattr(dataset, keyword, plane.tobytes())
        dataset.save_as(path)
    found = volume_of(ingest(tmp_path).only)
    volume[1, 2, 3] = np.nanmin(volume[1])
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, volume)


def test_single_bit_images_are_read(ingest: Any, tmp_path: Path, write_dicom: Any) -> None:
    bits = np.random.default_rng(0).integers(0, 2, (9, 8)).astype(np.uint8)
    path = write_dicom(tmp_path / "x", bits, SOPClassUID="1.2.840.10008.5.1.4.1.1.7", Modality="OT")
    dataset = read_dataset(path)
    dataset.BitsAllocated = dataset.BitsStored = 1
    dataset.HighBit, dataset.RescaleIntercept = 0, 0
    dataset.PixelData = np.packbits(bits.ravel(), bitorder="little").tobytes() + b"\0"
    dataset.save_as(path)
    np.testing.assert_array_equal(pixels_of(ingest(tmp_path).only), bits)


@pytest.mark.parametrize("signed", [False, True])
def test_bits_above_the_stored_ones_are_ignored(
    ingest: Any, tmp_path: Path, write_series: Any, signed: bool
) -> None:
    """Old files keep an overlay in bits 12 to 15; a signed value ends with its sign at bit 11."""
    low = -2048 if signed else 0
    volume = np.random.default_rng(2).integers(low, low + 4096, (3, 6, 5))
    dirty = (volume & 0xFFF) | (np.random.default_rng(3).integers(0, 16, volume.shape) << 12)
    write_series(
        tmp_path, dirty.astype(np.uint16), BitsStored=12, HighBit=11, RescaleIntercept=-7,
        PixelRepresentation=int(signed),
    )  # fmt: skip
    np.testing.assert_array_equal(volume_of(ingest(tmp_path).only), volume - 7)


@settings(deadline=None, max_examples=30)
@given(
    stored=arrays(np.int16, (3, 4), elements=st.integers(-100, 200)),
    entries=st.lists(st.integers(0, 65535), min_size=2, max_size=80),
    first=st.integers(-50, 50),
)
def test_modality_table_like_a_loop(stored: np.ndarray, entries: list[int], first: int) -> None:
    header = grey(PixelRepresentation=1, ModalityLUTSequence=table(entries, first))
    values = meaning_of(header).apply(stored)
    expected = [entries[min(max(int(x) - first, 0), len(entries) - 1)] for x in stored.ravel()]
    assert values.ravel().tolist() == expected


@settings(deadline=None, max_examples=50)
@given(
    stored=arrays(np.uint16, (3, 4), elements=st.integers(0, 4095)),
    slope=st.sampled_from([1.0, -1.0, 0.5, 3.0]),
    shape=st.sampled_from(["", "INVERSE", "IDENTITY"]),
)
def test_monochrome1_turns_over_the_range_of_the_stored_bits(
    stored: np.ndarray, slope: float, shape: str
) -> None:
    """slope x (4095 - x) + intercept: the same film as MONOCHROME2 has 4095 - x."""
    header = grey(
        PhotometricInterpretation="MONOCHROME1", RescaleSlope=slope, RescaleIntercept=10,
        WindowCenter=300, WindowWidth=100, PresentationLUTShape=shape,
    )  # fmt: skip
    meaning = meaning_of(header)
    np.testing.assert_array_equal(meaning.apply(stored), slope * (4095.0 - stored) + 10)
    # A window about the value of stored s lies, turned over, about the value of 4095 - s.
    about = (300 - 10) / slope
    assert meaning.window == pytest.approx((slope * (4095 - about) + 10, 100))


def test_inverse_presentation_says_the_same_as_monochrome1() -> None:
    stored = np.array([[0, 4095]], np.uint16)
    both = grey(PhotometricInterpretation="MONOCHROME1", PresentationLUTShape="INVERSE")
    for header in (both, grey(PresentationLUTShape="INVERSE")):
        assert meaning_of(header).apply(stored).tolist() == [[4095, 0]]


def test_hounsfield_units_are_what_they_are_however_they_are_shown() -> None:
    header = grey(
        PhotometricInterpretation="MONOCHROME1", Modality="CT", RescaleSlope=1,
        RescaleIntercept=-1024, WindowCenter=40, WindowWidth=400,
    )  # fmt: skip
    meaning = meaning_of(header)
    assert (meaning.unit, meaning.window) == ("HU", (40, 400))
    assert meaning.apply(np.array([[0, 1024]], np.uint16)).tolist() == [[-1024, 0]]


def test_monochrome1_series_is_turned_over(
    ingest: Any, tmp_path: Path, write_series: Any, noise: np.ndarray
) -> None:
    change = {
        "SOPClassUID": "1.2.840.10008.5.1.4.1.1.4", "Modality": "MR", "RescaleIntercept": 0,
        "PhotometricInterpretation": "MONOCHROME1", "BitsStored": 12, "HighBit": 11,
        "PixelRepresentation": 0, "WindowCenter": 1000, "WindowWidth": 300,
    }  # fmt: skip
    write_series(tmp_path, noise, **change)
    visual = ingest(tmp_path).only
    np.testing.assert_array_equal(volume_of(visual), 4095 - noise)
    assert visual.geometry.window == (3095, 300)


@pytest.mark.parametrize("kind", ["Float", "DoubleFloat"])
def test_padding_of_float_pixel_data(kind: str) -> None:
    header = item(**{f"{kind}PixelPaddingValue": -1.5, f"{kind}PixelPaddingRangeLimit": -1.0})
    header.add_new(f"{kind}PixelData", "OF" if kind == "Float" else "OD", b"")
    stored = np.array([[-1.5, -1.25, 0.5, 2]], np.float32)
    assert meaning_of(header).apply(stored).tolist() == [[0.5, 0.5, 0.5, 2]]


@pytest.mark.parametrize("function", [None, "LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize(("centre", "width"), [(100, 50), (128, 256), (0, 1), (40.5, 7)])
def test_every_window_function_shows_what_pydicom_shows(
    function: str | None, centre: float, width: float
) -> None:
    values = np.arange(-300, 300, dtype=np.int16)[None]
    header = grey(
        BitsStored=16, PixelRepresentation=1, WindowCenter=[centre, 9], WindowWidth=[width, 3]
    )
    if function:
        header.VOILUTFunction = function
    ours = show(values, header, (-32768, 32767)).astype(float)
    theirs = (apply_windowing(values, header).astype(float) + 32768) / 65535 * 255
    assert np.abs(ours - theirs).max() <= 0.51
    assert window_of(header) == (centre, width)


def test_window_without_width_is_none() -> None:
    assert window_of(grey(WindowCenter=40, WindowWidth=0)) is None
    assert window_of(grey(WindowCenter=40, WindowWidth=0.5)) is None
    assert window_of(grey(WindowCenter=4, WindowWidth=0.5, VOILUTFunction="LINEAR_EXACT"))


@settings(deadline=None, max_examples=30)
@given(
    entries=st.lists(st.integers(0, 1023), min_size=2, max_size=60),
    first=st.integers(0, 40),
    words=st.booleans(),
)
def test_voi_table_shows_what_pydicom_shows(entries: list[int], first: int, words: bool) -> None:
    values = np.arange(0, 120, dtype=np.int16)[None]
    header = grey(VOILUTSequence=table(entries, first, 10))
    if words:
        data = np.array(entries, "<u2").tobytes()
        header.VOILUTSequence[0].add_new("LUTData", "OW", data)
        header.file_meta = item(TransferSyntaxUID="1.2.840.10008.1.2.1")
    found = voi_table_of(header)
    assert found is not None
    plain = grey(VOILUTSequence=table(entries, first, 10))
    np.testing.assert_array_equal(found.apply(values), apply_voi(values, plain))
    ours = show(values, header, (0, 4095)).astype(float)
    assert np.abs(ours - apply_voi(values, plain) / 1023 * 255).max() <= 0.51


def test_window_of_a_rising_table_is_where_it_rises() -> None:
    header = grey(VOILUTSequence=table([0, 0, 0, 5, 10, 15, 15, 15], first=100))
    assert window_of(header) == (103.5, 3)  # from 102 (the last at 0) to 105 (the first at 15)
    assert window_of(grey(VOILUTSequence=table([5, 0, 9]))) is None


@pytest.mark.parametrize("photometric", ["MONOCHROME2", "MONOCHROME1"])
@pytest.mark.parametrize("window", [False, True])
def test_radiograph_with_a_voi_table_is_stored_as_it_is_read(
    ingest: Any, tmp_path: Path, write_dicom: Any, photometric: str, window: bool
) -> None:
    """The table is the picture, unless the header names a window too: then values are kept."""
    stored = np.arange(0, 4096, 64, dtype=np.uint16).reshape(8, 8)
    curve = [int(1023 / (1 + math.exp(-(x - 2000) / 300))) for x in range(4096)]
    change = {
        "SOPClassUID": "1.2.840.10008.5.1.4.1.1.1.1", "Modality": "DX", "RescaleIntercept": 0,
        "BitsStored": 12, "HighBit": 11, "VOILUTSequence": table(curve, 0, 10),
        "PhotometricInterpretation": photometric,
    }  # fmt: skip
    if window:
        change |= {"WindowCenter": 2000, "WindowWidth": 900}
    write_dicom(tmp_path / "x", stored, **change)
    visual = ingest(tmp_path).only
    expected = stored.astype(int) if window else np.array(curve)[stored]
    top = 4095 if window else 1023
    turned = photometric == "MONOCHROME1"
    np.testing.assert_array_equal(pixels_of(visual), top - expected if turned else expected)
    centre = (4095 - 2000 if turned else 2000) if window else 512
    assert visual.geometry.window == (centre, 900 if window else 1024)


@given(arrays(np.float64, 5, elements=st.floats(-1e9, 1e9)))
def test_narrow_changes_nothing_that_is_whole(values: np.ndarray) -> None:
    np.testing.assert_array_equal(narrow(np.rint(values)), np.rint(values))
    np.testing.assert_allclose(narrow(values), values, rtol=1e-7, atol=1e-30)


@pytest.mark.parametrize("slope", [0.684, -0.684])
@pytest.mark.parametrize("photometric", ["MONOCHROME2", "MONOCHROME1"])
def test_image_with_a_fractional_slope_keeps_its_stored_values(
    ingest: Any, tmp_path: Path, write_dicom: Any, slope: float, photometric: str
) -> None:
    """Rescaled values would be rounded in a PNG; the stored ones and a moved window are exact."""
    stored = np.arange(0, 4096, 64, dtype=np.uint16).reshape(8, 8)
    header = {
        "SOPClassUID": "1.2.840.10008.5.1.4.1.1.1", "Modality": "CR", "RescaleSlope": slope,
        "RescaleIntercept": 200, "BitsStored": 12, "HighBit": 11, "WindowCenter": 900,
        "WindowWidth": 400, "PhotometricInterpretation": photometric,
    }  # fmt: skip
    write_dicom(tmp_path / "x", stored, **header)
    visual = ingest(tmp_path).only
    shown = pixels_of(visual).astype(int)
    rising = (slope > 0) == (photometric == "MONOCHROME2")
    np.testing.assert_array_equal(shown - shown.min(), (stored if rising else 4032 - stored))
    centre, width = visual.geometry.window
    grey = np.clip((shown - centre) / width + 0.5, 0, 1)
    expected = np.clip((stored * slope + 200 - 900) / 400 + 0.5, 0, 1)
    if photometric == "MONOCHROME1":
        expected = 1 - expected
    np.testing.assert_allclose(grey, expected, atol=1e-9)
