"""Files that appear whole or not at all, and their digests."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A path to write to in the body; afterwards it takes the place of `path`.

    Readers see the old file or the new one, also after a power failure: the bytes are on the disk
    before the name is. If the body fails, the old file stays and nothing is left beside it.
    """
    partial = path.with_name(f".{path.name}.part")
    try:
        yield partial
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def disk_is_full(error: BaseException) -> bool:
    """Whether an error says that there is no room: disk, quota or file size limit."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8, line ends as they are."""
    with whole(path) as partial:
        partial.write_bytes(text.encode("utf-8"))


def write_json(path: Path, value: Any, *, sort_keys: bool = False) -> None:
    """Write JSON for people to read."""
    write_text(path, json.dumps(value, indent=1, sort_keys=sort_keys) + "\n")


def file_digest(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
