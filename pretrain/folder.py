"""The run folder: what is written, when, and what may be resumed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

from pydantic import ValidationError

from medvlp.errors import CheckpointError
from medvlp.files import write_json, write_text
from pretrain.config import PretrainConfig

CONFIG, HISTORY, SUMMARY, RESUME = "config.json", "history.jsonl", "run.json", "resume"
FEATURES = "features"
DOUBTED = "doubted.json"
"""Keys of the train samples whose pairs were left out in the end, with the probability of noise."""
_FREE_KEYS = ("max_seconds", "threads", "log_every", "checkpoint_every")
"""Trainer keys that do not change what is learned."""
_FREE_DATA_KEYS = ("cache_mb", "features_folder")
"""Likewise of the data."""


class RunFolder:
    """The files of one run.

    Args:
        path: Created if need be.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def checkpoint(self) -> Path:
        """The last whole resume checkpoint."""
        return self.path / RESUME / "last.ckpt"

    @property
    def features(self) -> Path:
        """Cached features of frames, where the config names no other place."""
        return self.path / FEATURES

    @property
    def finished(self) -> bool:
        """Whether the run's summary is written."""
        return (self.path / SUMMARY).is_file()

    def claim(self, config: PretrainConfig, dataset_digest: str, *, resume: bool) -> bool:
        """Take the folder for a run.

        Returns:
            Whether there is a checkpoint to go on from.

        Raises:
            CheckpointError: It holds a finished run, or one of another config or dataset.
        """
        if self.finished:
            raise CheckpointError(
                "the folder holds a finished run", code="run-exists",
                next_step="choose another --out, or remove it",
            )  # fmt: skip
        own = {"config": config.model_dump(mode="json"), "dataset": dataset_digest}
        go_on = resume and self.checkpoint.is_file()
        if go_on:
            self._refuse_another(own)
        else:
            shutil.rmtree(self.path / RESUME, ignore_errors=True)
            (self.path / HISTORY).unlink(missing_ok=True)
        self.path.mkdir(parents=True, exist_ok=True)
        self.write(CONFIG, own)
        return go_on

    def _refuse_another(self, own: dict[str, Any]) -> None:
        try:
            other = json.loads((self.path / CONFIG).read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise CheckpointError(
                "the config of the run to resume cannot be read", code="run-changed"
            ) from error
        # A setting younger than the run has its default there.
        with suppress(KeyError, ValidationError):
            config = PretrainConfig.model_validate(other["config"])
            other["config"] = config.model_dump(mode="json")
        changed = sorted(_differences(_learning(other), _learning(own)))
        if changed:
            raise CheckpointError(
                "the run to resume was started with something else",
                code="run-changed",
                got=", ".join(changed[:3]),
                next_step="use the same config and dataset, or another --out",
            )

    def write(self, name: str, tree: dict[str, Any]) -> None:
        """Write one JSON file, whole or not at all."""
        write_json(self.path / name, tree, sort_keys=True)

    @contextmanager
    def history(self, start: int) -> Iterator[TextIO]:
        """The history, open for more lines; lines at or after step `start` are dropped."""
        path = self.path / HISTORY
        kept = [line for line in read_history(self.path) if line["step"] <= start]
        write_text(path, "".join(json.dumps(line) + "\n" for line in kept))
        with path.open("a", encoding="utf-8") as file:
            yield file


def read_history(folder: Path) -> list[dict[str, float]]:
    """The whole lines of a run's history; a line cut off by a kill is left out."""
    path = folder / HISTORY
    lines: list[dict[str, float]] = []
    for text in path.read_text("utf-8").splitlines() if path.is_file() else []:
        try:
            lines.append(json.loads(text))
        except ValueError:
            continue
    return lines


def _learning(tree: dict[str, Any]) -> dict[str, Any]:
    """Without the keys that do not change what is learned."""
    config = dict(tree["config"])
    config["trainer"] = {k: v for k, v in config["trainer"].items() if k not in _FREE_KEYS}
    config["data"] = {k: v for k, v in config["data"].items() if k not in _FREE_DATA_KEYS}
    return {**tree, "config": config}


def _differences(a: Any, b: Any, where: str = "") -> Iterator[str]:
    if isinstance(a, dict) and isinstance(b, dict):
        for key in sorted(a.keys() | b.keys()):
            yield from _differences(a.get(key), b.get(key), f"{where}.{key}" if where else key)
    elif a != b:
        yield where
