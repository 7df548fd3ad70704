"""Attributes of a walked object, converted when asked for: plain ones here, the rest by pydicom."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from struct import unpack
from typing import Any, Final, NamedTuple, Protocol, runtime_checkable

from pydicom.charset import convert_encodings, default_encoding
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import RawDataElement, convert_raw_data_element, empty_value_for_VR
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.tag import BaseTag

from data_connectors.dicom.quiet import quiet
from data_connectors.dicom.skim import DEFLATED, MAX_HEADER, Element, Walked
from data_connectors.dicom.sources import InflatedFile
from data_connectors.files import Handle

_CHARSET: Final = 0x00080005
_ASCII_SETS: Final = frozenset(
    f"{family} {number}".encode()
    for family in ("ISO_IR", "ISO 2022 IR")
    for number in (6, 100, 101, 109, 110, 144, 127, 126, 138, 148, 166, 87, 159, 149, 58)
) | {b"", b"ISO_IR 192", b"GB18030", b"GBK"}
"""Character sets in which seven-bit text without an escape is ASCII (PS3.3 C.12.1.1.2): all but
that of katakana, where the backslash is a yen sign."""
_DEFAULT_TEXT: Final = {"AE", "AS", "CS", "DA", "DS", "DT", "TM", "UI"}
_ANY_TEXT: Final = {"LO", "SH"}
_NUMBERS: Final = {"US": "H", "SS": "h", "UL": "I", "SL": "i", "FL": "f", "FD": "d"}
_DIGITS: Final = frozenset(b"0123456789+- \0\\")


class _Plain(NamedTuple):
    """An element of which only the value is known."""

    value: Any


@runtime_checkable
class Attributes(Protocol):
    """What the functions that read values need of a dataset; pydicom's is one."""

    def get(self, key: Any, default: Any = None, /) -> Any:
        """The value under a keyword, or the element under a tag; the default if missing."""

    def __contains__(self, name: Any) -> bool: ...


class Skimmed:
    """The attributes that a walk has kept, as `plain_value` gives them where they are plain.

    For what can be read under `header.text`, `texts`, `whole` and `numbers` it is the same as
    pydicom's dataset, several times as fast.
    """

    __slots__ = ("_ascii", "_elements", "_little", "_load", "_meta", "_whole")

    def __init__(
        self,
        elements: dict[int, Element],
        little: bool,
        load: Callable[[], Dataset],
        meta: dict[int, Element],
    ) -> None:
        """Look at elements.

        Args:
            elements: What a walk has kept.
            little: Whether its numbers are little endian.
            load: Gives the same as pydicom has it.
            meta: The file meta information.
        """
        self._elements = elements
        self._little = little
        self._load = load
        self._meta = meta
        charset = elements.get(_CHARSET)
        self._ascii = _is_ascii(charset.value if charset else None)
        self._whole: Dataset | None = None

    def get(self, key: Any, default: Any = None, /) -> Any:
        """As `pydicom.dataset.Dataset.get`."""
        if type(key) is not str:
            return self._at(key, default)
        tag, vr, encoded = _KNOWN.get(key) or _of(key)
        element = self._elements.get(tag)
        if element is None:
            return default
        if element.vr == encoded or not element.vr:
            value = plain_value(element.value, vr, self._little, self._ascii)
            if value is not None:
                return value
        with quiet():
            return self.dataset.get(key, default)

    def _at(self, key: Any, default: Any) -> Any:
        """The element under a tag."""
        element = self._elements.get(tag_of(key))
        if element is None:
            return default
        vr = element.vr.decode("latin-1")
        value = plain_value(element.value, vr, self._little, self._ascii)
        if value is not None:
            return _Plain(value)
        with quiet():
            return self.dataset.get(key, default)

    def __contains__(self, name: Any) -> bool:
        return tag_of(name) in self._elements

    def said(self, but: frozenset[int]) -> object:
        """All that was kept, as it lies in the file, but the values of some tags.

        What was too long to be read counts as different from everything.
        """
        elements: list[tuple[int, bytes, object]] = [
            (tag, e[0], e[1] if e[1] is not None else object())
            for tag, e in self._elements.items()
            if tag not in but
        ]
        meta = [(tag, e[1]) for tag, e in self._meta.items()]
        return (self._little, tuple(meta), tuple(elements))

    @property
    def file_meta(self) -> Skimmed:
        """The file meta information."""
        return Skimmed(self._meta, True, lambda: self.dataset.file_meta, {})

    @property
    def dataset(self) -> Dataset:
        """The same as pydicom has it."""
        if self._whole is None:
            self._whole = self._load()
        return self._whole


class WalkedDataset(FileDataset):
    """pydicom's dataset over a walk; plain values can be had without its conversion."""

    ascii_text = False

    def plain(self, keyword: str) -> Any:
        """The value under a keyword, as `Skimmed.get` gives it."""
        tag, vr, _ = _KNOWN.get(keyword) or _of(keyword)
        raw = self._dict.get(tag)  # type: ignore[call-overload]
        if type(raw) is RawDataElement and (raw.VR is None or vr == raw.VR):
            value = plain_value(raw.value, vr, raw.is_little_endian, self.ascii_text)
            if value is not None:
                return value
        return None if raw is None else self.get(keyword)


