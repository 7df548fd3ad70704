"""`medvlp demo`: the whole way, through the same verbs that a hospital uses.

Synthetic hospital and real DICOM files -> ingest -> pretrain -> evaluate -> release -> verify,
and a control run that learns from shuffled pairs and must know nothing.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medvlp.errors import ConfigError, DatasetError, DependencyError
from medvlp.files import write_json, write_text

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
DEFAULT_PATIENTS = 400
DEFAULT_LECTURES = 14

log = logging.getLogger(__name__)
Verb = Callable[[list[str]], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """What the demo is run with; None takes the default."""

    out: Path
    patients: int | None = None
    lectures: int | None = None
    seed: int = 1
    overrides: tuple[str, ...] = ()
    """`key=value` for both trainings."""


def run_demo(options: DemoOptions, verb: Verb) -> dict[str, Any]:
    """Run every step; steps that an earlier call finished are not run again.

    Args:
        options: Where, how large, which seed.
        verb: Runs one command line and returns its summary (`medvlp.cli.run`).

    Returns:
        The summary, also written to `summary.json`.
    """
    if not CONFIGS.is_dir():
        raise DependencyError(
            "the configs folder is missing",
            next_step="run the demo from a checkout (`make demo`)",
        )
    out = options.out
    _claim(options)
    started = time.monotonic()
    with _PeakMemory() as memory:
        steps = _Steps(verb, out)
        _prepare(steps, options)
        data, run, report = str(out / "dataset"), str(out / "run"), str(out / "report")
        settings = (f"trainer.seed={options.seed}", *options.overrides)
        seed = [part for setting in settings for part in ("--set", setting)]
        pretrain = ["pretrain", "--config", str(CONFIGS / "pretrain/demo.yaml"), "--data", data]
        shuffled = ["--set", "data.shuffle_pairs=true"]
        store = f"sqlite:///{(out / 'control-mlflow.db').resolve().as_posix()}"
        control = [*pretrain, "--out", str(out / "control"), *seed, *shuffled, "--tracking", store]
        # Side by side, one processor each: a small model gains little from a second one.
        with steps.beside("control", "train the control on shuffled pairs", control):
            steps.do("run", "train on matched pairs", [*pretrain, "--out", run, *seed])
        evaluate = ["evaluate", "--data", data]
        control = [
            *[*evaluate, "--config", str(CONFIGS / "eval/demo_control.yaml")],
            *["--run", str(out / "control"), "--out", str(out / "control-report")],
        ]
        with steps.beside("control-report", "evaluate the control", control):
            steps.do(
                "report",
                "evaluate zero-shot",
                [
                    *[*evaluate, "--config", str(CONFIGS / "eval/demo.yaml")],
                    *["--run", run, "--out", report],
                ],
            )
        release = ["--config", str(CONFIGS / "release/demo.yaml"), "--out", str(out / "bundle")]
        steps.do(
            "bundle",
            "release the candidate",
            ["release", "--run", run, "--evaluation", report, *release],
        )
        log.info("demo: verify the bundle")
        verified = verb(["verify", str(out / "bundle")])
    seconds = time.monotonic() - started
    summary = _summary(out, verified, seconds=seconds, peak_memory_mb=memory.peak_mb)
    write_json(out / "summary.json", summary)
    _say(summary, out)
    return summary


class _Steps:
    """Runs verbs whose output folder does not exist yet."""

    def __init__(self, verb: Verb, out: Path) -> None:
        self._verb = verb
        self._out = out
        self._number = 0

    def do(self, folder: str, what: str, argv: list[str]) -> None:
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


def _claim(options: DemoOptions) -> None:
    """One folder holds one demo: other options in the same folder are refused."""
    wanted = {
        "patients": options.patients or DEFAULT_PATIENTS,
        "lectures": options.lectures or DEFAULT_LECTURES,
        "seed": options.seed,
        "overrides": list(options.overrides),
    }
    record = options.out / "demo.json"
    if record.exists():
        known = json.loads(record.read_text(encoding="utf-8"))
        if known != wanted:
            raise ConfigError(
                "this folder holds a demo with other options",
                code="demo-exists",
                got=wanted,
                limit=known,
                next_step="choose another --out",
            )
        return
    if options.out.exists() and any(options.out.iterdir()):
        raise ConfigError(
            "the output folder is not empty",
            code="demo-not-empty",
            next_step="choose another --out",
        )
    options.out.mkdir(parents=True, exist_ok=True)
    write_json(record, wanted)


def _prepare(steps: _Steps, options: DemoOptions) -> None:
    """The hospital, the real DICOM files beside it, and the dataset of both."""
    out = options.out
    steps.do(
        "hospital",
        "write the synthetic hospital",
        [
            *["phantom", "--out", str(out / "hospital"), "--seed", str(options.seed)],
            *["--patients", str(options.patients or DEFAULT_PATIENTS)],
            *["--lectures", str(options.lectures or DEFAULT_LECTURES)],
        ],
    )
    _copy_pydicom_files(out / "pydicom_files")
    _write_ingest_config(out)
    steps.do(
        "dataset",
        "ingest",
        ["ingest", "--config", str(out / "ingest.yaml"), "--out", str(out / "dataset")],
    )


def _copy_pydicom_files(target: Path) -> None:
    """Real DICOM files of many makers and codecs come with pydicom, some broken on purpose."""
    if target.exists():
        return
    import pydicom.data

    source = Path(pydicom.data.__file__).parent / "test_files"
    building = target.with_name(f".{target.name}.partial")
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir()
    for path in sorted(source.glob("*.dcm")):
        shutil.copyfile(path, building / path.name)
    os.replace(building, target)


def _write_ingest_config(out: Path) -> None:
    """The hospital's own config, with the real files as one more source."""
    import yaml

    config = yaml.safe_load((out / "hospital/ingest.yaml").read_text(encoding="utf-8"))
    for source in config["sources"]:
        for key in ("path", "labels", "regions"):
            if key in source:
                source[key] = f"hospital/{source[key]}"
    config["deid"]["key_file"] = f"hospital/{config['deid']['key_file']}"
    config["sources"].append(
        {
            "kind": "dicom",
            "name": "pydicom_files",
            "path": "pydicom_files",
            "allow_missing_patient": True,
            "licence": "MIT",
        }
    )
    write_text(out / "ingest.yaml", yaml.safe_dump(config, sort_keys=False))


