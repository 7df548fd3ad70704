"""Run the tasks of a config on one model: metrics, predictions and a report in one folder."""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, assert_never

import pyarrow as pa
import pyarrow.parquet as pq

from downstream.config import (
    EvalConfig,
    GroundingTask,
    PhaseTask,
    RetrievalTask,
    Task,
    ZeroShotTask,
)
from downstream.embedder import Embedder, noise
from downstream.grounding import run_grounding
from downstream.interfaces import SampleStore, VisionTextEncoder
from downstream.outcome import Context, Outcome, PredictionRow, SkipTask
from downstream.phase import run_phase
from downstream.report import Header, render_report
from downstream.retrieval import run_retrieval
from downstream.zero_shot import run_zero_shot
from medvlp import __version__
from medvlp.errors import ConfigError, DatasetError

log = logging.getLogger(__name__)

PREDICTIONS = pa.schema(
    [
        ("key", pa.string()),
        ("task", pa.string()),
        ("label", pa.string()),
        ("score", pa.float64()),
        ("probability", pa.float64()),
        ("truth", pa.float64()),
    ]
)


def evaluate(config: EvalConfig, *, data: Path, run: Path, out: Path) -> dict[str, Any]:
    """Evaluate a run on a dataset.

    Writes `metrics.json`, `predictions.parquet` and `report.html` to `out`, all or nothing; an
    earlier report there is replaced.

    Args:
        config: The tasks.
        data: Dataset folder.
        run: Run folder.
        out: Report folder.

    Returns:
        The headline of every task, and what was left out.

    Raises:
        ConfigError: `out` holds something else than a report; there is no GPU where one is asked.
        DatasetError: The dataset is unusable, or has nothing for any task.
        CheckpointError: The run cannot be loaded.
    """
    from data_connectors.dataset.store import Dataset
    from medvlp.models.checkpoint import load_encoder

    _refuse_foreign(out)
    dataset = Dataset.open(data)
    device = _device(config)
    encoder = load_encoder(run, device=device)
    fresh = load_encoder(run, untrained=config.seed, device=device) if config.untrained else None
    return evaluate_encoder(config, dataset=dataset, encoder=encoder, untrained=fresh, out=out)


def _device(config: EvalConfig) -> str:
    import torch

    there = torch.cuda.is_available()
    if config.device == "cuda" and not there:
        raise ConfigError(
            "there is no GPU that torch can use", code="device-missing", got="device: cuda",
            next_step="leave `device: auto`, or look at: medvlp doctor",
        )  # fmt: skip
    if config.device == "auto":
        return "cuda" if there else "cpu"
    return config.device


def evaluate_encoder(
    config: EvalConfig,
    *,
    dataset: SampleStore,
    encoder: VisionTextEncoder,
    untrained: VisionTextEncoder | None,
    out: Path,
) -> dict[str, Any]:
    """`evaluate` with what it opened: any dataset, any model that fits the protocols.

    Args:
        config: The tasks; its `untrained` is not read again.
        dataset: The samples.
        encoder: The model.
        untrained: The same architecture with fresh weights, or None.
        out: Report folder.
    """
    _refuse_foreign(out)
    started = time.monotonic()
    context = _context(config, dataset, encoder, untrained)
    outcomes: list[Outcome] = []
    skipped: list[dict[str, str]] = []
    for number, task in enumerate(config.tasks, start=1):
        log.info("task %d of %d: %s (%s)", number, len(config.tasks), task.name, task.kind)
        try:
            outcomes.append(_run(task, context))
        except SkipTask as reason:
            log.warning("task %s is skipped: %s", task.name, reason)
            skipped.append({"task": task.name, "kind": task.kind, "reason": str(reason)})
    if not outcomes:
        raise DatasetError(
            "the dataset has nothing for any task", code="nothing-to-evaluate",
            got="; ".join(f"{s['task']}: {s['reason']}" for s in skipped),
            next_step="look at the splits with: medvlp inspect",
        )  # fmt: skip
    header = Header(
        model_digest=encoder.digest,
        dataset_digest=dataset.digest,
        split=config.split,
        seed=config.seed,
        bootstrap=config.bootstrap,
        code_version=__version__,
        seconds=time.monotonic() - started,
    )
    metrics = {
        "model_digest": encoder.digest,
        "dataset_digest": dataset.digest,
        "code_version": __version__,
        "config": config.model_dump(mode="json"),
        "results": [result for outcome in outcomes for result in outcome.results],
        "skipped": skipped,
    }
    report = render_report(header, outcomes, skipped)
    rows = [row for outcome in outcomes for row in outcome.predictions]
    _write(out, metrics, rows, report)
    return {
        "out": str(out),
        "model_digest": encoder.digest,
        "dataset_digest": dataset.digest,
        "tasks": {outcome.task: outcome.headline for outcome in outcomes},
        "skipped": skipped,
        "seconds": round(time.monotonic() - started, 1),
    }


def _context(
    config: EvalConfig,
    dataset: SampleStore,
    encoder: VisionTextEncoder,
    untrained: VisionTextEncoder | None,
) -> Context:
    def embedder(name: str, model: VisionTextEncoder, **options: Any) -> Embedder:
        return Embedder(name, model, dataset, batch_frames=config.batch_frames, **options)

    rivals = {}
    if untrained is not None:
        rivals["untrained"] = embedder("untrained", untrained)
    if config.noise:
        rivals["noise"] = embedder("noise", encoder, disturb=noise)
    return Context(config, dataset, embedder("model", encoder), rivals)


def _run(task: Task, context: Context) -> Outcome:
    match task:
        case ZeroShotTask():
            return run_zero_shot(task, context)
        case RetrievalTask():
            return run_retrieval(task, context)
        case PhaseTask():
            return run_phase(task, context)
        case GroundingTask():
            return run_grounding(task, context)
        case _:
            assert_never(task)


def _refuse_foreign(out: Path) -> None:
    """Only an empty folder or an earlier report may be replaced."""
    if not out.exists():
        return
    if not out.is_dir() or (any(out.iterdir()) and not (out / "metrics.json").is_file()):
        raise ConfigError(
            "the output folder holds something else than a report", code="out-not-empty",
            got=out, next_step="choose another --out",
        )  # fmt: skip


def _write(out: Path, metrics: dict[str, Any], rows: Sequence[PredictionRow], report: str) -> None:
    """All three files, then one rename: readers see the old report or the new one."""
    building = out.with_name(f".{out.name}.{os.getpid()}.partial")
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(parents=True)
    text = json.dumps(metrics, indent=1, allow_nan=False)
    (building / "metrics.json").write_text(text + "\n", encoding="utf-8")
    columns = {name: [getattr(row, name) for row in rows] for name in PREDICTIONS.names}
    pq.write_table(pa.table(columns, schema=PREDICTIONS), building / "predictions.parquet")
    (building / "report.html").write_text(report, encoding="utf-8")
    if out.exists():
        replaced = out.with_name(f".{out.name}.{os.getpid()}.replaced")
        os.replace(out, replaced)
        os.replace(building, out)
        shutil.rmtree(replaced)
    else:
        os.replace(building, out)
