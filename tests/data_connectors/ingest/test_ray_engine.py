"""A real Ray, started on this machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest
import yaml

from data_connectors.config import IngestConfig
from data_connectors.ingest.processes import Lost, build_engine
from data_connectors.ingest.run import ingest
from data_connectors.phantom.hospital import write_hospital
from medvlp.errors import ConfigError

pytestmark = [
    pytest.mark.slow,
    # Looked for, not imported: the engine has to be the first to import it.
    pytest.mark.skipif(find_spec("ray") is None, reason="ray is not installed"),
]

TASKS = """
import os, signal, time

from medvlp.errors import ConfigError


def double(number):
    return 2 * number


def priority(_):
    return os.nice(0)


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


def wrong(number):
    if number == 2:
        raise ConfigError("wrong", code="some-code", got=number)
    return number


def rude(number):
    raise ValueError("DOE^JANE")
"""


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    """A module that Ray's workers can import."""
    folder = tmp_path_factory.mktemp("ray_tasks")
    (folder / "ray_engine_tasks.py").write_text(TASKS)
    before = os.environ.get("PYTHONPATH")
    paths = [str(folder), str(Path(__file__).resolve().parents[3]), *filter(None, [before])]
    os.environ["PYTHONPATH"] = os.pathsep.join(paths)
    sys.path.insert(0, str(folder))
    import ray_engine_tasks

    yield ray_engine_tasks
    sys.path.remove(str(folder))
    if before is None:
        del os.environ["PYTHONPATH"]
    else:
        os.environ["PYTHONPATH"] = before


@pytest.fixture(scope="module")
def engine(tasks, tmp_path_factory):
    private = tmp_path_factory.mktemp("private")
    engine = build_engine("ray", workers=2, timeout_s=60, preload=(), private=private)
    yield engine
    engine.close()


def test_results_come_in_the_order_of_the_tasks(engine, tasks):
    assert list(engine.map(tasks.double, list(range(40)))) == [2 * i for i in range(40)]


def test_nothing_listens_on_the_network(engine):
    family = [psutil.Process(), *psutil.Process().children(recursive=True)]
    open_ports = [
        connection.laddr.ip
        for process in family
        for connection in process.net_connections(kind="inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert len(open_ports) > 3
    assert {ip.removeprefix("::ffff:") for ip in open_ports} == {"127.0.0.1"}


def test_workers_run_at_our_own_priority(engine, tasks):
    assert set(engine.map(tasks.priority, [0, 1, 2])) == {os.nice(0)}


def test_a_task_that_kills_its_worker_is_lost_and_the_rest_goes_on(engine, tasks):
    results = list(engine.map(tasks.fragile, list(range(10))))
    assert results[3] == Lost("crashed")
    assert results[:3] + results[4:] == [0, 1, 2, 4, 5, 6, 7, 8, 9]


def test_a_worker_killed_from_outside_costs_nothing(engine, tasks, tmp_path):
    work = [(i, str(tmp_path / "marker")) for i in range(10)]
    assert list(engine.map(tasks.fragile_once, work)) == list(range(10))
    assert (tmp_path / "marker").exists()


def test_a_task_that_hangs_is_given_up(engine, tasks):
    assert list(engine.map(tasks.stuck, [0, 1, 2], timeout_s=2)) == [0, Lost("timeout"), 2]


def test_an_error_of_ours_comes_back_whole_and_any_other_without_its_message(engine, tasks):
    with pytest.raises(ConfigError) as caught:
        list(engine.map(tasks.wrong, [1, 2, 3]))
    assert (caught.value.code, caught.value.got) == ("some-code", 2)
    assert list(engine.map(tasks.rude, [1])) == [Lost("crashed")]


@pytest.fixture(scope="module")
def hospital(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("hospital")
    write_hospital(folder, patients=4, lectures=1, seed=3, workers=1)
    tree = yaml.safe_load((folder / "ingest.yaml").read_text())
    (folder / "key").write_text("ab" * 32)
    tree["deid"] = {"key_file": str(folder / "key")}
    (folder / "with_key.yaml").write_text(yaml.safe_dump(tree))
    return folder


def test_the_dataset_is_that_of_local_processes(engine, hospital, tmp_path):
    engine.close()  # its idle workers hold the two cores of this cluster
    tree = yaml.safe_load((hospital / "with_key.yaml").read_text())
    config = IngestConfig.model_validate(tree)
    there = ingest(config, tmp_path / "ray", base=hospital, workers=2, engine="ray")
    here = ingest(config, tmp_path / "local", base=hospital, workers=1)
    assert there["samples"] > 8
    assert there["digest"] == here["digest"]


@pytest.mark.timeout(1200)
def test_a_killed_ray_worker_changes_nothing_and_a_killed_ingest_leaves_no_process(
    hospital, tmp_path
):
    def start(out: Path, engine: str) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, "-m", "medvlp.cli", "ingest", "--config", hospital / "with_key.yaml",
             "--out", out, "--workers", "2", "--engine", engine],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=Path(__file__).parents[3],
        )  # fmt: skip

    def workers(run: subprocess.Popen) -> list[psutil.Process]:
        family = psutil.Process(run.pid).children(recursive=True)
        return [p for p in family if p.name().startswith("ray::_Reader")]

    run = start(tmp_path / "out", "ray")
    journal = tmp_path / "out.partial" / "journal"
    _until(lambda: journal.exists() and journal.read_bytes().count(b"\n") >= 3, run)
    os.kill(workers(run)[0].pid, signal.SIGKILL)
    _until(lambda: journal.read_bytes().count(b"\n") >= 6, run)
    family = psutil.Process(run.pid).children(recursive=True)
    os.kill(run.pid, signal.SIGKILL)
    run.communicate()
    _, alive = psutil.wait_procs(family, timeout=180)
    assert not alive
    assert not (tmp_path / "out").exists()
    out, err = start(tmp_path / "out", "ray").communicate(timeout=400)
    assert b"going on after" in err, err
    whole = start(tmp_path / "whole", "local").communicate(timeout=400)[0]
    assert yaml.safe_load(out)["digest"] == yaml.safe_load(whole)["digest"]


def _until(condition, run: subprocess.Popen) -> None:
    deadline = time.monotonic() + 300
    while not condition():
        assert run.poll() is None, run.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.002)
