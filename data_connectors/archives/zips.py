"""The members of a zip archive (PKWARE APPNOTE), checked before anything is inflated."""

from __future__ import annotations

import os
import stat
import struct
import zipfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Final

from data_connectors.archives.index import (
    FREE_TOTAL,
    MAX_RATIO,
    Member,
    Raw,
    bomb,
    broken,
    too_many,
)
from medvlp.errors import InputError

_LARGEST_DIRECTORY: Final = 32 * 1024 * 1024
"""Most bytes of the central directory, which is read into memory: about 300,000 members."""
_END: Final = b"PK\x05\x06"
_END_BYTES: Final = 22
_LONGEST_COMMENT: Final = 65_535
_END64: Final = b"PK\x06\x06"
_LOCATOR64: Final = b"PK\x06\x07"
_BEFORE_END: Final = 56 + 20
"""The end record of zip64 and its locator, where `zipfile` looks for them."""
_LOCAL_BYTES: Final = 30
_ENCRYPTED: Final = 0x1 | 0x40 | 0x2000
_METHODS: Final = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}
_UNKNOWN = "a member is compressed in a way that is not read"


class Zip:
    """One open zip archive."""

    def __init__(self, path: Path) -> None:
        """Open it and read its list of members.

        Raises:
            InputError: The list is broken or too long, or members overlap.
        """
        self._path = path
        _check_directory(path)
        try:
            self._file = zipfile.ZipFile(path)
        except Exception as failure:
            raise broken(failure) from None

    def walk(self) -> Iterator[Raw]:
        """Every member but folders, in stored order.

        Raises:
            InputError: Members overlap (`archive-overlap`) or expand like a bomb as a whole.
        """
        members = self._file.infolist()
        self._check_together(members)
        for number, info in enumerate(members):
            if info.is_dir() and not info.file_size:
                continue
            yield Raw(
                info.orig_filename, info.file_size, number, info.compress_size, _unusable(info)
            )

    def read(self, member: Member) -> BytesIO:
        """The content of a member; its checksum holds.

        Raises:
            InputError: It cannot be read (`archive-broken`).
        """
        info = self._file.infolist()[member.at]
        try:
            with self._file.open(info) as stream:
                data = stream.read(member.size + 1)
        except Exception as failure:  # zipfile raises nearly every built-in type on broken input
            raise broken(failure) from None
        if len(data) != member.size:
            raise broken(EOFError())
        return BytesIO(data)

    def _check_together(self, members: list[zipfile.ZipInfo]) -> None:
        """Refuse bombs that no member alone gives away (Fifield 2019: members that overlap)."""
        end = 0
        for info in sorted(members, key=lambda info: info.header_offset):
            if info.header_offset < end:
                raise InputError(
                    "members of the archive overlap", code="archive-overlap",
                    next_step="pack it again; genuine archives have no such members",
                )  # fmt: skip
            end = info.header_offset + _LOCAL_BYTES + info.compress_size
        size = sum(info.file_size for info in members)
        packed = os.stat(self._path).st_size
        if end > packed:
            raise broken(EOFError())
        if size > max(FREE_TOTAL, MAX_RATIO * packed):
            raise bomb(size, packed)


def _unusable(info: zipfile.ZipInfo) -> tuple[str, str] | None:
    """Why a member cannot be read, whatever it is called."""
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in (0, stat.S_IFREG) or info.is_dir():
        return "archive-not-a-file", "a member is a link, a device or a folder with content"
    if info.flag_bits & _ENCRYPTED:
        return "archive-encrypted", "a member is encrypted"
    if info.compress_type not in _METHODS:
        return "archive-method", f"{_UNKNOWN} (method {info.compress_type})"
    return None


def _check_directory(path: Path) -> None:
    """Look at the end records, because the list of members is read into memory as a whole.

    Raises:
        InputError: `archive-broken` or `archive-too-many-members`.
    """
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _END_BYTES - _LONGEST_COMMENT - _BEFORE_END))
            tail = file.read()
            at = tail.rfind(_END)
            if at < 0 or len(tail) < at + _END_BYTES:
                raise EOFError
            count, directory = struct.unpack("<10xHI6x", tail[at : at + _END_BYTES])
            before = tail[max(0, at - _BEFORE_END) : at]
            if before[-20:].startswith(_LOCATOR64) and before.startswith(_END64):
                count, directory = struct.unpack("<32xQQ8x", before[:56])
    except (OSError, EOFError, struct.error, OverflowError, ValueError) as failure:
        raise broken(failure) from None
    if directory > _LARGEST_DIRECTORY:
        raise too_many(count)
