"""The files of a folder or tar archive, in a stable order, none skipped silently.

Archives are never unpacked to disk: members are read in memory, one at a time, so that no member
name, link or device can reach the file system.
"""

from __future__ import annotations

import os
import stat
import tarfile
import zlib
from collections.abc import Collection, Iterator
from io import BytesIO
from pathlib import Path, PurePosixPath

from data_connectors.items import Refused
from medvlp.errors import InputError, MedvlpError

Handle = Path | BytesIO
"""Something to read one input from."""

_TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
_TAR_ERRORS = (tarfile.TarError, EOFError, OSError, zlib.error)


def is_archive(path: Path) -> bool:
    """Whether a path is a file named like a tar archive."""
    return path.name.lower().endswith(_TAR_SUFFIXES) and path.is_file()


def members_of(path: Path) -> dict[str, tuple[int, int]]:
    """What an archive holds, under the names that `scan` gives: name -> (bytes, time in ns).

    An archive that cannot be read to its end holds itself too, because that is what is refused.
    """
    found: dict[str, tuple[int, int]] = {}
    changed = path.stat().st_mtime_ns
    try:
        with tarfile.open(path, "r|*") as archive:
            for member in archive:
                if not member.isdir():
                    found[_member_name(member)] = (member.size, changed)
    except _TAR_ERRORS:
        found[path.name] = (path.stat().st_size, changed)
    return found


def refuse(error: MedvlpError, inputs: tuple[str, ...]) -> Refused:
    """An error of one unit as a quarantine entry."""
    parts = [error.what]
    if error.got is not None:
        parts.append(f"got {error.got}")
    if error.limit is not None:
        parts.append(f"limit {error.limit}")
    return Refused(error.code, "; ".join(parts), error.next_step or "look at the input", inputs)


def scan(
    root: Path,
    *,
    max_files: int,
    max_bytes: int,
    skip: Collection[Path] = (),
) -> Iterator[tuple[str, Handle] | Refused]:
    """Every file below a root as (name, handle), or why it cannot be one.

    Args:
        root: A folder, a tar archive or one file.
        max_files: Most files; the rest is refused as one entry.
        max_bytes: Most bytes of one file.
        skip: Absolute paths that are not inputs (label tables and the like).

    Yields:
        Names relative to the root with `/`, sorted for folders and in stored order for archives.
        A handle is only valid until the next item is asked for.
    """
    if not root.exists():
        raise InputError("the source's path does not exist", code="source-missing")
    if root.is_file():
        if is_archive(root):
            yield from _scan_tar(root, max_files=max_files, max_bytes=max_bytes)
        else:
            yield _check(root, root.name, root.parent, max_bytes)
        return
    root = root.resolve()
    skipped = {path.resolve() for path in skip}
    number = 0
    for name, found in _walk(root):
        if isinstance(found, Refused):
            yield found
            continue
        if found in skipped:
            continue
        number += 1
        if number > max_files:
            yield Refused(
                "too-many-files",
                f"the source has more than {max_files} files; the rest was not looked at",
                "raise max_files or split the source",
                (name,),
            )
            return
        yield _check(found, name, root, max_bytes)


def fetch(root: Path, names: Collection[str]) -> Iterator[tuple[str, Handle]]:
    """Handles for names that `scan` gave, in no particular order.

    A handle is only valid until the next one is asked for.

    Raises:
        InputError: A name is gone, or the archive cannot be read any more.
    """
    if root.is_file() and not is_archive(root):
        yield from ((name, root) for name in names)
        return
    if root.is_dir():
        yield from ((name, root / name) for name in names)
        return
    wanted = set(names)
    try:
        with tarfile.open(root, "r|*") as archive:
            for member in archive:
                name = _member_name(member)
                if name not in wanted or not member.isfile():
                    continue
                wanted.discard(name)
                stream = archive.extractfile(member)
                yield name, BytesIO(stream.read() if stream else b"")
                if not wanted:
                    return
    except _TAR_ERRORS as error:
        raise _broken(error) from error
    if wanted:
        raise InputError("an archive member is gone", code="input-gone", got=len(wanted))


