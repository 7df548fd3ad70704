"""What a coded frame says of itself, read from its first markers.

A decoder allocates what the code stream says, not what the DICOM header says; comparing the two
first stops both a bomb and a picture that would be cut into rows of the wrong length.
"""

from __future__ import annotations

from typing import NamedTuple

_JP2_SIGNATURE = b"\x00\x00\x00\x0cjP  "
_J2K_START = b"\xff\x4f\xff\x51"
_NO_FRAME = {0xC4, 0xC8, 0xCC}
"""Markers among C0..CF that start no frame (tables, reserved, arithmetic conditioning)."""
_JPEG_LS_FRAME = 0xF7
_RGB_NAMES = (b"RGB", b"rgb")
_MAX_TILES = 65_535


class Coded(NamedTuple):
    """The image that a code stream holds."""

    rows: int
    columns: int
    samples: int
    precision: int
    """Bits of a sample."""
    signed: bool
    """JPEG 2000 only; the others do not say."""
    colour: str
    """What the markers of a JPEG or JPEG-LS stream say of its colours: `rgb`, `jfif`, `adobe`."""
    planes: bool
    """Whether the components of a JPEG-LS stream come one after the other."""
    lossless: bool
    """Whether it is JPEG Lossless (process 14)."""


def read_coded(frame: bytes) -> Coded | None:
    """The first image of a JPEG, JPEG-LS or JPEG 2000 code stream; None if it states none."""
    if frame.startswith(_JP2_SIGNATURE):
        start = frame.find(_J2K_START, 0, 4096)
        return _j2k(frame, start) if start >= 0 else None
    if frame.startswith(_J2K_START):
        return _j2k(frame, 0)
    return _jpeg(frame) if frame.startswith(b"\xff\xd8") else None


def coded_size(frame: bytes) -> tuple[int, int] | None:
    """(rows, columns) of a code stream; None if it states none."""
    coded = read_coded(frame)
    return None if coded is None or not coded.rows else (coded.rows, coded.columns)


def _j2k(stream: bytes, start: int) -> Coded | None:
    """From the SIZ segment (ISO/IEC 15444-1, A.5.1): image area less its offset."""
    if len(stream) < start + 43:
        return None
    right, bottom, left, top, wide, high = (
        int.from_bytes(stream[start + at : start + at + 4], "big") for at in (8, 12, 16, 20, 24, 28)
    )
    samples = int.from_bytes(stream[start + 40 : start + 42], "big")
    rows, columns, depth = bottom - top, right - left, stream[start + 42]
    if rows < 1 or columns < 1 or not wide or not high:
        return None
    if (right // wide + 1) * (bottom // high + 1) > _MAX_TILES:
        return None
    return Coded(
        rows, columns, samples, (depth & 0x7F) + 1, bool(depth & 0x80), "", False, False
    )  # fmt: skip


def _jpeg(stream: bytes) -> Coded | None:
    """From the frame header (ITU-T T.81, B.2.2; ITU-T T.87, C.2.2) and what precedes it."""
    at, colour = 2, ""
    while at + 9 <= len(stream) and stream[at] == 0xFF:
        marker = stream[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        length = int.from_bytes(stream[at + 2 : at + 4], "big")
        if marker == _JPEG_LS_FRAME or (0xC0 <= marker <= 0xCF and marker not in _NO_FRAME):
            rows = int.from_bytes(stream[at + 5 : at + 7], "big")
            columns = int.from_bytes(stream[at + 7 : at + 9], "big")
            samples = stream[at + 9] if at + 9 < len(stream) else 0
            if stream[at + 10 : at + 19 : 3] in _RGB_NAMES:
                colour = "rgb"
            planes = marker == _JPEG_LS_FRAME and _interleave(stream, at + 2 + length) == 0
            return Coded(
                rows, columns, samples, stream[at + 4], False, colour, planes, marker == 0xC3
            )  # fmt: skip
        if marker == 0xE0 and stream[at + 4 : at + 8] == b"JFIF":
            colour = "jfif"
        elif marker == 0xEE and stream[at + 4 : at + 9] == b"Adobe" and length >= 14:
            colour = colour or "adobe"
        at += 2 + length
    return None


def _interleave(stream: bytes, at: int) -> int:
    """The interleave mode in the first scan header of JPEG-LS (ITU-T T.87, C.2.3)."""
    while at + 5 <= len(stream) and stream[at] == 0xFF and stream[at + 1] != 0xDA:
        at += 2 + max(2, int.from_bytes(stream[at + 2 : at + 4], "big"))
    place = at + 5 + 2 * (stream[at + 4] if at + 4 < len(stream) else 0) + 1
    return stream[place] if place < len(stream) else 0
