"""The files of a folder or archive, in a stable order, none skipped silently.

Archives are never unpacked to disk: members are read in memory, one at a time, so that no member
name, link or device can reach the file system. An archive in a folder is entered: its members
are files below its name (`studies/0017.zip/IM0001`). One in an archive is not.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path

from data_connectors.archives.archive import is_archive, open_archive
from data_connectors.archives.expanded import inflate, inflate_bytes
from data_connectors.archives.index import ARCHIVE_SUFFIXES
from data_connectors.items import Refused
from medvlp.errors import InputError, MedvlpError

__all__ = ["Handle", "fetch", "files_below", "is_archive", "listed", "refuse", "scan"]

Handle = Path | BytesIO
"""Something to read one input from."""

Files = dict[str, tuple[int, int]]
"""Name -> (bytes, modification time in ns)."""

_LARGEST = 2_000_000_000
"""Most bytes of a gzip file's content, where the caller does not say."""


def files_below(root: Path, *, archives: bool = True) -> Files:
    """Every file of a source, under the names that `scan` gives.

    A source that is one file holds that file. An archive stands for its members; one that is
    broken or holds nothing stands for itself too, because that is what is refused. Links are
    listed, not followed.

    Args:
        root: A folder or file.
        archives: Whether archives are entered.
    """
    if not root.is_dir():
        if archives and is_archive(root):
            return _members(root, "", root.name)
        state = root.stat()
        return {root.name: (state.st_size, state.st_mtime_ns)}
    found: Files = {}
    folders = [root]
    while folders:
        folder = folders.pop()
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError:
            continue  # `scan` refuses it by name
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                folders.append(Path(entry.path))
                continue
            name = Path(entry.path).relative_to(root).as_posix()
            if archives and _entered(Path(entry.path)):
                found.update(_members(Path(entry.path), f"{name}/", name))
            else:
                state = entry.stat(follow_symlinks=False)
                found[name] = (state.st_size, state.st_mtime_ns)
    return found


def _members(path: Path, prefix: str, own: str) -> Files:
    state = path.stat()
    try:
        index = open_archive(path).index
    except OSError:
        return {own: (state.st_size, state.st_mtime_ns)}
    found = {f"{prefix}{m.name}": (m.size, state.st_mtime_ns) for m in index.members.values()}
    if index.error is not None:
        found[own] = (state.st_size, state.st_mtime_ns)
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
    expand: bool = True,
) -> Iterator[tuple[str, Handle] | Refused]:
    """Every file below a root as (name, handle), or why it cannot be one.

    Args:
        root: A folder, an archive or one file.
        max_files: Most files; the rest is refused as one entry.
        max_bytes: Most bytes of one file.
        skip: Absolute paths that are not inputs (label tables and the like).
        expand: Hand out the content of a gzip file instead of the file.

    Yields:
        Names relative to the root with `/`, sorted for folders and in stored order for archives.
        A handle is only valid until the next item is asked for.
    """
    if not root.exists():
        raise InputError("the source's path does not exist", code="source-missing")
    for number, entry in enumerate(_found(root, max_bytes, skip)):
        if number >= max_files:
            yield _too_many(entry, max_files)
            return
        if isinstance(entry, Refused) or not expand:
            yield entry
        else:
            yield _expanded(*entry, max_bytes)


def listed(
    root: Path, *, max_files: int, max_bytes: int, skip: Collection[Path] = ()
) -> Iterator[str | Refused]:
    """The names that `scan` would hand out, without opening what they name; see there."""
    if not root.exists():
        raise InputError("the source's path does not exist", code="source-missing")
    for number, entry in enumerate(_found(root, max_bytes, skip, read=False)):
        if number >= max_files:
            yield _too_many(entry, max_files)
            return
        yield entry if isinstance(entry, Refused) else entry[0]


def fetch(
    root: Path, names: Collection[str], *, max_bytes: int = _LARGEST, expand: bool = True
) -> Iterator[tuple[str, Handle]]:
    """Handles for names that `scan` gave, in no particular order.

    A handle is only valid until the next one is asked for.

    Raises:
        InputError: A name is gone, or an archive cannot be read any more.
    """
    if is_archive(root):
        found: Iterator[tuple[str, Handle]] = open_archive(root).fetch(names)
    elif root.is_file():
        found = ((name, root) for name in names)
    else:
        found = _fetch_below(root, names)
    for name, handle in found:
        entry = _expanded(name, handle, max_bytes) if expand else (name, handle)
        if isinstance(entry, Refused):
            raise InputError(entry.reason, code=entry.code, next_step=entry.next_step)
        yield entry


