"""multipart/related as archives send it (RFC 2046 5.1), streamed, bounded, and not too strict.

The parts of a retrieval are whole DICOM files of any size, so nothing is held but a window. A
part counts only when its closing delimiter has come: a connection that breaks in the middle
gives the parts before it and an error, never a short file.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from medvlp.errors import InputError

MAX_PREAMBLE = 65_536
MAX_HEADERS = 16_384
_HEADERS_END = re.compile(rb"\r?\n\r?\n")
_BOUNDARY = re.compile(r"""boundary\s*=\s*(?:"([^"]*)"|([^;]*))""", re.IGNORECASE)


def boundary_of(content_type: str) -> bytes | None:
    """The boundary that a Content-Type names, quoted or not; None if it names none."""
    found = _BOUNDARY.search(content_type)
    value = (found[1] if found[1] is not None else found[2]).strip() if found else ""
    if value.startswith('"') or not 0 < len(value) <= 200 or not value.isascii():
        return None
    return value.encode()


@dataclass(eq=False, slots=True)
class Part:
    """One part; read its `body` to the end before the next is asked for."""

    headers: dict[str, str]
    """Names in lower case."""
    body: Iterator[bytes] = field(repr=False)


def read_parts(chunks: Iterable[bytes], content_type: str) -> Iterator[Part]:
    """The parts of a multipart body.

    Archives quote the boundary wrongly or leave it out, so the first delimiter line in the body
    decides where it differs from the header.

    Args:
        chunks: The body, in pieces of any length.
        content_type: As the response has it.

    Yields:
        Parts, each with its body in pieces; whatever of it was not read is skipped.

    Raises:
        InputError: It is no multipart (`pacs-multipart`), or it ends too early (`pacs-cut`),
            which is raised by the body of the part that is cut.
    """
    window = _Window(chunks)
    delimiter = _opening(window, boundary_of(content_type))
    while not _closing(window):
        part = Part(_headers(window), window.until(b"\r\n--" + delimiter))
        yield part
        for _ in part.body:
            pass


class _Window:
    """A look at a stream of bytes."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self.held = bytearray()

    def more(self) -> bool:
        """Hold one piece more; False at the end."""
        for chunk in self._chunks:
            if chunk:
                self.held += chunk
                return True
        return False

    def need(self, count: int) -> bool:
        """Whether so many bytes are there."""
        while len(self.held) < count:
            if not self.more():
                return False
        return True

    def until(self, mark: bytes) -> Iterator[bytes]:
        """Pieces up to the mark, which is taken away."""
        while True:
            place = self.held.find(mark)
            if place >= 0:
                last = bytes(self.held[:place])
                del self.held[: place + len(mark)]
                if last:
                    yield last
                return
            safe = len(self.held) - len(mark) + 1
            if safe > 0:
                piece = bytes(self.held[:safe])
                del self.held[:safe]
                yield piece
            if not self.more():
                raise _cut()


def _opening(window: _Window, named: bytes | None) -> bytes:
    """The boundary in use; the window is left behind its first delimiter."""
    if named:
        window.need(len(named) + 4)
        lead = bytes(window.held[: len(named) + 4])
        if lead.lstrip(b"\r\n").startswith(b"--" + named):
            del window.held[: lead.index(b"--" + named) + 2 + len(named)]
            return named
    start = 0
    while True:
        end = window.held.find(b"\n", start)
        if end < 0:
            if len(window.held) > MAX_PREAMBLE:
                raise _malformed("no delimiter at its beginning")
            if not window.more():
                raise _malformed("no delimiter") if window.held else _cut()
            continue
        line = bytes(window.held[start:end]).rstrip(b" \t\r")
        if line.startswith(b"--") and 2 < len(line) <= 202:
            boundary = _chosen(line[2:], named)
            del window.held[: start + 2 + len(boundary)]
            return boundary
        start = end + 1


def _chosen(line: bytes, named: bytes | None) -> bytes:
    """Of a delimiter line: the named boundary if the line begins with it, else all of it."""
    if named and line.startswith(named):
        return named
    return line.removesuffix(b"--") or line


def _closing(window: _Window) -> bool:
    """Behind a delimiter: whether it was the last; else its line is taken away."""
    if not window.need(2):
        raise _cut()
    if window.held.startswith(b"--"):
        return True
    while (end := window.held.find(b"\n")) < 0:
        if len(window.held) > MAX_HEADERS:
            raise _malformed("a delimiter line without an end")
        if not window.more():
            raise _cut()
    if window.held[:end].strip():
        raise _malformed("a delimiter line with something behind it")
    del window.held[: end + 1]
    return False


def _headers(window: _Window) -> dict[str, str]:
    """The headers of a part, which may have none."""
    while True:
        if window.need(1) and window.held[:1] == b"\n":
            del window.held[:1]
            return {}
        if window.need(2) and window.held[:2] == b"\r\n":
            del window.held[:2]
            return {}
        found = _HEADERS_END.search(window.held)
        if found:
            break
        if len(window.held) > MAX_HEADERS:
            raise _malformed("the headers of a part are too long")
        if not window.more():
            raise _cut()
    lines = bytes(window.held[: found.start()]).decode("latin-1").splitlines()
    del window.held[: found.end()]
    pairs = (line.partition(":") for line in lines)
    return {name.strip().lower(): value.strip() for name, _, value in pairs}


def _cut() -> InputError:
    return InputError("the answer ends before its last delimiter", code="pacs-cut")


def _malformed(what: str) -> InputError:
    return InputError(
        "the archive's answer is no readable multipart", code="pacs-multipart", got=what
    )
