"""`medvlp demo`: the whole way, through the same verbs that a hospital uses.

Synthetic hospital and real DICOM files -> ingest -> pretrain -> evaluate -> release -> verify,
and a control run that learns from shuffled pairs and must know nothing.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medvlp.demo.memory import PeakMemory
from medvlp.demo.steps import Steps, Verb
from medvlp.demo.summary import say, summarise
from medvlp.errors import ConfigError, DependencyError
from medvlp.files import write_json, write_text

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
DEFAULT_PATIENTS = 400
DEFAULT_LECTURES = 14

log = logging.getLogger(__name__)


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
    with PeakMemory() as memory:
        steps = Steps(verb, out)
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
    summary = summarise(out, verified, seconds=seconds, peak_memory_mb=memory.peak_mb)
    write_json(out / "summary.json", summary)
    say(summary, out)
    return summary


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


def _prepare(steps: Steps, options: DemoOptions) -> None:
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
            "burned_in": "accept",  # published by pydicom: whoever they show is public already
            "licence": "MIT",
        }
    )
    write_text(out / "ingest.yaml", yaml.safe_dump(config, sort_keys=False))
