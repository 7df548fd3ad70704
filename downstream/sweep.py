"""A sweep over alpha, from a base to the run fine-tuned from it: a run folder each, one is chosen.

See `medvlp.models.interpolation` for what lies between. Alpha is a setting like any other: it is
chosen on the validation split, and what it is worth is measured on the test split afterwards.
"""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from downstream.config import EvalConfig
from downstream.evaluate import evaluate
from downstream.sweep_page import render_sweep
from medvlp import __version__
from medvlp.errors import CheckpointError, ConfigError
from medvlp.files import write_json, write_text
from medvlp.models.checkpoint import DESCRIPTION, model_digest
from medvlp.models.interpolation import SUMMARY, Ends, provenance, read_ends, write_between

log = logging.getLogger(__name__)

RECORD, PAGE, CHOSEN, REPORT = "sweep.json", "sweep.html", "chosen", "report"
ALPHAS = (0.0, 0.25, 0.5, 0.75, 1.0)
_MEAN = "mean"


@dataclass(frozen=True, slots=True)
class SweepPlan:
    """What to interpolate and how to choose."""

    run: Path
    base: Path | None
    """Folder of another run; None: the start of `run`."""
    out: Path
    alphas: tuple[float, ...] = ALPHAS
    choose: Literal["val", "test", "none"] = "val"
    """The split that alpha may be chosen on; `none`: only draw the curve."""
    metric: str | None = None
    """`task/metric` to choose by; None: the mean of the headline metrics of all tasks."""


def sweep(
    plan: SweepPlan, *, config: EvalConfig | None = None, data: Path | None = None
) -> dict[str, Any]:
    """Write a run folder an alpha; evaluate each and choose one, if a config says how.

    Writes `alpha-0.50/` and so on, each with its `report/`, `sweep.json`, `sweep.html`, and
    `chosen`, a link to the best. Alphas that an earlier call finished are not done again.

    Args:
        plan: The two ends, the alphas, how to choose.
        config: Tasks; `untrained` is not evaluated, it would be the same for every alpha.
        data: Dataset folder; goes with `config`.

    Returns:
        The record, as written to `sweep.json`, with the folder and the seconds.

    Raises:
        CheckpointError: A run cannot be loaded, or the two ends are not of one kind.
        ConfigError: Alphas or metric cannot be used, `out` holds something else, or alpha would
            be chosen on the test split.
    """
    started = time.monotonic()
    if (config is None) != (data is None):
        raise ConfigError(
            "an evaluation needs both a config and a dataset", code="sweep-half-evaluation",
            next_step="give --config and --data, or neither",
        )  # fmt: skip
    alphas = _checked(plan.alphas)
    if config is not None:
        config = config.model_copy(update={"untrained": False})
        _refuse_test(plan, config)
    ends = read_ends(plan.run, plan.base)
    _claim(plan.out, ends)
    rows, done = [], 0
    for alpha in alphas:
        folder = plan.out / f"alpha-{alpha:.2f}"
        done += _write(ends, alpha, folder)
        if config is not None and data is not None:
            done += _evaluate(config, data, folder)
        rows.append(_row(alpha, folder, plan.metric, evaluated=config is not None))
    record = _record(plan, ends, config, rows)
    write_json(plan.out / RECORD, record)
    if config is not None:
        write_text(plan.out / PAGE, render_sweep(record))
    if record["chosen"] is not None:
        _link(plan.out / CHOSEN, f"alpha-{record['chosen']:.2f}")
    return {
        "out": str(plan.out),
        **record,
        "done": done,
        "seconds": round(time.monotonic() - started, 1),
    }


def _checked(alphas: Sequence[float]) -> list[float]:
    """In order; they must be in [0, 1], with two decimals at most, each once."""
    wanted = sorted(alphas)
    names = {f"{alpha:.2f}" for alpha in wanted}
    exact = all(abs(alpha - round(alpha, 2)) < 1e-9 for alpha in wanted)
    if not wanted or len(names) < len(wanted) or not exact or wanted[0] < 0 or wanted[-1] > 1:
        raise ConfigError(
            "these alphas cannot be swept", code="alpha-range",
            got=", ".join(f"{alpha:g}" for alpha in alphas) or "none",
            limit="0 to 1, two decimals, each once",
        )  # fmt: skip
    return [round(alpha, 2) for alpha in wanted]


def _refuse_test(plan: SweepPlan, config: EvalConfig) -> None:
    """What is chosen on a split must not be reported on it."""
    task = (plan.metric or "").partition("/")[0]
    if plan.metric is not None and task not in {one.name for one in config.tasks}:
        raise ConfigError(
            "the metric to choose by names no task of the config", code="sweep-metric",
            got=plan.metric, limit=", ".join(f"{one.name}/..." for one in config.tasks),
        )  # fmt: skip
    used = [one for one in config.tasks if plan.metric is None or one.name == task]
    wrong = [one.name for one in used if (one.where.split or config.split) != "val"]
    if plan.choose == "val" and wrong:
        raise ConfigError(
            "alpha is chosen on the validation split, and a task looks at another",
            code="alpha-on-test",
            got=f"{wrong[0]} on {config.split}",
            limit="val",
            next_step="add --set split=val; or --choose none to draw the curve only; or --choose "
            "test, after which results on that split are no test results",
        )


