"""What hides around pixels: comments of codecs, bytes behind the last row, planes in unused bits.

Nothing here decodes a pixel or changes one. A segment that may hold text keeps its length and
loses its content, so that offset tables stay true.
"""

from __future__ import annotations

import re
from typing import Final

import numpy as np
from pydicom.dataset import Dataset

from data_connectors.dicom.header import whole
from medvlp.errors import InputError

_HARMLESS: Final = re.compile(
    rb"(?:Created by (?:GDCM/)?OpenJPEG version|Kakadu-v?|Created by Grok|LEADTOOLS v|OpenJPH Ver"
    rb"|LEAD Technologies Inc\. V|Creator: JasPer Version|Lavc|CharLS v?)"
    rb" ?\d{1,4}(?:\.\d{1,4}){0,3}\.?[\0\n ]*"
)
"""Comments that codecs write about themselves."""
_KEPT_APPS: Final = {0xE0, 0xE8, 0xEE}  # JFIF, SPIFF, Adobe's colour transform


def blank_comments(data: bytes) -> bytes:
    """One JPEG, JPEG-LS or JPEG 2000 code stream without what its comments say.

    Args:
        data: The code stream; anything else is returned as it is.

    Returns:
        As many bytes, comments and application segments zeroed, bytes after the end zeroed.
    """
    if data[:4] == b"\xff\x4f\xff\x51":
        return _blank_2000(data)
    if data[:2] != b"\xff\xd8":
        return data
    out = bytearray(data)
    place = 2
    while place + 4 <= len(out) and out[place] == 0xFF:
        marker = out[place + 1]
        if marker == 0xFF:  # a fill byte
            place += 1
            continue
        length = int.from_bytes(out[place + 2 : place + 4], "big")
        if marker in (0xDA, 0xD9) or length < 2:
            break
        app = 0xE0 <= marker <= 0xEF and marker not in _KEPT_APPS
        if marker == 0xFE or app:
            _blank(out, place + 4, place + 2 + length)
        elif marker == 0xE0:
            _blank(out, place + 4 + 14, place + 2 + length)  # a thumbnail behind the JFIF header
        place += 2 + length
    return _ended(out)


def _blank_2000(data: bytes) -> bytes:
    """The comments (FF64) of the main header."""
    out = bytearray(data)
    place = 2
    while place + 4 <= len(out) and out[place] == 0xFF and out[place + 1] != 0x90:
        length = int.from_bytes(out[place + 2 : place + 4], "big")
        if length < 2:
            break
        if out[place + 1] == 0x64:
            _blank(out, place + 6, place + 2 + length)
        place += 2 + length
    return _ended(out)


def _ended(out: bytearray) -> bytes:
    """Nothing behind the end of the image but fill bytes."""
    end = out.rfind(b"\xff\xd9")
    if end >= 0 and out[end + 2 :].strip(b"\0\xff"):
        out[end + 2 :] = bytes(len(out) - end - 2)
    return bytes(out)


def _blank(out: bytearray, start: int, stop: int) -> None:
    stop = min(stop, len(out))
    if start < stop and not _HARMLESS.fullmatch(bytes(out[start:stop])):
        out[start:stop] = bytes(stop - start)


def clean_pixels(dataset: Dataset) -> None:
    """Take everything but pixels out of the pixel data, in place.

    Raises:
        InputError: An overlay lies in unused bits of compressed pixels
            (`deid-embedded-overlay`), or the fragments cannot be told apart (`dicom-malformed`).
    """
    if "PixelData" not in dataset:
        return
    element = dataset["PixelData"]
    embedded = any(
        int(dataset[tag].value or 0) > 0
        for tag in list(dataset.keys())
        if tag >> 24 == 0x60 and tag & 0xFFFF == 0x0102  # OverlayBitPosition
    )
    if dataset.file_meta.TransferSyntaxUID.is_encapsulated:
        if embedded:
            raise InputError(
                "an overlay lies in unused bits of compressed pixels",
                code="deid-embedded-overlay", next_step="decompress the object first",
            )  # fmt: skip
        frames = max(1, whole(dataset, "NumberOfFrames"))
        element.value = _clean_fragments(element.value, frames)
        return
    value = _trimmed(dataset, element.value)
    if embedded:
        value = _without_unused_bits(dataset, value)
    if value is not element.value:
        element.value = value


