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
_EDGE: Final = 16
"""Bytes of context around printable text among others."""
_SHORTEST: Final = 7
"""Printable characters in a row that may be encoded text: five letters in base64."""
_PAIRS: Final = 5
"""Bytes in hex, with separators, that may be text."""


def _table(alphabet: bytes, values: range) -> np.ndarray:
    table = np.full(256, 255, np.uint8)
    table[np.frombuffer(alphabet, np.uint8)] = values
    return table


_LETTERS: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
_B64: Final = _table(_LETTERS + b"+/", range(64))
_B64[[ord("-"), ord("_")]] = 62, 63
_HEX: Final = _table(b"0123456789abcdef", range(16))
_HEX[np.frombuffer(b"ABCDEF", np.uint8)] = range(10, 16)
_PRINTABLE: Final = np.zeros(256, bool)
_PRINTABLE[[9, 10, 13, *range(32, 127)]] = True
_PERCENT = re.compile(rb"%[0-9A-Fa-f]{2}")
_ESCAPE = re.compile(rb"\\(?:u\{?([0-9A-Fa-f]{4})\}?|x([0-9A-Fa-f]{2}))")
_ENTITY = re.compile(rb"&(?:#[0-9]{1,7}|#[xX][0-9A-Fa-f]{1,6}|[A-Za-z]{2,8});?")
_QUOTED = re.compile(rb"=(?:[0-9A-Fa-f]{2}|\r?\n)")
_LINE_END = re.compile(rb"(?:\r?\n|(?:\\r)?\\n)[ \t]*")
_KERNED = re.compile(rb"\)\s*-?[0-9.]*\s*\(")
_C_HEX = re.compile(rb"(?:0x[0-9A-Fa-f]{2}[ ,;]{0,2}){5,}")


def views(data: bytes) -> Iterator[bytes]:
    """The data with each encoding taken off, where it seems to be in use."""
    values = np.frombuffer(data, np.uint8)
    printable = _PRINTABLE[values]
    if (squeezed := _without_nuls(data, values, printable)) is not None:
        yield squeezed
    text = _texts(data, values, printable)
    if text:
        yield from _text_views(text)
        flat = np.frombuffer(_LINE_END.sub(b"", text), np.uint8)
        yield from _base64(flat)
        yield from _hex(text, flat)


def _texts(data: bytes, values: np.ndarray, printable: np.ndarray) -> bytes:
    """The printable stretches, with a little of what is around them."""
    if printable.all():
        return data if len(data) >= _SHORTEST else b""
    keep = _in_run(printable, _SHORTEST, _EDGE)
    return b"" if keep is None else values[keep].tobytes()


def _in_run(inside: np.ndarray, shortest: int, edge: int) -> np.ndarray | None:
    """Which places are in a run of at least so many, or so near to one; None: nothing is."""
    if len(inside) < shortest:
        return None
    runs, length = inside, 1
    while length < shortest:  # runs[i]: the places from i on, `length` of them, are inside
        step = min(length, shortest - length)
        runs = runs[:-step] & runs[step:]
        length += step
    if not runs.any():
        return None
    room = shortest - 1 + edge
    changes = np.zeros(len(inside) + 1, np.int8)
    steps = np.diff(runs.astype(np.int8), prepend=0, append=0)
    starts, ends = np.flatnonzero(steps > 0), np.flatnonzero(steps < 0)
    starts, ends = np.maximum(starts - edge, 0), np.minimum(ends + room, len(inside))
    merged = starts[1:] <= ends[:-1]
    starts, ends = starts[np.r_[True, ~merged]], ends[np.r_[~merged, True]]
    changes[starts] += 1
    changes[ends] -= 1
    return np.cumsum(changes[:-1], dtype=np.int8).astype(bool)


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