def _fetch_below(root: Path, names: Collection[str]) -> Iterator[tuple[str, Handle]]:
    """Files of a folder, those in archives one archive after the other."""
    inside: dict[Path, list[str]] = {}
    for name in names:
        archive = _archive_of(root, name)
        if archive is None:
            yield name, root / name
        else:
            inside.setdefault(archive, []).append(name)
    for archive, members in inside.items():
        prefix = f"{_name(archive, root)}/"
        for name, handle in open_archive(archive).fetch([m.removeprefix(prefix) for m in members]):
            yield prefix + name, handle


def _archive_of(root: Path, name: str) -> Path | None:
    """The archive that a name lies in, if any."""
    at = name.find("/")
    while at >= 0:
        if name[:at].lower().endswith(ARCHIVE_SUFFIXES) and (root / name[:at]).is_file():
            return root / name[:at]
        at = name.find("/", at + 1)
    return None


def _found(
    root: Path, max_bytes: int, skip: Collection[Path], *, read: bool = True
) -> Iterator[tuple[str, Handle] | Refused]:
    """Files and members of archives, each checked; members are empty unless they are read."""
    if root.is_file():
        if is_archive(root):
            yield from _inside(root, "", root.name, max_bytes, read)
        else:
            yield _check(root, root.name, root.parent, max_bytes)
        return
    root = root.resolve()
    skipped = {path.resolve() for path in skip}
    for name, found in _walk(root):
        if isinstance(found, Refused):
            yield found
        elif found in skipped:
            continue
        elif _entered(found):
            yield from _inside(found, f"{name}/", name, max_bytes, read)
        else:
            yield _check(found, name, root, max_bytes)


def _entered(path: Path) -> bool:
    """Whether a file in a folder is an archive that is entered."""
    return is_archive(path) and not path.is_symlink()


def _inside(
    path: Path, prefix: str, own: str, max_bytes: int, read: bool
) -> Iterator[tuple[str, Handle] | Refused]:
    """The members of an archive, read one at a time."""
    try:
        archive = open_archive(path)
    except OSError as error:
        reason = f"the file cannot be read ({type(error).__name__})"
        yield Refused("file-unreadable", reason, "check its permissions", (own,))
        return
    for member in archive.index.members.values():
        name = prefix + member.name
        if member.refused is not None:
            yield replace(member.refused, inputs=(name,))
        elif member.size > max_bytes:
            yield _too_large(member.size, max_bytes, name)
        elif member.size == 0:
            yield Refused("file-empty", "the member has no bytes", "pack it again", (name,))
        else:
            try:
                entry = name, archive.read(member) if read else BytesIO()
            except InputError as error:
                yield refuse(error, (name,))
                continue
            yield entry
    if archive.index.error is not None:
        yield replace(archive.index.error, inputs=(own,))


def _expanded(name: str, handle: Handle, max_bytes: int) -> tuple[str, Handle] | Refused:
    """The content of a gzip file; anything else as it is."""
    if not name.lower().endswith(".gz"):
        return name, handle
    try:
        if isinstance(handle, BytesIO):
            return name, BytesIO(inflate_bytes(handle.getvalue(), max_bytes=max_bytes))
        return name, BytesIO(inflate(handle, max_bytes=max_bytes))
    except InputError as error:
        return refuse(error, (name,))


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
    if path.is_symlink() and is_archive(path):
        reason = "a link to an archive is not entered"
        return Refused("symlink-archive", reason, "make the archive a source of its own", (name,))
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


def _too_many(entry: tuple[str, Handle] | Refused, limit: int) -> Refused:
    name = entry.inputs[0] if isinstance(entry, Refused) else entry[0]
    reason = f"the source has more than {limit} files; the rest was not looked at"
    return Refused("too-many-files", reason, "raise max_files or split the source", (name,))


def _too_large(size: int, limit: int, name: str) -> Refused:
    reason = f"the file has {size} bytes; limit {limit}"
    return Refused("file-too-large", reason, "raise max_bytes if it is genuine", (name,))
