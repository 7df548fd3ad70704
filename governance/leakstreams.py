"""The byte streams inside a file: as it is, and as what it packs, compresses or encodes."""

from __future__ import annotations

import contextlib
import gzip
import io
import lzma
import sqlite3
import struct
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

_UNREADABLE = (OSError, EOFError, ValueError, RuntimeError, zlib.error, lzma.LZMAError,
               tarfile.TarError, zipfile.BadZipFile, pa.ArrowException)  # fmt: skip
"""What damaged and encrypted archives and unknown compression raise."""
Stream = Iterable[bytes]
Closed = Callable[[], None]
PIECE = 4 << 20
DEPTH = 4
"""Archives inside archives are opened this deep."""
MOST = 4 << 30
"""Bytes that one compressed stream may grow to before the rest is left."""


def streams_of(path: Path, closed: Closed) -> Iterator[Stream]:
    """Every stream of a file, its own bytes first.

    Args:
        path: The file.
        closed: Called for every packed part that cannot be opened: encrypted, compressed in an
            unknown way, damaged, or packed too deep. Such a part is searched only as it lies there.
    """
    with path.open("rb") as file:
        yield _pieces(file)
        file.seek(0)
        head = file.read(16)
        if head.startswith(b"SQLite format 3\0"):
            yield _sqlite(path, closed)
        file.seek(0)
        yield from _inside(file, head, DEPTH, closed)


def _pieces(file: Any, most: int | None = None) -> Iterator[bytes]:
    left = most
    while piece := file.read(PIECE if left is None else min(PIECE, left)):
        yield piece
        if left is not None:
            left -= len(piece)


def _inside(file: BinaryIO, head: bytes, depth: int, closed: Closed) -> Iterator[Stream]:
    """The streams packed in a file; damaged archives give what they can."""
    packed = head.startswith((b"\x1f\x8b", b"PK\x03\x04", b"PAR1", b"\x89PNG\r\n\x1a\n"))
    if not depth:
        if packed:
            closed()
        return
    try:
        if head.startswith(b"\x1f\x8b"):
            yield from _unpacked(lambda: gzip.GzipFile(fileobj=file, mode="rb"), depth, closed)
        elif head.startswith(b"PK\x03\x04"):
            yield from _zip(file, depth, closed)
        elif head.startswith(b"PAR1"):
            yield _parquet(file, closed)
        elif head.startswith(b"\x89PNG\r\n\x1a\n"):
            yield _png_texts(file)
        else:
            yield from _tar(file, depth, closed)
    except _UNREADABLE:
        if packed:  # anything else is tried as a tar, and hardly ever is one
            closed()


def _unpacked(
    opened: Callable[[], AbstractContextManager[Any]], depth: int, closed: Closed
) -> Iterator[Stream]:
    """A compressed member: spooled to disk when large, searched, and looked into."""
    with tempfile.SpooledTemporaryFile(max_size=64 << 20) as spool:
        try:
            with opened() as file:
                for piece in _pieces(file, MOST):
                    spool.write(piece)
                if file.read(1):
                    closed()
        except _UNREADABLE:
            closed()
        spool.seek(0)
        yield _pieces(spool)
        spool.seek(0)
        head = spool.read(16)
        if head.startswith(b"SQLite format 3\0"):
            with tempfile.NamedTemporaryFile(suffix=".db") as copy:
                spool.seek(0)
                for piece in _pieces(spool):
                    copy.write(piece)
                copy.flush()
                yield _sqlite(Path(copy.name), closed)
        spool.seek(0)
        yield from _inside(spool, head, depth - 1, closed)  # type: ignore[arg-type]


def _zip(file: BinaryIO, depth: int, closed: Closed) -> Iterator[Stream]:
    """Names and members; one that cannot be opened does not hide the next."""
    with zipfile.ZipFile(file) as archive:
        names = "\n".join(archive.namelist()).encode("utf-8", "surrogateescape")
        yield (names,)
        for info in archive.infolist():
            if not info.is_dir():
                yield from _unpacked(partial(archive.open, info), depth, closed)


def _tar(file: BinaryIO, depth: int, closed: Closed) -> Iterator[Stream]:
    """Members of a tar lie in it as they are; only packed ones need a look of their own."""
    with tarfile.open(fileobj=file, mode="r:") as archive:
        for member in archive:
            if not member.isfile() or (handle := archive.extractfile(member)) is None:
                continue
            head = handle.read(16)
            handle.seek(0)
            if head[:4] in (b"PK\x03\x04", b"PAR1", b"\x89PNG", b"SQLi") or head[:2] == b"\x1f\x8b":
                yield from _unpacked(partial(contextlib.nullcontext, handle), depth, closed)


def _parquet(file: BinaryIO, closed: Closed) -> Iterator[bytes]:
    """Every cell: pages are compressed."""
    try:
        table = pq.ParquetFile(file)
        yield repr(table.schema_arrow.metadata).encode()
        for batch in table.iter_batches(batch_size=4096):
            for column in batch.columns:
                yield b"\n".join(_leaves(column.to_pylist())) + b"\n"
    except (pa.ArrowException, OSError):
        closed()


def _leaves(value: Any) -> Iterator[bytes]:
    """Every string, number and byte string in a tree of lists and structs."""
    if isinstance(value, bytes):
        yield value
    elif isinstance(value, dict):
        for name, item in value.items():
            yield str(name).encode("utf-8", "surrogateescape")
            yield from _leaves(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _leaves(item)
    elif value is not None and not isinstance(value, float):
        yield str(value).encode("utf-8", "surrogateescape")


def _sqlite(path: Path, closed: Closed) -> Iterator[bytes]:
    """Every cell: a long value is scattered over pages, so raw bytes are not enough."""
    uri = f"file:{path.resolve()}?mode=ro&immutable=1"
    try:
        with contextlib.closing(sqlite3.connect(uri, uri=True)) as base:
            base.text_factory = bytes
            tables = base.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
            for (name,) in tables:
                quoted = name.decode("utf-8", "replace").replace('"', '""')
                try:
                    for row in base.execute(f'SELECT * FROM "{quoted}"'):
                        yield b"\n".join(_leaves(list(row))) + b"\n"
                except sqlite3.DatabaseError:
                    closed()
    except sqlite3.DatabaseError:
        closed()


def _png_texts(file: BinaryIO) -> Iterator[bytes]:
    """The compressed text chunks (zTXt, iTXt) and profiles of a PNG."""
    file.seek(8)
    while len(head := file.read(8)) == 8:
        size, kind = struct.unpack(">I4s", head)
        if kind not in (b"zTXt", b"iTXt", b"iCCP"):
            file.seek(size + 4, io.SEEK_CUR)
            continue
        data = file.read(size)
        file.seek(4, io.SEEK_CUR)
        for start in (place for place, byte in enumerate(data) if byte == 0x78):
            with contextlib.suppress(zlib.error):
                yield zlib.decompressobj().decompress(data[start:], 16 << 20)
