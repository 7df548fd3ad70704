"""What a killed de-identification needs to go on: one JSON line a finished file.

Nothing in it names a file or a person: places are pseudonyms, reasons are ours.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import asdict
from pathlib import Path
from types import TracebackType

from data_connectors.deid.batches import Outcome


class Ledger:
    """Append-only; a torn last line does not count."""

    def __init__(self, partial: Path) -> None:
        self._spool = partial / "spool"
        self._path = partial / "ledger.jsonl"

    def __enter__(self) -> Ledger:
        self._file = self._path.open("ab")
        if self._file.tell() and not self._path.read_bytes().endswith(b"\n"):
            self._file.write(b"\n")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def known(self, places: Collection[str]) -> dict[str, Outcome]:
        """Outcomes of earlier calls that are still true, by place."""
        found: dict[str, Outcome] = {}
        for line in self._path.read_bytes().splitlines():
            try:
                row = json.loads(line)
            except ValueError:
                continue
            row |= {"flags": tuple(row["flags"]), "counts": tuple(map(tuple, row["counts"]))}
            outcome = Outcome(**row)
            if outcome.place in places and self._there(outcome):
                found[outcome.place] = outcome
        return found

    def append(self, outcome: Outcome) -> None:
        """Record one finished file."""
        self._file.write(json.dumps(asdict(outcome)).encode() + b"\n")
        self._file.flush()

    def _there(self, outcome: Outcome) -> bool:
        """Whether the object is on the disk as it was written."""
        path = self._spool / outcome.place
        return not outcome.path or (path.is_file() and path.stat().st_size == outcome.size)