def look(dataset: Attributes, keyword: str) -> Any:
    """The value under a keyword for reading as text or number; None if missing."""
    return dataset.plain(keyword) if isinstance(dataset, WalkedDataset) else dataset.get(keyword)


def plain_value(value: bytes | None, vr: str, little: bool, ascii_text: bool) -> Any:
    """A value about which nothing is special, else None.

    Args:
        value: As it lies in the file; None if it was not read.
        vr: Value representation.
        little: Whether numbers are little endian.
        ascii_text: Whether seven-bit text is ASCII in the character set of the object.

    Returns:
        Text (of numbers too, in DS and IS) or numbers; a list if there are several.
    """
    if value is None:
        return None
    if vr in _DEFAULT_TEXT or (vr in _ANY_TEXT and ascii_text):
        plain = value.isascii() and b"\x1b" not in value
    elif vr == "IS":
        plain = _DIGITS.issuperset(value)
    else:
        return _numbers(value, vr) if little else None
    if not plain:
        return None
    text = value.decode("ascii").rstrip("\0 ")
    return text.split("\\") if "\\" in text else text


def _numbers(value: bytes, vr: str) -> Any:
    size = _SIZES.get(vr)
    if size is None or not value or len(value) % size:
        return None
    numbers = unpack(f"<{len(value) // size}{_NUMBERS[vr]}", value)
    return numbers[0] if len(numbers) == 1 else list(numbers)


def _is_ascii(charset: bytes | None) -> bool:
    """Whether seven-bit text is ASCII in a SpecificCharacterSet."""
    return all(name.strip(b" \0") in _ASCII_SETS for name in (charset or b"").split(b"\\"))


def skim(walked: Walked, handle: Handle) -> Skimmed:
    """The attributes of a walked object."""

    def load() -> Dataset:
        return build_dataset(walked, handle, limit=MAX_HEADER)

    return Skimmed(walked.elements, walked.little, load, walked.meta)


_SIZES: Final = {"US": 2, "SS": 2, "UL": 4, "SL": 4, "FL": 4, "FD": 8}


def tag_of(key: Any) -> int:
    """The number of a tag: of a keyword, a (group, element) pair, or a number."""
    if isinstance(key, str):
        return _of(key)[0]
    return key[0] << 16 | key[1] if isinstance(key, tuple) else int(key)


_KNOWN: Final[dict[str, tuple[int, str, bytes]]] = {}


def _of(keyword: str) -> tuple[int, str, bytes]:
    """(tag, value representation, the same as it is encoded) of a keyword; looked up once."""
    found = _KNOWN.get(keyword)
    if found is None:
        tag = tag_for_keyword(keyword)
        vr = "" if tag is None else str(dictionary_VR(tag))
        found = _KNOWN[keyword] = (-1 if tag is None else int(tag), vr, vr.encode())
    return found


def build_dataset(walked: Walked, handle: Handle, *, limit: int) -> WalkedDataset:
    """The elements of a walk as pydicom would have read them; long values stay in the file.

    Args:
        walked: What was found.
        handle: Where.
        limit: Most bytes that a deflated object may inflate to, when long values are read.
    """
    meta = FileMetaDataset(_raw(walked.meta, implicit=False, little=True))
    meta.set_original_encoding(False, True, default_encoding)
    elements = _raw(walked.elements, implicit=walked.implicit, little=walked.little)
    if walked.pixels is not None:
        tag, element = walked.pixels
        elements |= _raw({tag: element}, implicit=walked.implicit, little=walked.little)
    encoding: Any = default_encoding
    if _CHARSET in elements:
        with quiet():
            encoding = convert_encodings(convert_raw_data_element(elements[_CHARSET]).value)
    place: Any = str(handle) if isinstance(handle, Path) else io.BytesIO(handle.getvalue())
    if walked.syntax == DEFLATED:
        place = InflatedFile(handle, walked.start, limit)
    dataset = WalkedDataset(place, elements, walked.preamble, meta, walked.implicit, walked.little)
    dataset.set_original_encoding(walked.implicit, walked.little, encoding)
    charset = walked.elements.get(_CHARSET)
    dataset.ascii_text = _is_ascii(charset.value if charset else None)
    return dataset


def _raw(elements: dict[int, Element], *, implicit: bool, little: bool) -> dict[Any, Any]:
    raw: dict[Any, Any] = {}
    for number, (vr, value, at, length) in elements.items():
        tag = BaseTag(number)
        name = vr.decode() if vr else None
        kept: Any = value if length else empty_value_for_VR(name, raw=True)
        raw[tag] = RawDataElement(tag, name, length, kept, at, implicit, little)
    return raw
