"""The report: one self-contained page for people who must judge the numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from downstream import figures
from downstream.grounding import GroundingView, Picture
from downstream.outcome import Outcome, Result
from downstream.phase import PhaseView
from downstream.phase_results import LectureView
from downstream.prompting import concept_name
from downstream.retrieval import DIRECTIONS, RetrievalView
from downstream.zero_shot import LabelView, ZeroShotView

NAMES = {
    "macro_auc": "macro AUC",
    "macro_average_precision": "macro average precision",
    "accuracy": "accuracy",
    "accuracy_pooled": "accuracy, videos pooled",
    "f1_video": "F1 per video",
    "pointing": "pointing game",
    "image_to_text_r_at_1": "visual to text, R@1",
}
KINDS = {
    "zero_shot": "Zero-shot classification",
    "retrieval": "Retrieval",
    "phase": "Phase recognition",
    "grounding": "Grounding",
}
_LECTURES = 12
_TEXT = 180


@dataclass(frozen=True, slots=True)
class Header:
    """What the whole report is about."""

    model_digest: str
    dataset_digest: str
    split: str
    seed: int
    bootstrap: int
    code_version: str
    seconds: float


def render_report(
    header: Header, outcomes: Sequence[Outcome], skipped: Sequence[dict[str, str]]
) -> str:
    """The page as HTML: styles and figures inside, no link to anywhere.

    Args:
        header: Model, dataset, split.
        outcomes: What the tasks produced, in order.
        skipped: Tasks without data: `task`, `kind`, `reason`.
    """
    environment = Environment(
        loader=PackageLoader("downstream", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        num=_number, pct=_percent, interval=_interval, short=short_key, beside=_beside
    )
    template = environment.get_template("report.html.j2")
    return template.render(
        header=header,
        headline=[_headline_row(outcome) for outcome in outcomes],
        sections=[_section(outcome) for outcome in outcomes],
        skipped=skipped,
        kinds=KINDS,
    )


def short_key(key: str) -> str:
    """A pseudonym, shortened: enough to find the case in the predictions."""
    return key[:10]


def _headline_row(outcome: Outcome) -> dict[str, Any]:
    result = outcome.results[0]
    rest = {
        name: value
        for name, value in result["baselines"].items()
        if name not in ("chance", "untrained")
    }
    return {
        "task": outcome.task,
        "kind": KINDS[outcome.kind],
        "metric": metric_name(result["metric"]),
        "result": result,
        "chance": result["baselines"].get("chance"),
        "untrained": result["baselines"].get("untrained"),
        "rest": {name.replace("_", " "): value for name, value in rest.items()},
        "groups": "patients" if outcome.kind != "phase" else "patients (lectures)",
    }


def metric_name(metric: str) -> str:
    """A metric in words."""
    if metric in NAMES:
        return NAMES[metric]
    return metric.replace("_r_at_", ", R@").replace("image", "visual").replace("_", " ")


def _section(outcome: Outcome) -> dict[str, Any]:
    section: dict[str, Any] = {
        "task": outcome.task,
        "kind": outcome.kind,
        "notes": outcome.notes,
        "results": outcome.results,
        "cards": _cards(outcome.results),
    }
    match outcome.view:
        case ZeroShotView():
            section.update(_zero_shot(outcome.view))
        case RetrievalView():
            section.update(_retrieval(outcome.view, outcome.results))
        case PhaseView():
            section.update(_phase(outcome.view, outcome.results))
        case GroundingView():
            section.update(_grounding(outcome.view))
    return section


def _cards(results: Sequence[Result]) -> list[dict[str, Any]]:
    """One card for every definition: metrics of single labels share their metric's card."""
    seen: dict[str, dict[str, Any]] = {}
    for result in results:
        family = result["metric"].partition("/")[0]
        if family not in seen:
            seen[family] = {
                "metric": metric_name(family),
                "fields": {
                    name.replace("_", " "): ", ".join(value) if isinstance(value, list) else value
                    for name, value in result["card"].items()
                    if value not in (None, [], ())
                },
            }
    return list(seen.values())


