"""Keyed pseudonyms: without the key nobody can enumerate record numbers and match them.

HMAC-SHA256 (RFC 2104), truncated to 128 bits, one domain a kind of identifier: the same patient
has the same pseudonym in images, reports and video, and no pseudonym of a patient equals that of
a study.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import secrets
from contextlib import suppress
from pathlib import Path

from medvlp.errors import ConfigError

KEY_BYTES = 32


class Pseudonyms:
    """A key and what it makes. Keep the key beside the dataset, never in it."""

    def __init__(self, key: bytes) -> None:
        if len(key) < KEY_BYTES:
            raise ConfigError(
                "the pseudonym key is too short", code="deid-key-invalid", got=f"{len(key)} bytes",
                limit=f"{KEY_BYTES} bytes", next_step="let ingest make one, or use 64 hex digits",
            )  # fmt: skip
        self._key = key

    def patient(self, identifier: str) -> str:
        """Pseudonym of a patient; case and spaces around it do not matter."""
        return self._mac("patient", identifier.strip().upper())

    def study(self, identifier: str) -> str:
        """Pseudonym of a study; empty for a study without an identifier."""
        return self._mac("study", identifier.strip()) if identifier.strip() else ""

    def accession(self, number: str) -> str:
        """Pseudonym of an accession number, short enough for its DICOM attribute (SH)."""
        return self._mac("accession", number.strip())[:16] if number.strip() else ""

    def uid(self, uid: str) -> str:
        """Another UID for a UID: `2.25.` and the digits of a UUID (PS3.5 B.2, RFC 9562 version 8).

        Equal on every machine that has the key, so that references stay references.
        """
        bits = int(self._mac("uid", uid.strip(" \0")), 16)
        bits = bits & ~(0xF << 76) | 0x8 << 76  # version 8: made by its own rule
        bits = bits & ~(0x3 << 62) | 0x2 << 62  # variant of RFC 9562
        return f"2.25.{bits}"

    def shift_days(self, patient: str, most: int) -> int:
        """By how many days a patient's dates move: -`most` to -1, the same for every object."""
        bits = int(self._mac(f"shift/{most}", patient.strip().upper()), 16)
        return -1 - bits % most

    def visual(self, patient: str, digest: str) -> str:
        """Key of the sample that shows these pixels of this patient (raw identifier)."""
        return self._mac("visual", f"{patient.strip().upper()}\0{digest}")

    def part(self, *place: object) -> str:
        """Key of a sample named by its place: a clip of a lecture, a report without a visual."""
        return self._mac("part", "\0".join(str(item) for item in place))

    def path(self, source: str, path: str) -> str:
        """Pseudonym of an input file, for the quarantine list."""
        return self._mac("path", f"{source}\0{path}")[:16]

    @property
    def check(self) -> str:
        """Tells keys apart without giving them away."""
        return self._mac("key", "check")[:16]

    @property
    def journal_key(self) -> bytes:
        """A Fernet key for what an unfinished ingest leaves on disk."""
        raw = hmac.new(self._key, b"medvlp/journal", hashlib.sha256).digest()
        return base64.urlsafe_b64encode(raw)

    def _mac(self, domain: str, text: str) -> str:
        message = f"medvlp/{domain}\0{text}".encode("utf-8", "surrogateescape")
        return hmac.new(self._key, message, hashlib.sha256).hexdigest()[:32]


def load_key(path: Path, *, create: bool) -> Pseudonyms:
    """Read a key file; make one (mode 0600) where there is none and `create` says so.

    Raises:
        ConfigError: The file is missing, or does not hold at least 64 hex digits.
    """
    if create and not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        _make_key(path)
    try:
        return Pseudonyms(bytes.fromhex(path.read_text(encoding="ascii").strip()))
    except FileNotFoundError:
        raise ConfigError(
            "the pseudonym key file does not exist", code="deid-key-missing", got=path,
            next_step="make one with: openssl rand -hex 32",
        ) from None  # fmt: skip
    except ValueError:
        raise ConfigError(
            "the pseudonym key file does not hold hex digits", code="deid-key-invalid", got=path,
            next_step="make one with: openssl rand -hex 32",
        ) from None  # fmt: skip


def _make_key(path: Path) -> None:
    """A fresh key that is there whole or not at all, whatever ends the process meanwhile."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fresh.unlink(missing_ok=True)
    try:
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_hex(KEY_BYTES) + "\n")
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):  # another ingest was faster
            os.link(fresh, path)
    finally:
        fresh.unlink(missing_ok=True)
