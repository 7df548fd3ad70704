"""Runs a function over tasks in processes, in order, and survives the death of a process.

A pool of the standard library either hangs or gives up everything when one worker is killed (a
decoder that crashes, the kernel that needs memory). Here the task that was being worked on is
tried once more on a fresh process; if that dies too, its place in the results says `Lost`, and
the rest goes on.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import resource
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Generic, Literal, Protocol, TypeVar, runtime_checkable

from medvlp.errors import DatasetError, DependencyError, MedvlpError
from medvlp.files import disk_is_full

T = TypeVar("T")
R = TypeVar("R")
log = logging.getLogger(__name__)

AHEAD = 4
"""Tasks a worker may be ahead of the oldest unfinished one: bounds what waits in memory."""


@dataclass(frozen=True, slots=True)
class Lost:
    """The function never came back."""

    why: Literal["crashed", "timeout"]


@dataclass(frozen=True, slots=True)
class Stopped:
    """Not the task's fault, and true of every other task: there is no use in going on."""

    error: MedvlpError


@runtime_checkable
class Engine(Protocol):
    """Where tasks run: here, in processes of this machine, or on a cluster (`ray_engine`)."""

    shares_disk: bool
    """Whether a task can leave a file at a path that is ours too."""

    def map(
        self, function: Callable[[T], R], tasks: Sequence[T], *, timeout_s: float | None = None
    ) -> Iterator[R | Lost]:
        """Yield one result a task, in the order of the tasks.

        Args:
            function: Importable by name.
            tasks: Its arguments.
            timeout_s: A task that takes longer is given up; None: the engine's own limit.

        Raises:
            DatasetError: The disk is full (`disk-full`).
        """

    def close(self) -> None:
        """Give back what the engine holds."""


def attempt(function: Callable[[T], R], task: T) -> R | Stopped:
    """Run a task; an error that stops everything becomes an answer that can travel."""
    try:
        return function(task)
    except MedvlpError as error:
        return Stopped(error)
    except OSError as error:
        if not disk_is_full(error):
            raise
        return Stopped(disk_full())


def disk_full() -> DatasetError:
    """What every step says when there is no room left."""
    return DatasetError(
        "there is no room left on the disk", code="disk-full",
        next_step="free some, and run the same command again: it goes on where it was",
    )  # fmt: skip


def build_engine(
    name: str,
    *,
    workers: int,
    timeout_s: float,
    preload: Sequence[str],
    private: Path,
    memory_mb: int | None = None,
) -> Engine:
    """The engine a command line asks for.

    Args:
        name: "local" or "ray".
        workers: Processes; 0: one a core; 1: no extra process.
        timeout_s: A task that takes longer is given up.
        preload: Modules every worker needs, imported once.
        private: Folder that only its owner can read, for what an engine has to put on disk.
        memory_mb: Most memory of a worker in MB (10^6 bytes); None: no limit. It binds workers
            only: with one worker and no extra process there is none.

    Raises:
        DependencyError: The engine is not available here.
    """
    if name == "ray":
        from data_connectors.ingest.ray_engine import RayEngine

        return RayEngine(workers, timeout_s, private, memory_mb=memory_mb)
    if workers == 1:
        return InProcess()
    return LocalEngine(
        workers or len(os.sched_getaffinity(0)), timeout_s, preload, memory_mb=memory_mb
    )


class InProcess:
    """One task after the other, right here: simple to debug, but a crash is everybody's."""

    shares_disk = True

    def map(
        self, function: Callable[[T], R], tasks: Sequence[T], *, timeout_s: float | None = None
    ) -> Iterator[R | Lost]:
        """Yield one result a task, in the order of the tasks; there is nobody to stop it."""
        for task in tasks:
            answer = attempt(function, task)
            if isinstance(answer, Stopped):
                raise answer.error
            yield answer

    def close(self) -> None:
        """Nothing to give back."""


class LocalEngine:
    """Processes of this machine."""

    shares_disk = True

    def __init__(
        self,
        workers: int,
        timeout_s: float,
        preload: Sequence[str] = (),
        *,
        memory_mb: int | None = None,
    ) -> None:
        self._workers = workers
        self._memory_mb = memory_mb
        self._timeout_s = timeout_s
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(list(preload))

    def map(
        self, function: Callable[[T], R], tasks: Sequence[T], *, timeout_s: float | None = None
    ) -> Iterator[R | Lost]:
        """Yield one result a task, in the order of the tasks."""
        run = _Run(self, function, tasks, timeout_s or self._timeout_s)
        try:
            yield from run.results()
        finally:
            run.stop()

    def close(self) -> None:
        """Nothing to give back: workers end with their map."""

    def spawn(self, function: Callable[[Any], Any]) -> _Worker:
        """Start one worker; `_Worker.wait` tells when it is there."""
        here, there = self._context.Pipe()
        process = self._context.Process(
            target=_serve, args=(there, function, self._memory_mb), daemon=True
        )
        process.start()
        there.close()
        return _Worker(process, here)

    @property
    def workers(self) -> int:
        """How many processes work at a time."""
        return self._workers


