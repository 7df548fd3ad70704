"""The bytes of one DICOM object, read by place: a file, a member in memory, or what inflates.

Nothing is read before it is asked for, and a deflated object is inflated no further than that.
"""

from __future__ import annotations

import io
import os
import zlib
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import Final, Protocol, runtime_checkable

from data_connectors.files import Handle
from medvlp.errors import InputError

_STEP: Final = 1 << 18
_CHUNK: Final = 1 << 14
BLOCK: Final = 1 << 14
"""Bytes that are read at a time: most headers fit."""


@runtime_checkable
class Bytes(Protocol):
    """Something that can be read at a place."""

    def read(self, at: int, count: int) -> bytes:
        """Up to so many bytes; fewer only at the end."""


class FileBytes:
    """A file, opened once; a context manager."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._head = os.pread(self._file, BLOCK, 0)

    def read(self, at: int, count: int) -> bytes:
        """Up to so many bytes; fewer only at the end."""
        if at + count <= len(self._head):
            return self._head[at : at + count]
        found = os.pread(self._file, count, at)
        while found and len(found) < count:
            more = os.pread(self._file, count - len(found), at + len(found))
            if not more:
                break
            found += more
        return found

    def size(self) -> int | None:
        """How many bytes there are; None if that takes reading them all."""
        return os.fstat(self._file).st_size

    def readinto(self, at: int, room: memoryview) -> int:
        """Fill a writable buffer of bytes; how many there were."""
        done = 0
        while done < len(room):
            count = os.preadv(self._file, [room[done:]], at + done)
            if count == 0:
                break
            done += count
        return done

    def __enter__(self) -> FileBytes:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._file)


class MemoryBytes:
    """A member of an archive, in memory."""

    def __init__(self, buffer: BytesIO) -> None:
        self._bytes = buffer.getvalue()  # CPython shares it, nothing is copied

    def read(self, at: int, count: int) -> bytes:
        """Up to so many bytes; fewer only at the end."""
        return self._bytes[at : at + count]

    def size(self) -> int | None:
        """How many bytes there are; None if that takes reading them all."""
        return len(self._bytes)

    def readinto(self, at: int, room: memoryview) -> int:
        """Fill a writable buffer of bytes; how many there were."""
        part = memoryview(self._bytes)[at : at + len(room)]
        room[: len(part)] = part
        return len(part)

    def __enter__(self) -> MemoryBytes:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        return None


class Inflated:
    """What comes out of a raw deflate stream (PS3.5 A.5), as far as it has been asked for.

    Reading past `limit` is refused, so a small file cannot become a large one in memory.
    """

    def __init__(self, packed: Bytes, start: int, limit: int) -> None:
        self._packed = packed
        self._at = start
        self._limit = limit
        self._stream = zlib.decompressobj(-zlib.MAX_WBITS)
        self._bytes = bytearray()

    def read(self, at: int, count: int) -> bytes:
        """Up to so many bytes; fewer only at the end.

        Raises:
            InputError: `dicom-too-large`.
            zlib.error: It is no deflate stream.
        """
        while len(self._bytes) < at + count and not self._stream.eof:
            if not self._more():
                break
        return bytes(self._bytes[at : at + count])

    def size(self) -> int | None:
        """How many bytes there are; None if that takes reading them all."""
        return None

    def readinto(self, at: int, room: memoryview) -> int:
        """Fill a writable buffer of bytes; how many there were."""
        part = self.read(at, len(room))
        room[: len(part)] = part
        return len(part)

    def _more(self) -> bool:
        packed = self._stream.unconsumed_tail
        if not packed:
            packed = self._packed.read(self._at, _CHUNK)
            self._at += len(packed)
        if not packed:
            return False
        self._bytes += self._stream.decompress(packed, _STEP)
        if len(self._bytes) > self._limit:
            raise InputError(
                "a deflated object is too large once inflated", code="dicom-too-large",
                got=f"more than {self._limit} bytes", limit=self._limit,
                next_step="raise max_bytes if it is genuine",
            )  # fmt: skip
        return True

    def __enter__(self) -> Inflated:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        return None


class Reopened:
    """The bytes of an input that is opened for every read, and so is never left open."""

    def __init__(self, handle: Handle) -> None:
        self._handle = handle

    def read(self, at: int, count: int) -> bytes:
        """Up to so many bytes; fewer only at the end."""
        with open_bytes(self._handle) as source:
            return source.read(at, count)


class InflatedFile(io.RawIOBase):
    """A deflated object as a plain file, from which pydicom reads values that were left out."""

    def __init__(self, handle: Handle, start: int, limit: int) -> None:
        self.inflated = Inflated(Reopened(handle), start, limit)
        self._at, self._limit = 0, limit

    def read(self, count: int = -1) -> bytes:
        """Up to so many bytes."""
        found = self.inflated.read(self._at, count if count >= 0 else self._limit)
        self._at += len(found)
        return found

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a place from the start, or from here."""
        self._at = offset + (self._at if whence == io.SEEK_CUR else 0)
        return self._at

    def tell(self) -> int:
        """Where the next read begins."""
        return self._at


def open_bytes(handle: Handle) -> FileBytes | MemoryBytes:
    """The bytes of one input.

    Raises:
        OSError: The file cannot be opened.
    """
    return MemoryBytes(handle) if isinstance(handle, BytesIO) else FileBytes(handle)
