"""The size that a coded frame itself states, read from its first markers.

A decoder allocates what the code stream says, not what the DICOM header says; comparing the two
first stops both a bomb and a picture that would be cut into rows of the wrong length.
"""

from __future__ import annotations

_JP2_SIGNATURE = b"\x00\x00\x00\x0cjP  "
_J2K_START = b"\xff\x4f\xff\x51"
_NO_FRAME = {0xC4, 0xC8, 0xCC}
"""Markers among C0..CF that start no frame (tables, reserved, arithmetic conditioning)."""
_JPEG_LS_FRAME = 0xF7


def coded_size(frame: bytes) -> tuple[int, int] | None:
    """(rows, columns) of a JPEG, JPEG-LS or JPEG 2000 code stream; None if it states none."""
    if frame.startswith(_JP2_SIGNATURE):
        start = frame.find(_J2K_START, 0, 4096)
        return _j2k_size(frame[start:]) if start >= 0 else None
    if frame.startswith(_J2K_START):
        return _j2k_size(frame)
    return _jpeg_size(frame) if frame.startswith(b"\xff\xd8") else None


def _j2k_size(stream: bytes) -> tuple[int, int] | None:
    """From the SIZ segment (ISO/IEC 15444-1, A.5.1): image area less its offset."""
    if len(stream) < 24:
        return None
    right, bottom, left, top = (
        int.from_bytes(stream[at : at + 4], "big") for at in (8, 12, 16, 20)
    )
    rows, columns = bottom - top, right - left
    return (rows, columns) if rows > 0 and columns > 0 else None


def _jpeg_size(stream: bytes) -> tuple[int, int] | None:
    """From the frame header (ITU-T T.81, B.2.2; ITU-T T.87, C.2.2)."""
    at = 2
    while at + 9 <= len(stream) and stream[at] == 0xFF:
        marker = stream[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        if marker == _JPEG_LS_FRAME or (0xC0 <= marker <= 0xCF and marker not in _NO_FRAME):
            rows = int.from_bytes(stream[at + 5 : at + 7], "big")
            columns = int.from_bytes(stream[at + 7 : at + 9], "big")
            return (rows, columns) if rows and columns else None  # zero rows: stated later, in DNL
        at += 2 + int.from_bytes(stream[at + 2 : at + 4], "big")
    return None
