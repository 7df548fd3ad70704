"""Reads a dataset folder: rows in memory, pixels by byte range when they are asked for."""

from __future__ import annotations

import io
import json
import os
import tarfile
import threading
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from data_connectors.dataset.schema import SCHEMA_VERSION, row_to_sample
from data_connectors.dataset.writer import digest_of, hash_parts
from data_connectors.items import Region
from medvlp import audit
from medvlp.errors import DatasetError, IntegrityError
from medvlp.types import Geometry, Kind, Sample, Split, Visual


class Dataset:
    """A dataset folder, opened. Safe to share between threads, and to hand to worker processes."""

    def __init__(self, path: Path, info: dict[str, Any], samples: tuple[Sample, ...]) -> None:
        self.path = path
        self.info = info
        self.samples = samples
        self._handles: dict[str, int] = {}
        self._owner = os.getpid()
        self._lock = threading.Lock()

    @classmethod
    def open(cls, path: Path) -> Dataset:
        """Open a folder that `ingest` wrote.

        Raises:
            DatasetError: There is no finished dataset, or it has another schema version.
        """
        try:
            info = json.loads((path / "dataset.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise DatasetError(
                "no finished dataset here", code="dataset-missing", got=path,
                next_step="make one with: medvlp ingest",
            ) from None  # fmt: skip
        except ValueError:
            raise DatasetError("dataset.json is not JSON", got=path) from None
        if info.get("schema_version") != SCHEMA_VERSION:
            raise DatasetError(
                "the dataset has another schema version", code="dataset-schema",
                got=info.get("schema_version"), limit=SCHEMA_VERSION,
                next_step="ingest again with this version",
            )  # fmt: skip
        rows = pq.read_table(path / "samples.parquet").to_pylist()
        return cls(path, info, tuple(row_to_sample(row) for row in rows))

    @property
    def digest(self) -> str:
        """Digest of tables and shards, as written at ingest."""
        return str(self.info["digest"])

    def __len__(self) -> int:
        return len(self.samples)

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "info": self.info, "samples": self.samples}

    def __setstate__(self, state: dict[str, Any]) -> None:
        Dataset.__init__(self, **state)

    @cached_property
    def by_key(self) -> dict[str, Sample]:
        """The samples by key."""
        return {sample.key: sample for sample in self.samples}

    def select(
        self,
        *,
        split: Split | Sequence[Split] | None = None,
        kinds: Sequence[Kind] | None = None,
        provenance: str | Sequence[str] | None = None,
    ) -> tuple[Sample, ...]:
        """The samples of some splits, kinds and sources, in order; None means all."""
        splits = (split,) if isinstance(split, str) else split
        sources = (provenance,) if isinstance(provenance, str) else provenance
        return tuple(
            sample
            for sample in self.samples
            if (splits is None or sample.split in splits)
            and (kinds is None or sample.kind in kinds)
            and (sources is None or sample.provenance in sources)
        )

    def visual(self, sample: Sample, *, max_frames: int | None = None) -> Visual:
        """The pixels of one sample.

        Args:
            sample: A sample of this dataset.
            max_frames: Decode at most this many frames, evenly spread over a clip or volume;
                None: all of them.

        Returns:
            image: [1, h, w] (8 or 16 bit) or [1, h, w, 3]; volume: [d, h, w] at positions in
            millimetres; clip: uint8 [n, h, w, 3] at positions in seconds (media clock).

        Raises:
            DatasetError: The sample has no pixels (kind "text").
        """
        members = self._members(sample, max_frames)
        return decode_visual(sample.kind, sample.geometry, members, max_frames=max_frames)

    def regions(self, key: str) -> list[Region]:
        """Where the findings of one sample are; empty when it is not known."""
        return self._regions.get(key, [])

    @cached_property
    def _regions(self) -> dict[str, list[Region]]:
        regions: dict[str, list[Region]] = {}
        for row in pq.read_table(self.path / "regions.parquet").to_pylist():
            box = row["box"]
            region = Region(row["concept"], row["side"], row["mask"], box and tuple(box))
            regions.setdefault(row["key"], []).append(region)
        return regions

    def quarantine(self) -> list[dict[str, str]]:
        """Every input that was not used: source, code, reason, next_step."""
        return list(pq.read_table(self.path / "quarantine.parquet").to_pylist())

    def verify(self) -> int:
        """Compare every part and the audit log with what ingest recorded.

        Returns:
            Number of parts checked.

        Raises:
            IntegrityError: A part was changed, added or removed; the message names it.
        """
        recorded: dict[str, str] = self.info["parts"]
        for name in recorded:
            if not (self.path / name).is_file():
                raise IntegrityError("a part of the dataset is gone", got=name)
        parts = hash_parts(self.path)
        for name in sorted(parts.keys() | recorded.keys()):
            if parts.get(name) != recorded.get(name):
                raise IntegrityError(
                    "a part of the dataset is not what ingest wrote", got=name,
                    next_step="ingest again, or restore the part",
                )  # fmt: skip
        if digest_of(parts) != self.digest:
            raise IntegrityError("the digest in dataset.json does not fit its parts")
        if "audit_head" in self.info:
            audit.verify(self.path / "audit.jsonl", anchor=self.info["audit_head"])
        return len(parts)

    def _members(self, sample: Sample, max_frames: int | None) -> list[tuple[str, bytes]]:
        """(name, data) of the members of a sample, thinned out when it is a clip."""
        if sample.shard is None:
            raise DatasetError(
                "this sample has no pixels", code="sample-without-visual", got=sample.kind
            )
        data = os.pread(self._handle(sample.shard), sample.size, sample.offset)
        if len(data) != sample.size:
            raise DatasetError("a shard is shorter than its rows say", got=sample.shard)
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
            entries = archive.getmembers()
            if sample.kind == "clip":
                entries = [entries[i] for i in _spread(len(entries), max_frames)]
            spans = [(e.name, e.offset_data, e.offset_data + e.size) for e in entries]
        if not spans:
            raise DatasetError("a byte range holds no member", got=sample.shard)
        return [(name, data[start:end]) for name, start, end in spans]

    def _handle(self, shard: str) -> int:
        """A file descriptor of this process; opened once, then only `pread`."""
        if self._owner != os.getpid():  # forked, perhaps while another thread held the lock
            self._lock, self._owner = threading.Lock(), os.getpid()
        with self._lock:
            if shard not in self._handles:
                self._handles[shard] = os.open(self.path / shard, os.O_RDONLY | os.O_CLOEXEC)
            return self._handles[shard]

    def close(self) -> None:
        """Close the shards; they reopen on demand."""
        for handle in self._handles.values():
            os.close(handle)
        self._handles = {}


