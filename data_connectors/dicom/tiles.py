"""Where the coded frames of a file are, so that one of many thousands can be read alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import BinaryIO, Final

import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.uid import DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian

from data_connectors.dicom.header import guarded, text, whole
from medvlp.errors import InputError

_PIXEL_DATA: Final = b"\xe0\x7f\x10\x00"
_ITEM: Final = b"\xfe\xff\x00\xe0"
_END: Final = b"\xfe\xff\xdd\xe0"
_UNDEFINED: Final = 0xFFFFFFFF


@dataclass(frozen=True, slots=True, eq=False)
class Tiles:
    """Bytes of each frame in a file."""

    encapsulated: bool
    starts: np.ndarray
    """int64 [k]: where the fragments of all frames begin."""
    lengths: np.ndarray
    """int64 [k]: how long they are."""
    first: np.ndarray
    """int64 [frames + 1]: the first fragment of each frame, and the end."""

    def read(self, file: BinaryIO, frame: int) -> bytes:
        """The coded bytes of one frame.

        Raises:
            InputError: `dicom-truncated`.
        """
        parts = []
        for index in range(int(self.first[frame]), int(self.first[frame + 1])):
            file.seek(int(self.starts[index]))
            parts.append(file.read(int(self.lengths[index])))
            if len(parts[-1]) != self.lengths[index]:
                raise _truncated()
        return b"".join(parts)


def read_tiles(file: BinaryIO) -> tuple[Dataset, Tiles]:
    """The header of an object and where its frames are; no pixels are read.

    Raises:
        InputError: `not-dicom`, `dicom-malformed`, `dicom-no-pixels`, `dicom-truncated`,
            `dicom-lying-geometry` or `dicom-unsupported` (deflated).
    """
    return guarded(lambda: _read(file))


def _read(file: BinaryIO) -> tuple[Dataset, Tiles]:
    file.seek(0)
    try:
        header = pydicom.dcmread(file, stop_before_pixels=True)
    except InvalidDicomError:
        raise InputError("it is no DICOM file", code="not-dicom", next_step="nothing") from None
    syntax = text(header.file_meta, "TransferSyntaxUID")
    if syntax == DeflatedExplicitVRLittleEndian:
        raise InputError("deflated slides are not read", code="dicom-unsupported")
    tag = file.read(4)
    rest = file.read(4 if syntax == ImplicitVRLittleEndian else 8)
    if tag != _PIXEL_DATA or len(rest) < 4:
        raise InputError("there is no pixel data", code="dicom-no-pixels", next_step="nothing")
    length = int.from_bytes(rest[-4:], "little")
    frames = max(1, whole(header, "NumberOfFrames"))
    start = file.tell()
    if length == _UNDEFINED:
        return header, _encapsulated(header, file, start, frames)
    return header, _native(header, min(length, file.seek(0, 2) - start), start, frames)


def _native(header: Dataset, length: int, start: int, frames: int) -> Tiles:
    """Frames of one length, one after the other."""
    samples = max(1, whole(header, "SamplesPerPixel"))
    pixels = whole(header, "Rows") * whole(header, "Columns") * samples
    each = pixels * whole(header, "BitsAllocated") // 8
    if text(header, "PhotometricInterpretation") == "YBR_FULL_422":
        each = each * 2 // 3
    if each < 1 or each * frames > length:
        raise InputError(
            "rows, columns and frames claim more pixels than there are",
            code="dicom-lying-geometry", got=f"{length} bytes", limit=f"{each * frames} bytes",
        )  # fmt: skip
    starts = start + each * np.arange(frames, dtype=np.int64)
    return Tiles(False, starts, np.full(frames, each, np.int64), np.arange(frames + 1))


def _encapsulated(header: Dataset, file: BinaryIO, start: int, frames: int) -> Tiles:
    """By the offset table where it names every frame, else fragment by fragment."""
    table = _item(file, start)
    base = start + 8 + table
    offsets, lengths = (
        np.frombuffer(header.get(keyword) or b"", "<u8").astype(np.int64)
        for keyword in ("ExtendedOffsetTable", "ExtendedOffsetTableLengths")
    )
    if len(offsets) == len(lengths) == frames:
        return Tiles(True, base + offsets + 8, lengths, np.arange(frames + 1))
    file.seek(start + 8)
    basic = np.frombuffer(file.read(table // 4 * 4), "<u4").astype(np.int64)
    starts, sizes = _fragments(file, base)
    if len(starts) == frames:
        first = np.arange(frames + 1)
    elif frames == 1:
        first = np.array([0, len(starts)])
    elif len(basic) == frames:
        first = np.append(np.searchsorted(starts - 8 - base, basic), len(starts))
    else:
        raise InputError(
            "the coded frames cannot be told apart: there is no offset table",
            code="dicom-malformed", got=f"{len(starts)} fragments", limit=f"{frames} frames",
            next_step="export it again from the archive",
        )  # fmt: skip
    return Tiles(True, starts, sizes, first)


def _fragments(file: BinaryIO, at: int) -> tuple[np.ndarray, np.ndarray]:
    """Where each fragment begins and how long it is; only their heads are read."""
    end = file.seek(0, 2)
    starts: list[int] = []
    sizes: list[int] = []
    while at + 8 <= end:
        file.seek(at)
        head = file.read(8)
        if head[:4] == _END:
            return np.array(starts, np.int64), np.array(sizes, np.int64)
        size = int.from_bytes(head[4:], "little")
        if head[:4] != _ITEM or at + 8 + size > end:
            break
        starts.append(at + 8)
        sizes.append(size)
        at += 8 + size
    raise _truncated()


def _item(file: BinaryIO, at: int) -> int:
    """The length of the item that begins here."""
    file.seek(at)
    head = file.read(8)
    if head[:4] != _ITEM:
        raise _truncated()
    return int.from_bytes(head[4:], "little")


def _truncated() -> InputError:
    return InputError(
        "the file ends within the pixel data", code="dicom-truncated",
        next_step="fetch the file again from the archive",
    )  # fmt: skip
