"""What is wrong with a stack of planes, said with the numbers of its slices. Pure numpy.

A slice's number is its place along the normal, from 1; its position is in millimetres along it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from data_connectors.dicom.header import Plane
from medvlp.errors import GeometryError

ORIENTATION_TOLERANCE = 1e-3
"""How far direction cosines of parallel slices may differ."""
SPACING_TOLERANCE = 1e-3
"""How far pixel spacings of one grid may differ, as a share."""
NEXT = "look at the series in a viewer, or export it again from the archive"
_MOST_NAMED = 10


def check_same_orientation(planes: Sequence[Plane], first: Plane, labels: Sequence[str]) -> None:
    """Refuse planes that are not parallel to the first, or have other pixels."""
    reference = np.array([*first.along_row, *first.along_column])
    cosines = np.array([[*plane.along_row, *plane.along_column] for plane in planes])
    spacing = np.array([plane.spacing for plane in planes])
    for what, code, other in (
        ("orientations", "series-mixed-orientation",
         np.abs(cosines - reference).max(axis=1) > ORIENTATION_TOLERANCE),
        ("pixel spacings", "series-mixed-spacing",
         np.abs(spacing / np.array(first.spacing) - 1).max(axis=1) > SPACING_TOLERANCE),
    ):  # fmt: skip
        if other.any():
            few = other if 2 * other.sum() <= len(planes) else ~other
            odd = np.flatnonzero(few).tolist()
            raise GeometryError(
                f"slices have several {what}", code=code,
                got=f"{len(odd)} of {len(planes)} differ from the rest{called(odd, labels)}",
                next_step=NEXT,
            )  # fmt: skip


def check_apart(along: np.ndarray, names: Sequence[str]) -> None:
    """Refuse slices that share a place along the normal (`along` ascends)."""
    spread = float(along[-1] - along[0])
    if spread < 1e-3:
        raise GeometryError(
            "all slices lie at one position",
            code="series-not-a-volume",
            got=f"{len(along)} slices{called(range(len(along)), names)}",
            next_step="if it is a time series, export it as multi-frame",
        )
    same = np.flatnonzero(np.diff(along) < min(1e-2, 1e-2 * spread / len(along)))
    if len(same):
        raise GeometryError(
            "several slices lie at the same position",
            code="series-duplicate-position",
            got=_places(same, along, names),
            next_step="split the series by acquisition, echo or time",
        )


def check_spacing(along: np.ndarray, tolerance_mm: float, names: Sequence[str]) -> None:
    """Refuse gaps and uneven steps between sorted positions along the normal."""
    steps = np.diff(along)
    median = float(np.median(steps))
    limit = _limit(tolerance_mm, median)
    _, fitted = fit_line(along[:, None])
    if np.abs(along - fitted[:, 0]).max() <= limit:
        return
    odd = np.flatnonzero(np.abs(steps - median) > limit)
    ratio = steps[odd] / median
    missing = (ratio > 1.5) & (np.abs(ratio - np.round(ratio)) < 0.1)
    if len(odd) and missing.all():
        raise GeometryError(
            f"slices are missing: {int((np.round(ratio) - 1).sum())} at {median:.2f} mm",
            code="series-gap",
            got=_places(odd, along, names),
            next_step="fetch the whole series from the archive, or set irregular: keep",
        )
    raise GeometryError(
        f"slices are {steps.min():.2f} to {steps.max():.2f} mm apart, most {median:.2f} mm",
        code="series-variable-spacing",
        got=_places(odd, along, names),
        limit=f"{limit:.2f} mm off a regular grid",
        next_step="look at the series in a viewer, or set irregular: keep",
    )


def _limit(tolerance_mm: float, spacing_mm: float) -> float:
    """How far a slice may be off; small enough that three slices with a gap never pass."""
    return min(tolerance_mm, spacing_mm / 8)


def fit_line(origins: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Least-squares step [c] and fitted values [n, c] of sorted, evenly numbered planes."""
    index = np.arange(len(origins)) - (len(origins) - 1) / 2
    step = index @ origins / (index @ index)
    return step, origins.mean(axis=0) + index[:, None] * step


def fit_ragged(origins: np.ndarray, along: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The line on which unevenly spaced planes lie: median step, fitted origins, positions."""
    centred = along - along.mean()
    direction = centred @ origins / (centred @ centred)  # millimetres per millimetre of normal
    fitted = origins.mean(axis=0) + centred[:, None] * direction
    positions = (along - along[0]) * np.linalg.norm(direction)
    return direction * np.median(np.diff(along)), fitted, positions


def check_on_line(
    residual: np.ndarray, step: np.ndarray, tolerance_mm: float, names: Sequence[str]
) -> None:
    """Refuse origins [n, 3] that lie off the line they should be on."""
    limit = _limit(tolerance_mm, float(np.linalg.norm(step)))
    distance = np.linalg.norm(residual, axis=1)
    far = np.flatnonzero(distance > limit)
    if len(far):
        numbers = ", ".join(str(index + 1) for index in far[:_MOST_NAMED])
        more = ", ..." if len(far) > _MOST_NAMED else ""
        raise GeometryError(
            "slices are shifted against each other",
            code="series-irregular-position",
            got=f"up to {distance.max():.2f} mm, slices {numbers}{more} of {len(residual)}"
            + called(far, names),
            limit=f"{limit:.2f} mm",
            next_step=NEXT,
        )


def _places(steps: np.ndarray, along: np.ndarray, names: Sequence[str]) -> str:
    """Name steps by slice number (1 = lowest along the normal), position and label."""
    named = [
        f"{index + 1} and {index + 2} ({along[index]:.2f} and {along[index + 1]:.2f} mm"
        + (f", {names[index]} and {names[index + 1]})" if names else ")")
        for index in steps[:_MOST_NAMED]
    ]
    more = f", and {len(steps) - _MOST_NAMED} more" if len(steps) > _MOST_NAMED else ""
    return f"between slices {', '.join(named)}{more} of {len(along)}"


def called(indices: Sequence[int] | np.ndarray | range, labels: Sequence[str]) -> str:
    """`: instance 3, instance 7`, or nothing where slices have no labels."""
    if not labels:
        return ""
    named = ", ".join(labels[index] for index in list(indices)[:_MOST_NAMED])
    return f": {named}" + (", ..." if len(indices) > _MOST_NAMED else "")
