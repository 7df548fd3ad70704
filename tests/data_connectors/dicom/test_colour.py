"""Colour against pydicom, and against loops where pydicom has no answer."""

from __future__ import annotations

import io
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.pixels.processing import apply_color_lut, convert_color_space

from data_connectors.dicom.colour import apply_palette, ybr_to_rgb
from medvlp.errors import InputError

CHANNELS = ("Red", "Green", "Blue")
US = {
    "SOPClassUID": "1.2.840.10008.5.1.4.1.1.6.1",
    "Modality": "US",
    "RescaleSlope": None,
    "RescaleIntercept": None,
}


def palette(
    tables: list[bytes], count: int, first: int, bits: int, *, segmented: bool = False
) -> Dataset:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
    dataset.PixelRepresentation = 1
    for colour, data in zip(CHANNELS, tables, strict=True):
        described = f"{colour}PaletteColorLookupTableDescriptor"
        setattr(dataset, described, [count % 65536, first, bits])
        kind = f"{'Segmented' if segmented else ''}{colour}PaletteColorLookupTableData"
        setattr(dataset, kind, data)
    return dataset


def pixels_of(visual: Any) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(visual.payload.members[0][1])))


@settings(deadline=None, max_examples=40)
@given(
    count=st.sampled_from([2, 16, 255, 256]),
    first=st.integers(-40, 40),
    deep=st.booleans(),
    seed=st.integers(0, 99),
)
def test_palettes_as_pydicom_applies_them(count: int, first: int, deep: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    kind = np.uint16 if deep else np.uint8
    tables = [rng.integers(0, np.iinfo(kind).max + 1, count).astype(kind) for _ in CHANNELS]
    tables[0][0] = np.iinfo(kind).max  # so that deep tables are
    dataset = palette([table.tobytes() for table in tables], count, first, 16 if deep else 8)
    # Further up, pydicom's index overflows the eight bits of the entries (next test).
    stored = rng.integers(-100, 256 + first, (9, 7)).astype(np.int16)
    found = apply_palette(stored, dataset)
    np.testing.assert_array_equal(found, apply_color_lut(stored, dataset))


def test_table_of_bytes_with_thousands_of_entries_like_a_loop() -> None:
    """An index of more than eight bits into entries of eight."""
    rng = np.random.default_rng(0)
    tables = [rng.integers(0, 256, 4096).astype(np.uint8) for _ in CHANNELS]
    dataset = palette([table.tobytes() for table in tables], 4096, 0, 8)
    stored = rng.integers(0, 5000, (6, 5)).astype(np.uint16)
    found = apply_palette(stored, dataset)
    for place in np.ndindex(stored.shape):
        expected = [table[min(int(stored[place]), 4095)] for table in tables]
        assert found[place].tolist() == expected


def test_eight_bits_in_words_are_eight_bits() -> None:
    entries = np.arange(256, dtype="<u2").tobytes()
    for bits in (8, 16):
        found = apply_palette(np.array([[200]], np.uint8), palette([entries] * 3, 256, 0, bits))
        assert found.dtype == np.uint8
        assert found.tolist() == [[[200, 200, 200]]]


@pytest.mark.parametrize("wide", [False, True])
def test_segments_as_pydicom_expands_them(wide: bool) -> None:
    """Discrete and linear; pydicom takes the offset of an indirect segment for an index."""
    top = 60_000 if wide else 250
    segments = [0, 2, 5, 9, 1, 100, top, 0, 1, 3, 1, 153, 80]
    data = np.array(segments, "<u2" if wide else np.uint8).tobytes() + b"\0" * (not wide)
    dataset = palette([data] * 3, 256, 0, 16 if wide else 8, segmented=True)
    stored = np.arange(256, dtype=np.int16)[None]
    theirs = apply_color_lut(stored, dataset)
    np.testing.assert_array_equal(apply_palette(stored, dataset), theirs)


@pytest.mark.parametrize("wide", [False, True])
def test_indirect_segments_name_their_place_in_bytes(wide: bool) -> None:
    """4 discrete entries, then the linear segment of the start again (PS3.3 C.7.9.2.3)."""
    head = [0, 4, 10, 20, 30, 40, 1, 3, 70]
    place = 6 * (2 if wide else 1)
    indirect = [2, 1, place, 0] if wide else [2, 1, place, 0, 0, 0]
    words = [*head, 0, 1, 7, *indirect, 0, 1, 99]
    data = np.array(words, "<u2" if wide else np.uint8).tobytes()
    count = 4 + 3 + 1 + 3 + 1
    dataset = palette(
        [data + b"\0" * (len(data) % 2)] * 3, count, 0, 16 if wide else 8, segmented=True
    )
    found = apply_palette(np.arange(count, dtype=np.int16)[None], dataset)
    assert found[0, :, 0].tolist() == [10, 20, 30, 40, 50, 60, 70, 7, 28, 49, 70, 99]


@settings(deadline=None, max_examples=60)
@given(st.binary(min_size=0, max_size=80), st.integers(0, 65535), st.sampled_from([8, 16]))
def test_hostile_segments_end_and_never_grow(data: bytes, count: int, bits: int) -> None:
    dataset = palette([data + b"\0" * (len(data) % 2)] * 3, count, 0, bits, segmented=True)
    with suppress(InputError):
        assert apply_palette(np.zeros((2, 2), np.uint8), dataset).shape == (2, 2, 3)


def test_palette_that_is_missing_is_refused(ingest: Any, tmp_path: Path, write_dicom: Any) -> None:
    change = {**US, "PhotometricInterpretation": "PALETTE COLOR"}
    write_dicom(tmp_path / "x", np.zeros((4, 4), np.uint8), **change)
    assert ingest(tmp_path).refusal.code == "dicom-palette"


@pytest.mark.parametrize("planar", [0, 1])
@pytest.mark.parametrize("photometric", ["RGB", "YBR_FULL"])
def test_native_colour_in_both_layouts(
    ingest: Any, tmp_path: Path, write_dicom: Any, planar: int, photometric: str
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 4, 3)).astype(np.uint8)
    path = write_dicom(
        tmp_path / "x", pixels, SamplesPerPixel=3, PhotometricInterpretation=photometric,
        PlanarConfiguration=planar, **US,
    )  # fmt: skip
    if planar:
        dataset = dcmread(path)
        dataset.PixelData = np.moveaxis(pixels, -1, 0).tobytes()
        dataset.save_as(path)
    expected = pixels if photometric == "RGB" else convert_color_space(pixels, "YBR_FULL", "RGB")
    np.testing.assert_array_equal(pixels_of(ingest(tmp_path).only), expected)


