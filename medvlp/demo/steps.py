"""The steps of the demo: each runs a verb once, in this process or beside another one."""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from medvlp.errors import DatasetError

log = logging.getLogger(__name__)
Verb = Callable[[list[str]], dict[str, Any]]


class Steps:
    """Runs verbs whose output folder does not exist yet."""

    def __init__(self, verb: Verb, out: Path) -> None:
        self._verb = verb
        self._out = out
        self._number = 0

    def do(self, folder: str, what: str, argv: list[str]) -> None:
        """Run a verb that writes `folder`, unless an earlier call has finished it."""
        self._number += 1
        if self._is_done(folder, argv):
            log.info("demo %d: %s: done before", self._number, what)
            return
        log.info("demo %d: %s", self._number, what)
        started = time.monotonic()
        self._verb(_resumed(argv))
        log.info("demo %d: %.0f s", self._number, time.monotonic() - started)

    @contextlib.contextmanager
    def beside(self, folder: str, what: str, argv: list[str]) -> Iterator[None]:
        """Run a verb in a process of its own while the body runs; its log goes to a file.

        Raises:
            DatasetError: The other process failed; the message names its log.
        """
        if self._is_done(folder, argv):
            yield
            return
        log_file = self._out / f"{folder}.log"
        log.info("demo: beside the next step: %s (log: %s)", what, log_file.name)
        command = [sys.executable, "-m", "medvlp.cli", *_resumed(argv)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        with log_file.open("w") as stream:
            other = subprocess.Popen(
                command, stdout=subprocess.DEVNULL, stderr=stream, env=environment
            )
            try:
                yield
                failed = other.wait() != 0
            finally:
                if other.poll() is None:
                    other.terminate()
                    other.wait()
        if failed:
            raise DatasetError(
                f"{what}: failed", code="demo-step-failed", next_step=f"read {log_file.name}"
            )

    def _is_done(self, folder: str, argv: list[str]) -> bool:
        """A run is done when its summary is there; every other folder appears in one step."""
        return (self._out / folder / ("run.json" if argv[0] == "pretrain" else "")).exists()


def _resumed(argv: list[str]) -> list[str]:
    return [*argv, "--resume"] if argv[0] == "pretrain" else argv
