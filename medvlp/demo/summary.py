"""What the demo says at its end: one JSON object, and a table for people."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from medvlp.errors import DatasetError


def summarise(
    out: Path, verified: dict[str, Any], *, seconds: float, peak_memory_mb: int
) -> dict[str, Any]:
    """The summary of a finished demo.

    Args:
        out: The demo's folder.
        verified: What `verify` returned.
        seconds: Wall time of this call.
        peak_memory_mb: Of all its processes together.

    Raises:
        DatasetError: The evaluation lacks a number: the hospital was too small for it.
    """
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


def say(summary: dict[str, Any], out: Path) -> None:
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