def _without_nuls(data: bytes, values: np.ndarray, printable: np.ndarray) -> bytes | None:
    """Stretches in which every other byte (or three of four) is NUL, without the NULs.

    So UTF-16 and UTF-32 of either order become plain text.
    """
    if len(data) < 9 or b"\0" not in data:
        return None
    full, nul = printable, values == 0
    two = full[:-6] & nul[1:-5] & full[2:-4] & nul[3:-3] & full[4:-2] & nul[5:-1] & full[6:]
    four = full[:-8] & nul[1:-7] & nul[2:-6] & nul[3:-5] & full[4:-4] & nul[5:-3] & full[8:]
    hits = np.union1d(np.flatnonzero(two), np.flatnonzero(four))
    if not len(hits):
        return None
    cuts = np.flatnonzero(np.diff(hits) > 64) + 1
    firsts, lasts = hits[np.r_[0, cuts]], hits[np.r_[cuts - 1, len(hits) - 1]]
    return APART.join(
        data[max(0, first - 8) : last + 24].replace(b"\0", b"")
        for first, last in zip(firsts.tolist(), lasts.tolist(), strict=True)
    )


def _base64(flat: np.ndarray) -> Iterator[bytes]:
    """Every run of base64, also URL-safe, decoded at each alignment."""
    values = _runs(_B64[flat], _SHORTEST)
    if values is None:
        return
    for phase in range(4):
        part = values[phase:]
        quads = part[: len(part) // 4 * 4].reshape(-1, 4)
        # A run may end within four characters: what is missing counts as zero bits.
        bits = np.where(quads == 255, 0, quads)
        out = np.empty((len(quads), 3), np.uint8)
        out[:, 0] = bits[:, 0] << 2 | bits[:, 1] >> 4
        out[:, 1] = bits[:, 1] << 4 | bits[:, 2] >> 2
        out[:, 2] = bits[:, 2] << 6 | bits[:, 3]
        yield out.tobytes()


def _hex(text: bytes, flat: np.ndarray) -> Iterator[bytes]:
    """Every run of hex digits, with separators too, decoded at both alignments."""
    digits = _HEX[flat]
    values = _runs(digits, 2 * _PAIRS)
    for phase in range(2 if values is not None else 0):
        part = values[phase:]  # type: ignore[index]
        pairs = part[: len(part) // 2 * 2].reshape(-1, 2)
        bits = np.where(pairs == 255, 0, pairs)
        yield (bits[:, 0] << 4 | bits[:, 1]).astype(np.uint8).tobytes()
    inside = digits != 255
    for gap in (1, 2):  # `4d 52`, `4d:52`, `4d, 52`
        step = 2 + gap
        size = len(inside) - step * _PAIRS
        if size <= 0:
            continue
        spaced = np.ones(size, bool)
        for pair in range(_PAIRS):
            at = pair * step
            spaced &= inside[at : at + size] & inside[at + 1 : at + 1 + size]
            spaced &= ~inside[at + 2 : at + 2 + size]
        places = np.flatnonzero(spaced)
        if len(places):
            marks = np.union1d(places, places[:, None] + np.arange(0, step * _PAIRS + step, step))
            marks = marks[marks + 1 < len(digits)]
            high, low = digits[marks], digits[marks + 1]
            yield (np.where(high == 255, 0, high) << 4 | np.where(low == 255, 0, low)).tobytes()
    if b"0x" in text:
        runs = (match[0] for match in _C_HEX.finditer(text))
        yield APART.join(bytes.fromhex(re.sub(rb"0x|[ ,;]", b"", run).decode()) for run in runs)


def _runs(values: np.ndarray, shortest: int) -> np.ndarray | None:
    """The values of the long runs of the alphabet (255: not in it), some 255 between two runs."""
    keep = _in_run(values != 255, shortest, 0)
    if keep is None:
        return None
    keep[3:] |= keep[:-3].copy()  # whatever follows, three of it
    return np.concatenate([values[keep], np.full(4, 255, np.uint8)])
