"""Bulk data: pixels and colour tables whose size is what their description says; nothing else."""

from __future__ import annotations

from typing import Any, Final

from pydicom.dataset import Dataset

from data_connectors.dicom.header import whole

_WORDS: Final = {"FloatPixelData": 4, "DoubleFloatPixelData": 8}
_OFFSETS: Final = {"ExtendedOffsetTable", "ExtendedOffsetTableLengths"}
_TABLES: Final = {
    "LUTData": "LUTDescriptor",
    **{
        f"{kind}{colour}PaletteColorLookupTableData": f"{colour}PaletteColorLookupTableDescriptor"
        for kind in ("", "Segmented")
        for colour in ("Red", "Green", "Blue", "Alpha")
    },
}
_HEADER: Final = ((0, 4), (8, 24), (36, 40), (56, 80))
"""Bytes of an ICC header that say what the numbers mean; the others name makers, files, dates."""
_COLOUR_TYPES: Final = {
    b"XYZ ", b"curv", b"para", b"mft1", b"mft2", b"mAB ", b"mBA ", b"sf32", b"uf32", b"meas",
    b"view", b"sig ", b"ui08", b"ui16", b"ui32",
}  # fmt: skip
_MOST_TAGS: Final = 200


def kept_bulk(dataset: Dataset, keyword: str, value: Any, depth: int) -> bytes | list[int] | None:
    """What may stay of a bulk value.

    Args:
        dataset: The dataset or item it is in.
        keyword: Of the attribute.
        value: Bytes; LUT data may be numbers.
        depth: How deeply nested the item is: pixels belong to the object itself.

    Returns:
        The value, or an ICC profile without its texts; None when it has to go.
    """
    size = len(value) if isinstance(value, bytes) else 2 * len(list(value or ()))
    if keyword in _TABLES:
        return value if _fits(dataset, keyword, size) else None
    if keyword == "ICCProfile":
        return clean_profile(value) if isinstance(value, bytes) else None
    if depth:
        return None
    if keyword == "PixelData":
        return value  # type: ignore[no-any-return]
    frames = max(1, whole(dataset, "NumberOfFrames"))
    if keyword in _OFFSETS:
        return value if size == 8 * frames else None
    pixels = whole(dataset, "Rows") * whole(dataset, "Columns") * frames
    return value if keyword in _WORDS and size == pixels * _WORDS[keyword] else None


def _fits(dataset: Dataset, keyword: str, size: int) -> bool:
    """Whether a table has as many entries as its descriptor says (PS3.3 C.7.6.3.1.5)."""
    descriptor = dataset.get(_TABLES[keyword])
    try:
        entries, _, bits = (int(one) for one in descriptor)
    except (TypeError, ValueError):
        return False
    entries = entries % 65536 or 65536
    if keyword.startswith("Segmented"):
        return size <= 2 * entries
    return size in {entries + entries % 2, 2 * entries} and bits <= 16


def clean_profile(data: bytes) -> bytes | None:
    """An ICC profile (ISO 15076-1) with its numbers and without its texts; None if it is none."""
    count = int.from_bytes(data[128:132], "big")
    if len(data) < 132 or data[36:40] != b"acsp" or count > _MOST_TAGS:
        return None
    out = bytearray(len(data))
    for start, stop in _HEADER:
        out[start:stop] = data[start:stop]
    out[128 : 132 + 12 * count] = data[128 : 132 + 12 * count]
    for number in range(count):
        row = data[132 + 12 * number : 144 + 12 * number]
        place, size = int.from_bytes(row[4:8], "big"), int.from_bytes(row[8:12], "big")
        if len(row) < 12 or place < 132 + 12 * count or place + size > len(data):
            return None
        numeric = data[place : place + 4] in _COLOUR_TYPES
        stop = place + (size if numeric else min(size, 8))
        out[place:stop] = data[place:stop]
    return bytes(out)
