"""What a killed ingest needs to go on: one line a finished unit.

Lines are encrypted with a key derived from the pseudonym key, because they hold texts and
identifiers as they came. A torn last line is cut off; everything before it counts.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

from cryptography.fernet import Fernet, InvalidToken

from data_connectors.as_json import from_json, to_json
from data_connectors.ingest.records import UnitRecord


class Entry(NamedTuple):
    """One finished unit and how far the shards were written after it."""

    fingerprint: str
    """Names the unit, its inputs and their state: equal means there is nothing to read again."""
    shard: int
    offset: int
    record: UnitRecord


class Journal:
    """Append-only; `begin` keeps the entries that are still true and drops the rest."""

    def __init__(self, path: Path, key: bytes) -> None:
        self._path = path
        self._box = Fernet(key)

    def begin(self, plan: list[str], shards: Path) -> list[Entry]:
        """The longest run of entries that fits the plan and the shards on disk; the rest is cut.

        Args:
            plan: Fingerprints of all units, in order.
            shards: The dataset folder whose `shards/` the entries describe.
        """
        kept: list[Entry] = []
        if self._path.exists():
            with self._path.open("rb") as file:
                for number, line in enumerate(file):
                    entry = self._decode(line)
                    if number >= len(plan) or entry is None or entry.fingerprint != plan[number]:
                        break
                    kept.append(entry)
            while kept and not _written(shards, kept[-1]):
                kept.pop()
        self._file = self._path.open("ab")
        self._file.truncate(self._length(len(kept)))
        return kept

    def append(self, entry: Entry) -> None:
        """Record one finished unit."""
        facts = json.dumps([entry.fingerprint, entry.shard, entry.offset])
        text = facts + "\n" + to_json(entry.record)
        self._file.write(self._box.encrypt(text.encode()) + b"\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _decode(self, line: bytes) -> Entry | None:
        if not line.endswith(b"\n"):
            return None
        try:
            facts, _, record = self._box.decrypt(line.strip()).decode().partition("\n")
            fingerprint, shard, offset = json.loads(facts)
        except (InvalidToken, ValueError):
            return None
        return Entry(fingerprint, shard, offset, from_json(UnitRecord, record))

    def _length(self, lines: int) -> int:
        with self._path.open("rb") as file:
            return sum(len(file.readline()) for _ in range(lines))


def _written(folder: Path, entry: Entry) -> bool:
    """Whether the shards hold at least what the entry says (false after a power cut)."""
    if entry.offset == 0 and entry.shard == 0:
        return True
    path = folder / "shards" / f"{entry.shard:06d}.tar"
    return path.exists() and path.stat().st_size >= entry.offset
