"""A compressed file as a stream that can be read at any place without starting over.

Inflating is the only way to learn what a gzip file holds, and to reach a member near its end one
has to inflate everything before it. So the state of the decompressor is kept every megabyte or more
on the first way through; later reads go on from the nearest one (the idea of zlib's zran example).
"""

from __future__ import annotations

import bz2
import lzma
import os
import zlib
from pathlib import Path
from typing import Any, Final

from data_connectors.archives.index import FREE_BYTES, FREE_TOTAL, MAX_RATIO, bomb, broken
from medvlp.errors import InputError

_STEP: Final = 1024 * 1024
"""Bytes between two kept states at first; doubled whenever there are too many."""
_MOST_STATES: Final = 256
"""About 60 kB each."""
_INPUT: Final = 16 * 1024
_OUTPUT: Final = 256 * 1024
_XZ_MEMORY: Final = 256 * 1024 * 1024
_KEPT: Final = 128 * 1024 * 1024
"""Most bytes that are kept of what cannot be read backwards."""


class _State:
    """A decompressor, what it was given but has not used, and where both sides stand."""

    __slots__ = ("at", "decoder", "given", "read")

    def __init__(self, decoder: Any, given: bytes, read: int, at: int) -> None:
        self.decoder = decoder
        self.given = given
        self.read = read
        """Bytes of the file that were read."""
        self.at = at
        """Bytes that came out."""


class Expanded:
    """The bytes of a `.gz`, `.bz2` or `.xz` file; several members in one file are joined.

    A gzip file is random access after the first pass. The decompressors of the others cannot be
    copied: their first 128 MiB are kept, and to go back behind those is to begin again.
    """

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDONLY)
        self._packed = os.fstat(self._descriptor).st_size
        self._kind = path.name.lower().rpartition(".")[2]
        self._gzip = self._kind in ("gz", "tgz")
        self._step = _STEP
        self._states: list[_State] = []
        self._kept = bytearray()
        self._now = self._fresh(0, b"", 0)
        self._ahead = b""
        """Came out, but lies behind the place that was asked for."""

    def __del__(self) -> None:
        if (descriptor := getattr(self, "_descriptor", None)) is not None:
            os.close(descriptor)

    def read_at(self, start: int, count: int) -> bytes:
        """`count` bytes from a place; fewer at the end.

        Raises:
            EOFError: The file ends within its compressed data, or before `start`.
            InputError: It expands like a bomb (`archive-bomb`).
            OSError, ValueError, zlib.error, lzma.LZMAError: Its bytes make no sense.
        """
        if start + count <= len(self._kept):
            return bytes(self._kept[start : start + count])
        self._go(start)
        parts: list[bytes] = []
        while count > 0:
            piece = self._ahead or self._more()
            if not piece:
                break
            parts.append(piece[:count])
            self._ahead = piece[count:]
            count -= len(parts[-1])
        return b"".join(parts)

    def _go(self, start: int) -> None:
        """Let the next byte be the one at `start`."""
        here = self._now.at - len(self._ahead)
        best = max(
            (state for state in self._states if state.at <= start),
            key=lambda state: state.at, default=None,
        )  # fmt: skip
        if start < here or (best is not None and best.at > self._now.at):
            self._ahead = b""
            self._now = self._fresh(0, b"", 0) if best is None else _copy(best)
            here = self._now.at
        while here < start:
            if not self._ahead:
                self._ahead = self._more()
                if not self._ahead:
                    raise EOFError
            used = min(len(self._ahead), start - here)
            self._ahead = self._ahead[used:]
            here += used

    def _more(self) -> bytes:
        """The next piece of output; empty at the end."""
        now = self._now
        while True:
            if now.decoder.eof:
                rest = self._after(now)
                if not rest:
                    return b""
                now = self._now = self._fresh(now.read, rest, now.at)
            given = now.given
            if not given and getattr(now.decoder, "needs_input", True):
                given = self._input()
            ended = not given and now.read >= self._packed
            piece: bytes = now.decoder.decompress(given, _OUTPUT)
            now.given = getattr(now.decoder, "unconsumed_tail", b"")
            if piece:
                self._keep_bytes(piece)
                now.at += len(piece)
                self._check()
                self._keep()
                return piece
            if ended and not now.decoder.eof:
                raise EOFError

    def _after(self, now: _State) -> bytes:
        """The first bytes of the next compressed stream; empty where only padding follows."""
        rest: bytes = now.decoder.unused_data.lstrip(b"\0")
        while not rest:
            data = self._input()
            if not data:
                return b""
            rest = data.lstrip(b"\0")
        return rest

    def _input(self) -> bytes:
        data = os.pread(self._descriptor, _INPUT, self._now.read)
        self._now.read += len(data)
        return data

    def _fresh(self, read: int, given: bytes, at: int) -> _State:
        decoder: Any
        if self._gzip:
            decoder = zlib.decompressobj(wbits=31)
        elif self._kind.endswith("bz2"):
            decoder = bz2.BZ2Decompressor()
        else:
            decoder = lzma.LZMADecompressor(memlimit=_XZ_MEMORY)
        return _State(decoder, given, read, at)

    def _check(self) -> None:
        if self._now.at > max(FREE_TOTAL, MAX_RATIO * self._packed):
            raise bomb(self._now.at, self._packed)

    def _keep_bytes(self, piece: bytes) -> None:
        if not self._gzip and self._now.at == len(self._kept) < _KEPT:
            self._kept += piece

    def _keep(self) -> None:
        """Remember where we are, if the last state is far behind."""
        last = self._states[-1].at if self._states else 0
        if not self._gzip or self._now.decoder.eof or self._now.at < last + self._step:
            return
        self._states.append(_copy(self._now))
        if len(self._states) > _MOST_STATES:
            self._states = self._states[1::2]
            self._step *= 2


