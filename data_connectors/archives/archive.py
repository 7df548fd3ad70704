"""One archive, opened once a process: its index, and its members by name."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from functools import lru_cache
from io import BytesIO
from pathlib import Path

from data_connectors.archives.expanded import Expanded
from data_connectors.archives.index import (
    ARCHIVE_SUFFIXES,
    Member,
    Raw,
    broken,
    build_index,
)
from data_connectors.archives.tars import Plain, Stream, walk
from data_connectors.archives.zips import Zip
from medvlp.errors import InputError

_OPEN_AT_A_TIME = 8


def is_archive(path: Path) -> bool:
    """Whether a path is a file named like a zip or tar archive."""
    return path.name.lower().endswith(ARCHIVE_SUFFIXES) and path.is_file()


class Archive:
    """A zip or tar archive; use `open_archive`."""

    def __init__(self, path: Path) -> None:
        self._zip: Zip | None = None
        self._stream: Stream | None = None
        try:
            if path.name.lower().endswith(".zip"):
                self._zip = Zip(path)
                self.index = build_index(self._zip.walk())
            else:
                plain = path.name.lower().endswith(".tar")
                self._stream = Plain(path) if plain else Expanded(path)
                self.index = build_index(walk(self._stream))
        except (InputError, OSError) as error:
            self.index = build_index(_nothing(error))

    def read(self, member: Member) -> BytesIO:
        """The content of one member.

        Raises:
            InputError: It cannot be read (`archive-broken`), or expands like a bomb.
        """
        if self._zip is not None:
            return self._zip.read(member)
        assert self._stream is not None
        try:
            data = self._stream.read_at(member.at, member.size)
        except InputError:
            raise
        except Exception as failure:  # decompressors raise nearly every built-in type
            raise broken(failure) from None
        if len(data) != member.size:
            raise broken(EOFError())
        return BytesIO(data)

    def fetch(self, names: Collection[str]) -> Iterator[tuple[str, BytesIO]]:
        """Members by name, in stored order.

        Raises:
            InputError: A member is gone (`input-gone`) or cannot be read.
        """
        wanted = [self.index.members.get(name) for name in names]
        members = [member for member in wanted if member is not None and member.refused is None]
        if len(members) < len(wanted):
            raise InputError(
                "an archive member is gone", code="input-gone", got=len(wanted) - len(members),
                next_step="leave archives as they are while they are read",
            )  # fmt: skip
        for member in sorted(members, key=lambda member: member.at):
            yield member.name, self.read(member)


def open_archive(path: Path) -> Archive:
    """An archive that stays open, and whose index is kept, until the file changes.

    An archive that cannot be read at all has an index without members.
    """
    state = path.stat()
    return _opened(path, state.st_mtime_ns, state.st_size, state.st_ino)


@lru_cache(maxsize=_OPEN_AT_A_TIME)
def _opened(path: Path, _changed: int, _size: int, _number: int) -> Archive:
    return Archive(path)


def _nothing(error: Exception) -> Iterator[Raw]:
    raise error
    yield
