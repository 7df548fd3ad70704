"""MLflow tracking: one run a training, metrics of its evaluation beside it.

Default store: a SQLite file beside the run folder. What is logged holds numbers, digests and
configs, never keys, texts or paths of the site.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from medvlp import __version__
from medvlp.config import Config
from medvlp.errors import CheckpointError
from medvlp.files import write_json

TRACKING_FILE = "tracking.json"
_BESIDE, _ABOVE = "beside", "above"
"""The store lies beside the run folder, or beside the folder that this one is in."""


class TrackingConfig(Config):
    """Where runs are tracked."""

    uri: str | None = None
    """MLflow tracking URI; None: `mlflow.db` (SQLite) beside the run folder."""
    experiment: str = "medvlp"


def default_uri(out: Path) -> str:
    """The SQLite store beside a run folder."""
    return f"sqlite:///{(out.resolve().parent / 'mlflow.db').as_posix()}"


def client(uri: str) -> Any:
    """An MLflow client for tracking and registry."""
    _quiet()
    from mlflow.tracking import MlflowClient

    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def training_logger(config: TrackingConfig, *, out: Path, resume: bool) -> Any:
    """A Lightning logger bound to the MLflow run of a run folder.

    The run's id is kept in `tracking.json` in the run folder, so that `--resume`, evaluation and
    release write to the same MLflow run. A finished run folder gets no new MLflow run: the engine
    refuses it anyway.

    Returns:
        `lightning.pytorch.loggers.MLFlowLogger`, or None for a finished run without `resume`.
    """
    if (out / "run.json").exists():
        return None
    record = out / TRACKING_FILE
    if not (resume and record.exists()):
        _start_run(config, out)
    known = read_tracking(out)
    from lightning.pytorch.loggers import MLFlowLogger

    return MLFlowLogger(
        experiment_name=known["experiment"],
        tracking_uri=_absolute(known["uri"], out),
        run_id=known["run_id"],
    )


def read_tracking(run: Path) -> dict[str, str]:
    """Experiment, URI and run id of a run folder."""
    try:
        known: dict[str, str] = json.loads((run / TRACKING_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(
            "the run folder has no tracking record",
            code="run-untracked",
            next_step="train it with `medvlp pretrain`",
        ) from None
    return known


def tracking_uri(run: Path) -> str:
    """The absolute tracking URI of a run folder; follows the folder when both are moved."""
    return _absolute(read_tracking(run)["uri"], run)


def log_evaluation(*, run: Path, report: Path) -> None:
    """Log an evaluation's metrics and files to the MLflow run of its model."""
    if not (run / TRACKING_FILE).exists():
        return
    from mlflow.entities import Metric

    known = read_tracking(run)
    mlflow = client(_absolute(known["uri"], run))
    results = json.loads((report / "metrics.json").read_text(encoding="utf-8"))["results"]
    metrics = []
    for result in results:
        name = f"eval/{result['task']}/{result['metric']}"
        for suffix, value in (
            ("", result["value"]),
            ("/low", result["low"]),
            ("/high", result["high"]),
        ):
            if value is not None:
                metrics.append(Metric(_metric_name(name + suffix), float(value), 0, 0))
    for start in range(0, len(metrics), 500):
        mlflow.log_batch(known["run_id"], metrics=metrics[start : start + 500])
    for file in ("metrics.json", "report.html"):
        if (report / file).exists():
            mlflow.log_artifact(known["run_id"], str(report / file), "evaluation")


def log_sweep(config: TrackingConfig, *, out: Path) -> None:
    """Log a sweep over alpha as an MLflow run of its own; the step is alpha in percent.

    The run folders of the sweep are bound to it, so that evaluating or releasing one of them is
    recorded there too.
    """
    from mlflow.entities import Metric, Param, RunTag

    if not (out / TRACKING_FILE).exists():
        _start_run(config, out)
    known = read_tracking(out)
    record = json.loads((out / "sweep.json").read_text(encoding="utf-8"))
    metrics = []
    for row in record["alphas"]:
        step = round(100 * row["alpha"])
        values = {"sweep/score": row["score"]}
        for name, result in row["results"].items():
            for suffix, key in (("", "value"), ("/low", "low"), ("/high", "high")):
                values[f"sweep/{name}{suffix}"] = result[key]
        metrics += [
            Metric(_metric_name(name), float(value), 0, step)
            for name, value in values.items()
            if value is not None
        ]
        bound = {**known, "uri": _ABOVE if known["uri"] == _BESIDE else known["uri"]}
        write_json(out / row["folder"] / TRACKING_FILE, bound)
    mlflow = client(_absolute(known["uri"], out))
    named = ("tuned", "base", "base_is_start", "code_version")
    params = [Param(name, str(record[name])) for name in named]
    tags = [RunTag(f"medvlp.{name}", str(record[name])) for name in ("chosen", "chosen_on")]
    mlflow.log_batch(known["run_id"], params=params, tags=tags)
    for start in range(0, len(metrics), 500):
        mlflow.log_batch(known["run_id"], metrics=metrics[start : start + 500])
    for file in ("sweep.json", "sweep.html"):
        if (out / file).exists():
            mlflow.log_artifact(known["run_id"], str(out / file), "sweep")
    mlflow.set_terminated(known["run_id"])


def _start_run(config: TrackingConfig, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    uri = config.uri or default_uri(out)
    mlflow = client(uri)
    experiment = mlflow.get_experiment_by_name(config.experiment)
    if experiment is not None:
        experiment_id = experiment.experiment_id
    else:
        # A local store keeps its artifacts beside its database, a server where it is set to.
        place = (out.resolve().parent / "mlartifacts").as_uri() if config.uri is None else None
        experiment_id = mlflow.create_experiment(config.experiment, artifact_location=place)
    run = mlflow.create_run(experiment_id, run_name=out.name, tags={"medvlp.version": __version__})
    record = {
        "uri": _BESIDE if config.uri is None else uri,
        "experiment": config.experiment,
        "run_id": run.info.run_id,
    }
    write_json(out / TRACKING_FILE, record)


def _absolute(uri: str, out: Path) -> str:
    if uri == _ABOVE:
        return default_uri(out.resolve().parent)
    return default_uri(out) if uri == _BESIDE else uri


def _metric_name(name: str) -> str:
    """MLflow admits letters, digits, `_-. :/` in metric names."""
    return "".join(c if c.isalnum() or c in "_-. :/" else "_" for c in name)


def _quiet() -> None:
    import logging

    # MLflow reports its table migrations at INFO on first use of a store; that is not ours to say.
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    os.environ.setdefault("MLFLOW_ENABLE_ASYNC_LOGGING", "false")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("DO_NOT_TRACK", "true")