@dataclass(eq=False, slots=True)
class _Worker:
    process: BaseProcess
    pipe: Connection[Any, Any]
    task: int | None = None
    since: float = 0.0

    def wait(self) -> _Worker:
        """Until the worker says hello.

        Raises:
            DependencyError: It died before; every task would be lost.
        """
        try:
            self.pipe.recv()
        except (EOFError, ConnectionResetError):
            raise DependencyError(
                "worker processes cannot start", code="workers-cannot-start",
                next_step='call from under `if __name__ == "__main__":`, or use --workers 1',
            ) from None  # fmt: skip
        return self

    def kill(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()


class _Run(Generic[T, R]):
    """One `map`: who works on what, and what waits for its turn."""

    def __init__(
        self, engine: LocalEngine, function: Callable[[T], R], tasks: Sequence[T], timeout_s: float
    ) -> None:
        self.engine = engine
        self.timeout_s = timeout_s
        self.function = function
        self.tasks = tasks
        self.next = 0
        self.again: list[int] = []
        self.deaths: dict[int, int] = {}
        self.done: dict[int, R | Lost | Stopped] = {}
        number = min(engine.workers, len(tasks))
        started = [engine.spawn(function) for _ in range(number)]
        self.workers = [worker.wait() for worker in started]

    def results(self) -> Iterator[R | Lost]:
        for turn in range(len(self.tasks)):
            while turn not in self.done:
                self._hand_out(turn)
                self._collect()
            answer = self.done.pop(turn)
            if isinstance(answer, Stopped):
                raise answer.error
            yield answer

    def stop(self) -> None:
        for worker in self.workers:
            worker.kill()

    def _hand_out(self, turn: int) -> None:
        horizon = turn + AHEAD * self.engine.workers
        for worker in self.workers:
            if worker.task is not None:
                continue
            if self.again:
                task = self.again.pop()
            elif self.next < min(horizon, len(self.tasks)):
                task, self.next = self.next, self.next + 1
            else:
                return
            worker.task, worker.since = task, time.monotonic()
            try:
                worker.pipe.send(self.tasks[task])
            except (BrokenPipeError, ConnectionResetError):
                self._bury(worker, "crashed")

    def _collect(self) -> None:
        busy = [worker for worker in self.workers if worker.task is not None]
        ready = wait([w.pipe for w in busy], timeout=1.0)
        for worker in busy:
            if worker.pipe in ready:
                try:
                    result = worker.pipe.recv()
                except (EOFError, ConnectionResetError):
                    self._bury(worker, "crashed")
                    continue
                assert worker.task is not None
                self.done[worker.task] = result
                worker.task = None
            elif time.monotonic() - worker.since > self.timeout_s:
                self._bury(worker, "timeout")

    def _bury(self, worker: _Worker, why: Literal["crashed", "timeout"]) -> None:
        """Replace a dead worker; try its task once more unless it was merely too slow."""
        task = worker.task
        assert task is not None
        worker.kill()
        log.warning("a worker %s; starting another", why)
        self.workers[self.workers.index(worker)] = self.engine.spawn(self.function).wait()
        self.deaths[task] = self.deaths.get(task, 0) + 1
        if why == "crashed" and self.deaths[task] == 1:
            self.again.append(task)
        else:
            self.done[task] = Lost(why)


def _serve(
    pipe: Connection[Any, Any], function: Callable[[Any], Any], memory_mb: int | None
) -> None:
    """The life of a worker: take a task, answer, until the other side is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the engine, which stops us
    confine(memory_mb)
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        pipe.send("hello")
        while True:
            pipe.send(attempt(function, pipe.recv()))


def confine(memory_mb: int | None) -> None:
    """Limit what this process may allocate, and leave no image of its memory behind when it dies.

    RLIMIT_DATA counts what is allocated (heap and private mappings, Linux 4.7), not address space
    that is merely reserved. What asks for more gets a MemoryError, or, in a C library that does
    not look, the process dies: either way the parent lives.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # it would hold the patient's data
    if memory_mb is not None:
        resource.setrlimit(resource.RLIMIT_DATA, (memory_mb * 1_000_000,) * 2)
