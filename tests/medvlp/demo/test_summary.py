"""The demo's last line takes every number from where it belongs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from medvlp.demo.summary import summarise
from medvlp.errors import DatasetError


def result(task: str, metric: str, value: float, **baselines: float) -> dict[str, Any]:
    beside = {name: {"value": number} for name, number in baselines.items()}
    return {"task": task, "metric": metric, "value": value, "low": value - 0.1,
            "high": value + 0.1, "baselines": beside}  # fmt: skip


def write(folder: Path, *results: dict[str, Any]) -> None:
    folder.mkdir()
    (folder / "metrics.json").write_text(json.dumps({"results": results}))


def test_every_number_is_from_its_own_task(tmp_path: Path) -> None:
    write(
        tmp_path / "report",
        result("zero_shot", "macro_auc", 0.9),
        result("zero_shot_volume", "macro_auc", 0.7),
        result("retrieval", "image_to_text_r_at_1", 0.25, chance=0.0125),
        result("phase", "accuracy", 0.8),
        result("phase", "f1_video", 0.75),
        result("grounding", "pointing", 0.6, mean_location=0.4, all_ones=0.05),
        result("grounding_volume", "pointing", 0.3, mean_location=0.2, all_ones=0.01),
    )
    write(tmp_path / "control-report", result("zero_shot", "macro_auc", 0.5))
    summary = summarise(tmp_path, {"verified": True}, seconds=12.34, peak_memory_mb=99)
    assert summary == {
        "zero_shot": {"macro_auc": 0.9, "low": 0.8, "high": 1.0},
        "control": {"macro_auc": 0.5, "low": 0.4, "high": 0.6},
        "pointing": {
            "value": 0.6, "low": 0.5, "high": 0.7, "mean_location": 0.4, "all_ones": 0.05,
        },
        "phase": {"accuracy": 0.8, "f1_video": 0.75},
        "retrieval": {"r_at_1": 0.25, "chance": 0.0125},
        "seconds": 12.3,
        "peak_memory_mb": 99,
        "bundle_verified": True,
    }  # fmt: skip


def test_a_missing_number_is_named(tmp_path: Path) -> None:
    write(tmp_path / "report", result("zero_shot", "macro_auc", 0.9))
    write(tmp_path / "control-report", result("zero_shot", "macro_auc", 0.5))
    with pytest.raises(DatasetError, match="grounding pointing"):
        summarise(tmp_path, {"verified": True}, seconds=1.0, peak_memory_mb=1)