def _zero_shot(view: ZeroShotView) -> dict[str, Any]:
    names = [concept_name(label.label) for label in view.labels]
    ranked = sorted(
        zip(names, view.labels, strict=True), key=lambda pair: -(pair[1].auc["value"] or 0)
    )
    return {
        "mode": view.mode,
        "labels": [_label_row(name, label) for name, label in ranked],
        "roc": figures.roc_figure([label for _, label in ranked], [name for name, _ in ranked]),
        "intervals": figures.interval_figure([(n, v.auc) for n, v in ranked], chance=0.5),
        "reliability": figures.reliability_figure(*view.reliability),
        "calibration_error": view.calibration_error,
        "spread": view.template_spread,
        "confusion": None
        if view.confusion is None
        else figures.confusion_figure(view.confusion, names),
        "prompts": [
            (name, row.positive, row.negative)
            for name, row in zip(names, view.prompts.prompts, strict=True)
        ],
    }


def _label_row(name: str, label: LabelView) -> dict[str, Any]:
    return {
        "name": name,
        "positives": label.positives,
        "n": label.n,
        "auc": label.auc,
        "average_precision": label.average_precision,
        "operating": label.operating,
        "oracle": label.oracle,
    }


def _retrieval(view: RetrievalView, results: Sequence[Result]) -> dict[str, Any]:
    return {
        "items": view.items,
        "distinct": view.distinct,
        "directions": [
            {
                "name": direction.replace("_", " ").replace("image", "visual"),
                "rows": [
                    (_within(direction, r["metric"]), r)
                    for r in results
                    if r["metric"].startswith(direction)
                ],
            }
            for direction in DIRECTIONS
        ],
        "examples": [
            {
                "key": example.sample.key,
                "kind": example.sample.kind,
                "own": clip_text(example.own),
                "rank": example.rank,
                "found": [(clip_text(text), score, hit) for text, score, hit in example.found],
            }
            for example in view.examples
        ],
    }


def _within(direction: str, metric: str) -> str:
    return metric_name(metric.removeprefix(f"{direction}_")).replace("r at ", "R@")


def clip_text(text: str) -> str:
    """The beginning of a text, on one line."""
    line = " ".join(text.split())
    return line if len(line) <= _TEXT else line[: _TEXT - 3].rsplit(" ", 1)[0] + " ..."


def _phase(view: PhaseView, results: Sequence[Result]) -> dict[str, Any]:
    names = list(view.prompts.names)
    return {
        "metrics": [(metric_name(r["metric"]), r) for r in results if "/" not in r["metric"]],
        "per_phase": [(name, result) for name, result in zip(names, view.per_phase, strict=True)],
        "legend": figures.legend_figure(names),
        "ribbons": [_ribbon(lecture, names) for lecture in view.lectures[:_LECTURES]],
        "more": max(0, len(view.lectures) - _LECTURES),
        "confusion": figures.confusion_figure(view.confusion, names),
        "prompts": list(zip(names, view.prompts.texts, strict=True)),
    }


def _ribbon(lecture: LectureView, names: Sequence[str]) -> dict[str, Any]:
    truth, predicted = lecture.judged
    return {
        "key": lecture.key,
        "accuracy": float((truth == predicted).mean()),
        "instants": len(truth),
        "image": figures.ribbon_figure(lecture, names),
    }


def _grounding(view: GroundingView) -> dict[str, Any]:
    rows = [(concept_name(r["metric"].partition("/")[2]), r) for r in view.per_concept]
    baselines = [name for name in view.overall["baselines"]]
    return {
        "overall": view.overall,
        "baselines": baselines,
        "per_concept": rows,
        "intervals": figures.interval_figure([("all findings", view.overall), *rows], chance=None),
        "pictures": [_picture(picture) for picture in view.pictures],
    }


def _picture(picture: Picture) -> dict[str, Any]:
    return {
        "key": picture.key,
        "concept": concept_name(picture.concept),
        "hit": picture.hit,
        "slice": picture.slice if len(picture.slice_weights) > 1 else None,
        "slices": len(picture.slice_weights),
        "on_slice": bool(picture.mask.any()),
        "image": figures.heat_figure(picture),
    }


def _number(value: float | None, digits: int = 3) -> str:
    if value is None or value != value:
        return "n/a"
    return f"{value:.{digits}f}"


def _percent(value: float | None) -> str:
    return "0" if value is None else f"{100 * min(max(value, 0.0), 1.0):.2f}"


def _interval(result: dict[str, Any], digits: int = 3) -> str:
    if result["low"] is None or result["high"] is None:
        return "no interval"
    return f"{result['low']:.{digits}f} to {result['high']:.{digits}f}"


def _beside(value: dict[str, Any] | None, digits: int = 3) -> str:
    """A baseline, with its interval where it has one."""
    if value is None or value["value"] is None:
        return "n/a"
    text = _number(value["value"], digits)
    return text if value["low"] is None else f"{text} ({_interval(value, digits)})"
