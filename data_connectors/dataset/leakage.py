"""What may connect the splits of a dataset: patients, identical pixels, identical long texts."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from medvlp.types import Sample

LONG_TEXT = 200
"""Characters; shorter texts are shared by healthy patients and say nothing."""


def find_leakage(samples: Sequence[Sample], folder: Path) -> dict[str, Any]:
    """Count what occurs in more than one split.

    Args:
        samples: All samples of a dataset.
        folder: The dataset folder.

    Returns:
        `patients`, `identical_pixels` and `identical_long_texts`, as numbers of patients,
        pictures and texts that are in two or three splits, and `clean`: whether patients and
        pixels are not. Long texts are told, not judged: templates repeat.
    """
    patients = _shared((sample.patient, sample.split) for sample in samples)
    texts = _shared(
        (hashlib.sha256(" ".join(text.text.lower().split()).encode()).hexdigest(), sample.split)
        for sample in samples
        for text in sample.texts
        if text.level == "document" and len(text.text) >= LONG_TEXT
    )
    pixels = _shared(_pixels(samples, folder))
    return {
        "patients": patients,
        "identical_pixels": pixels,
        "identical_long_texts": texts,
        "clean": not patients and not pixels,
    }


def _shared(pairs: Iterable[tuple[str, str]]) -> int:
    splits: dict[str, set[str]] = defaultdict(set)
    for name, split in pairs:
        splits[name].add(split)
    return sum(len(some) > 1 for some in splits.values())


def _pixels(samples: Sequence[Sample], folder: Path) -> Iterable[tuple[str, str]]:
    """(digest of the stored bytes, split) of every visual that is not a part of another.

    Only visuals of one size can be equal, so only those are read.
    """
    by_size: dict[int, list[Sample]] = defaultdict(list)
    for sample in samples:
        if sample.shard is not None and sample.parent is None:
            by_size[sample.size].append(sample)
    handles: dict[str, int] = {}
    try:
        for group in by_size.values():
            if len({sample.split for sample in group}) < 2:
                continue
            for sample in group:
                assert sample.shard is not None
                if sample.shard not in handles:
                    handles[sample.shard] = os.open(folder / sample.shard, os.O_RDONLY)
                data = os.pread(handles[sample.shard], sample.size, sample.offset)
                yield _without_names(data, sample.key), sample.split
    finally:
        for handle in handles.values():
            os.close(handle)


def _without_names(data: bytes, key: str) -> str:
    """Digest of the members' contents: tar headers hold the key and its checksum."""
    digest = hashlib.sha256()
    place = 0
    while place + 512 <= len(data):
        header = data[place : place + 512]
        size = int(header[124:136].strip(b"\0 ") or b"0", 8)
        digest.update(header[len(key) : 100].strip(b"\0"))
        digest.update(data[place + 512 : place + 512 + size])
        place += 512 + size + (-size % 512)
    return digest.hexdigest()
