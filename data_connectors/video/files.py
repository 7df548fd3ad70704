"""Files of a source: listing them in a stable order, naming units, refusing with a reason."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from data_connectors.items import Refused
from data_connectors.source import Unit
from medvlp.errors import MedvlpError

VIDEO_SUFFIXES = frozenset(
    (
        ".mp4",
        ".m4v",
        ".mov",
        ".mkv",
        ".webm",
        ".avi",
        ".mpg",
        ".mpeg",
        ".ts",
        ".m2ts",
        ".mts",
        ".vob",
        ".wmv",
        ".flv",
        ".ogv",
        ".mxf",
        ".gif",
    )
)
_EDGE = 64 * 1024


def listed(root: Path, folder: Path | None = None) -> list[str]:
    """Every file below a folder, as POSIX paths relative to `root`, ordered.

    Hidden files (`.DS_Store`, half-written copies) are no inputs.
    """
    found = []
    for path in (folder or root).rglob("*"):
        relative = path.relative_to(root)
        if path.is_file() and not any(part.startswith(".") for part in relative.parts):
            found.append(relative.as_posix())
    return sorted(found)


def unit(root: Path, inputs: Iterable[str], hint: str = "") -> Unit:
    """A unit whose id is a digest of its files' names, sizes, first and last 64 KiB."""
    inputs = tuple(sorted(inputs))
    digest = hashlib.sha256()
    for name in inputs:
        path = root / name
        size = path.stat().st_size
        digest.update(f"{len(name)}:{name}:{size}:".encode())
        with path.open("rb") as file:
            digest.update(file.read(_EDGE))
            if size > _EDGE:
                file.seek(max(_EDGE, size - _EDGE))
                digest.update(file.read(_EDGE))
    digest.update(hint.encode())
    return Unit(digest.hexdigest()[:32], inputs, hint)


def refused(error: MedvlpError, inputs: Iterable[str]) -> Refused:
    """An error as a quarantine entry."""
    reason = error.what
    if error.got is not None:
        reason += f"; got {error.got}"
    if error.limit is not None:
        reason += f"; limit {error.limit}"
    return Refused(error.code, reason, error.next_step or "", tuple(sorted(inputs)))


def unknown(inputs: Iterable[str]) -> Iterator[Refused]:
    """One refusal for files that the layout has no use for, if there are any."""
    inputs = tuple(sorted(inputs))
    if inputs:
        yield Refused(
            "lecture-file-unknown",
            "the layout has no use for this file",
            "name it as the layout asks, or move it out of the source",
            inputs,
        )
