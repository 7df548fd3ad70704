"""Where a label is seen, as a picture for a person: the image, and the same under its heat."""

from __future__ import annotations

from pathlib import Path
from typing import Final, NamedTuple

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from medvlp.types import Geometry, Visual

Floats = npt.NDArray[np.float64]

CONTOUR: Final = 0.5
"""Of the heat's way from its median to its peak: what the line encloses."""
_INK, _PAPER, _LINE = "#e8edf2", "#10151b", "#35e07a"
_LUNG_WINDOW: Final = (-600.0, 1500.0)
_WIDTH_IN: Final = 9.0


class _Plane(NamedTuple):
    """One cut, ready to show."""

    name: str
    grey: npt.NDArray[np.float64]
    """[h, w] or [h, w, 3], in [0, 1]."""
    heat: npt.NDArray[np.float64]
    """[h, w], in [0, 1]."""
    height: float
    """Of the picture, relative to its width."""


def save_overlay(
    path: Path, visual: Visual, geometry: Geometry, heat: np.ndarray, *, title: str
) -> None:
    """Write one picture: an image or frame beside its heat, or three cuts through a volume.

    Args:
        path: A `.png`.
        visual: What the model saw.
        geometry: Of it; for the proportions of cuts.
        heat: Relative heat [n, h, w] in [0, 1].
        title: Label and probability.
    """
    planes = _planes(visual, geometry, heat)
    with matplotlib.rc_context({"font.family": "DejaVu Sans", "font.size": 10}):
        figure = _figure(planes, title)
        figure.savefig(path, format="png", dpi=110, facecolor=_PAPER, metadata={"Software": None})


def _figure(planes: list[_Plane], title: str) -> Figure:
    """Columns: one a plane; rows: without and with heat; one plane alone lies side by side."""
    alone = len(planes) == 1
    columns = 2 if alone else len(planes)
    wide = _WIDTH_IN / columns
    high = max(plane.height for plane in planes) * wide
    rows = 1 if alone else 2
    figure = Figure(figsize=(_WIDTH_IN + 0.8, rows * high + 0.75), layout="constrained")
    grid = np.atleast_2d(figure.subplots(rows, columns, squeeze=False))
    for index, plane in enumerate(planes):
        plain, hot = (grid[0, 0], grid[0, 1]) if alone else (grid[0, index], grid[1, index])
        for axes in (plain, hot):
            _show(axes, plane)
        plain.set_title(plane.name, color=_INK, fontsize=9)
        _burn(hot, plane)
    bar = figure.colorbar(
        ScalarMappable(Normalize(0, 1), "inferno"), ax=grid.ravel().tolist(), shrink=0.75,
        pad=0.015, aspect=28,
    )  # fmt: skip
    bar.set_label("heat: median to peak of this case", color=_INK, fontsize=8)
    bar.ax.tick_params(colors=_INK, labelsize=8)
    bar.outline.set_edgecolor(_INK)
    figure.suptitle(title, color=_INK, fontsize=13, x=0.012, ha="left")
    return figure


def _show(axes: Axes, plane: _Plane) -> None:
    axes.imshow(plane.grey, cmap="gray", vmin=0, vmax=1, interpolation="bilinear", aspect="auto")
    axes.set_box_aspect(plane.height)
    axes.set(xticks=[], yticks=[])
    for side in axes.spines.values():
        side.set_visible(False)


def _burn(axes: Axes, plane: _Plane) -> None:
    """Heat that hides nothing where it is cold, with a line around what is warm."""
    alpha = np.clip(plane.heat * 1.1, 0, 0.6)
    axes.imshow(plane.heat, cmap="inferno", vmin=0, vmax=1, alpha=alpha, aspect="auto")
    if plane.heat.max() > CONTOUR:
        axes.contour(plane.heat, levels=[CONTOUR], colors=[_LINE], linewidths=1.3)
    else:
        axes.text(0.02, 0.02, "nothing warm in this cut", transform=axes.transAxes, color=_INK,
                  fontsize=8)  # fmt: skip


def _planes(visual: Visual, geometry: Geometry, heat: np.ndarray) -> list[_Plane]:
    """The cuts through the peak."""
    n, y, x = (int(i) for i in np.unravel_index(int(heat.argmax()), heat.shape))
    shown = _window(visual, visual.frames[n])
    if visual.kind != "volume" or len(heat) < 4:
        name = "" if len(heat) == 1 else f"frame {n + 1} of {len(heat)}"
        rows, columns = heat.shape[1:]
        down, across = _spacing(geometry)[-2:]
        return [_Plane(name, shown, heat[n], rows * down / (columns * across))]
    depth, down, across = _spacing(geometry)
    d, h, w = heat.shape
    coronal, sagittal = visual.frames[::-1, y], visual.frames[::-1, :, x]
    wide, high, tall = w * across, h * down, d * depth
    # Head up, as cuts are read; the stored axes already run to the back and the patient's left.
    return [
        _Plane(f"axial {n + 1} of {d}", shown, heat[n], high / wide),
        _Plane("coronal", _window(visual, coronal), heat[::-1, y], tall / wide),
        _Plane("sagittal", _window(visual, sagittal), heat[::-1, :, x], tall / high),
    ]


def _spacing(geometry: Geometry) -> tuple[float, float, float]:
    found = geometry.spacing_mm or (1.0, 1.0)
    return (1.0, *found)[-3:]  # type: ignore[return-value]


def _window(visual: Visual, pixels: np.ndarray) -> Floats:
    """Pixels as grey or colour in [0, 1]: header window, lung window for a CT, or percentiles."""
    values = np.asarray(pixels, np.float64)
    if visual.frames.ndim == 4:
        return values / 255
    window = visual.window if visual.window and visual.window[1] > 0 else None
    if window is None and visual.unit == "HU":
        window = _LUNG_WINDOW
    if window is None:
        low, high = (float(v) for v in np.percentile(visual.frames, (0.5, 99.5)))
    else:
        low, high = window[0] - window[1] / 2, window[0] + window[1] / 2
    shown: Floats = np.clip((values - low) / max(high - low, 1e-9), 0, 1)
    return shown
