"""Where the pixel data of an object lies, and the bytes of one frame of it, read when asked for."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any, Final

from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset

from data_connectors.dicom.skim import UNDEFINED
from data_connectors.dicom.sources import (
    FileBytes,
    Inflated,
    InflatedFile,
    MemoryBytes,
)
from medvlp.errors import InputError

PIXEL_DATA: Final = 0x7FE00010
FLOAT_PIXELS: Final = 0x7FE00008
DOUBLE_PIXELS: Final = 0x7FE00009
_TAGS: Final = (PIXEL_DATA, FLOAT_PIXELS, DOUBLE_PIXELS)
_ITEM: Final = b"\xfe\xff\x00\xe0"
_END: Final = b"\xfe\xff\xdd\xe0"
_MAX_FRAGMENTS: Final = 2_000_000

Source = FileBytes | MemoryBytes | Inflated
Opener = Callable[[], AbstractContextManager[Source]]


@dataclass(slots=True)
class PixelData:
    """The pixel data element of one object, still in its file."""

    open: Opener
    tag: int
    at: int
    """Where its value begins."""
    length: int
    """Of its value; `UNDEFINED` if it is in fragments."""
    vr: str = ""
    """Its value representation; empty if it is implicit."""
    in_file: bool = False
    """Whether the value is still in a file, not in memory."""
    extended: tuple[tuple[int, int], ...] = ()
    """Extended offset table: (offset of the frame's first item, bytes) a frame (PS3.5 A.4)."""
    _frames: list[list[tuple[int, int]]] | None = field(default=None, repr=False)

    def present(self, most: int) -> int:
        """How many bytes of the value are there, counted no further than `most`."""
        count = min(self.length, most)
        with self.open() as source:
            size = source.size()
            if size is not None:
                return max(0, min(count, size - self.at))
            return len(source.read(self.at, count))

    def read(self, offset: int, count: int) -> bytes:
        """Bytes of the value."""
        with self.open() as source:
            return source.read(self.at + offset, count)

    def readinto(self, offset: int, room: memoryview) -> int:
        """Bytes of the value into a buffer; how many there were."""
        with self.open() as source:
            return source.readinto(self.at + offset, room)

    def coded_frame(self, index: int, frames: int) -> bytes:
        """The code stream of one frame.

        Args:
            index: Its number from 0.
            frames: How many the header states.

        Raises:
            InputError: `dicom-truncated`, `dicom-malformed` or `dicom-no-pixels`.
        """
        with self.open() as source:
            if self._frames is None:
                self._frames = self._places(source, frames)
            if index >= len(self._frames):
                raise InputError(
                    "there are fewer coded frames than the header says", code="dicom-malformed",
                    got=len(self._frames), limit=frames,
                    next_step="fetch the file again from the archive",
                )  # fmt: skip
            places = self._frames[index]
            parts = [source.read(at, length) for at, length in places]
            if sum(len(part) for part in parts) < sum(length for _, length in places):
                raise InputError(
                    "the file ends within the pixel data", code="dicom-truncated",
                    next_step="fetch the file again from the archive",
                )  # fmt: skip
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _places(self, source: Source, frames: int) -> list[list[tuple[int, int]]]:
        """(place, length) of the fragments of every frame (PS3.5 A.4)."""
        offsets, fragments = self._fragments(source)
        base = fragments[0][0] - 8
        if frames == 1:
            return [fragments]
        if len(self.extended) == frames:
            return [[(base + offset + 8, length)] for offset, length in self.extended]
        if len(offsets) == frames:
            found: list[list[tuple[int, int]]] = [[] for _ in offsets]
            starts = {base + offset: number for number, offset in enumerate(offsets)}
            number = -1
            for at, length in fragments:
                number = starts.get(at - 8, number)
                if number >= 0:
                    found[number].append((at, length))
            if all(found):
                return found
        if len(fragments) == frames:
            return [[fragment] for fragment in fragments]
        return _by_end_markers(source, fragments)

    def _fragments(self, source: Source) -> tuple[list[int], list[tuple[int, int]]]:
        """The basic offset table, and (place, length) of every fragment after it."""
        at, end = self.at, self.at + self.length if self.length != UNDEFINED else None
        items: list[tuple[int, int]] = []
        while end is None or at < end:
            head = source.read(at, 8)
            if head[:4] != _ITEM:
                if head[:4] == _END or (len(head) < 8 and len(items) > 1):
                    break
                raise _malformed()
            length = int.from_bytes(head[4:], "little")
            items.append((at + 8, length))
            at += 8 + length
            if length == UNDEFINED or len(items) > _MAX_FRAGMENTS:
                raise _malformed()
        if not any(length for _, length in items[1:]):
            raise InputError("the pixel data is empty", code="dicom-no-pixels")
        table = source.read(*items[0])
        offsets = [int.from_bytes(table[k : k + 4], "little") for k in range(0, len(table), 4)]
        return offsets, items[1:]


def _malformed() -> InputError:
    return InputError(
        "the fragments of the pixel data are broken", code="dicom-malformed",
        next_step="fetch the file again from the archive",
    )  # fmt: skip


def _by_end_markers(
    source: Source, fragments: list[tuple[int, int]]
) -> list[list[tuple[int, int]]]:
    """Frames of several fragments without a table: a frame ends where its code stream does."""
    found: list[list[tuple[int, int]]] = [[]]
    for at, length in fragments:
        found[-1].append((at, length))
        if b"\xff\xd9" in source.read(at + max(0, length - 10), min(length, 10)):
            found.append([])
    return [frame for frame in found if frame]


def pixel_data(dataset: Dataset) -> PixelData:
    """Where the pixel data of a dataset is: in its file if it was left there, else in memory.

    Raises:
        InputError: `dicom-no-pixels`.
    """
    for tag in _TAGS:
        if tag not in dataset:
            continue
        element = dataset.get_item(tag, keep_deferred=True)
        extended = _extended(dataset)
        if isinstance(element, RawDataElement):
            if element.value is None and element.length:
                vr, at, length = element.VR or "", element.value_tell, element.length
                opener = _opener(dataset)
                return PixelData(opener, tag, at, length, vr, bool(dataset.filename), extended)
            declared = element.length
        else:
            declared = len(element.value or b"")
        kept = MemoryBytes(BytesIO(element.value or b""))
        return PixelData(
            partial(_same, kept), tag, 0, declared, element.VR or "", extended=extended
        )
    raise InputError("there is no pixel data", code="dicom-no-pixels", next_step="nothing")


def _same(source: MemoryBytes) -> MemoryBytes:
    return source


def _opener(dataset: Any) -> Opener:
    """How to reach the bytes that the dataset was read from."""
    if dataset.filename and os.path.exists(dataset.filename):
        path = Path(dataset.filename)
        return lambda: FileBytes(path)
    buffer = dataset.buffer
    if isinstance(buffer, InflatedFile):
        return lambda: buffer.inflated
    return lambda: MemoryBytes(buffer)


def _extended(dataset: Dataset) -> tuple[tuple[int, int], ...]:
    """The extended offset table, if there is a whole one."""
    table, lengths = dataset.get("ExtendedOffsetTable"), dataset.get("ExtendedOffsetTableLengths")
    if not isinstance(table, bytes) or not isinstance(lengths, bytes):
        return ()
    if len(table) != len(lengths):
        return ()

    def numbers(data: bytes) -> list[int]:
        return [int.from_bytes(data[k : k + 8], "little") for k in range(0, len(data), 8)]

    return tuple(zip(numbers(table), numbers(lengths), strict=True))
