"""Single images: projection radiographs, single slices, colour pictures -> PNG."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
from PIL import Image
from pydicom.dataset import Dataset

from data_connectors.dicom.decode import stored_frame
from data_connectors.dicom.header import numbers, text, whole
from data_connectors.dicom.values import meaning_of
from data_connectors.dicom.voi import Window, has_window, voi_table_of
from data_connectors.dicom.volume import Stored, pixel_digest
from data_connectors.items import Payload
from medvlp.types import Geometry

_PNG_LEVEL = 3
_U16 = 65535


def read_image(dataset: Dataset, index: int = 0) -> Stored:
    """One frame of an object as a stored image.

    Grey images are inverted once if they are MONOCHROME1, so that bright means dense; the modality
    rescale is applied and the VOI window follows into the stored values.

    Raises:
        InputError: The pixels cannot be decoded.
    """
    stored = stored_frame(dataset, index)
    if stored.ndim == 3:
        return store_colour(to_8_bit(stored, dataset))
    values, window = grey_picture(stored, dataset)
    spacing = _spacing(dataset, "PixelSpacing") or _spacing(dataset, "ImagerPixelSpacing")
    return store_grey(values, window, spacing)


def grey_picture(stored: np.ndarray, dataset: Dataset) -> tuple[np.ndarray, Window | None]:
    """The real values of a single grey frame, and their window.

    A VOI table is applied where the header names no window beside it (many radiographs): two
    numbers could not carry it, and without it the picture is not the one that was read.
    """
    meaning = meaning_of(dataset).unscaled()
    table = voi_table_of(dataset) if meaning.unit == "raw" and not has_window(dataset) else None
    if table is None:
        return meaning.apply(stored), meaning.window
    shown = table.apply(replace(meaning, inverse=False).apply(stored))
    white = 2**table.bits - 1
    return (white - shown if meaning.inverse else shown), ((white + 1) / 2, white + 1.0)


def _spacing(dataset: Dataset, keyword: str) -> tuple[float, ...] | None:
    """(between rows, between columns) in millimetres, or None where missing or not positive."""
    found = numbers(dataset, keyword, 2)
    return found if found is not None and min(found) > 0 else None


def store_grey(
    values: np.ndarray,
    window: Window | None,
    spacing: tuple[float, ...] | None,
) -> Stored:
    """A grey image as 8 or 16 bit PNG.

    Whole numbers keep their values, moved up if some are negative; other values are mapped onto
    0..65535. The window moves along, so a windowed picture looks the same.

    Args:
        values: [h, w], any number type.
        window: (centre, width) in these values.
        spacing: (between rows, between columns) in millimetres.
    """
    low, high = float(values.min()), float(values.max())
    whole_numbers = values.dtype.kind in "iu" or bool(np.all(values == np.rint(values)))
    scale, offset = 1.0, -min(low, 0.0)
    if not whole_numbers or high + offset > _U16:
        scale = _U16 / (high - low) if high > low else 1.0
        offset = -low * scale
    stored = np.rint(values.astype(np.float64) * scale + offset)
    stored = stored.astype(np.uint8 if stored.max() <= 255 else np.uint16)
    moved = None if window is None else (window[0] * scale + offset, window[1] * scale)
    geometry = Geometry(shape=stored.shape, spacing_mm=spacing, unit="raw", window=moved)
    return Stored(Payload((("png", png(stored)),)), geometry, pixel_digest(stored))


def store_colour(pixels: np.ndarray, spacing: tuple[float, ...] | None = None) -> Stored:
    """An RGB image, uint8 [h, w, 3], as PNG."""
    geometry = Geometry(shape=pixels.shape, spacing_mm=spacing, unit="rgb")
    return Stored(Payload((("png", png(pixels)),)), geometry, pixel_digest(pixels))


def to_8_bit(pixels: np.ndarray, dataset: Dataset) -> np.ndarray:
    """Colour of any depth as uint8, keeping the most significant bits."""
    if pixels.dtype == np.uint8:
        return pixels
    bits = 16 if text(dataset, "PhotometricInterpretation") == "PALETTE COLOR" else 0
    bits = bits or whole(dataset, "BitsStored")
    return (pixels >> max(0, bits - 8)).astype(np.uint8)


def png(pixels: np.ndarray) -> bytes:
    """Encode uint8 or uint16 [h, w], or uint8 [h, w, 3]."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=_PNG_LEVEL)
    return buffer.getvalue()