def _clean_fragments(value: bytes, frames: int) -> bytes:
    """Encapsulated pixel data, item by item; a code stream over several items as one.

    An offset table that is none is replaced by an empty one.
    """
    items: list[tuple[int, int]] = []
    place = 0
    while place + 8 <= len(value):
        tag, length = (
            value[place : place + 4],
            int.from_bytes(value[place + 4 : place + 8], "little"),
        )
        if tag == b"\xfe\xff\xdd\xe0":
            break
        if tag != b"\xfe\xff\x00\xe0" or length == 0xFFFFFFFF or place + 8 + length > len(value):
            raise InputError("the fragments of its pixel data are damaged", code="dicom-malformed")
        items.append((place + 8, place + 8 + length))
        place += 8 + length
    out = bytearray(value[:place])
    streams: list[list[tuple[int, int]]] = []
    for start, stop in items[1:]:
        starts = value[start : start + 2] in (b"\xff\xd8", b"\xff\x4f")
        if starts or not streams:
            streams.append([])
        streams[-1].append((start, stop))
    for parts in streams:
        clean = blank_comments(b"".join(value[a:b] for a, b in parts))
        cursor = 0
        for a, b in parts:
            out[a:b] = clean[cursor : cursor + b - a]
            cursor += b - a
    if items and not _is_offset_table(value[slice(*items[0])], frames):
        return b"\xfe\xff\x00\xe0" + bytes(4) + bytes(out[items[0][1] :])
    return bytes(out)


def _is_offset_table(data: bytes, frames: int) -> bool:
    """Whether bytes are empty, or offsets of so many frames: from 0 on, ascending."""
    if len(data) % 4:
        return False
    offsets = np.frombuffer(data, "<u4").astype(np.int64)
    whole_table = len(offsets) == frames and offsets[0] == 0 and bool((np.diff(offsets) > 0).all())
    return not data or whole_table


def _trimmed(dataset: Dataset, value: bytes) -> bytes:
    """Native pixel data without bytes behind the last row (one to make it even).

    Raises:
        InputError: There are too few (`dicom-truncated`).
    """
    bits = whole(dataset, "Rows") * whole(dataset, "Columns") * whole(dataset, "BitsAllocated")
    bits *= max(1, whole(dataset, "NumberOfFrames")) * max(1, whole(dataset, "SamplesPerPixel"))
    if str(dataset.get("PhotometricInterpretation", "")) == "YBR_FULL_422":
        bits = bits * 2 // 3
    size = (bits + 7) // 8
    size += size % 2
    if len(value) < bits // 8:
        raise InputError("there are fewer pixels than the header says", code="dicom-truncated",
                         next_step="export it again from the archive")  # fmt: skip
    return value[:size] if bits and len(value) > size else value


def _without_unused_bits(dataset: Dataset, value: bytes) -> bytes:
    """Pixels with the bits above and below the stored ones cleared."""
    allocated, stored = whole(dataset, "BitsAllocated"), whole(dataset, "BitsStored")
    high = whole(dataset, "HighBit")
    signed = whole(dataset, "PixelRepresentation") == 1  # their upper bits repeat the sign
    if allocated not in (8, 16, 32) or not 0 < stored <= high + 1 <= allocated or signed:
        raise InputError("its pixels have an unusual number of bits", code="dicom-malformed")
    order = "<" if dataset.file_meta.TransferSyntaxUID.is_little_endian else ">"
    kind = np.dtype(f"{order}u{allocated // 8}")
    mask = ((1 << stored) - 1) << (high + 1 - stored)
    whole_part = len(value) // kind.itemsize * kind.itemsize
    pixels = np.frombuffer(value[:whole_part], kind) & kind.type(mask)
    return bytes(pixels.astype(kind).tobytes()) + value[whole_part:]
