from __future__ import annotations

import contextlib
import io
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data_connectors.images.pixels import Picture, looks_like_image, read_picture, strip_jpeg
from medvlp.errors import InputError

PIXELS = 10**6


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def decoded(picture: Picture) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(picture.data)))


def code_of(data: bytes, max_pixels: int = PIXELS) -> str:
    with pytest.raises(InputError) as caught:
        read_picture(data, max_pixels=max_pixels)
    return caught.value.code


@pytest.fixture
def grey() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (20, 30)).astype(np.uint8)


@pytest.fixture
def colour() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (20, 30, 3)).astype(np.uint8)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_grey_png_keeps_its_depth(dtype: Any) -> None:
    pixels = np.random.default_rng(1).integers(0, np.iinfo(dtype).max, (9, 7)).astype(dtype)
    picture = read_picture(encoded(Image.fromarray(pixels), "PNG"), max_pixels=PIXELS)
    np.testing.assert_array_equal(decoded(picture).astype(dtype), pixels)
    assert picture.shape == (9, 7)
    assert picture.extension == "png"


def test_colour_with_equal_channels_becomes_grey(grey: np.ndarray) -> None:
    image = Image.fromarray(np.stack([grey] * 3, axis=-1))
    picture = read_picture(encoded(image, "PNG"), max_pixels=PIXELS)
    np.testing.assert_array_equal(decoded(picture), grey)
    alone = read_picture(encoded(Image.fromarray(grey), "PNG"), max_pixels=PIXELS)
    assert picture.digest == alone.digest


def test_transparency_is_laid_over_black(colour: np.ndarray) -> None:
    alpha = np.zeros((20, 30), np.uint8)
    alpha[:10] = 255
    image = Image.fromarray(np.dstack([colour, alpha]))
    shown = decoded(read_picture(encoded(image, "PNG"), max_pixels=PIXELS))
    np.testing.assert_array_equal(shown[:10], colour[:10])
    assert not shown[10:].any()


def test_palette_and_gif_become_rgb(colour: np.ndarray) -> None:
    image = Image.fromarray(colour).quantize(16)
    expected = np.asarray(image.convert("RGB"))
    for kind in ("PNG", "GIF"):
        picture = read_picture(encoded(image, kind), max_pixels=PIXELS)
        np.testing.assert_array_equal(decoded(picture), expected)


def test_first_frame_of_a_gif(grey: np.ndarray) -> None:
    frames = [Image.fromarray(grey // 2 * 2), Image.fromarray(255 - grey)]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(decoded(read_picture(data, max_pixels=PIXELS)), grey // 2 * 2)


def test_cmyk_becomes_rgb(colour: np.ndarray) -> None:
    image = Image.fromarray(colour).convert("CMYK")
    picture = read_picture(encoded(image, "JPEG", quality=100), max_pixels=PIXELS)
    assert picture.extension == "png"
    assert picture.shape == (20, 30, 3)


def test_jpeg_is_not_coded_again(grey: np.ndarray) -> None:
    data = encoded(Image.fromarray(grey), "JPEG", quality=80)
    picture = read_picture(data, max_pixels=PIXELS)
    assert picture.extension == "jpg"
    np.testing.assert_array_equal(decoded(picture), np.asarray(Image.open(io.BytesIO(data))))


@settings(max_examples=30, deadline=None)
@given(
    quality=st.integers(5, 100),
    progressive=st.booleans(),
    grey_scale=st.booleans(),
    tail=st.binary(max_size=40),
)
def test_stripped_jpeg_shows_the_same_and_tells_nothing(
    quality: int, progressive: bool, grey_scale: bool, tail: bytes
) -> None:
    rng = np.random.default_rng(quality)
    image = Image.fromarray(rng.integers(0, 256, (33, 17, 3)).astype(np.uint8))
    image = image.convert("L") if grey_scale else image
    exif = Image.Exif()
    exif[0x010E] = "CANARY^JANE"  # ImageDescription
    options = {"quality": quality, "progressive": progressive, "restart_marker_rows": 1}
    data = encoded(image, "JPEG", exif=exif, comment=b"CANARY comment", **options)
    assert data.count(b"CANARY") == 2
    clean = strip_jpeg(data + b"CANARY tail" + tail)
    assert clean is not None
    assert b"CANARY" not in clean
    before, after = (np.asarray(Image.open(io.BytesIO(d))) for d in (data, clean))
    np.testing.assert_array_equal(before, after)


def test_png_texts_are_left_behind(grey: np.ndarray) -> None:
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text("Patient", "CANARY^JANE")
    data = encoded(Image.fromarray(grey), "PNG", pnginfo=info)
    assert b"CANARY" in data
    assert b"CANARY" not in read_picture(data, max_pixels=PIXELS).data


def test_exif_rotation_is_applied(grey: np.ndarray) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn right to view
    data = encoded(Image.fromarray(grey), "JPEG", exif=exif, quality=95)
    turned = np.rot90(np.asarray(Image.open(io.BytesIO(data))), -1)
    picture = read_picture(data, max_pixels=PIXELS)
    np.testing.assert_array_equal(decoded(picture), turned)
    assert picture.shape == (30, 20)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_truncated_image_is_refused(colour: np.ndarray, kind: str) -> None:
    data = encoded(Image.fromarray(np.tile(colour, (10, 10, 1))), kind)
    assert code_of(data[: len(data) // 2]) == "image-truncated"


def test_too_many_pixels_are_refused_before_decoding() -> None:
    """A PNG of 30000 x 30000 whose data are not even there."""
    header = b"IHDR" + (30_000).to_bytes(4, "big") * 2 + b"\x08\x00\x00\x00\x00"
    chunk = (13).to_bytes(4, "big") + header + zlib.crc32(header).to_bytes(4, "big")
    empty = b"\0\0\0\0IDAT" + zlib.crc32(b"IDAT").to_bytes(4, "big")
    assert code_of(b"\x89PNG\r\n\x1a\n" + chunk + empty) == "image-too-large"


def test_text_is_no_image() -> None:
    assert code_of(b"no image at all") == "not-image"
    assert not looks_like_image(b"no image")


@given(at=st.integers(0, 5000), value=st.integers(0, 255))
@settings(max_examples=60, deadline=None)
def test_a_damaged_byte_never_raises_anything_else(at: int, value: int) -> None:
    rng = np.random.default_rng(7)
    image = Image.fromarray(rng.integers(0, 256, (24, 24, 3)).astype(np.uint8))
    for kind in ("PNG", "JPEG", "GIF"):
        data = bytearray(encoded(image, kind))
        data[at % len(data)] = value
        with contextlib.suppress(InputError):
            assert read_picture(bytes(data), max_pixels=PIXELS).shape[0] > 0


def test_every_real_image_keeps_its_pixels(shared_data: Path) -> None:
    """Grey pixels equal Pillow's own; a sample of every folder."""
    for folder in ("cxr_kermany256", "cxr_nih64/train", "surg_intermountain"):
        for path in sorted((shared_data / folder).glob("*.[jp][pn]g"))[::40]:
            picture = read_picture(path.read_bytes(), max_pixels=10**8)
            expected = np.asarray(Image.open(path).convert("RGB"))
            shown = np.asarray(Image.open(io.BytesIO(picture.data)).convert("RGB"))
            np.testing.assert_array_equal(shown, expected)
