"""From the reports of all runs to one table: intervals over patients and seeds, paired differences.

One resample draws patients (lectures) and seeds, the same for every recipe; a recipe's value is the
mean over the drawn seeds. The difference of two recipes is taken resample by resample.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from data_connectors.dataset.store import Dataset
from downstream.bootstrap import (
    Estimate,
    macro_estimate,
    mean_estimate,
    percentile_interval,
    resample,
)
from downstream.metrics import auc, macro_f1, weighted_auc

Floats = npt.NDArray[np.float64]
RESAMPLES = 1000
REFERENCE = "medvlp"


def write_table(
    out: Path, benches: Mapping[str, tuple[Callable[[int], str], Sequence[str]]]
) -> dict[str, Any]:
    """Write `table.md` and `table.json` of the runs that are there.

    Args:
        out: Folder of the benchmark.
        benches: Dataset of a seed, and recipes, of each benchmark.
    """
    table: dict[str, Any] = {}
    lines: list[str] = []
    for bench, (dataset_of, recipes) in benches.items():
        patients: dict[str, dict[str, str]] = {}
        scores: dict[str, dict[str, Estimate]] = {}
        seeds: dict[str, int] = {}
        for recipe in recipes:
            reports = sorted((out / "runs" / bench).glob(f"{recipe}-*/report/predictions.parquet"))
            runs = []
            for report in reports:
                dataset = dataset_of(int(report.parts[-3].rpartition("-")[2]))
                if dataset not in patients:
                    patients[dataset] = _patients(out / "data" / dataset)
                runs.append(_scores(bench, report, patients[dataset]))
            if runs:
                scores[recipe], seeds[recipe] = _mean_of_seeds(runs), len(runs)
        if scores:
            table[bench] = {
                recipe: _row(values, scores.get(REFERENCE), seeds[recipe])
                for recipe, values in scores.items()
            }
            lines += _markdown(bench, table[bench])
    (out / "table.json").write_text(json.dumps(table, indent=1))
    (out / "table.md").write_text("\n".join(lines))
    return table


def paired_auc(
    data: Path, reports: Mapping[str, Sequence[Path]], *, reference: str
) -> dict[str, Any]:
    """Macro AUC of several models with the seeds of each, and how far the reference is ahead."""
    patients = _patients(data)
    scores = {
        name: _mean_of_seeds([_scores("", r / "predictions.parquet", patients) for r in folders])
        for name, folders in reports.items()
    }
    return {
        name: {**_row(values, scores[reference], len(reports[name])),
               "each seed": [_scores("", r / "predictions.parquet", patients)["AUC"].value
                             for r in reports[name]]}
        for name, values in scores.items()
    }  # fmt: skip


def _patients(dataset: Path) -> dict[str, str]:
    return {sample.key: sample.patient for sample in Dataset.open(dataset).samples}


def _scores(bench: str, predictions: Path, patients: Mapping[str, str]) -> dict[str, Estimate]:
    """What one run is judged by, each with its draws."""
    frame = pd.read_parquet(predictions)
    frame["patient"] = frame.key.str.split("@").str[0].map(patients)
    # The same patients in the same order for every run of a benchmark: the same draws.
    everybody = sorted(frame.patient.unique())
    if bench == "surgery":
        parts = {"phase F1": _phase_f1(frame, everybody)}
    elif bench == "phantom":
        parts = {
            "AUC": _macro_auc(frame[frame.task == "zero_shot"], everybody),
            "pointing": _mean(frame[frame.task == "grounding"], everybody, lambda f: f.score),
            "recall": _mean(
                frame[frame.task == "retrieval"], everybody,
                lambda f: np.mean([f.score <= k for k in (1, 5, 10)], axis=0),
            ),
        }  # fmt: skip
    else:
        parts = {"AUC": _macro_auc(frame, everybody)}
    if len(parts) > 1:
        parts["mean"] = Estimate(
            float(np.mean([part.value for part in parts.values()])),
            np.mean([part.draws for part in parts.values()], axis=0),
        )
    return parts


def _weights(rows: Sequence[str], everybody: Sequence[str]) -> npt.NDArray[np.int32]:
    """How often each row counts in each resample of everybody, [n, r]."""
    drawn = resample(everybody, n=RESAMPLES, seed=0)
    place = {patient: index for index, patient in enumerate(everybody)}
    return np.asarray(drawn.weights[[place[patient] for patient in rows]])


def _macro_auc(frame: pd.DataFrame, everybody: Sequence[str]) -> Estimate:
    parts = []
    for _, label in frame.groupby("label"):
        known = label[label.truth.notna()]
        truth = known.truth.to_numpy() > 0.5
        if truth.all() or not truth.any():
            continue
        scores = known.score.to_numpy()
        weights = _weights(known.patient.tolist(), everybody)
        parts.append(Estimate(auc(scores, truth), weighted_auc(scores, truth, weights)))
    return macro_estimate(parts)


def _mean(
    frame: pd.DataFrame, everybody: Sequence[str], value: Callable[[pd.DataFrame], Any]
) -> Estimate:
    drawn = resample(everybody, n=RESAMPLES, seed=0)
    place = {patient: index for index, patient in enumerate(everybody)}
    rows = np.array([place[patient] for patient in frame.patient])
    return mean_estimate(np.asarray(value(frame), dtype=np.float64), drawn.take(rows))


def _phase_f1(frame: pd.DataFrame, everybody: Sequence[str]) -> Estimate:
    """Macro F1 of each lecture over its phases, then the mean over lectures."""
    values, owners = [], []
    for patient, lecture in frame.groupby("patient"):
        scores = lecture.pivot(index="key", columns="label", values="score")
        truth = lecture.pivot(index="key", columns="label", values="truth")
        judged = truth.sum(axis=1) == 1
        said = scores[judged].to_numpy().argmax(1)
        values.append(macro_f1(truth[judged].to_numpy().argmax(1), said))
        owners.append(str(patient))
    place = {patient: index for index, patient in enumerate(everybody)}
    drawn = resample(everybody, n=RESAMPLES, seed=0)
    rows = np.array([place[patient] for patient in owners])
    return mean_estimate(np.array(values), drawn.take(rows))


def _mean_of_seeds(runs: Sequence[Mapping[str, Estimate]]) -> dict[str, Estimate]:
    """The mean over seeds; each resample draws its seeds too, by number, so that recipes pair."""
    chosen = np.random.default_rng(1).integers(0, len(runs), (RESAMPLES, len(runs)))
    joined = {}
    for name in runs[0]:
        draws = np.stack([run[name].draws for run in runs])  # [seeds, r]
        picked = np.take_along_axis(draws, chosen.T, axis=0)
        joined[name] = Estimate(float(np.mean([run[name].value for run in runs])), picked.mean(0))
    return joined


def _row(
    values: Mapping[str, Estimate], reference: Mapping[str, Estimate] | None, seeds: int
) -> dict[str, Any]:
    row: dict[str, Any] = {"seeds": seeds}
    for name, estimate in values.items():
        row[name] = {"value": estimate.value, "interval": percentile_interval(estimate.draws)}
    last = list(values)[-1]
    if reference is not None and reference is not values:
        ahead = reference[last].minus(values[last])
        row[f"{REFERENCE} ahead"] = {"value": ahead.value, "interval": ahead.interval}
    return row


def _markdown(bench: str, rows: Mapping[str, Mapping[str, Any]]) -> list[str]:
    names = list(dict.fromkeys(name for row in rows.values() for name in row if name != "seeds"))
    last = [name for name in names if not name.endswith("ahead")][-1]
    ranked = sorted(rows, key=lambda recipe: -rows[recipe][last]["value"])
    lines = [f"### {bench}", "", f"| recipe | seeds | {' | '.join(names)} |",
             f"|---|---|{'---|' * len(names)}"]  # fmt: skip
    for recipe in ranked:
        cells = []
        for name in names:
            cell = rows[recipe].get(name)
            cells.append(
                f"{cell['value']:.3f} ({cell['interval'][0]:.3f} to {cell['interval'][1]:.3f})"
                if cell else ""
            )  # fmt: skip
        lines.append(f"| {recipe} | {rows[recipe]['seeds']} | {' | '.join(cells)} |")
    return [*lines, ""]
