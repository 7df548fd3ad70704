"""What the archive says it has, and what has come: one SQLite file that survives any kill.

A file is on disk, under its final name, before its row says so; a row is written in one
transaction. So after a kill every row is true, and a file without a row is no loss: it is removed
and fetched again.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from data_connectors.pacs.archive import Key, Series
from medvlp.errors import ConfigError

_VERSION = "1"
_SCHEMA = """
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS series (
    study TEXT NOT NULL, uid TEXT NOT NULL, patients TEXT NOT NULL, counted INTEGER,
    listed INTEGER NOT NULL, done INTEGER NOT NULL, PRIMARY KEY (study, uid)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS instances (
    study TEXT NOT NULL, series TEXT NOT NULL, uid TEXT NOT NULL, class TEXT NOT NULL,
    listed INTEGER NOT NULL, state TEXT NOT NULL, sha256 TEXT NOT NULL, size INTEGER NOT NULL,
    PRIMARY KEY (study, series, uid)
) WITHOUT ROWID;
"""

WANTED, STORED = "wanted", "stored"
"""States of an instance; any other is the code of a refusal."""


class Instance(NamedTuple):
    """One row of the ledger."""

    uid: str
    sop_class: str
    listed: bool
    """Whether the archive lists it in this series."""
    state: str
    sha256: str
    size: int


class Entry(NamedTuple):
    """One series of the ledger."""

    counted: int | None
    listed: bool
    """Whether there is a list of its instances."""
    done: bool
    """Whether a retrieval of the whole series has come to its end, with nothing refused."""
    patients: tuple[str, ...]
    instances: tuple[Instance, ...]

    @property
    def wanted(self) -> dict[str, str]:
        """SOPInstanceUID -> SOPClassUID of what is listed and has not come."""
        return {i.uid: i.sop_class for i in self.instances if i.listed and i.state == WANTED}

    @property
    def refused(self) -> list[Instance]:
        """What came and was not accepted."""
        return [i for i in self.instances if i.state not in (WANTED, STORED)]

    @property
    def stored(self) -> list[Instance]:
        """What has come."""
        return [i for i in self.instances if i.state == STORED]


class Ledger:
    """The ledger of one store folder; its methods may be called from several threads."""

    def __init__(self, path: Path, origin: str) -> None:
        """Open, or make.

        Args:
            path: The file; made with mode 0600.
            origin: Names the archive; a store of another archive is refused.

        Raises:
            ConfigError: `pacs-store-other`, `pacs-ledger-broken`.
        """
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        os.chmod(path, 0o600)
        self._lock = threading.RLock()
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        try:
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.executescript(_SCHEMA)
            with self._change() as db:
                for name, value in (("version", _VERSION), ("origin", origin)):
                    db.execute("INSERT OR IGNORE INTO facts VALUES (?, ?)", (name, value))
                facts = dict(db.execute("SELECT name, value FROM facts"))
        except sqlite3.DatabaseError:
            raise ConfigError(
                "the ledger of the store folder cannot be read", code="pacs-ledger-broken",
                next_step="choose another store folder, or remove this one to pull everything",
            ) from None  # fmt: skip
        if facts["version"] != _VERSION or facts["origin"] != origin:
            self.close()
            raise ConfigError(
                "the store folder was filled from another archive", code="pacs-store-other",
                next_step="give each archive a store folder of its own",
            )  # fmt: skip

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def expect(self, series: Series, instances: Mapping[str, str] | None, *, anew: bool) -> None:
        """Note what the archive says of a series now.

        Instances that it no longer lists, and that never came, are forgotten.

        Args:
            series: The series, with its count.
            instances: SOPInstanceUID -> SOPClassUID; None if they cannot be listed.
            anew: Let what was refused be wanted again.
        """
        key = series.key
        with self._change() as db:
            db.execute(
                "INSERT INTO series VALUES (?, ?, ?, ?, ?, 0) ON CONFLICT DO UPDATE SET"
                " patients = excluded.patients, counted = excluded.counted,"
                " listed = excluded.listed",
                (*key, "\x1f".join(series.patients), series.counted, instances is not None),
            )
            db.execute("UPDATE instances SET listed = 0 WHERE study = ? AND series = ?", key)
            db.executemany(
                f"INSERT INTO instances VALUES (?, ?, ?, ?, 1, '{WANTED}', '', 0)"
                " ON CONFLICT DO UPDATE SET listed = 1, class = excluded.class",
                [(*key, uid, sop_class) for uid, sop_class in (instances or {}).items()],
            )
            db.execute(
                "DELETE FROM instances WHERE study = ? AND series = ? AND listed = 0"
                f" AND state != '{STORED}'", key,
            )  # fmt: skip
            if anew:
                db.execute(
                    f"UPDATE instances SET state = '{WANTED}' WHERE study = ? AND series = ?"
                    f" AND state != '{STORED}'", key,
                )  # fmt: skip

    def finish(self, key: Key) -> None:
        """Note that the whole series has been retrieved; not so if anything was refused."""
        with self._change() as db:
            db.execute(
                "UPDATE series SET done = NOT EXISTS (SELECT 1 FROM instances WHERE study = ?"
                f" AND series = ? AND state NOT IN ('{WANTED}', '{STORED}'))"
                " WHERE study = ? AND uid = ?", (*key, *key),
            )  # fmt: skip

    def put(self, key: Key, uid: str, state: str, sha256: str = "", size: int = 0) -> None:
        """Note what became of an instance, listed or not."""
        with self._change() as db:
            db.execute(
                "INSERT INTO instances VALUES (?, ?, ?, '', 0, ?, ?, ?) ON CONFLICT"
                " DO UPDATE SET state = excluded.state, sha256 = excluded.sha256,"
                " size = excluded.size", (*key, uid, state, sha256, size),
            )  # fmt: skip

    def forget(self, key: Key, uid: str) -> None:
        """Drop the row of an instance."""
        with self._change() as db:
            db.execute(
                "DELETE FROM instances WHERE study = ? AND series = ? AND uid = ?", (*key, uid)
            )

    def get(self, key: Key, uid: str) -> Instance | None:
        """The row of an instance."""
        with self._lock:
            row = self._db.execute(
                "SELECT uid, class, listed, state, sha256, size FROM instances"
                " WHERE study = ? AND series = ? AND uid = ?", (*key, uid),
            ).fetchone()  # fmt: skip
        return _instance(row) if row else None

    def entry(self, key: Key) -> Entry | None:
        """A series with its instances, by UID."""
        with self._lock:
            head = self._db.execute(
                "SELECT counted, listed, done, patients FROM series WHERE study = ? AND uid = ?",
                key,
            ).fetchone()
            rows = self._db.execute(
                "SELECT uid, class, listed, state, sha256, size FROM instances"
                " WHERE study = ? AND series = ? ORDER BY uid", key,
            ).fetchall()  # fmt: skip
        if head is None:
            return None
        counted, listed, done, patients = head
        instances = tuple(_instance(row) for row in rows)
        return Entry(counted, bool(listed), bool(done), tuple(patients.split("\x1f")), instances)

    def all_series(self) -> list[Key]:
        """Every series that was ever listed, in order."""
        with self._lock:
            rows = self._db.execute("SELECT study, uid FROM series ORDER BY study, uid")
            return [(study, uid) for study, uid in rows]

    @contextmanager
    def _change(self) -> Iterator[sqlite3.Connection]:
        """One transaction."""
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")


def _instance(row: tuple[str, str, int, str, str, int]) -> Instance:
    uid, sop_class, listed, state, sha256, size = row
    return Instance(uid, sop_class, bool(listed), state, sha256, size)
