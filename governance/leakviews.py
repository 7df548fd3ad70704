"""What bytes say once an encoding is taken off: percent, entities, escapes, base64, hex, UTF-16.

A view is made only around the places that look encoded, so that plain and random bytes cost
little. Every view keeps the order of the text, with unrelated stretches apart.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterator
from typing import Final

import numpy as np

APART: Final = b"\xff\x00\xfe"
"""Between stretches that do not belong together."""
_ROOM: Final = 256
"""Bytes of context around an encoded place."""
_B64: Final = np.full(256, 255, np.uint8)
for _value, _char in enumerate(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"):
    _B64[_char] = _value
_B64[ord("-")], _B64[ord("_")] = 62, 63
_HEX: Final = np.full(256, 255, np.uint8)
for _value, _char in enumerate(b"0123456789abcdef"):
    _HEX[_char] = _value
for _value, _char in enumerate(b"ABCDEF", 10):
    _HEX[_char] = _value
_SHORTEST_B64: Final = 7
_SHORTEST_HEX: Final = 10
_PERCENT = re.compile(rb"%[0-9A-Fa-f]{2}")
_ESCAPE = re.compile(rb"\\(?:u\{?([0-9A-Fa-f]{4})\}?|x([0-9A-Fa-f]{2}))")
_ENTITY = re.compile(rb"&(?:#[0-9]{1,7}|#[xX][0-9A-Fa-f]{1,6}|[A-Za-z]{2,8});?")
_QUOTED = re.compile(rb"=(?:[0-9A-Fa-f]{2}|\r?\n)")
_SPLIT_HEX = re.compile(rb"(?:(?:0x|\\x|\\)?[0-9A-Fa-f]{2}[ :,\-.;]{0,2}){5,}")
_LINE_END = re.compile(rb"(?:\r?\n|(?:\\r)?\\n)[ \t]*")
_KERNED = re.compile(rb"\)\s*-?[0-9.]*\s*\(")


def views(data: bytes) -> Iterator[bytes]:
    """The data with each encoding taken off, where it seems to be in use."""
    yield from _text_views(data)
    if (squeezed := without_nuls(data)) is not None:
        yield squeezed
    yield from base64_views(data)
    yield from hex_views(data)


def _text_views(data: bytes) -> Iterator[bytes]:
    for sign, pattern, decode in (
        (b"%", _PERCENT, lambda m: bytes([int(m[0][1:], 16)])),
        (b"\\", _ESCAPE, _unescaped),
        (b"&", _ENTITY, _entity),
        (b"=", _QUOTED, lambda m: bytes([int(m[0][1:], 16)]) if m[0][-1] != 10 else b""),
    ):
        if sign in data:
            yield from _decoded(data, pattern, decode)
    if b"(" in data:
        yield from _decoded(data, _KERNED, lambda _: b"")


def _decoded(
    data: bytes, pattern: re.Pattern[bytes], decode: Callable[[re.Match[bytes]], bytes]
) -> Iterator[bytes]:
    """Stretches around the matches of a pattern, with every match decoded."""
    pieces: list[bytes] = []
    start = end = -1
    for match in pattern.finditer(data):
        if match.start() > end:
            if end >= 0:
                pieces += (pattern.sub(decode, data[start:end]), APART)
            start = max(0, match.start() - _ROOM)
        end = match.end() + _ROOM
    if end >= 0:
        pieces.append(pattern.sub(decode, data[start:end]))
        yield b"".join(pieces)


def _unescaped(match: re.Match[bytes]) -> bytes:
    code = int(match[1] or match[2], 16)
    return chr(code).encode("utf-8", "surrogatepass")


def _entity(match: re.Match[bytes]) -> bytes:
    text = match[0].decode("ascii")
    return html.unescape(text).encode("utf-8", "surrogatepass")


def without_nuls(data: bytes) -> bytes | None:
    """Stretches in which every other byte (or three of four) is NUL, without the NULs.

    So UTF-16 and UTF-32 of either order become Latin-1.
    """
    if b"\0" not in data:
        return None
    full = np.frombuffer(data, np.uint8) != 0
    if len(full) < 9:
        return None
    two = full[:-8] & ~full[1:-7] & full[2:-6] & ~full[3:-5] & full[4:-4] & ~full[5:-3] & full[6:-2]
    four = full[:-8] & ~full[1:-7] & ~full[2:-6] & ~full[3:-5] & full[4:-4] & ~full[5:-3]
    hits = np.flatnonzero(two | (four & ~full[6:-2]))
    if not len(hits):
        return None
    return APART.join(
        data[start:end].replace(b"\0", b"") for start, end in _stretches(hits, len(data))
    )


def _stretches(hits: np.ndarray, length: int) -> Iterator[tuple[int, int]]:
    """Ascending places, as stretches with a little room on both sides."""
    cuts = np.flatnonzero(np.diff(hits) > 64) + 1
    firsts = hits[np.concatenate([[0], cuts])]
    lasts = hits[np.concatenate([cuts - 1, [len(hits) - 1]])]
    for first, last in zip(firsts.tolist(), lasts.tolist(), strict=True):
        yield max(0, first - 8), min(length, last + 24)


def base64_views(data: bytes) -> Iterator[bytes]:
    """Every run of base64 (also URL-safe, also in wrapped lines), decoded at each alignment."""
    flat = _unwrapped(data)
    values = _runs(_B64[flat], _SHORTEST_B64)
    if values is None:
        return
    for phase in range(4):
        part = values[phase:]
        quads = part[: len(part) // 4 * 4].reshape(-1, 4)
        # A run may end within four characters: what is missing counts as zero bits.
        bits = np.where(quads == 255, 0, quads).astype(np.uint32)
        word = bits[:, 0] << 18 | bits[:, 1] << 12 | bits[:, 2] << 6 | bits[:, 3]
        out = np.empty((len(quads), 3), np.uint8)
        for byte in range(3):
            out[:, byte] = word >> (16 - 8 * byte)
        yield out.tobytes()


def hex_views(data: bytes) -> Iterator[bytes]:
    """Every run of hex digits, with separators too, decoded at both alignments."""
    flat = _unwrapped(data)
    values = _runs(_HEX[flat], _SHORTEST_HEX)
    if values is not None:
        for phase in range(2):
            part = values[phase:]
            pairs = part[: len(part) // 2 * 2].reshape(-1, 2)
            bits = np.where(pairs == 255, 0, pairs)
            yield (bits[:, 0] << 4 | bits[:, 1]).astype(np.uint8).tobytes()
    runs = [match[0] for match in _SPLIT_HEX.finditer(data)]
    if runs:
        plain = [re.sub(rb"0x|[^0-9A-Fa-f]", b"", run) for run in runs]
        yield APART.join(bytes.fromhex(run[: len(run) // 2 * 2].decode()) for run in plain)


def _unwrapped(data: bytes) -> np.ndarray:
    """Without line ends (also those of JSON) and the indentation after them."""
    if b"\n" in data or b"\\n" in data:
        data = _LINE_END.sub(b"", data)
    return np.frombuffer(data, np.uint8)


def _runs(values: np.ndarray, shortest: int) -> np.ndarray | None:
    """The values of the long runs of the alphabet (255: not in it), some 255 between two runs."""
    inside = values != 255
    edges = np.flatnonzero(np.diff(np.concatenate([[False], inside, [False]])))
    starts, ends = edges[::2], edges[1::2]
    long = ends - starts >= shortest
    if not long.any():
        return None
    starts, ends = starts[long], np.minimum(ends[long] + 4, len(values))
    keep = np.zeros(len(values) + 1, np.int32)
    np.add.at(keep, starts, 1)
    np.add.at(keep, ends, -1)
    chosen = values[np.cumsum(keep[:-1]) > 0]
    return np.concatenate([chosen, np.full(4, 255, np.uint8)])