def _walk(root: Path) -> Iterator[tuple[str, Path | Refused]]:
    """Files below a folder, depth first, each folder's files before its folders, sorted."""
    unreadable: list[OSError] = []
    for folder, folders, files in os.walk(root, onerror=unreadable.append):
        here = Path(folder)
        folders.sort()
        for link in [name for name in folders if (here / name).is_symlink()]:
            name = _name(here / link, root)
            yield (
                name,
                Refused(
                    "symlink-folder",
                    "a link to a folder is not followed",
                    "make the folder it points to a source of its own",
                    (name,),
                ),
            )
        for file in sorted(files):
            path = here / file
            name = _name(path, root)
            if not _is_utf8(name):
                reason = "the file name is not UTF-8"
                yield name, Refused("name-not-utf8", reason, "rename the file", (name,))
            else:
                yield name, path
    for error in unreadable:
        reason = f"a folder cannot be listed ({type(error).__name__})"
        yield "", Refused("folder-unreadable", reason, "check its permissions")


def _name(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()


def _is_utf8(name: str) -> bool:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _check(path: Path, name: str, root: Path, max_bytes: int) -> tuple[str, Handle] | Refused:
    """A plain readable file inside the root, or why it is none."""
    if path.is_symlink() and not path.resolve().is_relative_to(root.resolve()):
        reason = "a link points outside the source's folder"
        return Refused("symlink-outside", reason, "copy the file into the folder", (name,))
    try:
        state = path.stat()
    except OSError as error:
        reason = f"the file cannot be read ({type(error).__name__})"
        return Refused("file-unreadable", reason, "check its permissions", (name,))
    if not stat.S_ISREG(state.st_mode):
        return Refused("not-a-file", "a pipe, socket or device is no input", "remove it", (name,))
    if state.st_size == 0:
        return Refused("file-empty", "the file has no bytes", "copy it again", (name,))
    if state.st_size > max_bytes:
        return _too_large(state.st_size, max_bytes, name)
    return name, path


def _scan_tar(
    path: Path, *, max_files: int, max_bytes: int
) -> Iterator[tuple[str, Handle] | Refused]:
    seen: set[str] = set()
    try:
        with tarfile.open(path, "r|*") as archive:
            for member in archive:
                if member.isdir():
                    continue
                name = _member_name(member)
                if name in seen:
                    continue  # a later member of one name replaces nothing; the first counts
                seen.add(name)
                if len(seen) > max_files:
                    reason = f"more than {max_files} members; the rest was not looked at"
                    yield Refused("too-many-files", reason, "raise max_files", (name,))
                    return
                yield _member(archive, member, name, max_bytes)
    except _TAR_ERRORS as error:
        yield refuse(_broken(error), (path.name,))


def _member(
    archive: tarfile.TarFile, member: tarfile.TarInfo, name: str, max_bytes: int
) -> tuple[str, Handle] | Refused:
    """One member in memory, or why it is refused."""
    pure = PurePosixPath(member.name)
    if pure.is_absolute() or ".." in pure.parts or not _is_utf8(member.name):
        reason = "an archive member's name leaves the archive, or is not UTF-8"
        return Refused("archive-unsafe-name", reason, "repack it", (name,))
    if not member.isfile():
        reason = "an archive member is a link or device"
        return Refused("archive-not-a-file", reason, "repack it", (name,))
    if member.size > max_bytes:
        return _too_large(member.size, max_bytes, name)
    if member.size == 0:
        return Refused("file-empty", "the member has no bytes", "repack it", (name,))
    stream = archive.extractfile(member)
    return name, BytesIO(stream.read() if stream else b"")


def _member_name(member: tarfile.TarInfo) -> str:
    return str(PurePosixPath(member.name)).encode("utf-8", "backslashreplace").decode()


def _too_large(size: int, limit: int, name: str) -> Refused:
    reason = f"the file has {size} bytes; limit {limit}"
    return Refused("file-too-large", reason, "raise max_bytes if it is genuine", (name,))


def _broken(error: Exception) -> InputError:
    return InputError(
        f"the archive cannot be read to its end ({type(error).__name__})",
        code="archive-broken",
        next_step="copy the archive again",
    )
