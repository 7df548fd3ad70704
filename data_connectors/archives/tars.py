"""The members of a tar archive, walked header by header with every length checked.

Formats: POSIX ustar and pax (IEEE Std 1003.1, pax), GNU long names. The standard library's reader
takes a damaged header for the end of the archive, believes negative sizes and searches extended
headers in quadratic time; here whatever is not the end mark is an error.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple, Protocol, runtime_checkable

from data_connectors.archives.index import Raw

BLOCK: Final = 512
_LONGEST_HEADER: Final = 64 * 1024
"""Extended headers hold names and times."""
_LONGEST_PADDING: Final = 4 * 1024 * 1024
_FILES: Final = b"0\x007"
_NO_DATA: Final = b"123456"
"""Links, devices, folders and pipes: whatever size they state, no data follows."""


@runtime_checkable
class Stream(Protocol):
    """Bytes at places."""

    def read_at(self, start: int, count: int) -> bytes:
        """`count` bytes from a place; fewer at the end; EOFError before it."""


class Plain:
    """A file as it is."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDONLY)
        self._size = os.fstat(self._descriptor).st_size

    def __del__(self) -> None:
        if (descriptor := getattr(self, "_descriptor", None)) is not None:
            os.close(descriptor)

    def read_at(self, start: int, count: int) -> bytes:
        """`count` bytes from a place; fewer at the end.

        Raises:
            EOFError: The file ends before `start`.
        """
        if start > self._size:
            raise EOFError
        count = min(count, self._size - start)  # a buffer for what is not there is not asked for
        parts = []
        while count > 0 and (part := os.pread(self._descriptor, count, start)):
            parts.append(part)
            start, count = start + len(part), count - len(part)
        return b"".join(parts)


class _Override(NamedTuple):
    """What an extended header says about the next member."""

    name: str | None = None
    size: int | None = None
    sparse: bool = False


def walk(stream: Stream) -> Iterator[Raw]:
    """Every member but folders, in stored order.

    Raises:
        EOFError: It ends within a member.
        ValueError: A header makes no sense, or something follows the end mark.
    """
    at, override, everywhere = 0, _Override(), _Override()
    while True:
        header = stream.read_at(at, BLOCK)
        if not header and at:
            return  # many writers leave the end mark out
        if len(header) < BLOCK:
            raise EOFError
        if not any(header):
            _check_rest(stream, at)
            return
        _check_sum(header)
        kind = header[156:157]
        stated = _number(header[124:136])
        if kind in b"LKxg" and kind != b"":
            if stated > _LONGEST_HEADER:
                raise ValueError("extended header")
            body = stream.read_at(at + BLOCK, stated)
            if len(body) < stated:
                raise EOFError
            at += BLOCK + _blocks(stated)
            if kind == b"g":
                everywhere = _pax(body, everywhere)
            elif kind == b"x":
                override = _pax(body, override)
            elif kind == b"L":
                override = override._replace(name=_text(body.rstrip(b"\0")))
            continue
        name = override.name or everywhere.name or _name(header)
        size = stated if override.size is None else override.size
        begin = at + BLOCK
        if kind == b"S":
            begin = _after_sparse_map(stream, at, header)
        at = begin + (0 if kind in _NO_DATA else _blocks(size))
        folder = kind == b"5" or (kind in _FILES and name.endswith("/"))
        if not folder:
            unusable = None
            if kind not in _FILES or override.sparse or everywhere.sparse:
                reason = "a member is a link, a device or a sparse file"
                unusable = ("archive-not-a-file", reason)
            yield Raw(name, size, begin, size, unusable)
        override = _Override()


def _pax(body: bytes, known: _Override) -> _Override:
    """The records (length, keyword=value, line end) of an extended header."""
    at = 0
    while at < len(body):
        space = body.find(b" ", at, at + 12)
        if space < 0:
            raise ValueError("pax record")
        length = int(body[at:space])
        record = body[space + 1 : at + length]
        if length <= 0 or at + length > len(body) or not record.endswith(b"\n"):
            raise ValueError("pax record")
        keyword, _, value = record[:-1].partition(b"=")
        if keyword == b"path":
            known = known._replace(name=_text(value))
        elif keyword == b"size":
            if not value.isdigit() or len(value) > 18:
                raise ValueError("pax size")
            known = known._replace(size=int(value))
        elif keyword.startswith(b"GNU.sparse"):
            known = known._replace(sparse=True)
        at += length
    return known


def _after_sparse_map(stream: Stream, at: int, header: bytes) -> int:
    """Where the data of an old GNU sparse file begins."""
    at += BLOCK
    more = header[482]
    while more:
        extension = stream.read_at(at, BLOCK)
        if len(extension) < BLOCK:
            raise EOFError
        at, more = at + BLOCK, extension[504]
    return at


def _check_rest(stream: Stream, at: int) -> None:
    """Nothing but padding may follow the end mark: another archive would be lost unseen."""
    rest = stream.read_at(at, _LONGEST_PADDING)
    if len(rest) == _LONGEST_PADDING or any(rest):
        raise ValueError("data after the end mark")


def _check_sum(header: bytes) -> None:
    """The header's checksum, with its own field counted as blanks."""
    stated = _number(header[148:156])
    field = header[148:156]
    unsigned = sum(header) - sum(field) + 8 * 32
    signed = unsigned - 256 * sum(byte > 127 for byte in header[:148] + header[156:])
    if stated not in (unsigned, signed):
        raise ValueError("checksum")


def _number(field: bytes) -> int:
    """An octal or (GNU, base 256) binary number that is not negative."""
    if field[0] == 0x80:
        value = int.from_bytes(field[1:], "big")
        if value >= 1 << 62:
            raise ValueError("number")
        return value
    digits = field.split(b"\0")[0].strip()
    if not digits:
        return 0
    if not digits.isdigit():
        raise ValueError("number")
    return int(digits, 8)


def _name(header: bytes) -> str:
    name = header[:100].split(b"\0")[0]
    if header[257:263] == b"ustar\0":  # the GNU format has times where the prefix would be
        prefix = header[345:500].split(b"\0")[0]
        name = prefix + b"/" + name if prefix else name
    return _text(name)


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def _blocks(size: int) -> int:
    return -(-size // BLOCK) * BLOCK
