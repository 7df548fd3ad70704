"""Image bytes of unknown origin -> clean bytes for the dataset.

Metadata (EXIF, comments, thumbnails) never gets through: JPEG keeps only the segments that
decoding needs, everything else is encoded anew as PNG.
"""

from __future__ import annotations

import hashlib
import io
import struct
import warnings
import zlib
from typing import Final, NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from medvlp.errors import InputError

_SIGNATURES: Final = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF87a", b"GIF89a")
_FORMATS: Final = ("PNG", "JPEG", "GIF")
_BROKEN: Final = (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error, zlib.error)
_PNG_LEVEL: Final = 3
"""A third of the time of the default level for about 5 % more bytes."""
_ORIENTATION: Final = 0x0112
_NEXT: Final = "copy the image again from where it came from"


class Picture(NamedTuple):
    """One image, ready to store."""

    extension: str
    data: bytes
    shape: tuple[int, ...]
    """[h, w] grey or [h, w, 3] RGB."""
    digest: str


def looks_like_image(start: bytes) -> bool:
    """Whether the first bytes of a file are those of PNG, JPEG or GIF."""
    return start.startswith(_SIGNATURES)


def read_picture(data: bytes, *, max_pixels: int) -> Picture:
    """Decode and clean an image.

    Grey stays grey in 8 or 16 bit; colour whose channels are equal becomes grey; palette, CMYK
    and others become RGB; transparency is laid over black; EXIF rotation is applied.

    Args:
        data: A whole PNG, JPEG or GIF file (its first picture).
        max_pixels: Most pixels, checked before decoding.

    Raises:
        InputError: `not-image`, `image-too-large`, `image-truncated`, `image-not-decodable`.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's warnings quote the file
        image, kind, turned = _decode(data, max_pixels)
    pixels = _array(image)
    grey = pixels.ndim == 3 and bool(
        np.array_equal(pixels[..., 0], pixels[..., 1])
        and np.array_equal(pixels[..., 0], pixels[..., 2])
    )
    if grey:
        pixels = np.ascontiguousarray(pixels[..., 0])
    kept = None
    if kind == "JPEG" and not turned and not grey and image.mode in ("L", "RGB"):
        kept = strip_jpeg(data)
    extension, stored = ("png", _png(pixels)) if kept is None else ("jpg", kept)
    digest = hashlib.sha256(f"{pixels.dtype.str}{pixels.shape}".encode())
    digest.update(np.ascontiguousarray(pixels).data)
    return Picture(extension, stored, pixels.shape, digest.hexdigest())


def _decode(data: bytes, max_pixels: int) -> tuple[Image.Image, str, bool]:
    """The decoded first picture, its format, and whether it was rotated."""
    try:
        image = Image.open(io.BytesIO(data), formats=_FORMATS)
        kind = str(image.format)
        if image.width * image.height > max_pixels:
            raise InputError(
                "the image has too many pixels", code="image-too-large",
                got=f"{image.width} x {image.height}", limit=max_pixels,
                next_step="raise max_pixels if it is genuine",
            )  # fmt: skip
        if kind == "JPEG" and 8 * len(data) < (image.width // 8) * (image.height // 8):
            raise EOFError  # the coarsest code spends a bit on each block of 8 x 8 (ITU-T T.81)
        image.load()
        turned = image.getexif().get(_ORIENTATION, 1) not in (0, 1)
        return (ImageOps.exif_transpose(image) if turned else image), kind, turned
    except InputError:
        raise
    except (Image.DecompressionBombError, MemoryError):
        raise InputError("the image has too many pixels", code="image-too-large") from None
    except UnidentifiedImageError:
        raise InputError(
            "there is no PNG, JPEG or GIF image in it", code="not-image", next_step=_NEXT
        ) from None
    except _BROKEN as error:
        cut = "truncated" in str(error) or isinstance(error, EOFError)
        raise InputError(
            "the image ends early" if cut else f"it cannot be decoded ({type(error).__name__})",
            code="image-truncated" if cut else "image-not-decodable",
            next_step=_NEXT,
        ) from None


def _array(image: Image.Image) -> np.ndarray:
    """uint8 or uint16 [h, w], or uint8 [h, w, 3]."""
    mode = image.mode
    if mode.startswith("I"):
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise InputError("deeper than 16 bits", code="image-not-decodable", next_step=_NEXT)
        return values.astype(np.uint16)
    if mode == "F":
        raise InputError("floating-point image", code="image-not-decodable", next_step=_NEXT)
    if mode in ("L", "1"):
        return np.asarray(image.convert("L"))
    if mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        whole = image.convert("RGBA")
        black = Image.new("RGBA", whole.size, (0, 0, 0, 255))
        image = Image.alpha_composite(black, whole)
    return np.asarray(image.convert("RGB"))


def strip_jpeg(data: bytes) -> bytes | None:
    """A JPEG without application data, comments and whatever follows its end.

    Keeps a plain JFIF segment and Adobe's colour-transform segment. The coded picture is copied
    byte by byte, so it decodes to the same pixels.

    Returns:
        The clean bytes, or None if the segments cannot be followed.
    """
    out = [b"\xff\xd8"]
    at = 2
    while at + 4 <= len(data):
        if data[at] != 0xFF:
            return None
        marker = data[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        if marker == 0xD9:
            return b"".join([*out, b"\xff\xd9"])
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if marker == 0xDA:
            end = _end_of_scan(data, end)
        if _needed(marker, data[at + 4 : end]):
            out.append(data[at:end])
        at = end
    ended = data[at : at + 2] == b"\xff\xd9"
    return b"".join([*out, b"\xff\xd9"]) if ended else None


def _needed(marker: int, body: bytes) -> bool:
    if marker == 0xE0:
        return body.startswith(b"JFIF\0") and len(body) == 14
    if marker == 0xEE:
        return body.startswith(b"Adobe") and len(body) == 12
    return marker != 0xFE and not 0xE0 <= marker <= 0xEF


def _end_of_scan(data: bytes, at: int) -> int:
    """Where the entropy-coded data that begins here ends: at a marker that is no restart."""
    while True:
        at = data.find(b"\xff", at)
        if at < 0 or at + 1 >= len(data):
            return len(data)
        following = data[at + 1]
        if following == 0 or 0xD0 <= following <= 0xD7:
            at += 2
        elif following == 0xFF:
            at += 1
        else:
            return at


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=_PNG_LEVEL)
    return buffer.getvalue()
