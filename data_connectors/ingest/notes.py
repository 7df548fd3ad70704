"""Answers that a killed ingest need not ask for again: key -> text, encrypted, append-only."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from cryptography.fernet import Fernet, InvalidToken

_KEY_BYTES: Final = 64


class Notes:
    """A file of lines `key token`; only the places are kept in memory, not the texts.

    A line that a kill has torn is cut off; a token that does not decrypt is as good as absent.
    """

    def __init__(self, path: Path, key: bytes) -> None:
        self._box = Fernet(key)
        self._file = path.open("a+b")
        self._places: dict[bytes, int] = {}
        self._file.seek(0)
        end = 0
        for line in self._file:
            if not line.endswith(b"\n"):
                break
            self._places[line[:_KEY_BYTES]] = end
            end += len(line)
        self._file.truncate(end)

    def get(self, key: str) -> str | None:
        """The text under a key (64 characters), or None."""
        place = self._places.get(key.encode())
        if place is None:
            return None
        self._file.seek(place)
        try:
            return self._box.decrypt(self._file.readline()[_KEY_BYTES + 1 :].strip()).decode()
        except InvalidToken:
            return None

    def put(self, key: str, text: str) -> None:
        """Keep a text; only a later run looks it up."""
        self._file.write(key.encode() + b" " + self._box.encrypt(text.encode()) + b"\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()
