"""What an archive holds: every member by a name that no other has, or why it is refused.

The index is made once; listing, scanning and fetching all go by it, so they cannot disagree.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final

from data_connectors.items import Refused
from medvlp.errors import InputError

TAR_SUFFIXES: Final = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
ARCHIVE_SUFFIXES: Final = (*TAR_SUFFIXES, ".zip")

MAX_MEMBERS: Final = 2_000_000
"""Most members of one archive."""
FREE_BYTES: Final = 64 * 1024 * 1024
"""Members that are no larger than this may be compressed as well as they like."""
FREE_TOTAL: Final = 1024 * 1024 * 1024
"""Likewise for all members of an archive together."""
MAX_RATIO: Final = 250
"""Most bytes a compressed byte may become, beyond what is free. CT compresses to about a third."""
_LONGEST_PART: Final = 255
_LONGEST_NAME: Final = 4096
_DRIVE: Final = re.compile(r"[A-Za-z]:")
_REPACK: Final = "unpack it with another tool and make the folder the source"


@dataclass(frozen=True, slots=True)
class Raw:
    """A member as the archive states it."""

    name: str
    size: int
    at: int
    """Where it begins: its bytes in the (expanded) tar, its number in the zip."""
    packed: int
    """Bytes it takes in the archive."""
    unusable: tuple[str, str] | None = None
    """(code, reason) where its kind or compression rules it out."""


@dataclass(frozen=True, slots=True)
class Member:
    """One member under the name that the source's files have it by."""

    name: str
    size: int
    at: int
    refused: Refused | None = None


@dataclass(frozen=True, slots=True)
class Index:
    """All members in stored order, and why the archive could not be read to its end."""

    members: dict[str, Member]
    error: Refused | None = None
    """Its `inputs` are empty: the archive's own name is the caller's."""


def build_index(found: Iterable[Raw]) -> Index:
    """Check and name the members that an archive yields until it ends or breaks.

    Whatever the iteration raises becomes the index's `error`; the members before it count.
    """
    members: dict[str, Member] = {}
    error: Refused | None = None
    try:
        for raw in found:
            if len(members) >= MAX_MEMBERS:
                raise too_many(MAX_MEMBERS)
            member = _member(raw, members)
            members[member.name] = member
    except MemoryError:
        error = _refused(InputError(
            "the archive's list of members does not fit into memory",
            code="archive-too-many-members", next_step="split the archive",
        ))  # fmt: skip
    except InputError as refusal:
        error = _refused(refusal)
    except Exception as failure:  # decompressors raise nearly every built-in type on broken input
        error = _refused(broken(failure))
    if not members and error is None:
        error = Refused("archive-empty", "the archive has no members", "pack it again")
    return Index(members, error)


def broken(failure: Exception) -> InputError:
    """The error of an archive whose bytes make no sense; the failure's own text is dropped."""
    if isinstance(failure, MemoryError):
        return InputError(
            "it does not fit into memory once decompressed", code="reader-out-of-memory",
            next_step="raise reader_memory_mb if it is genuine",
        )  # fmt: skip
    return InputError(
        f"the archive cannot be read to its end ({type(failure).__name__})",
        code="archive-broken",
        next_step="copy the archive again",
    )


def bomb(size: int, packed: int) -> InputError:
    """The error of bytes that expand beyond all reason."""
    return InputError(
        "it expands like an archive bomb", code="archive-bomb",
        got=f"{packed} bytes become {size} or more", limit=f"{MAX_RATIO} bytes a byte",
        next_step=_REPACK + " if it is genuine",
    )  # fmt: skip


def too_many(limit: int) -> InputError:
    """The error of an archive with more members than the limit."""
    return InputError(
        "the archive has too many members", code="archive-too-many-members", limit=limit,
        next_step="split the archive",
    )  # fmt: skip


def _member(raw: Raw, known: dict[str, Member]) -> Member:
    name = str(PurePosixPath(raw.name or "?")).encode("utf-8", "backslashreplace").decode()
    name = "".join(_visible(letter) for letter in name)
    if name in known:
        return _refusal(
            _other(name, known), raw, "archive-duplicate-name",
            "an earlier member has the same name",
        )  # fmt: skip
    if reason := _unsafe(raw.name):
        return _refusal(name, raw, "archive-unsafe-name", reason)
    if raw.unusable:
        return _refusal(name, raw, *raw.unusable)
    if name.lower().endswith(ARCHIVE_SUFFIXES):
        reason = "an archive inside an archive is not entered"
        return _refusal(name, raw, "archive-nested", reason)
    if raw.size > FREE_BYTES and raw.size > MAX_RATIO * raw.packed:
        error = bomb(raw.size, raw.packed)
        return _refusal(name, raw, error.code, f"{error.what}; got {error.got}")
    return Member(name, raw.size, raw.at)


def _refusal(name: str, raw: Raw, code: str, reason: str) -> Member:
    return Member(name, raw.size, raw.at, Refused(code, reason, _REPACK, (name,)))


def _unsafe(name: str) -> str:
    """Why a member's name is not accepted, or nothing.

    No name ever reaches a file system, so this is not what keeps the reader safe; but what leaves
    its archive was not made by a hospital's export.
    """
    parts = name.replace("\\", "/").split("/")
    if not name or name.startswith(("/", "\\")) or ".." in parts or _DRIVE.match(name):
        return "a member's name leaves the archive"
    try:
        long = max(len(part.encode()) for part in parts) > _LONGEST_PART
    except UnicodeEncodeError:
        return "a member's name is not UTF-8"
    if long or len(name) > _LONGEST_NAME:
        return f"a part of a member's name is longer than {_LONGEST_PART} bytes"
    if any(unicodedata.category(letter) == "Cc" for letter in name):
        return "a member's name has control characters"
    return ""


def _visible(letter: str) -> str:
    return f"\\x{ord(letter):02x}" if unicodedata.category(letter) == "Cc" else letter


def _other(name: str, known: dict[str, Member]) -> str:
    """A free name for a further member of the same name."""
    number = 2
    while f"{name} ({number})" in known:
        number += 1
    return f"{name} ({number})"


def _refused(error: InputError) -> Refused:
    parts = [error.what]
    if error.got is not None:
        parts.append(f"got {error.got}")
    if error.limit is not None:
        parts.append(f"limit {error.limit}")
    return Refused(error.code, "; ".join(parts), error.next_step or "copy the archive again")
