"""Figures of the report: charts as SVG, pictures as PNG, both as data URIs."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from downstream.grounding import Picture
from downstream.phase_results import LectureView
from downstream.zero_shot import LabelView

Floats = npt.NDArray[np.float64]

# Okabe-Ito, without yellow (too pale on white), then darker tints: told apart by colour-blind eyes.
COLOURS = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#5B4B8A", "#8A8D91",
    "#7A5230", "#1B7837", "#A6761D", "#386CB0", "#B2182B", "#4D4D4D",
)  # fmt: skip
INK, GRID, MUTED = "#1d2733", "#e3e8ee", "#c9d1da"
_STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.edgecolor": "#9aa5b1",
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": INK,
    "xtick.color": "#52606d",
    "ytick.color": "#52606d",
    "svg.fonttype": "path",
    "svg.hashsalt": "medvlp",
}


def colour(index: int) -> str:
    """The colour of the index-th class, the same in every figure."""
    return COLOURS[index % len(COLOURS)]


def roc_figure(labels: Sequence[LabelView], names: Sequence[str]) -> str:
    """ROC curves of all labels."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(5.9, 3.55), layout="constrained")
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], color=MUTED, lw=1, ls="--", label="chance")
        for index, (label, name) in enumerate(zip(labels, names, strict=True)):
            if label.auc["value"] is not None:
                style = "-" if index < 8 else "-."
                axes.plot(*label.roc, color=colour(index), lw=1.6, ls=style,
                          label=f"{name}  {label.auc['value']:.2f}")  # fmt: skip
        axes.set(
            xlabel="1 - specificity", ylabel="sensitivity", xlim=(-0.01, 1.01), ylim=(-0.01, 1.01)
        )
        axes.set_aspect("equal")
        axes.grid(color=GRID)
        figure.legend(
            frameon=False, fontsize=7.5, loc="outside right center", title="AUC", alignment="left"
        )
        return svg(figure)


def interval_figure(rows: Sequence[tuple[str, dict[str, Any]]], chance: float | None) -> str:
    """Values with intervals, one row a label, the untrained model beside each."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(5.0, 0.9 + 0.32 * len(rows)), layout="constrained")
        axes = figure.subplots()
        for index, (_, result) in enumerate(reversed(rows)):
            rival = result["baselines"].get("untrained")
            if rival and rival["value"] is not None:
                _bar(axes, index - 0.18, rival, "#9aa5b1", "untrained" if index == 0 else None, "s")
            _bar(axes, index + 0.08, result, COLOURS[0], "model" if index == 0 else None, "o")
        if chance is not None:
            axes.axvline(chance, color=COLOURS[1], lw=1, ls="--", label="chance")
        axes.set_yticks(range(len(rows)), [name for name, _ in reversed(rows)])
        axes.set_xlim(-0.02, 1.02)
        axes.set_ylim(-0.6, len(rows) - 0.4)
        axes.grid(axis="x", color=GRID)
        axes.tick_params(axis="y", length=0)
        figure.legend(frameon=False, fontsize=7.5, ncols=3, loc="outside lower center")
        return svg(figure)


def _bar(
    axes: Axes, y: float, result: dict[str, Any], ink: str, label: str | None, marker: str
) -> None:
    if result["value"] is None:
        return
    if result["low"] is not None:
        axes.plot([result["low"], result["high"]], [y, y], color=ink, lw=2, solid_capstyle="round")
    axes.plot([result["value"]], [y], marker, color=ink, ms=5, label=label)


def reliability_figure(mean: Floats, rate: Floats, count: npt.NDArray[np.int64]) -> str:
    """Observed rate against the model's probability, and how many fall in each bin."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(6.4, 2.7), layout="constrained")
        left, right = figure.subplots(1, 2)
        used = count > 0
        left.plot([0, 1], [0, 1], color=MUTED, lw=1, ls="--")
        left.plot(mean[used], rate[used], "o-", color=COLOURS[0], lw=1.4, ms=4)
        left.set(ylabel="observed rate", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
        left.grid(color=GRID)
        edges = np.linspace(0, 1, len(count) + 1)
        right.bar(
            edges[:-1], count, width=np.diff(edges), align="edge", color="#bcd0e5", edgecolor="w"
        )
        right.set(ylabel="count", xlim=(-0.02, 1.02))
        figure.supxlabel("probability by the model's softmax", fontsize=9)
        return svg(figure)


def confusion_figure(table: npt.NDArray[np.int64], names: Sequence[str]) -> str:
    """Confusion matrix, shares of each true class, counts printed."""
    shares = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    size = 1.9 + 0.42 * len(names)
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(size + 0.9, size), layout="constrained")
        axes = figure.subplots()
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        for (row, column), share in np.ndenumerate(shares):
            if table[row, column]:
                axes.text(column, row, str(table[row, column]), ha="center", va="center",
                          fontsize=7, color="white" if share > 0.55 else INK)  # fmt: skip
        axes.set_xticks(range(len(names)), names, rotation=40, ha="right")
        axes.set_yticks(range(len(names)), names)
        axes.set(xlabel="predicted", ylabel="true")
        axes.tick_params(length=0)
        for side in axes.spines.values():
            side.set_visible(False)
        return svg(figure)


