"""Palettes, and luminance with colour differences, as red, green and blue (PS3.3 C.7.6.3)."""

from __future__ import annotations

from typing import Final

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRBigEndian

from data_connectors.dicom.header import text
from medvlp.errors import InputError

_CHANNELS: Final = ("Red", "Green", "Blue")
_FULL: Final = ((0.299, 0.587, 0.114), (1.772, 1.402))
"""ITU-R BT.601: weights of the luminance, and what a full colour difference stands for."""
_PARTIAL_FROM_RGB: Final = (
    (0.2568, 0.5041, 0.0979),
    (-0.1482, -0.2910, 0.4392),
    (0.4392, -0.3678, -0.0714),
)
"""C.7.6.3.1.2, YBR_PARTIAL_422: Y from 16, CB and CR about 128."""


def apply_palette(stored: np.ndarray, dataset: Dataset) -> np.ndarray:
    """Indices through the palette of an object.

    Args:
        stored: [h, w], any integer type. Values below the first entry take it, those above the
            last entry take that.
        dataset: Holds the three tables, in full or in segments; its pixels are PALETTE COLOR.

    Returns:
        uint8 [h, w, 3], or uint16 where the tables are deeper than eight bits.

    Raises:
        InputError: `dicom-palette`: there is none, or it is broken.
    """
    tables, first = _tables(dataset)
    index = np.clip(stored.astype(np.int64) - first, 0, tables.shape[0] - 1)
    coloured: np.ndarray = tables[index]
    return coloured


def _tables(dataset: Dataset) -> tuple[np.ndarray, int]:
    """(entries [n, 3], the value that the first one is for)."""
    description = dataset.get("RedPaletteColorLookupTableDescriptor")
    if description is None or len(description) != 3:
        raise _broken("it is missing")
    count, first, bits = (int(value) for value in description)
    count = count or 2**16
    meta = getattr(dataset, "file_meta", None)
    big = meta is not None and text(meta, "TransferSyntaxUID") == ExplicitVRBigEndian
    channels = []
    for colour in _CHANNELS:
        data = dataset.get(f"{colour}PaletteColorLookupTableData")
        if data is not None:
            channels.append(_entries(data, count, big)[:count])
            continue
        data = dataset.get(f"Segmented{colour}PaletteColorLookupTableData")
        if data is None:
            raise _broken("a colour is missing")
        words = _entries(data, 0, big) if bits > 8 else np.frombuffer(data, np.uint8)
        channels.append(_expand(words.astype(np.int64), count, 2 if bits > 8 else 1))
    if any(len(channel) < count for channel in channels):
        raise _broken("a table is shorter than it says")
    tables = np.stack(channels, axis=-1)
    # Tables said to be of 16 bits that hold no more than 8 are shown as the 8 that they are.
    return tables.astype(np.uint8 if tables.max() <= 255 else np.uint16), first


def _entries(data: bytes | list[int], count: int, big: bool) -> np.ndarray:
    """Entries in words, or in bytes where there are not enough bytes for words."""
    if not isinstance(data, bytes):
        return np.array(data, np.int64)
    if len(data) < 2 * count:
        return np.frombuffer(data, np.uint8)
    return np.frombuffer(data[: len(data) // 2 * 2], ">u2" if big else "<u2")


def _expand(words: np.ndarray, count: int, width: int) -> np.ndarray:
    """A segmented table in full (C.7.9.2), never longer than its descriptor says.

    Args:
        words: int64 [n]: the segments.
        count: Entries of the table.
        width: Bytes of a word: an indirect segment names its place in bytes.
    """
    out: list[np.ndarray] = []
    filled = 0
    at, back, left = 0, -1, 0  # back: where to go on after the segments an indirect one names
    while filled < count and at + 2 < len(words):
        kind, length = int(words[at]), int(words[at + 1])
        at += 2
        if kind == 0:
            part = words[at : at + length]
            at += length
        elif kind == 1 and out:
            last = int(out[-1][-1])
            part = np.rint(np.linspace(last, int(words[at]), length + 1)[1:]).astype(np.int64)
            at += 1
        elif kind == 2 and out and back < 0:
            back, left = at + 4 // width, length
            at = _place(words[at:], width)
            continue
        else:
            raise _broken("a segment cannot be")
        if len(part) == 0:
            raise _broken("a segment is empty")
        out.append(part)
        filled += len(part)
        left -= 1
        if back >= 0 and left <= 0:
            at, back = back, -1
    return np.concatenate(out)[:count] if out else np.zeros(0, np.int64)


def _place(words: np.ndarray, width: int) -> int:
    """Index of the word at the byte offset that follows, least significant part first."""
    if len(words) < 4 // width:
        raise _broken("a segment cannot be")
    step = 8 * width
    offset = sum(int(word) << (step * place) for place, word in enumerate(words[: 4 // width]))
    return offset // width


def ybr_to_rgb(array: np.ndarray, bits: int, *, partial: bool = False) -> np.ndarray:
    """Luminance and colour differences as red, green and blue.

    Args:
        array: Unsigned [h, w, 3], one colour difference a pixel.
        bits: How many bits of a value count.
        partial: YBR_PARTIAL_422 (8 bits, luminance from 16 to 235), not YBR_FULL.

    Returns:
        The same type and shape.
    """
    half, most = 2.0 ** (bits - 1), 2**bits - 1
    values = array.astype(np.float32)
    if partial:
        values -= np.array([16, half, half], np.float32)
        matrix = np.linalg.inv(np.array(_PARTIAL_FROM_RGB)).T
    else:
        values -= np.array([0, half, half], np.float32)
        (red, green, blue), (of_blue, of_red) = _FULL
        matrix = np.array(
            [
                [1, 1, 1],
                [0, -blue * of_blue / green, of_blue],
                [of_red, -red * of_red / green, 0],
            ]
        )
    mixed = values @ matrix.astype(np.float32)
    turned: np.ndarray = np.clip(np.floor(mixed + 0.5), 0, most).astype(array.dtype)
    return turned


def _broken(why: str) -> InputError:
    return InputError(
        f"the palette of the image cannot be used: {why}", code="dicom-palette",
        next_step="export it again from the archive",
    )  # fmt: skip
