"""What files of known formats hide in compressed or scattered parts."""

from __future__ import annotations

import contextlib
import io
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, Final

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq

Closed = Callable[[], None]
PIECE: Final = 4 << 20
MOST: Final = 4 << 30
"""Bytes that one compressed stream may grow to before the rest is left."""
_DEFLATED: Final = b"1.2.840.10008.1.2.1.99"
_PDF_MOST: Final = 512 << 20


def pieces(file: Any, most: int | None = None) -> Iterator[bytes]:
    """A file in pieces, up to so many bytes."""
    left = most
    while piece := file.read(PIECE if left is None else min(PIECE, left)):
        yield piece
        if left is not None:
            left -= len(piece)


def inflated(file: BinaryIO, start: int, wbits: int) -> Iterator[bytes]:
    """A zlib or raw deflate stream from some place on, as far as it goes."""
    file.seek(start)
    machine = zlib.decompressobj(wbits)
    size = 0
    with contextlib.suppress(zlib.error):
        while (piece := file.read(PIECE // 16)) and not machine.eof and size < MOST:
            while piece and size < MOST:
                out = machine.decompress(piece, PIECE)
                size += len(out)
                yield out
                piece = machine.unconsumed_tail
        yield machine.flush()


def deflated_dicom(head: bytes) -> int | None:
    """Where the deflated part of a DICOM file begins, if it is one (PS3.5 A.5); else None.

    Args:
        head: The first kilobytes of the file.
    """
    if head[128:132] != b"DICM" or _DEFLATED not in head[:1024]:
        return None
    if head[132:140] != b"\x02\x00\x00\x00UL\x04\x00":
        return None
    return 144 + int(struct.unpack("<I", head[140:144])[0])


def png_texts(file: BinaryIO) -> Iterator[bytes]:
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


def gif_texts(file: BinaryIO) -> Iterator[bytes]:
    """The comments of a GIF, joined: they lie in blocks of up to 255 bytes."""
    file.seek(0)
    data = file.read(256 << 20)
    for match in re.finditer(rb"\x21[\xfe\xff\x01]", data):
        place = match.end()
        text: list[bytes] = []
        while place < len(data) and (size := data[place]) and len(text) < 4096:
            text.append(data[place + 1 : place + 1 + size])
            place += 1 + size
        yield b"".join(text) + b"\n"


def pdf_streams(file: BinaryIO, closed: Closed) -> Iterator[bytes]:
    """The flate streams of a PDF, inflated; other filters but those of pictures are closed."""
    file.seek(0)
    data = file.read(_PDF_MOST)
    if b"/Encrypt" in data or len(data) == _PDF_MOST:
        closed()
    for match in re.finditer(rb"stream\r?\n", data):
        if data[match.start() - 3 : match.start()] == b"end":
            continue
        with contextlib.suppress(zlib.error):
            yield zlib.decompressobj().decompress(data[match.end() :], 64 << 20)
    if re.search(rb"/(?:LZWDecode|ASCII85Decode|RunLengthDecode)", data):
        closed()


def parquet(file: BinaryIO, closed: Closed) -> Iterator[bytes]:
    """Every cell: pages are compressed."""
    try:
        table = pq.ParquetFile(file)
        yield repr(table.schema_arrow.metadata).encode()
        for batch in table.iter_batches(batch_size=4096):
            yield from _cells(batch)
    except (pa.ArrowException, OSError):
        closed()


def arrow(file: BinaryIO, closed: Closed) -> Iterator[bytes]:
    """Every cell of an Arrow (Feather) file: buffers may be compressed."""
    try:
        reader = pa.ipc.open_file(file)
        yield repr(reader.schema.metadata).encode()
        for number in range(reader.num_record_batches):
            yield from _cells(reader.get_batch(number))
    except (pa.ArrowException, OSError):
        closed()


def _cells(batch: Any) -> Iterator[bytes]:
    for column in batch.columns:
        yield b"\n".join(leaves(column.to_pylist())) + b"\n"


def leaves(value: Any) -> Iterator[bytes]:
    """Every string, number and byte string in a tree of lists and structs."""
    if isinstance(value, bytes):
        yield value
    elif isinstance(value, dict):
        for name, item in value.items():
            yield str(name).encode("utf-8", "surrogateescape")
            yield from leaves(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from leaves(item)
    elif value is not None and not isinstance(value, float):
        yield str(value).encode("utf-8", "surrogateescape")