def _copy(state: _State) -> _State:
    return _State(state.decoder.copy(), state.given, state.read, state.at)


def inflate(path: Path, *, max_bytes: int) -> bytes:
    """The content of one gzip file, at most so much.

    Raises:
        InputError: `archive-bomb`, `file-too-large` or `archive-broken`.
    """
    try:
        packed = path.stat().st_size
        data = Expanded(path).read_at(0, min(max_bytes, max(FREE_BYTES, MAX_RATIO * packed)) + 1)
    except InputError:
        raise
    except Exception as failure:
        raise broken(failure) from None
    return _sized(data, packed, max_bytes)


def inflate_bytes(packed: bytes, *, max_bytes: int) -> bytes:
    """As `inflate`, for a gzip file in memory."""
    limit = min(max_bytes, max(FREE_BYTES, MAX_RATIO * len(packed))) + 1
    try:
        data = first_bytes(packed, limit)
    except Exception as failure:
        raise broken(failure) from None
    return _sized(data, len(packed), max_bytes)


def first_bytes(packed: bytes, count: int) -> bytes:
    """At most so many bytes of the content of a gzip file in memory.

    Raises:
        EOFError, zlib.error: It ends early, or its bytes make no sense.
    """
    parts: list[bytes] = []
    size, rest = 0, packed
    while rest and size < count:
        decoder = zlib.decompressobj(wbits=31)
        parts.append(decoder.decompress(rest, count - size))
        size += len(parts[-1])
        if not decoder.eof and size < count:
            raise EOFError
        rest = decoder.unused_data.lstrip(b"\0")
    return b"".join(parts)


def _sized(data: bytes, packed: int, max_bytes: int) -> bytes:
    if len(data) > max_bytes:
        raise InputError(
            "the file is too large once decompressed", code="file-too-large",
            got=f"more than {max_bytes} bytes", limit=max_bytes,
            next_step="raise max_bytes if it is genuine",
        )  # fmt: skip
    if len(data) > max(FREE_BYTES, MAX_RATIO * packed):
        raise bomb(len(data), packed)
    return data
