"""The body of an answer, under limits: how long it takes, how far it may unpack."""

from __future__ import annotations

import contextlib
import socket
import threading
import zlib
from collections.abc import Iterator
from typing import Final

from data_connectors.pacs.pacing import Interrupted
from medvlp.errors import InputError

PIECE: Final = 262_144
"""Bytes that are held at a time."""


class Watch:
    """Ends a request that takes too long altogether, in whatever phase it is."""

    def __init__(self, sock: socket.socket, seconds: float) -> None:
        self._sock = sock
        self._timer = threading.Timer(seconds, self._shut)
        self._timer.daemon = True
        self._timer.start()
        self.expired = False

    def stop(self) -> None:
        """The request has ended by itself."""
        self._timer.cancel()

    def _shut(self) -> None:
        self.expired = True
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)


def inflated(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Gzip or zlib, never more than a piece at a time, whatever its ratio."""
    inflate = zlib.decompressobj(wbits=47)  # 32 + 15: the header tells which
    try:
        for chunk in chunks:
            pending = chunk
            while pending:
                yield inflate.decompress(pending, PIECE)
                pending = inflate.unconsumed_tail
    except zlib.error:
        raise InputError("the archive's answer does not decompress", code="pacs-encoding") from None
    while tail := inflate.decompress(b"", PIECE):
        yield tail
    if not inflate.eof:
        raise Interrupted("the compressed answer ends early")


def seconds_of(header: str) -> float | None:
    """`Retry-After` in seconds; its date form is not worth a clock comparison."""
    return float(header) if header.isdigit() and len(header) < 7 else None