@given(st.integers(0, 999))
@settings(deadline=None, max_examples=20)
def test_luminance_and_differences_as_pydicom_turns_them(seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (9, 7, 3)).astype(np.uint8)
    expected = convert_color_space(pixels, "YBR_FULL", "RGB")
    np.testing.assert_array_equal(ybr_to_rgb(pixels, 8), expected)


def test_deep_luminance_is_turned_about_its_own_middle() -> None:
    grey = np.array([[[0, 2048, 2048], [4095, 2048, 2048]]], np.uint16)
    assert ybr_to_rgb(grey, 12).tolist() == [[[0, 0, 0], [4095, 4095, 4095]]]


def test_partial_range_in_pairs_by_hand(ingest: Any, tmp_path: Path, write_dicom: Any) -> None:
    """Y1 Y2 CB CR from the formula of C.7.6.3.1.2, for pixels of one colour in pairs."""
    colours = np.array([[0, 0, 0], [255, 255, 255], [255, 0, 0], [10, 200, 60]], float)
    matrix = np.array(
        [[0.2568, 0.5041, 0.0979], [-0.1482, -0.2910, 0.4392], [0.4392, -0.3678, -0.0714]]
    )
    data = b""
    for colour in colours:
        y, b, r = np.rint(matrix @ colour + [16, 128, 128]).astype(int)
        data += bytes([y, y, b, r])
    rgb = np.zeros((2, 4, 3), np.uint8)
    path = write_dicom(
        tmp_path / "x", rgb, SamplesPerPixel=3, PhotometricInterpretation="YBR_PARTIAL_422",
        PlanarConfiguration=0, **US,
    )  # fmt: skip
    dataset = dcmread(path)
    dataset.PixelData = data
    dataset.save_as(path)
    shown = pixels_of(ingest(tmp_path).only).astype(int)
    expected = np.repeat(colours, 2, axis=0).reshape(2, 4, 3)
    assert np.abs(shown - expected).max() <= 2


@pytest.mark.parametrize("signed", [False, True])
def test_values_that_end_above_the_lowest_bit(
    ingest: Any, tmp_path: Path, write_series: Any, signed: bool
) -> None:
    """12 bits at the top of 16, as in files from before 1993; the lowest four mean nothing."""
    rng = np.random.default_rng(0)
    low = -2048 if signed else 0
    volume = rng.integers(low, low + 4096, (3, 6, 5))
    packed = ((volume << 4) | rng.integers(0, 16, volume.shape)) & 0xFFFF
    write_series(
        tmp_path, packed.astype(np.uint16), BitsStored=12, HighBit=15, RescaleIntercept=-7,
        PixelRepresentation=int(signed),
    )  # fmt: skip
    visual = ingest(tmp_path).only
    found = np.load(io.BytesIO(visual.payload.members[0][1]), allow_pickle=False)
    np.testing.assert_array_equal(found, volume - 7)


def test_padding_of_more_bits_than_count_is_found(
    ingest: Any, tmp_path: Path, write_series: Any, noise: np.ndarray
) -> None:
    """-2000 in files of 12 unsigned bits: what the 16 allocated bits hold, cut to the 12."""
    stored = noise.astype(np.uint16) % 2000
    stored[:, 0] = np.uint16(63_536)
    write_series(
        tmp_path, stored, BitsStored=12, HighBit=11, PixelRepresentation=0, PixelPaddingValue=63_536
    )
    visual = ingest(tmp_path).only
    found = np.load(io.BytesIO(visual.payload.members[0][1]), allow_pickle=False)
    assert (found[:, 0] == -1024).all()
    np.testing.assert_array_equal(found[:, 1:], stored[:, 1:].astype(int) - 1024)
