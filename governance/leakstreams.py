"""The byte streams inside a file: as it is, and as what it packs, compresses or encodes."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import lzma
import sqlite3
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Final

import pyarrow as pa

from governance import leakmeta
from governance.leakmeta import MOST, Closed, pieces

Stream = Iterable[bytes]
DEPTH: Final = 5
"""Archives inside archives are opened this deep."""
_UNREADABLE: Final = (OSError, EOFError, ValueError, RuntimeError, zlib.error,
                      lzma.LZMAError, tarfile.TarError, zipfile.BadZipFile,
                      pa.ArrowException)  # fmt: skip
"""What damaged and encrypted archives and unknown compression raise."""
_HEAD: Final = 1024
_SQLITE: Final = b"SQLite format 3\0"
_COMPRESSED: Final[dict[bytes, Callable[[Any], Any]]] = {
    b"\x1f\x8b": partial(gzip.GzipFile, None, "rb", 9),
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ\0": lzma.LZMAFile,
    b"\x28\xb5\x2f\xfd": lambda file: pa.CompressedInputStream(file, "zstd"),
    b"\x04\x22\x4d\x18": lambda file: pa.CompressedInputStream(file, "lz4"),
}
_ZIP: Final = (b"PK\x03\x04", b"PK\x05\x06")
_PACKED: Final = (*_COMPRESSED, *_ZIP, b"PAR1", b"ARROW1", b"\x89PNG\r\n\x1a\n", b"GIF8", b"%PDF",
                  _SQLITE)  # fmt: skip
_FOREIGN: Final = (b"7z\xbc\xaf\x27\x1c", b"Rar!\x1a\x07", b"LZIP", b"\x1f\x9d", b"\x89HDF\r\n")
"""Formats that nothing here can open."""


def streams_of(path: Path, closed: Closed) -> Iterator[Stream]:
    """Every stream of a file, its own bytes first.

    Args:
        path: The file.
        closed: Called for every packed part that cannot be opened: encrypted, compressed in an
            unknown way, damaged, or packed too deep. Such a part is searched only as it lies there.
    """
    with path.open("rb") as file:
        yield pieces(file)
        file.seek(0)
        head = file.read(_HEAD)
        if head.startswith(_SQLITE):
            yield _sqlite(path, closed)
        file.seek(0)
        yield from _inside(file, head, DEPTH, closed)


def _inside(file: BinaryIO, head: bytes, depth: int, closed: Closed) -> Iterator[Stream]:
    """The streams packed in a file; damaged archives give what they can."""
    packed = head.startswith(_PACKED)
    if head.startswith(_FOREIGN) or (packed and not depth):
        closed()
        return
    if not depth:
        return
    try:
        if (start := leakmeta.deflated_dicom(head)) is not None:
            yield from _unpacked(
                partial(_spooled, leakmeta.inflated(file, start, -15)), depth, closed
            )
        elif packed:
            yield from _packed(file, head, depth, closed)
        elif _is_zlib(head):
            yield leakmeta.inflated(file, 0, 15)
        elif head[257:262] == b"ustar" or _is_old_tar(head):
            yield from _tar(file, depth, closed)
    except _UNREADABLE:
        if packed:  # anything else only looked like what it is not
            closed()


def _packed(file: BinaryIO, head: bytes, depth: int, closed: Closed) -> Iterator[Stream]:
    for magic, opened in _COMPRESSED.items():
        if head.startswith(magic):
            yield from _unpacked(partial(opened, file), depth, closed)
            return
    if head.startswith(_ZIP):
        yield from _zip(file, depth, closed)
    elif head.startswith(b"PAR1"):
        yield leakmeta.parquet(file, closed)
    elif head.startswith(b"ARROW1"):
        yield leakmeta.arrow(file, closed)
    elif head.startswith(b"\x89PNG"):
        yield leakmeta.png_texts(file)
    elif head.startswith(b"GIF8"):
        yield leakmeta.gif_texts(file)
    elif head.startswith(b"%PDF"):
        yield leakmeta.pdf_streams(file, closed)


def _is_zlib(head: bytes) -> bool:
    """RFC 1950: a deflate stream with a header that is a multiple of 31."""
    return len(head) > 2 and head[0] == 0x78 and int.from_bytes(head[:2], "big") % 31 == 0


def _is_old_tar(head: bytes) -> bool:
    """A tar without `ustar`: the header's checksum is in octal digits."""
    summed = sum(head[:148]) + 8 * 0x20 + sum(head[156:512])
    return len(head) >= 512 and summed == _octal(head[148:156])


def _octal(digits: bytes) -> int:
    try:
        return int(digits.strip(b" \0"), 8)
    except ValueError:
        return -1


@contextlib.contextmanager
def _spooled(stream: Stream) -> Iterator[Any]:
    with tempfile.SpooledTemporaryFile(max_size=64 << 20) as file:
        for piece in stream:
            file.write(piece)
        file.seek(0)
        yield file


def _unpacked(
    opened: Callable[[], AbstractContextManager[Any]], depth: int, closed: Closed
) -> Iterator[Stream]:
    """A compressed member: spooled to disk when large, searched, and looked into."""
    with tempfile.SpooledTemporaryFile(max_size=64 << 20) as spool:
        try:
            with opened() as file:
                for piece in pieces(file, MOST):
                    spool.write(piece)
                if file.read(1):
                    closed()
        except _UNREADABLE:
            closed()
        spool.seek(0)
        yield pieces(spool)
        spool.seek(0)
        head = spool.read(_HEAD)
        if head.startswith(_SQLITE):
            with tempfile.NamedTemporaryFile(suffix=".db") as copy:
                spool.seek(0)
                for piece in pieces(spool):
                    copy.write(piece)
                copy.flush()
                yield _sqlite(Path(copy.name), closed)
        spool.seek(0)
        yield from _inside(spool, head, depth - 1, closed)  # type: ignore[arg-type]


def _zip(file: BinaryIO, depth: int, closed: Closed) -> Iterator[Stream]:
    """Names, comments and members; one that cannot be opened does not hide the next."""
    with zipfile.ZipFile(file) as archive:
        names = "\n".join(archive.namelist()).encode("utf-8", "surrogateescape")
        yield (names, b"\n", archive.comment, *(info.comment for info in archive.infolist()))
        for info in archive.infolist():
            if not info.is_dir():
                yield from _unpacked(partial(archive.open, info), depth, closed)


def _tar(file: BinaryIO, depth: int, closed: Closed) -> Iterator[Stream]:
    """Members of a tar lie in it as they are; only packed ones need a look of their own."""
    with tarfile.open(fileobj=file, mode="r:") as archive:
        for member in archive:
            if not member.isfile() or (handle := archive.extractfile(member)) is None:
                continue
            head = handle.read(_HEAD)
            handle.seek(0)
            if head.startswith(_PACKED + _FOREIGN) or _looks_inside(head):
                yield from _unpacked(partial(contextlib.nullcontext, handle), depth, closed)


def _looks_inside(head: bytes) -> bool:
    return leakmeta.deflated_dicom(head) is not None or _is_zlib(head) or head[257:262] == b"ustar"


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
                        yield b"\n".join(leakmeta.leaves(list(row))) + b"\n"
                except sqlite3.DatabaseError:
                    closed()
    except sqlite3.DatabaseError:
        closed()
