from __future__ import annotations

import io
import struct

import imagecodecs
import numpy as np
import pytest
from PIL import Image, ImageCms
from pydicom.dataset import Dataset

from data_connectors.deid.bulk import clean_profile, kept_bulk
from data_connectors.deid.frames import blank_comments

SECRET = b"Quillon, Zyra MRN0077123"
PIXELS = np.arange(64 * 64, dtype=np.uint8).reshape(64, 64)


def jpeg_with(comment: bytes) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, "JPEG", comment=comment, exif=b"Exif\0\0" + comment)
    return buffer.getvalue()


def test_comments_of_a_jpeg_go_and_its_pixels_stay():
    data = jpeg_with(SECRET) + b"behind " + SECRET
    made = blank_comments(data)
    assert len(made) == len(data)
    assert b"Quillon" in data
    assert b"Quillon" not in made
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(made))),
                          np.asarray(Image.open(io.BytesIO(data))))  # fmt: skip


def test_comments_of_jpeg_2000_go_and_its_pixels_stay():
    data = imagecodecs.jpeg2k_encode(PIXELS, codecformat="j2k")
    comment = struct.pack(">HHH", 0xFF64, len(SECRET) + 4, 1) + SECRET
    at = data.index(b"\xff\x90")
    data = data[:at] + comment + data[at:]
    made = blank_comments(data)
    assert b"Quillon" not in made
    assert len(made) == len(data)
    assert np.array_equal(imagecodecs.jpeg2k_decode(made), PIXELS)


def test_what_codecs_say_about_themselves_stays():
    data = imagecodecs.jpeg2k_encode(PIXELS, codecformat="j2k")
    assert blank_comments(data) == data
    plain = imagecodecs.jpegls_encode(PIXELS)
    assert blank_comments(plain) == plain


@pytest.mark.parametrize(
    "data",
    [b"", b"\xff\xd8", b"\xff\xd8\xff\xfe\0", b"\xff\x4f\xff\x51\xff", b"not an image",
     b"\xff\xd8\xff\xfe\0\0\0", b"\xff\xd8" * 9],
)  # fmt: skip
def test_damaged_streams_are_returned(data):
    assert len(blank_comments(data)) == len(data)


def test_a_profile_keeps_its_numbers_and_not_its_words():
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    made = clean_profile(profile)
    assert made is not None
    assert len(made) == len(profile)
    assert b"built-in" in profile.replace(b"\0", b"")
    assert b"built-in" not in made.replace(b"\0", b"")
    image = Image.fromarray(np.random.default_rng(1).integers(0, 255, (9, 9, 3), np.uint8))
    lab = ImageCms.createProfile("LAB")
    before, after = (
        np.asarray(ImageCms.profileToProfile(image, ImageCms.ImageCmsProfile(io.BytesIO(data)),
                                             lab, outputMode="LAB"))
        for data in (profile, made)
    )  # fmt: skip
    assert np.array_equal(before, after)
    assert clean_profile(SECRET.ljust(200)) is None


def test_tables_stay_only_when_they_are_as_long_as_they_say():
    item = Dataset()
    item.LUTDescriptor = [4, 0, 16]
    assert kept_bulk(item, "LUTData", b"12345678", 1) == b"12345678"
    assert kept_bulk(item, "LUTData", b"123456789012", 1) is None
    assert kept_bulk(Dataset(), "LUTData", b"12345678", 1) is None
    item.RedPaletteColorLookupTableDescriptor = [4, 0, 8]
    assert kept_bulk(item, "RedPaletteColorLookupTableData", b"1234", 0) == b"1234"
    assert kept_bulk(item, "PixelData", b"12", 1) is None
    assert kept_bulk(item, "EncapsulatedDocument", b"12", 0) is None
