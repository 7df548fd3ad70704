"""`medvlp leakcheck`: searches any output for identifiers, in every form they may take.

Seed identifiers that exist nowhere else (canaries) in the inputs, run the whole pipeline,
failures included, and search everything it wrote; or search for everybody on a patient list.
Looks into what is packed (`leakstreams`, `leakmeta`), takes encodings off (`leakviews`) and knows
how names, dates and numbers are written (`leakspell`). An identifier is never printed, not even
when a file is named after one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from governance.leakcanaries import Canaries
from governance.leaklists import words_of
from governance.leakstreams import Stream, streams_of
from medvlp.errors import ConfigError


def leakcheck(
    canaries: Path | None, paths: Sequence[Path], *, patients: Path | None = None
) -> dict[str, Any]:
    """Search files and folders for identifiers.

    Args:
        canaries: Text file, one identifier a line; empty lines and lines that begin with `# `
            do not count. The file itself is not searched.
        paths: Files and folders; folders are searched whole, names included.
        patients: A patient list (see `leaklists.read_patients`); not searched itself either.

    Returns:
        `hits` (pairs of a file and a canary), `files` (names of the files with hits, canaries in
        them masked), `searched` (number of files), `unopened` (names of the files of which a packed
        part was encrypted, damaged or of unknown compression, and searched only as it lies there:
        no hit in them proves nothing), `bytes`, `canaries` (number searched for), `too_short`
        (lines that are too short to mean anything).

    Raises:
        ConfigError: A path does not exist, or there is nothing to search for.
    """
    known = Canaries(words_of(canaries, patients))
    if not len(known):
        raise ConfigError("the files name nothing to search for", code="canaries-empty")
    lists = {path.resolve() for path in (canaries, patients) if path is not None}
    for root in paths:
        if not root.exists():
            raise ConfigError("no such file or folder", code="path-missing", got=root)
    hits, searched, size = 0, 0, 0
    files: list[str] = []
    unopened: list[str] = []
    for name, path in _files(paths):
        if path is not None and path.resolve() in lists:
            continue
        found = set(known.find(name.encode("utf-8", "surrogateescape")))
        if path is not None:
            searched += 1
            closed: list[None] = []
            for stream in streams_of(path, partial(closed.append, None)):
                count, more = _search(known, stream)
                size += count
                found |= more
            if closed:
                unopened.append(known.mask(name))
        if found:
            hits += len(found)
            files.append(known.mask(name))
    return {
        "hits": hits, "files": files, "searched": searched, "unopened": unopened,
        "bytes": size,
        "canaries": len(known), "too_short": known.too_short,
    }  # fmt: skip


def _files(paths: Sequence[Path]) -> Iterator[tuple[str, Path | None]]:
    """(name to search and show, file), folders too (as a name alone), sorted."""
    for root in paths:
        if root.is_file():
            yield root.name, root
            continue
        for path in sorted(root.rglob("*")):
            name = path.relative_to(root.parent).as_posix()
            if path.is_symlink() or path.is_dir():
                yield name + ("/" if path.is_dir() else f" -> {path.readlink()}"), None
            elif path.is_file():
                yield name, path


def _search(known: Canaries, stream: Stream) -> tuple[int, set[int]]:
    """(bytes read, canaries found); pieces overlap so that no hit falls between two."""
    found: set[int] = set()
    tail = b""
    size = 0
    for piece in stream:
        size += len(piece)
        data = tail + piece
        found.update(known.find(data))
        tail = data[-known.longest :]
    return size, found
