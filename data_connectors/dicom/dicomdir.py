"""A DICOMDIR (PS3.3 F, PS3.10) held against the files that are there.

The index decides nothing: every file of the folder is read whether it is listed or not. It is
read for one thing, which no file can tell: what else there should be. Its records lie in one flat
sequence, so the offsets that chain them into a tree, which may be wrong or circular, are not
followed; and a name is looked up among the files that were found, never on disk.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Collection, Iterator, Sequence
from io import BytesIO
from pathlib import PurePosixPath
from typing import Final, NamedTuple

from data_connectors.files import Handle
from data_connectors.items import Refused
from medvlp.errors import InputError

_LARGEST: Final = 128 * 1024 * 1024
_MOST_RECORDS: Final = 1_000_000
_NAMED: Final = 10
"""Most record numbers in a message."""
_UNDEFINED: Final = 0xFFFFFFFF
_LONG_VRS: Final = {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR",
                    b"UT", b"UV"}  # fmt: skip
_RECORDS: Final = (0x0004, 0x1220)
_IN_USE: Final = (0x0004, 0x1410)
_KIND: Final = (0x0004, 0x1430)
_FILE: Final = (0x0004, 0x1500)
_SYNTAX: Final = (0x0002, 0x0010)
_ITEM: Final = (0xFFFE, 0xE000)
_IMPLICIT: Final = b"1.2.840.10008.1.2"
_BIG_ENDIAN: Final = b"1.2.840.10008.1.2.2"
_VERSION: Final = re.compile(r";\d+$")
_NEXT: Final = "copy the whole medium again; the files that are there are read"


class Record(NamedTuple):
    """One directory record: a patient, study, series, image, or something else."""

    kind: str
    file: tuple[str, ...]
    """Components of the file it refers to, relative to the DICOMDIR; empty where it has none."""
    in_use: bool


def check_dicomdir(handle: Handle, name: str, present: Collection[str]) -> list[Refused]:
    """What is wrong between an index and the files beside and below it.

    Args:
        handle: The DICOMDIR.
        name: Its own name in the source.
        present: Names of all files of the source, usable or not.

    Returns:
        At most one entry a code: `dicomdir-missing-file`, `dicomdir-unsafe-path`, or
        `dicomdir-malformed`; empty when every file that it names is there.
    """
    try:
        records = read_records(handle)
    except InputError as error:
        return [Refused(error.code, error.what, _NEXT, (name,))]
    folder = str(PurePosixPath(name).parent)
    below = "" if folder == "." else f"{folder}/"
    there = {_plain(other[len(below) :]) for other in present if other.startswith(below)}
    missing: list[int] = []
    unsafe: list[int] = []
    for number, record in enumerate(records, 1):
        if not record.file or not record.in_use:
            continue
        if _leaves(record.file):
            unsafe.append(number)
        elif _plain("/".join(record.file)) not in there:
            missing.append(number)
    found = []
    for code, what, numbers in (
        ("dicomdir-unsafe-path", "the index names files outside its folder", unsafe),
        ("dicomdir-missing-file", "the index names files that are not there", missing),
    ):
        if numbers:
            reason = f"{what}; got {_listed(numbers)} of {len(records)}"
            found.append(Refused(code, reason, _NEXT, (name,)))
    return found


def read_records(handle: Handle) -> list[Record]:
    """The records of a DICOMDIR in stored order.

    Raises:
        InputError: `dicomdir-malformed`.
    """
    if isinstance(handle, BytesIO):
        data = handle.getvalue()
    else:
        with handle.open("rb") as file:
            data = file.read(_LARGEST + 1)
    try:
        if len(data) > _LARGEST or data[128:132] != b"DICM":
            raise ValueError
        return _records(data)
    except (ValueError, struct.error, IndexError):
        raise InputError(
            "the DICOMDIR cannot be read", code="dicomdir-malformed", next_step=_NEXT
        ) from None


def _records(data: bytes) -> list[Record]:
    records: list[Record] = []
    before: tuple[int, int] | None = None
    for tag, value in _elements(data):
        if before == _ITEM and tag[0] == _RECORDS[0]:  # items within a record begin otherwise
            records.append(Record("", (), True))
            if len(records) > _MOST_RECORDS:
                raise ValueError
        before = tag
        if not records:
            continue
        if tag == _KIND:
            records[-1] = records[-1]._replace(kind=_text(value).upper())
        elif tag == _FILE:
            parts = tuple(part.strip(" \0") for part in _text(value).split("\\"))
            records[-1] = records[-1]._replace(file=parts if any(parts) else ())
        elif tag == _IN_USE:
            records[-1] = records[-1]._replace(in_use=value != b"\0\0")
    return records


def _elements(data: bytes) -> Iterator[tuple[tuple[int, int], bytes]]:
    """Every element in stored order, those within sequences of undefined length included.

    Goes forward only, so it ends whatever the lengths say.

    Raises:
        ValueError, struct.error: An element ends beyond the file.
    """
    at, order, implicit, syntax = 132, "<", False, b""
    in_meta = True
    while at + 8 <= len(data):
        group, element = struct.unpack_from(f"{order}HH", data, at)
        if in_meta and group != 2:
            in_meta, implicit = False, syntax == _IMPLICIT
            if syntax == _BIG_ENDIAN:
                order = ">"
                group, element = struct.unpack_from(">HH", data, at)
        tag = (group, element)
        vr = b"" if group == _ITEM[0] or implicit else data[at + 4 : at + 6]
        if not vr:
            (length,), at = struct.unpack_from(f"{order}I", data, at + 4), at + 8
        elif vr in _LONG_VRS:
            (length,), at = struct.unpack_from(f"{order}I", data, at + 8), at + 12
        else:
            (length,), at = struct.unpack_from(f"{order}H", data, at + 6), at + 8
        if group == _ITEM[0] or tag == _RECORDS or length == _UNDEFINED:
            yield tag, b""  # what is in it comes next
            continue
        if at + length > len(data):
            raise ValueError
        value = data[at : at + length]
        at += length
        if tag == _SYNTAX:
            syntax = value.strip(b" \0")
        yield tag, value


def _text(value: bytes) -> str:
    try:
        return value.decode("utf-8").strip(" \0")
    except UnicodeDecodeError:
        return value.decode("latin-1").strip(" \0")


def _leaves(parts: Sequence[str]) -> bool:
    """Whether a file ID is anything but names of folders and a file below the index."""
    return any(part in ("", ".", "..") or any(c in part for c in "/:\0") for part in parts)


def _plain(name: str) -> str:
    """A name as media have it in many ways: ISO 9660 versions, empty extensions, letter case."""
    parts = (_VERSION.sub("", part).rstrip(".") for part in name.split("/"))
    return "/".join(parts).casefold()


def _listed(numbers: list[int]) -> str:
    named = ", ".join(map(str, numbers[:_NAMED]))
    more = f" and {len(numbers) - _NAMED} more" if len(numbers) > _NAMED else ""
    return f"{len(numbers)} (records {named}{more})"
