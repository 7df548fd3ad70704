"""What a pull leaves to be accounted for, and how its folder is deleted. Light."""

from __future__ import annotations

import shutil
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from data_connectors.items import Refused

PLACES: Final = ("dicom", "aside")
"""Folders of a store: series that are read, series that are not."""
FILES: Final = ("ledger.sqlite", "ledger.sqlite-wal", "ledger.sqlite-shm", "lock")
"""What else is in it, besides `incoming`."""


@dataclass(eq=False, slots=True)
class Pulled:
    """Besides the files that are read, everything that the archive says it has."""

    folder: Path
    """Whole series: to be read."""
    missing: dict[str, int] = field(default_factory=dict)
    """Inputs that cannot be read: name -> bytes that came. Names as in `folder`."""
    refused: list[Refused] = field(default_factory=list)
    """Why; every missing input is in one of them."""
    series: int = 0
    instances: int = 0
    """How many are read."""
    fetched: int = 0
    """How many came in this call."""


def remove_store(folder: Path) -> None:
    """Delete a store folder, and nothing that is not of a store."""
    for name in ("incoming", *PLACES):
        shutil.rmtree(folder / name, ignore_errors=True)
    for name in FILES:
        (folder / name).unlink(missing_ok=True)
    for empty in (folder, folder.parent):
        with suppress(OSError):
            empty.rmdir()
