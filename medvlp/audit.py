"""A hash-chained, append-only log: each line holds the digest of the line before it.

An edit, a deletion or a reordering breaks the chain; `head` is the anchor that also shows a
truncation, and is kept elsewhere (in `dataset.json`, in a bundle's manifest).
"""

from __future__ import annotations

import hashlib
import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from medvlp import __version__
from medvlp.errors import IntegrityError

GENESIS = "0" * 64


def append(path: Path, action: str, **facts: Any) -> str:
    """Add one entry and return its digest, the new head. Facts must be free of patient data."""
    _mend(path)
    entry = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "version": __version__,
        "action": action,
        "facts": facts,
        "previous": head(path),
    }
    digest = _digest(entry)
    with path.open("a", encoding="utf-8") as log:
        log.write(json.dumps({**entry, "digest": digest}, sort_keys=True) + "\n")
        log.flush()
        os.fsync(log.fileno())
    return digest


def _mend(path: Path) -> None:
    """Cut off a last line that a kill or a full disk has torn: it was never part of the log."""
    if not path.exists():
        return
    data = path.read_bytes()
    if not data.endswith(b"\n"):
        os.truncate(path, data.rfind(b"\n") + 1)


def head(path: Path) -> str:
    """Digest of the last entry; the genesis value for a log that does not exist yet."""
    if not path.exists():
        return GENESIS
    lines = path.read_text(encoding="utf-8").splitlines()
    return str(json.loads(lines[-1])["digest"]) if lines else GENESIS


def verify(path: Path, *, anchor: str | None = None) -> int:
    """Check the chain, and its head against an anchor; return the number of entries.

    Raises:
        IntegrityError: An entry was changed, removed or moved, or the log was cut short.
    """
    previous = GENESIS
    number = 0
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            entry = json.loads(line)
            digest = entry.pop("digest")
            broken = entry["previous"] != previous or _digest(entry) != digest
        except (ValueError, KeyError, TypeError, AttributeError):
            broken = True
        if broken:
            raise IntegrityError(
                f"audit log: entry {number} does not follow from the one before it",
                code="audit-chain-broken",
            )
        previous = digest
    if anchor is not None and previous != anchor:
        raise IntegrityError(
            "audit log: the last entry is not the recorded one",
            code="audit-truncated",
            got=previous[:12],
            limit=anchor[:12],
        )
    return number


def _digest(entry: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(entry, sort_keys=True).encode()).hexdigest()
