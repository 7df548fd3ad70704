"""A walk over the top level of a DICOM object that reads what is wanted and steps over the rest.

pydicom reads every element before pixel data and makes an object of each; for an index of an
archive that is most of the time. This walk handles what nearly every file is. Whatever it does
not know, it leaves to pydicom by raising `Unusual`; it never guesses. It does not recurse, and
it reads no pixel data (PS3.5 section 7, PS3.10 section 7).
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass
from struct import Struct
from typing import Final, NamedTuple

from data_connectors.dicom.sources import BLOCK, Bytes, Inflated
from medvlp.errors import InputError

IMPLICIT: Final = "1.2.840.10008.1.2"
EXPLICIT: Final = "1.2.840.10008.1.2.1"
DEFLATED: Final = "1.2.840.10008.1.2.1.99"
BIG_ENDIAN: Final = "1.2.840.10008.1.2.2"
TRANSFER_SYNTAX: Final = 0x00020010
UNDEFINED: Final = 0xFFFFFFFF
MAX_HEADER: Final = 1 << 26
"""Most bytes before the pixel data that a deflated object may inflate to."""

_MAX_DEPTH: Final = 128
_MAX_STEPS: Final = 2_000_000
_SHORT: Final = frozenset(b"AE AS AT CS DA DS DT FL FD IS LO LT PN SH SL SS ST TM UI UL US".split())
_LONG: Final = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
_PIXELS: Final = frozenset({0x7FE00008, 0x7FE00009, 0x7FE00010})
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD


_LITTLE: Final = tuple(Struct(f"<{form}").unpack_from for form in ("HH2sH", "I", "HHI"))
_BIG: Final = tuple(Struct(f">{form}").unpack_from for form in ("HH2sH", "I", "HHI"))


class Unusual(Exception):
    """Something that is left to pydicom."""


class Element(NamedTuple):
    """One element as it lies in the file."""

    vr: bytes
    """Empty where it is implicit; `SQ` for a sequence of undefined length."""
    value: bytes | None
    """None for values longer than `keep`: they are read when somebody asks."""
    at: int
    """Where the value begins."""
    length: int


@dataclass(frozen=True, slots=True)
class Walked:
    """The elements of one object, without its pixel data."""

    preamble: bytes
    meta: dict[int, Element]
    elements: dict[int, Element]
    """Tag -> element, in the order of the file."""
    syntax: str
    start: int
    """Where the dataset begins in the file, deflated or not."""
    implicit: bool
    little: bool
    pixels: tuple[int, Element] | None
    """Tag and place of the pixel data; its value is never read here."""


def read_meta(
    source: Bytes, wanted: Container[int] | None = None
) -> tuple[dict[int, Element], int]:
    """The file meta information, and where the dataset begins (deflated or not).

    Raises:
        Unusual: Left to pydicom.
        InputError: `not-dicom`.
    """
    if source.read(128, 4) != b"DICM":
        raise InputError(
            "there is no DICOM preamble and file meta information",
            code="not-dicom",
            next_step="nothing, if it is no DICOM file",
        )
    return _walk(source, 132, False, True, wanted, group=2)[:2]


def syntax_of(meta: dict[int, Element]) -> str:
    """The transfer syntax that file meta information names.

    Raises:
        Unusual: None.
    """
    named = meta.get(TRANSFER_SYNTAX)
    if named is None or not named.value:
        raise Unusual
    return named.value.decode("latin-1").rstrip("\0 ")


def walk(
    source: Bytes,
    wanted: Container[int] | None = None,
    *,
    limit: int = MAX_HEADER,
    keep: int = 1 << 20,
) -> Walked:
    """Walk one object up to its pixel data.

    Args:
        source: Where it is.
        wanted: Tags that are kept, those of the file meta information included; None: all.
        limit: Most bytes that a deflated object may inflate to on the way.
        keep: Values longer than this are not read, only placed.

    Raises:
        Unusual: Left to pydicom.
        InputError: `not-dicom`, `dicom-too-large` or `dicom-malformed`.
    """
    meta, start = read_meta(source, wanted)
    syntax = syntax_of(meta)
    data, at = (Inflated(source, start, limit), 0) if syntax == DEFLATED else (source, start)
    implicit, little = syntax == IMPLICIT, syntax != BIG_ENDIAN
    first = data.read(at, 8)
    if not first or not _belongs(first, implicit):
        raise Unusual
    elements, _, pixels = _walk(data, at, implicit, little, wanted, keep=keep)
    return Walked(source.read(0, 128), meta, elements, syntax, start, implicit, little, pixels)


def _belongs(first: bytes, implicit: bool) -> bool:
    """Whether the first element is encoded as the transfer syntax says."""
    letters = len(first) >= 6 and 0x40 < first[4] < 0x5B and 0x40 < first[5] < 0x5B
    return letters != implicit


def _walk(
    source: Bytes,
    start: int,
    implicit: bool,
    little: bool,
    wanted: Container[int] | None,
    *,
    group: int = 0,
    keep: int = 1 << 20,
) -> tuple[dict[int, Element], int, tuple[int, Element] | None]:
    """(elements, where it stopped, the pixel data); with `group` only that group is read."""
    read_short, read_long, read_plain = _LITTLE if little else _BIG
    found: dict[int, Element] = {}
    block, base, at = source.read(start, BLOCK - start % BLOCK), start, 0
    size = len(block)
    while True:
        if at + 12 > size:
            base, at = base + at, 0
            block = source.read(base, BLOCK)
            size = len(block)
            if size < 8:
                return found, base, None
        if implicit:
            high, low, length = read_plain(block, at)
            vr, head = b"", 8
        else:
            high, low, vr, length = read_short(block, at)
            head = 8
            if group and high != group:
                return found, base + at, None
            if vr not in _SHORT:
                if vr not in _LONG or at + 12 > size:
                    raise Unusual
                (length,) = read_long(block, at + 8)
                head = 12
        tag = high << 16 | low
        value_at = base + at + head
        if tag in _PIXELS:
            return found, base + at, (tag, Element(vr, None, value_at, length))
        if length == UNDEFINED:
            vr = _sequence_vr(tag, vr, source.read(value_at, 4), little)
            length = _skip_sequence(source, value_at, implicit, little) - value_at
        elif high in (0, 0xFFFE):
            raise Unusual  # commands, or items without a sequence
        end = at + head + length
        if wanted is None or tag in wanted:
            if end <= size:
                value = block[at + head : end]
                found[tag] = tuple.__new__(Element, (vr, value, value_at, length))  # the fast way
            else:
                found[tag] = Element(vr, _kept(source, value_at, length, keep), value_at, length)
        at = end
        if at > size:
            base, at, block, size = base + at, 0, b"", 0


def _kept(source: Bytes, at: int, length: int, keep: int) -> bytes | None:
    """A value that is not in the block that was read."""
    if length > keep:
        return None
    value = source.read(at, length)
    if len(value) < length:
        raise Unusual  # the file ends here
    return value


def _sequence_vr(tag: int, vr: bytes, following: bytes, little: bool) -> bytes:
    """The representation of an element of undefined length that is no pixel data."""
    if vr in (b"SQ", b"UN"):
        return b"SQ"
    item = b"\xfe\xff\x00\xe0" if little else b"\xff\xfe\xe0\x00"
    if vr or following != item:
        raise Unusual
    from pydicom.datadict import dictionary_VR  # it takes a while to import

    try:
        named: str = dictionary_VR(tag)
    except KeyError:
        return b"SQ"  # private, and made of items
    if named != "SQ":
        raise Unusual
    return b"SQ"


class _Window:
    """Sequential small reads out of large ones."""

    def __init__(self, source: Bytes, at: int) -> None:
        self._source = source
        self._base = self.at = at
        self._block = b""

    def take(self, count: int) -> bytes:
        begin = self.at - self._base
        if begin + count > len(self._block):
            self._block = self._source.read(self.at, max(256, BLOCK - self.at % BLOCK))
            self._base, begin = self.at, 0
        self.at += count
        part = self._block[begin : begin + count]
        if len(part) < count:
            raise Unusual  # the file ends here
        return part


def _skip_sequence(source: Bytes, at: int, implicit: bool, little: bool) -> int:
    """Where the value of a sequence of undefined length ends, its delimiter included.

    A stack of what is open takes the place of recursion: None for a sequence, else whether the
    open item is implicit, which items in an explicit object may be (PS3.5 6.2.2 note 2).

    Raises:
        InputError: Nested too deeply, or too many elements.
    """
    order = "<" if little else ">"
    read_plain, read_short = Struct(order + "HHI").unpack, Struct(order + "HH2sH").unpack
    window = _Window(source, at)
    stack: list[bool | None] = [None]
    steps = 0
    while stack:
        steps += 1
        if len(stack) > _MAX_DEPTH or steps > _MAX_STEPS:
            raise InputError(
                "its sequences are nested too deeply or have too many elements",
                code="dicom-malformed", limit=f"{_MAX_DEPTH} deep, {_MAX_STEPS} elements",
                next_step="export it again from the archive",
            )  # fmt: skip
        bare = window.take(8)
        high, low, length = read_plain(bare)
        tag = high << 16 | low
        state = stack[-1]
        if state is None:
            if tag == _SEQUENCE_END:
                stack.pop()
            elif tag != _ITEM:
                raise Unusual
            elif length == UNDEFINED:
                stack.append(_item_is_implicit(window, _outer(stack, implicit)))
            else:
                window.at += length
            continue
        if tag == _ITEM_END:
            stack.pop()
            continue
        if high == 0xFFFE:
            raise Unusual
        vr = b""
        if not state:
            _, _, vr, length = read_short(bare)
            if vr in _LONG:
                length = int.from_bytes(window.take(4), "little" if little else "big")
            elif vr not in _SHORT:
                raise Unusual
        if length != UNDEFINED:
            window.at += length
        else:
            following = window.take(4)
            window.at -= 4
            _sequence_vr(tag, vr, following, little)
            stack.append(None)
    return window.at


def _outer(stack: list[bool | None], implicit: bool) -> bool:
    """Whether what encloses the innermost sequence is implicit."""
    return implicit if len(stack) == 1 else bool(stack[-2])


def _item_is_implicit(window: _Window, assumed: bool) -> bool:
    if assumed:
        return True
    first = window.take(8)
    window.at -= 8
    return not (0x40 < first[4] < 0x5B and 0x40 < first[5] < 0x5B)
