"""Siemens' private image header (0029,xx10), read with bounds.

Layout from the description in SPM's and nibabel's documentation of CSA2: `SV10`, four bytes, the
number of elements, 77; for each element its name, how many values it has, their type, how many
items follow; each item is four words, of which the second is its length, and text padded to four
bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Final

from pydicom.dataset import Dataset

_CREATOR: Final = "SIEMENS CSA HEADER"
_IMAGE_HEADER: Final = 0x10
_ELEMENT: Final = struct.Struct("<64si4siii")
_ITEM: Final = struct.Struct("<4i")
_MOST_ELEMENTS: Final = 1000
_MOST_BYTES: Final = 4_000_000

Csa = Mapping[str, tuple[str, ...]]
"""Name of an element -> its values, as text."""


def read_csa(dataset: Dataset) -> Csa:
    """The elements of the image header with their values as text; empty where there is none.

    Args:
        dataset: One object of a Siemens scanner.
    """
    try:
        block = dataset.private_block(0x29, _CREATOR)
        data = block[_IMAGE_HEADER].value
    except KeyError:
        return {}
    return parse_csa(data) if isinstance(data, bytes) else {}


def parse_csa(data: bytes) -> Csa:
    """As `read_csa`, from the bytes; what follows a broken element is left out."""
    found: dict[str, tuple[str, ...]] = {}
    if data[:4] != b"SV10" or not 16 <= len(data) <= _MOST_BYTES:
        return found
    count = int.from_bytes(data[8:12], "little")
    at = 16
    for _ in range(min(count, _MOST_ELEMENTS)):
        if at + _ELEMENT.size > len(data):
            break
        name, _values, _type, _, items, _ = _ELEMENT.unpack_from(data, at)
        at += _ELEMENT.size
        values = []
        for _ in range(items):
            if at + _ITEM.size > len(data):
                return found
            length = _ITEM.unpack_from(data, at)[1]
            at += _ITEM.size
            if not 0 <= length <= len(data) - at:
                return found
            values.append(_text(data[at : at + length]))
            at += length + -length % 4
        found[_text(name)] = tuple(value for value in values if value)
    return found


def _text(data: bytes) -> str:
    return data.split(b"\0", 1)[0].decode("latin-1").strip()