def decode_visual(
    kind: Kind,
    geometry: Geometry,
    members: Sequence[tuple[str, bytes]],
    *,
    max_frames: int | None = None,
) -> Visual:
    """What the members of a stored visual show; the one way from bytes to what a model sees.

    Args:
        kind: Not "text".
        geometry: Of the sample.
        members: (`KEY.extension`, data) of its members; of a clip, those that are wanted.
        max_frames: Of a volume; see `Dataset.visual`.
    """
    unit = geometry.unit or ("rgb" if kind == "clip" else "raw")
    window = geometry.window
    if kind == "volume":
        frames = np.load(io.BytesIO(members[0][1]), allow_pickle=False)
        chosen = _spread(len(frames), max_frames)
        positions = _positions(geometry, len(frames))[chosen]
        frames = frames if len(chosen) == len(frames) else frames[chosen]
        return Visual(frames, positions, "volume", unit, window)
    if kind == "clip":
        frames = np.stack([_pixels(data, colour=True) for _, data in members])
        positions = np.array([int(name.split(".")[1]) / 1000 for name, _ in members])
        return Visual(frames, positions, "clip", unit, window)
    frame = _pixels(members[0][1])
    unit = "rgb" if frame.ndim == 3 else unit
    return Visual(frame[None], np.zeros(1), "image", unit, window)


def _positions(geometry: Geometry, count: int) -> np.ndarray:
    """Where the slices of a volume lie, in millimetres from the first."""
    if geometry.positions_mm is not None:
        return np.array(geometry.positions_mm)
    spacing: float = (geometry.spacing_mm or (1.0,))[0]
    return np.arange(count) * spacing


def _spread(count: int, most: int | None) -> np.ndarray:
    """Indices of at most `most` of `count` things, evenly spread, both ends inside their cell."""
    if most is None or count <= most:
        return np.arange(count)
    return ((np.arange(most) + 0.5) * count / most).astype(np.int64)


def _pixels(data: bytes, *, colour: bool = False) -> np.ndarray:
    """uint8 or uint16 [h, w], or uint8 [h, w, 3], from PNG or JPEG bytes."""
    with Image.open(io.BytesIO(data)) as image:
        if colour or image.mode in ("RGB", "RGBA", "P", "CMYK", "YCbCr", "PA"):
            return np.asarray(image.convert("RGB"))
        if image.mode.startswith("I"):
            return np.asarray(image).astype(np.uint16)
        return np.asarray(image if image.mode == "L" else image.convert("L"))
