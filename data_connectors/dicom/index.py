"""Reads the headers of a whole source: in chunks that can be spread over guarded processes.

An archive of a million files is looked through before the first one is decoded, and one hostile
header among them must neither end nor hang that. A chunk whose process died is taken apart, so
that the refusal names the one file that did it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any, Final

from data_connectors.as_json import from_json, to_json
from data_connectors.dicom.header import Header, Plane, read_header
from data_connectors.dicom.source import DicomSource
from data_connectors.dicom.tables import table_files
from data_connectors.files import fetch, listed, refuse
from data_connectors.items import Refused
from data_connectors.source import Chunk, Spread, directly
from medvlp.errors import InputError

CHUNK_FILES: Final = 64
"""Small enough to keep every process busy, large enough that sending it costs nothing."""


@dataclass(frozen=True, slots=True)
class Headers:
    """What one chunk gave."""

    found: tuple[Header, ...]
    refused: tuple[Refused, ...]


def index(source: DicomSource, spread: Spread = directly) -> Iterator[Header | Refused]:
    """The header of every image of a source, and a refusal of every other file.

    Args:
        source: Where to look.
        spread: Runs `look` over chunks: here and now, or in processes.

    Raises:
        InputError: The source's path does not exist.
    """
    share = _Shared()
    lost: list[str] = []
    chunks: list[Chunk] = []
    yield from _chunked(source, chunks)
    for chunk, text in zip(chunks, spread(look, chunks), strict=True):
        if text is None:
            lost += chunk.names
        else:
            yield from _unpacked(text, share)
    alone = [Chunk(source, (name,)) for name in lost]
    for chunk, text in zip(alone, spread(look, alone), strict=True):
        yield from [_deadly(chunk.names)] if text is None else _unpacked(text, share)


def look(chunk: Chunk) -> str:
    """Read the headers of a chunk: runs in a worker.

    Returns:
        `Headers` as JSON.
    """
    found: list[Header] = []
    refused: list[Refused] = []
    for name in chunk.names:
        try:
            [(_, handle)] = fetch(chunk.source.path, (name,), max_bytes=chunk.source.max_bytes)
            found.append(read_header(handle, name))
        except InputError as error:
            refused.append(refuse(error, (name,)))
    return to_json(Headers(tuple(found), tuple(refused)))


def _chunked(source: DicomSource, chunks: list[Chunk]) -> Iterator[Refused]:
    """Fill `chunks` with the files of a source; yield what cannot be one."""
    names: list[str] = []
    for entry in listed(
        source.path, max_files=source.max_files, max_bytes=source.max_bytes,
        skip=table_files(source),
    ):  # fmt: skip
        if isinstance(entry, Refused):
            yield entry
            continue
        names.append(entry)
        if len(names) == CHUNK_FILES:
            chunks.append(Chunk(source, tuple(names)))
            names = []
    if names:
        chunks.append(Chunk(source, tuple(names)))


def _deadly(names: tuple[str, ...]) -> Refused:
    return Refused(
        "header-unreadable", "the process that read this header died or took too long",
        "the file may be hostile; look at it with another reader, apart from this machine", names,
    )  # fmt: skip


def _unpacked(text: str, share: _Shared) -> Iterator[Header | Refused]:
    headers = from_json(Headers, text)
    yield from headers.refused
    for header in headers.found:
        yield share.slim(header)


class _Shared:
    """Equal values of many headers kept once: 0.8 kB a header instead of 2 (measured)."""

    def __init__(self) -> None:
        self._texts: dict[Any, Any] = {}

    def slim(self, header: Header) -> Header:
        """The same header, with values that other headers have too."""
        changed: dict[str, Any] = {}
        for each in fields(header):
            value = getattr(header, each.name)
            if isinstance(value, Plane):
                changed[each.name] = self._slim_plane(value)
            elif isinstance(value, str) and each.name not in ("name", "sop_uid"):
                changed[each.name] = self._one(value)
            elif isinstance(value, tuple):
                changed[each.name] = self._one(tuple(self._one(part) for part in value))
        return replace(header, **changed)

    def _slim_plane(self, plane: Plane) -> Plane:
        return replace(
            plane,
            along_row=self._one(plane.along_row),
            along_column=self._one(plane.along_column),
            spacing=self._one(plane.spacing),
        )

    def _one(self, value: Any) -> Any:
        return self._texts.setdefault(value, value)