def _claim(out: Path, ends: Ends) -> None:
    """Take a folder for the sweep between two ends, or go on with it."""
    record = {"tuned": ends.tuned.digest, "base": ends.base.digest}
    path = out / RECORD
    if path.is_file():
        known = json.loads(path.read_text("utf-8"))
        if {key: known.get(key) for key in record} != record:
            raise ConfigError(
                "the folder holds a sweep between other models", code="sweep-changed",
                next_step="choose another --out, or remove it",
            )  # fmt: skip
        return
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(
            "the output folder holds something else than a sweep", code="out-not-empty",
            got=out, next_step="choose another --out",
        )  # fmt: skip
    out.mkdir(parents=True, exist_ok=True)
    write_json(path, record)


def _write(ends: Ends, alpha: float, folder: Path) -> bool:
    """Write one run folder, unless it is there."""
    wanted = provenance(ends, alpha)
    if (folder / SUMMARY).is_file():
        known = json.loads((folder / SUMMARY).read_text("utf-8")).get("interpolation", {})
        if {key: known.get(key) for key in wanted} != wanted:
            raise CheckpointError(
                "a folder of the sweep holds another model", code="sweep-changed",
                got=folder.name, next_step="choose another --out, or remove it",
            )  # fmt: skip
        log.info("%s: done before", folder.name)
        return False
    log.info("%s: writing the model", folder.name)
    write_between(ends, alpha, folder)
    return True


def _evaluate(config: EvalConfig, data: Path, folder: Path) -> bool:
    """Evaluate one run folder, unless that very evaluation is there."""
    from data_connectors.dataset.store import Dataset

    path = folder / REPORT / "metrics.json"
    if path.is_file():
        known = json.loads(path.read_text("utf-8"))
        wanted = {
            "model_digest": _digest(folder),
            "dataset_digest": Dataset.open(data).digest,
            "code_version": __version__,
            "config": config.model_dump(mode="json"),
        }
        if {key: known.get(key) for key in wanted} == wanted:
            log.info("%s: evaluated before", folder.name)
            return False
    log.info("%s: evaluating", folder.name)
    evaluate(config, data=data, run=folder, out=folder / REPORT)
    return True


def _digest(folder: Path) -> str:
    return model_digest(json.loads((folder / DESCRIPTION).read_text("utf-8")))


def _row(alpha: float, folder: Path, metric: str | None, *, evaluated: bool) -> dict[str, Any]:
    """One alpha: its folder and its headline results, the first of each task."""
    row: dict[str, Any] = {"alpha": alpha, "folder": folder.name, "model_digest": _digest(folder)}
    if not evaluated:
        return {**row, "results": {}}
    results = json.loads((folder / REPORT / "metrics.json").read_text("utf-8"))["results"]
    headlines: dict[str, dict[str, Any]] = {}
    for result in results:
        name = f"{result['task']}/{result['metric']}"
        first = not any(key.startswith(f"{result['task']}/") for key in headlines)
        if first or name == metric:
            fields = ("value", "low", "high", "n", "groups")
            headlines[name] = {key: result[key] for key in fields}
            headlines[name]["split"] = result["card"]["split"]
    if metric is not None and metric not in headlines:
        raise ConfigError(
            "the evaluation has no such metric", code="sweep-metric", got=metric,
            next_step=f"choose one of {folder / REPORT / 'metrics.json'}",
        )  # fmt: skip
    return {**row, "results": headlines}


def _record(
    plan: SweepPlan, ends: Ends, config: EvalConfig | None, rows: list[dict[str, Any]]
) -> dict[str, Any]:
    named = [plan.metric] if plan.metric is not None else _defined(rows)
    for row in rows:
        values = [row["results"][name]["value"] for name in named if row["results"]]
        complete = values and None not in values
        row["score"] = sum(values) / len(values) if complete else None
    scored = [row for row in rows if row["score"] is not None]
    best = None
    if plan.choose != "none" and len(scored) == len(rows):
        # Of equals the one nearest to the base: it forgot least.
        best = max(scored, key=lambda row: (row["score"], -row["alpha"]))
    elif plan.choose != "none" and config is not None:
        log.warning("no alpha is chosen: the metric is undefined at some alphas")
    return {
        "tuned": ends.tuned.digest,
        "base": ends.base.digest,
        "base_is_start": ends.base_is_start,
        "code_version": __version__,
        "metric": plan.metric or _MEAN,
        "mean_of": named,
        "chosen_on": _splits(rows, named) if best is not None else None,
        "chosen": best["alpha"] if best is not None else None,
        "alphas": rows,
    }


def _splits(rows: Sequence[dict[str, Any]], named: Sequence[str]) -> str:
    return ", ".join(sorted({rows[0]["results"][name]["split"] for name in named}))


def _defined(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Headlines with a value at every alpha."""
    names = rows[0]["results"]
    return [
        name
        for name in names
        if all(row["results"].get(name, {}).get("value") is not None for row in rows)
    ]


def _link(link: Path, target: str) -> None:
    """A relative link that takes the place of an earlier one; a copy where links are not had."""
    if link.is_symlink():
        link.unlink()
    elif link.is_dir():
        shutil.rmtree(link)
    try:
        link.symlink_to(target, target_is_directory=True)
    except OSError:
        shutil.copytree(link.with_name(target), link)
