"""Do these planes form a regular grid, and how does it lie in the patient? Pure numpy.

All decisions are independent of the order in which the planes are given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from data_connectors.dicom.header import Plane
from medvlp.errors import GeometryError

_MAX_TILT_DEGREES = 0.5
"""Less is rounding of the header's cosines; the affine holds it either way."""
_ORIENTATION_TOLERANCE = 1e-3
_NEXT = "look at the series in a viewer, or export it again from the archive"


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """A regular stack of planes, before reorientation."""

    order: tuple[int, ...]
    """Indices of the given planes, by position along the normal."""
    affine: np.ndarray
    """float64 [4, 4]; [slice, row, column, 1] -> LPS mm."""


def stack(planes: Sequence[Plane | None], *, tolerance_mm: float, keep_tilt: bool = False) -> Grid:
    """Sort planes along their normal and fit the grid they form.

    Args:
        planes: At least two.
        tolerance_mm: How far an origin may lie from the fitted grid (never more than an eighth
            of the spacing).
        keep_tilt: Accept a stack that is sheared (gantry tilt); the affine holds the shear.

    Raises:
        GeometryError: They form no regular grid; the message names the slices.
    """
    known = [plane for plane in planes if plane is not None]
    if len(known) < len(planes):
        raise GeometryError(
            "slices lack a position, orientation or pixel spacing",
            code="series-missing-position",
            got=f"{len(planes) - len(known)} of {len(planes)}",
            next_step=_NEXT,
        )
    first = min(known, key=lambda plane: (plane.along_row, plane.along_column, plane.spacing))
    row, column, normal = _axes(first)
    _check_same_orientation(known, first)
    origins = np.array([plane.origin for plane in known])
    along = origins @ normal
    order = np.lexsort((*origins.T, along))
    along, origins = along[order], origins[order]
    _check_spacing(along, tolerance_mm)
    step, fitted = _fit_line(origins)
    _check_on_line(origins - fitted, step, tolerance_mm)
    _check_tilt(step, normal, keep_tilt)
    affine = np.eye(4)
    affine[:3, 0] = step
    affine[:3, 1] = column * first.spacing[0]
    affine[:3, 2] = row * first.spacing[1]
    affine[:3, 3] = fitted[0]
    return Grid(tuple(int(index) for index in order), affine)


def single(plane: Plane, thickness_mm: float) -> Grid:
    """The grid of one plane; its depth is the slice thickness."""
    row, column, normal = _axes(plane)
    affine = np.eye(4)
    affine[:3, 0] = normal * thickness_mm
    affine[:3, 1] = column * plane.spacing[0]
    affine[:3, 2] = row * plane.spacing[1]
    affine[:3, 3] = plane.origin
    return Grid((0,), affine)


@dataclass(frozen=True, slots=True, eq=False)
class Canonical:
    """How a stack [slice, row, column] becomes [d, h, w] (towards head, back, patient's left)."""

    axes: tuple[int, int, int]
    """Which stack axis becomes d, h, w."""
    flip: tuple[bool, bool, bool]
    """Whether d, h, w run against the stack axis."""
    affine: np.ndarray
    """float64 [4, 4]; [d, h, w, 1] -> LPS mm."""

    def shape(self, stacked: tuple[int, int, int]) -> tuple[int, int, int]:
        """The canonical shape of a stack's shape."""
        d, h, w = (stacked[axis] for axis in self.axes)
        return d, h, w

    def view(self, volume: np.ndarray) -> np.ndarray:
        """A canonical volume seen as [slice, row, column], without copying."""
        steps = tuple(slice(None, None, -1 if flipped else 1) for flipped in self.flip)
        return volume[steps].transpose(np.argsort(self.axes))


def as_acquired(affine: np.ndarray) -> Canonical:
    """No reorientation: d, h, w are slice, row, column."""
    return Canonical((0, 1, 2), (False, False, False), affine)


def canonical(affine: np.ndarray, shape: tuple[int, int, int]) -> Canonical:
    """The reorientation that brings a stack closest to the patient's axes.

    Exact: axes are permuted and reversed, nothing is interpolated, and the affine follows.

    Args:
        affine: float64 [4, 4]; [slice, row, column, 1] -> LPS mm.
        shape: (slices, rows, columns).
    """
    unit = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    patient = (2, 1, 0)  # d, h, w lie along S, P, L
    orders = [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)]
    axes = max(
        orders,
        key=lambda order: sum(abs(unit[p, a]) for p, a in zip(patient, order, strict=True)),
    )
    flip = tuple(bool(unit[p, a] < 0) for p, a in zip(patient, axes, strict=True))
    moved = np.eye(4)
    moved[:3, 3] = affine[:3, 3]
    for new, (axis, flipped) in enumerate(zip(axes, flip, strict=True)):
        direction = affine[:3, axis]
        if flipped:
            moved[:3, 3] += direction * (shape[axis] - 1)
            direction = -direction
        moved[:3, new] = direction
    return Canonical((axes[0], axes[1], axes[2]), (flip[0], flip[1], flip[2]), moved)