def ribbon_figure(lecture: LectureView, names: Sequence[str]) -> str:
    """Truth above prediction over time; white where nothing is judged."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(10, 1.25), layout="constrained")
        axes = figure.subplots()
        step = float(np.median(np.diff(lecture.times))) if len(lecture.times) > 1 else 1.0
        for y, classes in ((1.08, lecture.truth), (0.0, lecture.predicted)):
            for index in range(len(names)):
                runs = _runs(classes == index, lecture.times, step)
                axes.broken_barh(runs, (y, 1.0), facecolors=colour(index), linewidth=0)
        axes.set_yticks([1.58, 0.5], ["truth", "predicted"])
        axes.set_xlim(float(lecture.times[0]), float(lecture.times[-1]) + step)
        axes.set_ylim(0, 2.08)
        axes.set_xlabel("seconds")
        axes.tick_params(axis="y", length=0)
        for side in ("left", "bottom"):
            axes.spines[side].set_visible(False)
        return svg(figure)


def _runs(inside: npt.NDArray[np.bool_], times: Floats, step: float) -> list[tuple[float, float]]:
    """(start, length) of each stretch of consecutive instants."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], inside.astype(np.int8), [0]])))
    return [
        (float(times[first]), float(times[last - 1] - times[first]) + step)
        for first, last in zip(edges[::2], edges[1::2], strict=True)
    ]


def legend_figure(names: Sequence[str]) -> str:
    """Which colour is which phase."""
    with matplotlib.rc_context(_STYLE):
        columns = min(4, len(names))
        figure = Figure(figsize=(10, 0.28 * -(-len(names) // columns) + 0.1))
        handles = [Patch(facecolor=colour(i), label=name) for i, name in enumerate(names)]
        figure.legend(handles=handles, ncols=columns, frameon=False, loc="center", fontsize=9)
        return svg(figure)


def heat_figure(picture: Picture) -> str:
    """The stored pixels, and the same under the heat map with truth contour and pointed pixel."""
    with matplotlib.rc_context(_STYLE):
        grey = display(picture)
        volume = len(picture.slice_weights) > 1
        high = min(3.2 * grey.shape[0] / grey.shape[1], 4.2)
        figure = Figure(figsize=(6.4, high + 1.25 * volume), layout="constrained")
        ratios = (high, 1.1) if volume else None
        spec = figure.add_gridspec(2 if volume else 1, 2, height_ratios=ratios)
        plain, hot = figure.add_subplot(spec[0, 0]), figure.add_subplot(spec[0, 1])
        for axes in (plain, hot):
            axes.imshow(grey, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            axes.set(xticks=[], yticks=[])
            for side in axes.spines.values():
                side.set(visible=True, color=MUTED)
        hot.imshow(picture.heat, cmap="inferno", alpha=0.45)
        for axes in (plain, hot):
            if picture.mask.any():
                axes.contour(picture.mask, levels=[0.5], colors=["#19e36f"], linewidths=1.2)
        y, x = picture.pixel
        hot.plot([x], [y], "+", color="white", ms=13, mew=3.2)
        hot.plot([x], [y], "+", color="#0b63ce" if picture.hit > 0 else "#d4145a", ms=12, mew=1.6)
        if volume:
            _slice_curve(figure.add_subplot(spec[1, :]), picture)
        return png(figure)


def _slice_curve(axes: Axes, picture: Picture) -> None:
    slices = np.arange(1, len(picture.slice_weights) + 1)
    for start, length in _runs(picture.lesion_slices, slices.astype(np.float64), 1.0):
        axes.axvspan(start - 0.5, start + length - 0.5, color="#19e36f", alpha=0.25, lw=0)
    axes.plot(slices, picture.slice_weights, color=COLOURS[0], lw=1.4)
    axes.axvline(picture.slice + 1, color="#d4145a", lw=1, ls="--")
    axes.set(xlabel="slice (foot to head)", ylabel="weight", xlim=(0.5, len(slices) + 0.5))
    axes.set_ylim(bottom=0)


def display(picture: Picture) -> Floats:
    """The stored frame as grey or colour in [0, 1]: header window, lung window, or percentiles."""
    visual = picture.visual
    frame = visual.frames[0].astype(np.float64)
    if frame.ndim == 3:
        return np.asarray(frame / 255)
    if visual.unit == "HU":
        low, high = -1350.0, 150.0
    elif visual.window is not None and visual.window[1] > 0:
        low = visual.window[0] - visual.window[1] / 2
        high = visual.window[0] + visual.window[1] / 2
    else:
        low, high = (float(v) for v in np.percentile(frame, (0.5, 99.5)))
    shown: Floats = np.clip((frame - low) / max(high - low, 1e-9), 0, 1)
    return shown


def svg(figure: Figure) -> str:
    """The figure as a data URI, vector graphics."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def png(figure: Figure) -> str:
    """The figure as a data URI, pixels."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
