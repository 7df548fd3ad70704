"""Writes the dataset folder: tar shards, parquet tables, dataset.json.

Shards are plain ustar with fixed headers (no times, no owners), so equal payloads give equal
bytes. A sample is the members `KEY.ext` in a row (the WebDataset convention), and because they
lie in a row one byte range reads it back.
"""

from __future__ import annotations

import hashlib
import os
import tarfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from data_connectors.dataset.schema import (
    QUARANTINE,
    REGIONS,
    SAMPLES,
    SCHEMA_VERSION,
    sample_to_row,
)
from data_connectors.items import Payload, Refused, Region
from medvlp import __version__
from medvlp.errors import DatasetError, InputError
from medvlp.files import file_digest, whole, write_json
from medvlp.types import Sample

BLOCK = 512
_END = bytes(2 * BLOCK)
TABLES = ("samples.parquet", "regions.parquet", "quarantine.parquet")


class Placed(NamedTuple):
    """Where a payload lies: the byte range of its members, headers included."""

    shard: str
    offset: int
    size: int


class Mark(NamedTuple):
    """Where one member of a payload begins, relative to the payload."""

    extension: str
    offset: int


def tar_payload(key: str, payload: Payload) -> tuple[bytes, tuple[Mark, ...]]:
    """A payload as tar members `KEY.ext`, and where each begins.

    Raises:
        InputError: A member is larger than ustar can hold (8 GiB).
    """
    parts: list[bytes] = []
    marks: list[Mark] = []
    offset = 0
    for extension, data in payload.members:
        header = tarfile.TarInfo(f"{key}.{extension}")
        header.size, header.mode, header.mtime = len(data), 0o644, 0
        header.uid = header.gid = 0
        header.uname = header.gname = ""
        try:
            head = header.tobuf(tarfile.USTAR_FORMAT)
        except ValueError:
            raise InputError(
                "the visual is too large for a shard", code="payload-too-large",
                got=f"{len(data)} bytes", limit="8 GiB",
            ) from None  # fmt: skip
        padding = bytes(-len(data) % BLOCK)
        parts += (head, data, padding)
        marks.append(Mark(extension, offset))
        offset += len(head) + len(data) + len(padding)
    return b"".join(parts), tuple(marks)


class ShardWriter:
    """Appends payloads to `shards/000000.tar` and on; can go on from a known position."""

    def __init__(self, folder: Path, *, limit: int, shard: int = 0, offset: int = 0) -> None:
        self._folder = folder / "shards"
        self._limit = limit
        self.shard = shard
        self.offset = offset
        self._folder.mkdir(parents=True, exist_ok=True)
        for path in self._folder.iterdir():
            if int(path.stem) > shard:
                path.unlink()
        self._file = self._open()
        self._file.truncate(offset)
        self._file.seek(offset)

    def append(self, blocks: bytes) -> Placed:
        """Write whole tar members; a payload never spans two shards."""
        if self.offset and self.offset + len(blocks) > self._limit:
            self._finish_shard()
            self.shard, self.offset = self.shard + 1, 0
            self._file = self._open()
        placed = Placed(self._name(), self.offset, len(blocks))
        self._file.write(blocks)
        self.offset += len(blocks)
        return placed

    def flush(self) -> None:
        """Hand everything written so far to the operating system."""
        self._file.flush()

    def close(self) -> None:
        """End the last shard."""
        if self._file.closed:
            return
        self._finish_shard()

    def _name(self) -> str:
        return f"shards/{self.shard:06d}.tar"

    def _open(self) -> Any:
        path = self._folder.parent / self._name()
        return path.open("r+b" if path.exists() else "w+b")

    def _finish_shard(self) -> None:
        self._file.truncate(self.offset)
        self._file.write(_END)
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()


class DatasetWriter:
    """Writes a whole dataset folder at once; what tests and small tools use.

        with DatasetWriter(folder) as writer:
            placed = writer.add(key, payload)
            writer.finish([Sample(..., shard=placed.shard, offset=placed.offset, ...)])

    A large ingest writes the shards itself and calls `write_tables` and `write_info`.
    """

    def __init__(self, folder: Path, *, shard_mb: int = 256) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._shards = ShardWriter(folder, limit=shard_mb * 1_000_000)

    def __enter__(self) -> DatasetWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._shards.close()

    def add(self, key: str, payload: Payload) -> Placed:
        """Write the members of one sample and say where they lie."""
        blocks, _ = tar_payload(key, payload)
        return self._shards.append(blocks)

    def finish(
        self,
        samples: Sequence[Sample],
        *,
        regions: Iterable[tuple[str, Region]] = (),
        quarantine: Iterable[tuple[str, Refused]] = (),
        info: dict[str, Any] | None = None,
    ) -> str:
        """Write tables and dataset.json; return the digest of the dataset."""
        self._shards.close()
        write_tables(self._folder, samples, regions, quarantine)
        return write_info(self._folder, info or {})


def write_tables(
    folder: Path,
    samples: Sequence[Sample],
    regions: Iterable[tuple[str, Region]],
    quarantine: Iterable[tuple[str, Refused]],
) -> None:
    """Write the three parquet tables, rows in the order given.

    Args:
        folder: The dataset folder.
        samples: One a row of `samples.parquet`.
        regions: (sample key, region).
        quarantine: (pseudonym of the input, why it is not used).
    """
    keys = [sample.key for sample in samples]
    if len(set(keys)) != len(keys):
        raise DatasetError("two samples have the same key", code="dataset-key-twice")
    rows = [sample_to_row(sample) for sample in samples]
    _write(folder / "samples.parquet", rows, SAMPLES)
    _write(
        folder / "regions.parquet",
        [
            {"key": key, "concept": r.concept, "side": r.side, "mask": r.mask_png, "box": r.box}
            for key, r in regions
        ],
        REGIONS,
    )
    write_quarantine(folder, quarantine)


def write_quarantine(folder: Path, quarantine: Iterable[tuple[str, Refused]]) -> None:
    """Write quarantine.parquet alone: (pseudonym of the input, why it is not used)."""
    _write(
        folder / "quarantine.parquet",
        [
            {"source": source, "code": r.code, "reason": r.reason, "next_step": r.next_step}
            for source, r in quarantine
        ],
        QUARANTINE,
    )


def write_info(folder: Path, info: dict[str, Any]) -> str:
    """Hash the parts and write dataset.json; return the digest of the dataset."""
    parts = hash_parts(folder)
    digest = digest_of(parts)
    full = {
        "schema_version": SCHEMA_VERSION,
        "version": __version__,
        **info,
        "digest": digest,
        "parts": parts,
    }
    write_json(folder / "dataset.json", full, sort_keys=True)
    return digest


def hash_parts(folder: Path) -> dict[str, str]:
    """SHA-256 of every table and shard, by name relative to the folder."""
    shards = sorted((folder / "shards").glob("*.tar"))
    paths = [folder / name for name in TABLES] + shards
    return {path.relative_to(folder).as_posix(): file_digest(path) for path in paths}


def digest_of(parts: dict[str, str]) -> str:
    """One digest for a set of named parts."""
    lines = "".join(f"{digest}  {name}\n" for name, digest in sorted(parts.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def _write(path: Path, rows: list[dict[str, Any]], schema: pa.Schema) -> None:
    with whole(path) as partial:
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), partial, compression="zstd")
