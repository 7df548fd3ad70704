"""An archive on the network -> a private folder that holds what the archive says it has.

    list series and instances -> fetch what is missing -> list again until nothing has changed
    -> series that are whole are read, the others are refused with their counts

A pull may be killed at any point: the same call goes on with what is missing.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar

from data_connectors.dicom.quiet import quiet
from data_connectors.pacs.archive import Archive, Key, Series
from data_connectors.pacs.dicomweb import Dicomweb
from data_connectors.pacs.ledger import Entry
from data_connectors.pacs.pacing import Interrupted, Pacer
from data_connectors.pacs.progress import Progress
from data_connectors.pacs.pulled import Pulled
from data_connectors.pacs.reconcile import judge, lacks
from data_connectors.pacs.source import ArchiveSource, DicomwebSource, DimseSource
from data_connectors.pacs.store import Store
from medvlp.errors import ArchiveError, DependencyError, InputError

log = logging.getLogger(__name__)

T = TypeVar("T")
_State = tuple[int | None, tuple[str, ...]]
"""What the archive says of a series: count, and listed instances."""
_ROUNDS = 6
"""Listings before an archive that keeps changing is taken as it is."""


@contextmanager
def pulled(source: ArchiveSource, folder: Path) -> Iterator[Pulled]:
    """Pull, and keep the folder for the caller alone until it has been read.

    Args:
        source: A config with absolute paths.
        folder: The store folder.

    Raises:
        ArchiveError: The archive cannot be asked; the same call goes on.
        ConfigError: Credentials, lists or the folder are not usable.
        DatasetError: Another pull uses the folder.
    """
    store = Store(folder, origin_of(source))
    try:
        with quiet():
            made = _Pull(source, store).run()
        yield made
    finally:
        store.close()


def origin_of(source: ArchiveSource) -> str:
    """Names the archive of a source; a store folder belongs to one."""
    match source:
        case DicomwebSource():
            return source.url.rstrip("/")
        case DimseSource():
            return f"dicom://{source.called.strip()}@{source.host}:{source.port}"
        case _:
            raise TypeError(type(source).__name__)


def _connect(source: ArchiveSource, pacer: Pacer, store: Store) -> Archive:
    match source:
        case DicomwebSource():
            return Dicomweb(source, pacer, store.incoming)
        case DimseSource():
            try:
                from data_connectors.pacs.dimse import Dimse
            except ModuleNotFoundError as error:
                raise DependencyError(
                    "DIMSE needs pynetdicom", got=error.name,
                    next_step="install medvlp[pacs], or use kind: dicomweb",
                ) from None  # fmt: skip

            return Dimse(source, pacer, store.incoming)
        case _:
            raise TypeError(type(source).__name__)


class _Pull:
    """One pull; `run` is the whole story."""

    def __init__(self, source: ArchiveSource, store: Store) -> None:
        self.source = source
        self.store = store
        self.ledger = store.ledger
        self.pacer = Pacer(source.pace)
        self.archive = _connect(source, self.pacer, store)
        self.progress = Progress(0, 0)
        self.stop = threading.Event()

    def run(self) -> Pulled:
        known: dict[Key, Series] = {}
        tried: dict[Key, _State] = {}
        fetched = 0
        try:
            self._asked(self.archive.check)
            for turn in range(_ROUNDS):
                listed = self._list()
                same = {s.key for s in listed if s.counted is not None and known.get(s.key) == s}
                self._expect([s for s in listed if s.key not in same], anew=turn == 0)
                known = {series.key: series for series in listed}
                todo = [s for s in listed if self._open(s) and tried.get(s.key) != self._state(s)]
                if not todo:
                    break
                self._fetch(todo)
                fetched += self.progress.came
                tried |= {series.key: self._state(series) for series in todo}
        finally:
            self.archive.close()
        made = self._reconcile(known)
        made.fetched = fetched
        return made

    def _asked(self, question: Callable[[], T]) -> T:
        """The answer to a question without which there is no pull."""
        try:
            return question()
        except InputError as error:
            raise ArchiveError(
                f"the archive cannot be searched: {error.what}", code=error.code, got=error.got,
                next_step=error.next_step or "check the address of the service",
            ) from None  # fmt: skip

    def _list(self) -> list[Series]:
        """What the archive has of what is wanted, in a stable order."""
        found = {s.key: s for s in self._asked(lambda: list(self.archive.search()))}
        listed = [found[key] for key in sorted(found)][: self.source.find.max_series]
        log.info("the archive lists %d series, of which %d are asked for", len(found), len(listed))
        return listed

    def _expect(self, changed: list[Series], *, anew: bool) -> None:
        """Ask for the instances of series, and note them."""

        def one(series: Series) -> None:
            instances = None if series.odd else self.archive.instances(series)
            self.ledger.expect(series, instances, anew=anew)
            entry = self._entry(series)
            for instance in entry.stored if entry.listed else ():
                if not instance.listed:  # the archive no longer has it
                    self.store.drop(series.key, instance.uid)

        self._spread(one, changed)

    def _fetch(self, todo: list[Series]) -> None:
        missing = sum(len(self._entry(series).wanted) for series in todo)
        log.info("fetching %d series, %d instances", len(todo), missing)
        self.progress = Progress(len(todo), missing)
        self._spread(self._fetch_one, todo)
        log.info(self.progress.line(time.monotonic()))

    def _spread(self, action: Callable[[Series], None], series: list[Series]) -> None:
        """Run something for every series in threads; the first error ends it all."""
        with ThreadPoolExecutor(self.source.pace.parallel) as pool:
            running = [pool.submit(action, one) for one in series]
            try:
                for future in as_completed(running):
                    future.result()
            except BaseException:
                self.stop.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _fetch_one(self, series: Series) -> None:
        """Fetch what a series lacks, until it lacks nothing or nothing more comes."""
        self.store.need_room(self.source.leave_free_mb)
        self.store.place(series.key, "aside")
        whole, idle = not self._entry(series).done, 0
        while not self.stop.is_set():
            entry = self._entry(series)
            trouble = self._retrieve(series, entry, whole)
            now = self._entry(series)
            ended = whole and not trouble
            complete = lacks(now) == 0 and (ended or now.listed)
            if ended or complete:
                self.ledger.finish(series.key)
            if complete:
                break
            idle = 0 if len(now.stored) > len(entry.stored) else idle + 1
            # Some archives fail at whole series alone, so that is tried twice at most.
            whole = whole and isinstance(trouble, Interrupted) and not now.stored and idle < 2
            if idle > (self.source.pace.retries if isinstance(trouble, Interrupted) else 1):
                self.archive.check()  # an archive that is down has refused nothing
                break
            if idle:
                self.pacer.wait(idle, trouble.wait_s if isinstance(trouble, Interrupted) else 0)
        self.progress.finished()

    def _retrieve(self, series: Series, entry: Entry, whole: bool) -> Exception | None:
        def take(path: Path) -> None:
            size = path.stat().st_size
            if self.store.take(series, path, listed=entry.listed):
                self.progress.file(size)

        try:
            self.archive.retrieve(series, entry.wanted, whole, take)
        except (Interrupted, InputError) as error:
            return error
        return None

    def _entry(self, series: Series) -> Entry:
        entry = self.ledger.entry(series.key)
        assert entry is not None
        return entry

    def _state(self, series: Series) -> _State:
        entry = self._entry(series)
        return entry.counted, tuple(i.uid for i in entry.instances if i.listed)

    def _open(self, series: Series) -> bool:
        entry = self._entry(series)
        return not series.odd and (not entry.done or lacks(entry) > 0)

    def _reconcile(self, known: dict[Key, Series]) -> Pulled:
        """Let whole series be read, and say of the others what they lack."""
        made = Pulled(self.store.readable)
        for key in self.ledger.all_series():
            series = known.get(key)
            if series is None:  # kept, but the archive no longer lists it for this filter
                self.store.place(key, "aside")
                continue
            verdict = judge(
                self._entry(series), partial(self.store.name_of, key),
                trust_counts=self.source.trust_counts,
            )  # fmt: skip
            self.store.place(key, "aside" if verdict.refused else "dicom")
            made.series += 1
            made.instances += verdict.instances
            made.missing |= verdict.missing
            made.refused += verdict.refused
        log.info("%d series, %d instances; %d inputs are missing or refused", made.series,
                 made.instances, len(made.missing))  # fmt: skip
        return made
