"""The private folder of a pull: files under hashed names, in one of two places.

    ledger.sqlite   see `ledger`
    incoming/       files that are still coming; emptied at every start
    aside/          series that are not complete, or no longer wanted: not read
    dicom/          series that are what the archive says they are: read like any folder

A series moves between the places as a whole, by one rename. Names are digests of UIDs, so no UID,
whatever it holds, becomes a path.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import threading
from pathlib import Path

from data_connectors.pacs.archive import Key, Series
from data_connectors.pacs.identify import Told, body_digest, identify
from data_connectors.pacs.ledger import STORED, WANTED, Ledger
from data_connectors.pacs.pulled import FILES, PLACES
from medvlp.errors import ArchiveError, ConfigError, DatasetError, InputError


class Store:
    """One store folder, locked while it is open."""

    def __init__(self, folder: Path, origin: str) -> None:
        """Open, or make; what a kill left behind is put right.

        Raises:
            ConfigError: It is the store of another archive, or others may read it.
            DatasetError: Another pull uses it (`pacs-store-busy`).
        """
        self.folder = folder
        _make_private(folder)
        self._file = os.fdopen(os.open(folder / "lock", os.O_CREAT | os.O_WRONLY, 0o600), "w")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise DatasetError(
                "another ingest uses this store folder", code="pacs-store-busy",
                next_step="wait for it, or choose another store folder",
            ) from None  # fmt: skip
        shutil.rmtree(self.incoming, ignore_errors=True)
        for name in ("incoming", *PLACES):
            (folder / name).mkdir(exist_ok=True, mode=0o700)
        self.ledger = Ledger(folder / "ledger.sqlite", origin)
        self._lock = threading.Lock()
        self._sweep()

    @property
    def incoming(self) -> Path:
        """Where files are written until they are complete."""
        return self.folder / "incoming"

    @property
    def readable(self) -> Path:
        """Where complete series are."""
        return self.folder / "dicom"

    def close(self) -> None:
        """Let others use the folder."""
        self.ledger.close()
        self._file.close()

    def take(self, series: Series, path: Path, *, listed: bool) -> bool:
        """Keep a file that has come for a series, or say in the ledger why not.

        Args:
            series: What was asked for.
            listed: Whether the ledger has a list of its instances; then others are left out.
            path: A complete file below `incoming`; moved away or left to its owner.

        Returns:
            Whether it was kept: False for a refusal, a copy, or what the archive does not list.
        """
        try:
            told = identify(path)
        except InputError:
            return False  # it names no instance; what is missing stays missing
        key, size = series.key, path.stat().st_size
        known = self.ledger.get(key, told.sop_uid)
        if listed and not (known and known.listed):
            return False
        if code := _mismatch(series, told):
            if known and known.state != STORED:
                self.ledger.put(key, told.sop_uid, code, size=size)
            return False
        sha256 = _sha256(path)
        with self._lock:
            return self._keep(key, told.sop_uid, path, sha256, size)

    def place(self, key: Key, name: str) -> None:
        """Move a series to `dicom` or `aside`; nothing to do if it is there, or has no file."""
        for other in PLACES:
            if other != name and (self.folder / other / _hash(key)).is_dir():
                self._move(self.folder / other / _hash(key), self.folder / name / _hash(key))

    def drop(self, key: Key, uid: str) -> None:
        """Remove an instance that the archive does not list."""
        self.path_of(key, uid).unlink(missing_ok=True)
        self.ledger.forget(key, uid)

    def path_of(self, key: Key, uid: str) -> Path:
        """Where the file of an instance is, or would be put."""
        place = PLACES[0] if (self.readable / _hash(key)).is_dir() else PLACES[1]
        return self.folder / place / self.name_of(key, uid)

    @staticmethod
    def name_of(key: Key, uid: str) -> str:
        """The name of an instance below its place."""
        return f"{_hash(key)}/{_hash((uid,))}.dcm"

    def need_room(self, free_mb: int) -> None:
        """Raise `ArchiveError` (`pacs-disk-full`) if the disk has less than this left."""
        free = shutil.disk_usage(self.folder).free
        if free < free_mb * 1_000_000:
            raise ArchiveError(
                "the disk of the store folder is nearly full", code="pacs-disk-full",
                got=f"{free // 1_000_000} MB free", limit=f"leave_free_mb {free_mb}",
                next_step="make room, or choose another store folder; nothing is lost",
            )  # fmt: skip

    def _keep(self, key: Key, uid: str, path: Path, sha256: str, size: int) -> bool:
        known = self.ledger.get(key, uid)
        place = self.path_of(key, uid)
        if known is not None and known.state == STORED:
            if known.sha256 != sha256 and body_digest(place) != body_digest(path):
                place.unlink(missing_ok=True)  # which of the two is right, nobody knows
                self.ledger.put(key, uid, "pacs-uid-conflict", size=size)
            return False
        if known is not None and known.state == "pacs-uid-conflict":
            return False
        place.parent.mkdir(exist_ok=True, mode=0o700)
        path.chmod(0o600)
        _sync(path)
        os.replace(path, place)
        self.ledger.put(key, uid, STORED, sha256, size)
        return True

    def _sweep(self) -> None:
        """Make files and ledger agree, after whatever ended the last run."""
        folders = {_hash(key): key for key in self.ledger.all_series()}
        for place in PLACES:
            for folder in (self.folder / place).iterdir():
                if folder.name not in folders:
                    shutil.rmtree(folder, ignore_errors=True)
        for name, key in folders.items():
            self._merge(name)
            entry = self.ledger.entry(key)
            assert entry is not None
            stored = {self.name_of(key, i.uid).partition("/")[2]: i for i in entry.stored}
            folder = self.path_of(key, "").parent
            sizes = _sizes(folder)
            for file in sizes.keys() - stored.keys():
                (folder / file).unlink()
            for file, instance in stored.items():
                if sizes.get(file) != instance.size:
                    (folder / file).unlink(missing_ok=True)
                    self.ledger.put(key, instance.uid, WANTED)

    def _merge(self, name: str) -> None:
        """A series that is in both places (a move across a kill) comes into `aside`."""
        good, aside = self.folder / "dicom" / name, self.folder / "aside" / name
        if good.is_dir() and aside.is_dir():
            self._move(good, aside)

    @staticmethod
    def _move(source: Path, target: Path) -> None:
        if target.is_dir():
            for file in source.iterdir():
                os.replace(file, target / file.name)
            source.rmdir()
        else:
            os.rename(source, target)


def _mismatch(series: Series, told: Told) -> str:
    """Why a file is not of the series that was asked for; empty if it is."""
    if (told.study, told.series) != series.key:
        return "pacs-wrong-series"
    if told.patient not in series.patients:
        return "pacs-wrong-patient"
    return ""


def _make_private(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    strange = {path.name for path in folder.iterdir()} - {"incoming", *PLACES, *FILES}
    if strange:
        raise ConfigError(
            "the store folder holds other things", code="pacs-store-other", got=folder,
            next_step="give the archive an empty folder of its own",
        )  # fmt: skip
    os.chmod(folder, 0o700)


def _hash(parts: tuple[str, ...]) -> str:
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:40]


def _sizes(folder: Path) -> dict[str, int]:
    if not folder.is_dir():
        return {}
    with os.scandir(folder) as entries:
        return {entry.name: entry.stat(follow_symlinks=False).st_size for entry in entries}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    """The bytes are on disk before anything says that they are."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