def _summary(
    out: Path, verified: dict[str, Any], *, seconds: float, peak_memory_mb: int
) -> dict[str, Any]:
    ours = _results(out / "report")
    control = _results(out / "control-report")
    pointing = _find(ours, "grounding", "pointing")
    retrieval = _find(ours, "retrieval", "image_to_text_r_at_1")
    return {
        "zero_shot": _interval(_find(ours, "zero_shot", "macro_auc"), "macro_auc"),
        "control": _interval(_find(control, "zero_shot", "macro_auc"), "macro_auc"),
        "pointing": {
            **_interval(pointing, "value"),
            "mean_location": _baseline(pointing, "mean_location"),
            "all_ones": _baseline(pointing, "all_ones"),
        },
        "phase": {
            "accuracy": _find(ours, "phase", "accuracy")["value"],
            "f1_video": _find(ours, "phase", "f1_video")["value"],
        },
        "retrieval": {
            "r_at_1": retrieval["value"],
            "chance": _baseline(retrieval, "chance"),
        },
        "seconds": round(seconds, 1),
        "peak_memory_mb": peak_memory_mb,
        "bundle_verified": bool(verified["verified"]),
    }


def _results(report: Path) -> list[dict[str, Any]]:
    text = (report / "metrics.json").read_text(encoding="utf-8")
    results: list[dict[str, Any]] = json.loads(text)["results"]
    return results


def _find(results: list[dict[str, Any]], task: str, metric: str) -> dict[str, Any]:
    for result in results:
        if result["task"] == task and result["metric"] == metric:
            return result
    raise DatasetError(
        f"the evaluation has no {task} {metric}",
        code="demo-too-small",
        next_step="use more --patients and --lectures",
    )


def _interval(result: dict[str, Any], name: str) -> dict[str, Any]:
    return {name: result["value"], "low": result["low"], "high": result["high"]}


def _baseline(result: dict[str, Any], name: str) -> float | None:
    value = result["baselines"][name]
    number: float | None = value["value"] if isinstance(value, dict) else value
    return number


def _say(summary: dict[str, Any], out: Path) -> None:
    """A few lines for people, on stderr."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title="medvlp demo: patients and lectures never trained on", show_lines=False)
    for column in ("question", "answer", "beside it"):
        table.add_column(column)
    zero, control, point = summary["zero_shot"], summary["control"], summary["pointing"]
    phase, retrieval = summary["phase"], summary["retrieval"]
    table.add_row(
        "zero-shot findings, macro AUC",
        f"{zero['macro_auc']:.3f} ({zero['low']:.3f} to {zero['high']:.3f})",
        f"shuffled pairs {control['macro_auc']:.3f} ({control['low']:.3f} to "
        f"{control['high']:.3f})",
    )
    table.add_row(
        "pointing game",
        f"{point['value']:.3f} ({point['low']:.3f} to {point['high']:.3f})",
        f"mean location {point['mean_location']:.3f}, all ones {point['all_ones']:.3f}",
    )
    table.add_row(
        "surgical phase, frame accuracy", f"{phase['accuracy']:.3f}", f"F1 {phase['f1_video']:.3f}"
    )
    table.add_row(
        "image to report, R@1", f"{retrieval['r_at_1']:.3f}", f"chance {retrieval['chance']:.3f}"
    )
    table.add_row("bundle reproduced offline", str(summary["bundle_verified"]), "")
    console = Console(stderr=True)
    console.print(table)
    console.print(f"pictures: {out / 'report/report.html'}")
    console.print(f"tracking: mlflow ui --backend-store-uri sqlite:///{out / 'mlflow.db'}")


class _PeakMemory:
    """Peak resident memory of this process and its children, sampled."""

    def __init__(self, interval_s: float = 0.5) -> None:
        self.peak_mb = 0
        self._interval_s = interval_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> _PeakMemory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        import psutil

        me = psutil.Process()
        while True:
            total = 0
            for process in [me, *me.children(recursive=True)]:
                try:
                    total += process.memory_info().rss
                except psutil.Error:
                    continue
            self.peak_mb = max(self.peak_mb, total // 2**20)
            if self._stop.wait(self._interval_s):
                return
