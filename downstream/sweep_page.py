"""The page of a sweep: every headline metric against alpha, with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib
from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from downstream.figures import COLOURS, GRID, INK, svg
from downstream.report import metric_name

_STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.fonttype": "path",
    "svg.hashsalt": "medvlp",
}
_COLUMNS = 3


def render_sweep(record: dict[str, Any]) -> str:
    """The page as HTML: styles and figure inside, no link to anywhere.

    Args:
        record: As in `sweep.json`.
    """
    environment = Environment(
        loader=PackageLoader("downstream", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    names = list(record["alphas"][0]["results"])
    return environment.get_template("sweep.html.j2").render(
        record=record,
        names=names,
        titles={name: title(name) for name in names},
        figure=sweep_figure(record["alphas"], names, record["chosen"]),
    )


def title(name: str) -> str:
    """`task/metric` in words."""
    task, _, metric = name.partition("/")
    return f"{task}: {metric_name(metric)}"


def sweep_figure(rows: Sequence[dict[str, Any]], names: Sequence[str], chosen: float | None) -> str:
    """One panel a metric; bars are 95 % intervals, the large point is the chosen alpha."""
    columns = min(_COLUMNS, max(1, len(names)))
    lines = -(-max(1, len(names)) // columns)
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(3.4 * columns, 2.5 * lines), layout="constrained")
        axes = figure.subplots(lines, columns, squeeze=False).flatten()
        for panel, name in zip(axes[: len(names)], names, strict=True):
            _curve(panel, rows, name, chosen)
        for panel in axes[len(names) :]:
            panel.set_visible(False)
        return svg(figure)


def _curve(axes: Axes, rows: Sequence[dict[str, Any]], name: str, chosen: float | None) -> None:
    points = [(row["alpha"], row["results"].get(name)) for row in rows]
    known = [(alpha, result) for alpha, result in points if result and result["value"] is not None]
    axes.plot(
        [alpha for alpha, _ in known],
        [result["value"] for _, result in known],
        "o-", color=COLOURS[0], lw=1.4, ms=4,
    )  # fmt: skip
    for alpha, result in known:
        if result["low"] is not None and result["high"] is not None:
            axes.plot([alpha, alpha], [result["low"], result["high"]], color=COLOURS[0], lw=1)
        if alpha == chosen:
            axes.plot([alpha], [result["value"]], "o", color=COLOURS[1], ms=8)
    axes.set(title=title(name), xlabel="alpha (0: base, 1: fine-tuned)", xlim=(-0.05, 1.05))
    axes.title.set_fontsize(9)
    axes.grid(axis="y", color=GRID)
