"""Runs tasks on a Ray cluster: the one that `RAY_ADDRESS` names, else one on this machine alone.

What travels to the nodes: the configured source, the names of a unit's files and the pseudonym
key (a worker names what it reads). What comes back: records and pixels, through Ray's object
store. So every node must see the source files under the same paths and have this package, and
the cluster must be one that may see the key: Ray itself encrypts nothing unless `RAY_USE_TLS=1`.
A cluster started here listens on the loopback interface only and spills into the private folder
of the ingest.

As with processes of this machine, a task whose worker died is tried once more, then it is `Lost`;
one that takes too long is `Lost` at once.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Generic, Literal, TypeVar

from data_connectors.ingest.processes import AHEAD, Lost, Stopped, attempt, confine
from medvlp.errors import DependencyError

T = TypeVar("T")
R = TypeVar("R")
log = logging.getLogger(__name__)

_LOOPBACK: Final = "127.0.0.1"
_TICK_S: Final = 1.0
_GONE: Final = object()
_START_S: Final = 300.0
"""How long a worker may take to start before the cluster is taken to have no room for it."""


class RayEngine:
    """Workers (actors) on a Ray cluster, one core each."""

    shares_disk = False

    def __init__(
        self, workers: int, timeout_s: float, private: Path, *, memory_mb: int | None = None
    ) -> None:
        self._ray, self._ours = _connect(workers, private)
        self.workers = workers or int(self._ray.cluster_resources().get("CPU", 1))
        self._timeout_s = timeout_s
        self._memory_mb = memory_mb
        self._actor = self._ray.remote(num_cpus=1, max_restarts=0, max_task_retries=0)(_Reader)
        self._idle: list[_Worker] = []

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
        """Leave the cluster; one that was started here ends."""
        for worker in self._idle:
            self._ray.kill(worker.actor)
        self._idle = []
        if self._ours:
            self._ray.shutdown()

    @property
    def ray(self) -> Any:
        """The library, connected."""
        return self._ray

    def hire(self, number: int) -> list[_Worker]:
        """Workers that are there: those of an earlier map, and new ones.

        Raises:
            DependencyError: They do not start (`workers-cannot-start`).
        """
        hired, self._idle = self._idle[:number], self._idle[number:]
        fresh = [_Worker(self._actor.remote(self._memory_mb)) for _ in range(number - len(hired))]
        try:
            self._ray.get([worker.actor.hello.remote() for worker in fresh], timeout=_START_S)
        except self._ray.exceptions.RayError:
            for worker in hired + fresh:
                self._ray.kill(worker.actor)
            raise DependencyError(
                "the workers do not start on the Ray cluster", code="workers-cannot-start",
                got=f"{number} workers of one core", limit=f"{_START_S:.0f} s",
                next_step="ask for fewer with --workers; every node needs this package installed",
            ) from None  # fmt: skip
        return hired + fresh

    def dismiss(self, workers: list[_Worker]) -> None:
        """Keep workers that are free for the next map, end those that are not."""
        for worker in workers:
            if worker.task is None:
                self._idle.append(worker)
            else:
                self._ray.kill(worker.actor)


class _Reader:
    """What an actor is."""

    def __init__(self, memory_mb: int | None) -> None:
        confine(memory_mb)

    def hello(self) -> int:
        """Answer once it is there."""
        return os.getpid()

    def run(self, function: Callable[[Any], Any], task: Any) -> Any:
        """One task; Ray would print an error with its message, which may quote a file."""
        try:
            return attempt(function, task)
        except Exception:
            return Lost("crashed")


@dataclass(eq=False, slots=True)
class _Worker:
    actor: Any
    task: int | None = None
    answer: Any = None
    since: float = 0.0


class _Run(Generic[T, R]):
    """One `map`: who works on what, and what waits for its turn.

    An actor gets a task when it has none, so that its time runs from when it was sent.
    """

    def __init__(
        self, engine: RayEngine, function: Callable[[T], R], tasks: Sequence[T], timeout_s: float
    ) -> None:
        self.engine = engine
        self.ray = engine.ray
        self.function = function
        self.tasks = tasks
        self.timeout_s = timeout_s
        self.next = 0
        self.again: list[int] = []
        self.deaths: dict[int, int] = {}
        self.done: dict[int, Any] = {}
        self.workers = engine.hire(min(engine.workers, len(tasks)))

    def results(self) -> Iterator[R | Lost]:
        for turn in range(len(self.tasks)):
            answer = self._fetch(turn)
            while answer is _GONE:
                self._hand_out(turn)
                self._collect()
                answer = self._fetch(turn)
            if isinstance(answer, Stopped):
                raise answer.error
            yield answer

    def _fetch(self, turn: int) -> Any:
        """The result of a task, or `_GONE` while there is none."""
        answer = self.done.pop(turn, _GONE)
        if answer is _GONE or isinstance(answer, Lost):
            return answer
        try:
            return self.ray.get(answer)
        except self.ray.exceptions.RayError:  # the node that held it is gone
            self._fail(turn, "crashed")
            return _GONE

    def stop(self) -> None:
        self.engine.dismiss(self.workers)

    def _hand_out(self, turn: int) -> None:
        horizon = turn + AHEAD * len(self.workers)
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
            worker.answer = worker.actor.run.remote(self.function, self.tasks[task])

    def _collect(self) -> None:
        busy = {worker.answer: worker for worker in self.workers if worker.task is not None}
        if not busy:
            return
        # Not fetched yet: a result stays where it is until it is its turn.
        ready, _ = self.ray.wait(
            list(busy), num_returns=1, timeout=_TICK_S, fetch_local=False
        )  # fmt: skip
        for answer, worker in busy.items():
            if answer in ready:
                self._take(worker)
            elif time.monotonic() - worker.since > self.timeout_s:
                self._bury(worker, "timeout")

    def _take(self, worker: _Worker) -> None:
        assert worker.task is not None
        try:
            # Whether it still answers says how it went; the result itself is fetched in turn.
            self.ray.get(worker.actor.hello.remote(), timeout=_START_S)
        except self.ray.exceptions.RayError:
            self._bury(worker, "crashed")
            return
        self.done[worker.task] = worker.answer
        worker.task = worker.answer = None

    def _bury(self, worker: _Worker, why: Literal["crashed", "timeout"]) -> None:
        """Replace a dead worker; try its task once more unless it was merely too slow."""
        task = worker.task
        assert task is not None
        self.ray.kill(worker.actor)
        log.warning("a worker %s; starting another", why)
        self.workers.remove(worker)
        self.workers += self.engine.hire(1)
        self._fail(task, why)

    def _fail(self, task: int, why: Literal["crashed", "timeout"]) -> None:
        self.deaths[task] = self.deaths.get(task, 0) + 1
        if why == "crashed" and self.deaths[task] == 1:
            self.again.append(task)
        else:
            self.done[task] = Lost(why)


def _connect(workers: int, private: Path) -> tuple[Any, bool]:
    """Ray, connected, and whether the cluster is ours to end."""
    address = os.environ.get("RAY_ADDRESS")
    if address is None:
        # Ray takes 127.0.0.1 for a mistake and listens on every interface, unless it is told,
        # before it is imported, that there is nothing but this machine.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError:
        raise DependencyError(
            "Ray is not installed", code="engine-missing", got="ray", limit="local",
            next_step="pip install 'medvlp[ray]', or use --engine local",
        ) from None  # fmt: skip
    if ray.is_initialized():
        return ray, False
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address is not None:
        ray.init(address=address, **quiet)
        return ray, True
    ray.init(
        address="local", num_cpus=workers or len(os.sched_getaffinity(0)),
        include_dashboard=False, _node_ip_address=_LOOPBACK,
        object_spilling_directory=str(private / "spill"),
        # Ray nices its workers to 15: beside any other work on the machine they would starve.
        _system_config={"worker_niceness": 0}, **quiet,
    )  # fmt: skip
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    if any(node["NodeManagerAddress"] != _LOOPBACK for node in nodes):
        ray.shutdown()
        raise DependencyError(
            "Ray would listen on the network", code="engine-exposed",
            next_step="do not import ray before the ingest, or start a cluster and set RAY_ADDRESS",
        )  # fmt: skip
    return ray, True