def _axes(plane: Plane) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Unit row, column and normal directions of a plane."""
    row, column = np.array(plane.along_row), np.array(plane.along_column)
    lengths = np.linalg.norm(row), np.linalg.norm(column)
    if min(lengths) < 0.9 or max(lengths) > 1.1 or abs(row @ column) > 0.01:
        raise GeometryError(
            "the image orientation is not two perpendicular unit vectors",
            code="series-bad-orientation",
            next_step=_NEXT,
        )
    row, column = row / lengths[0], column / lengths[1]
    normal = np.cross(row, column)
    return row, column, normal / np.linalg.norm(normal)


def _check_same_orientation(planes: Sequence[Plane], first: Plane) -> None:
    reference = np.array([*first.along_row, *first.along_column])
    cosines = np.array([[*plane.along_row, *plane.along_column] for plane in planes])
    other = np.abs(cosines - reference).max(axis=1) > _ORIENTATION_TOLERANCE
    if other.any():
        raise GeometryError(
            "slices have several orientations",
            code="series-mixed-orientation",
            got=f"{int(other.sum())} of {len(planes)} differ from the rest",
            next_step=_NEXT,
        )
    spacing = np.array([plane.spacing for plane in planes])
    if np.ptp(spacing, axis=0).max() > 1e-3 * spacing.min():
        raise GeometryError(
            "slices have several pixel spacings", code="series-mixed-spacing", next_step=_NEXT
        )


def _check_spacing(along: np.ndarray, tolerance_mm: float) -> None:
    """Refuse duplicates, gaps and uneven steps between sorted positions along the normal."""
    steps = np.diff(along)
    spread = float(along[-1] - along[0])
    if spread < 1e-3:
        raise GeometryError(
            "all slices lie at one position",
            code="series-not-a-volume",
            got=f"{len(along)} slices",
            next_step="if it is a time series, export it as multi-frame",
        )
    median = float(np.median(steps))
    same = np.flatnonzero(steps < min(1e-2, 1e-2 * spread / len(along)))
    if len(same):
        raise GeometryError(
            "several slices lie at the same position",
            code="series-duplicate-position",
            got=_places(same, along, len(along)),
            next_step="split the series by acquisition, echo or time",
        )
    limit = _limit(tolerance_mm, median)
    _, fitted = _fit_line(along[:, None])
    if np.abs(along - fitted[:, 0]).max() <= limit:
        return
    odd = np.flatnonzero(np.abs(steps - median) > limit)
    ratio = steps[odd] / median
    missing = (ratio > 1.5) & (np.abs(ratio - np.round(ratio)) < 0.1)
    if len(odd) and missing.all():
        raise GeometryError(
            f"slices are missing: {int((np.round(ratio) - 1).sum())} at {median:.2f} mm",
            code="series-gap",
            got=_places(odd, along, len(along)),
            next_step="fetch the whole series from the archive",
        )
    raise GeometryError(
        f"slices are {steps.min():.2f} to {steps.max():.2f} mm apart, most {median:.2f} mm",
        code="series-variable-spacing",
        got=_places(odd, along, len(along)),
        limit=f"{limit:.2f} mm off a regular grid",
        next_step=_NEXT,
    )


def _limit(tolerance_mm: float, spacing_mm: float) -> float:
    """How far a slice may be off; small enough that three slices with a gap never pass."""
    return min(tolerance_mm, spacing_mm / 8)


def _fit_line(origins: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Least-squares step [c] and fitted values [n, c] of sorted, evenly numbered planes."""
    index = np.arange(len(origins)) - (len(origins) - 1) / 2
    step = index @ origins / (index @ index)
    return step, origins.mean(axis=0) + index[:, None] * step


def _check_on_line(residual: np.ndarray, step: np.ndarray, tolerance_mm: float) -> None:
    limit = _limit(tolerance_mm, float(np.linalg.norm(step)))
    distance = np.linalg.norm(residual, axis=1)
    far = np.flatnonzero(distance > limit)
    if len(far):
        raise GeometryError(
            "slices are shifted against each other",
            code="series-irregular-position",
            got=f"up to {distance.max():.2f} mm, slices {_numbers(far)} of {len(residual)}",
            limit=f"{limit:.2f} mm",
            next_step=_NEXT,
        )


def _check_tilt(step: np.ndarray, normal: np.ndarray, keep_tilt: bool) -> None:
    cosine = float(step @ normal / np.linalg.norm(step))
    tilt = float(np.degrees(np.arccos(np.clip(cosine, -1, 1))))
    if tilt > _MAX_TILT_DEGREES and not keep_tilt:
        raise GeometryError(
            "the stack is sheared (gantry tilt)",
            code="series-tilt",
            got=f"{tilt:.1f} degrees",
            limit=f"{_MAX_TILT_DEGREES} degrees",
            next_step="set tilt: keep to store the shear in the affine",
        )


def _places(steps: np.ndarray, along: np.ndarray, count: int) -> str:
    """Name up to five steps by slice number (1 = lowest along the normal) and position."""
    named = [
        f"{index + 1} and {index + 2} ({along[index]:.2f} and {along[index + 1]:.2f} mm)"
        for index in steps[:5]
    ]
    more = f", and {len(steps) - 5} more" if len(steps) > 5 else ""
    return f"between slices {', '.join(named)}{more} of {count}"


def _numbers(indices: np.ndarray) -> str:
    named = ", ".join(str(index + 1) for index in indices[:10])
    return named + (", ..." if len(indices) > 10 else "")
