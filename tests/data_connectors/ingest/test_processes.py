from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from data_connectors.ingest.processes import Engine, InProcess, LocalEngine, Lost, build_engine
from medvlp.errors import ConfigError, DatasetError, DependencyError

TASKS = """
import errno, os, signal, time

from medvlp.errors import ConfigError


def double(number):
    return 2 * number


def slow_first(number):
    time.sleep(0.3 if number == 0 else 0.0)
    return number


def fragile(number):
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def fragile_once(task):
    number, marker = task
    if number == 3 and not os.path.exists(marker):
        open(marker, "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def stuck(number):
    if number == 1:
        time.sleep(60)
    return number


def no_room(number):
    if number == 4:
        raise OSError(errno.ENOSPC, "no room", "/archive/DOE^JANE")
    return number


def wrong(number):
    if number == 2:
        raise ConfigError("wrong", code="some-code", got=number)
    return number


def big(number):
    return bytes(3_000_000)


def greedy(megabytes):
    try:
        return len(bytearray(megabytes * 1_000_000)) // 1_000_000
    except MemoryError:
        return "refused"


def core(number):
    import resource
    return resource.getrlimit(resource.RLIMIT_CORE)
"""


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    """A module that worker processes can import."""
    folder = tmp_path_factory.mktemp("tasks")
    (folder / "engine_tasks.py").write_text(TASKS)
    sys.path.insert(0, str(folder))
    import engine_tasks

    yield engine_tasks
    sys.path.remove(str(folder))


def local(workers: int, **limits: int) -> Engine:
    return build_engine(
        "local", workers=workers, timeout_s=60, preload=(), private=Path(), **limits
    )


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_results_come_in_the_order_of_the_tasks(tasks, workers):
    engine = local(workers)
    assert list(engine.map(tasks.double, list(range(40)))) == [2 * i for i in range(40)]


def test_a_slow_first_task_does_not_change_the_order(tasks):
    engine = LocalEngine(2, timeout_s=60)
    assert list(engine.map(tasks.slow_first, list(range(20)))) == list(range(20))


def test_large_results_pass(tasks):
    engine = LocalEngine(2, timeout_s=60)
    assert [len(r) for r in engine.map(tasks.big, list(range(5)))] == [3_000_000] * 5


def test_a_task_that_kills_its_worker_is_lost_and_the_rest_goes_on(tasks):
    engine = LocalEngine(2, timeout_s=60)
    results = list(engine.map(tasks.fragile, list(range(10))))
    assert results[3] == Lost("crashed")
    assert results[:3] + results[4:] == [0, 1, 2, 4, 5, 6, 7, 8, 9]


def test_a_worker_killed_from_outside_costs_nothing(tasks, tmp_path: Path):
    engine = LocalEngine(2, timeout_s=60)
    work = [(i, str(tmp_path / "marker")) for i in range(10)]
    assert list(engine.map(tasks.fragile_once, work)) == list(range(10))
    assert (tmp_path / "marker").exists()


def test_a_task_that_hangs_is_given_up(tasks):
    engine = LocalEngine(2, timeout_s=1)
    assert list(engine.map(tasks.stuck, [0, 1, 2])) == [0, Lost("timeout"), 2]


def test_zero_workers_means_one_a_core():
    engine = local(0)
    assert isinstance(engine, LocalEngine)
    assert engine.workers == len(os.sched_getaffinity(0))


def test_one_worker_is_no_extra_process(tasks):
    engine = local(1)
    assert isinstance(engine, InProcess)
    assert list(engine.map(os.getpgid, [0])) == [os.getpgid(0)]


def test_a_script_without_a_main_guard_is_told_so(tasks, tmp_path):
    """Workers import the main script: without a guard each would start workers of its own."""
    script = tmp_path / "script.py"
    script.write_text(
        "from data_connectors.ingest.processes import LocalEngine\n"
        "print(list(LocalEngine(2, 60).map(abs, [-1, -2])))\n"
    )
    run = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120)
    assert run.returncode == 1
    assert "workers-cannot-start" in run.stderr
    script.write_text(
        f"if __name__ == '__main__':\n    {'; '.join(script.read_text().splitlines())}"
    )
    run = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120)
    assert run.stdout == "[1, 2]\n"


def test_an_engine_that_is_not_here_is_refused_with_a_next_step(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(DependencyError) as caught:
        build_engine("ray", workers=1, timeout_s=60, preload=(), private=tmp_path)
    assert caught.value.code == "engine-missing"
    assert "--engine local" in str(caught.value)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_full_disk_is_nobodys_fault_and_stops_everything(tasks, workers):
    with pytest.raises(DatasetError) as caught:
        list(local(workers).map(tasks.no_room, list(range(10))))
    assert caught.value.code == "disk-full"
    assert "same command" in str(caught.value)


def test_an_error_of_ours_comes_back_whole(tasks):
    with pytest.raises(ConfigError) as caught:
        list(local(2).map(tasks.wrong, [1, 2, 3]))
    assert (caught.value.code, caught.value.got) == ("some-code", 2)


def test_one_map_may_have_another_time_limit(tasks):
    engine = LocalEngine(2, timeout_s=60)
    assert list(engine.map(tasks.stuck, [0, 1, 2], timeout_s=1)) == [0, Lost("timeout"), 2]


def test_stopping_early_leaves_no_process(tasks):
    engine = LocalEngine(2, timeout_s=60)
    results = engine.map(tasks.double, list(range(1000)))
    assert next(results) == 0
    run = results.gi_frame.f_locals["run"]
    processes = [worker.process for worker in run.workers]
    results.close()
    assert not any(process.is_alive() for process in processes)


def test_a_worker_gets_no_more_memory_than_its_limit(tasks):
    engine = local(2, memory_mb=500)
    assert list(engine.map(tasks.greedy, [100, 2000, 200, 600])) == [100, "refused", 200, "refused"]
    free = local(2)
    assert list(free.map(tasks.greedy, [600])) == [600]


def test_a_worker_leaves_no_core_file(tasks):
    assert list(LocalEngine(2, timeout_s=60).map(tasks.core, [0])) == [(0, 0)]
