import json
from pathlib import Path

import pytest

from governance.tracking import (
    TrackingConfig,
    client,
    log_evaluation,
    read_tracking,
    tracking_uri,
    training_logger,
)
from medvlp.errors import CheckpointError


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with its MLflow run in a real SQLite store beside it."""
    run = tmp_path_factory.mktemp("work") / "run"
    logger = training_logger(TrackingConfig(), out=run, resume=False)
    logger.log_metrics({"loss": 2.5}, step=3)
    logger.log_hyperparams({"optim": {"lr": 1e-3}})
    return run


def test_the_default_store_lies_beside_the_run_folder(tracked: Path) -> None:
    assert (tracked.parent / "mlflow.db").exists()
    data = client(tracking_uri(tracked)).get_run(read_tracking(tracked)["run_id"]).data
    assert data.metrics == {"loss": 2.5}
    assert data.params == {"optim/lr": "0.001"}


def test_resume_goes_on_in_the_same_mlflow_run(tracked: Path) -> None:
    before = read_tracking(tracked)["run_id"]
    logger = training_logger(TrackingConfig(), out=tracked, resume=True)
    assert logger.run_id == before


def test_a_finished_run_gets_no_new_mlflow_run(tracked: Path, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{}")
    assert training_logger(TrackingConfig(), out=tmp_path, resume=False) is None


def test_an_evaluation_is_logged_beside_its_training(tracked: Path, tmp_path: Path) -> None:
    results = [{"task": "zero shot", "metric": "macro_auc", "value": 0.9, "low": 0.8, "high": None}]
    (tmp_path / "metrics.json").write_text(json.dumps({"results": results}))
    log_evaluation(run=tracked, report=tmp_path)
    mlflow = client(tracking_uri(tracked))
    run_id = read_tracking(tracked)["run_id"]
    metrics = mlflow.get_run(run_id).data.metrics
    assert metrics["eval/zero shot/macro_auc"] == 0.9
    assert metrics["eval/zero shot/macro_auc/low"] == 0.8
    assert "eval/zero shot/macro_auc/high" not in metrics
    assert [f.path for f in mlflow.list_artifacts(run_id, "evaluation")] == [
        "evaluation/metrics.json"
    ]


def test_an_untracked_folder_is_refused_with_a_next_step(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="run-untracked"):
        read_tracking(tmp_path)
