"""Do these planes form a regular grid, and how does it lie in the patient? Pure numpy.

All decisions are independent of the order in which the planes are given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from data_connectors.dicom.header import Plane
from data_connectors.dicom.regularity import (
    NEXT,
    called,
    check_apart,
    check_on_line,
    check_same_orientation,
    check_spacing,
    fit_line,
    fit_ragged,
)
from medvlp.errors import GeometryError

MAX_TILT_DEGREES = 0.5
"""Less is rounding of the header's cosines; the affine holds it either way."""


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """A stack of parallel planes, before reorientation."""

    order: tuple[int, ...]
    """Indices of the given planes, by position along the normal."""
    affine: np.ndarray
    """float64 [4, 4]; [slice, row, column, 1] -> LPS mm."""
    positions_mm: np.ndarray | None = None
    """Ragged: float64 [n], where the slices lie along the first column of the affine, from 0;
    None: a regular grid."""

    @property
    def tilt_degrees(self) -> float:
        """Angle between the way from slice to slice and the normal of the slices."""
        step, normal = self.affine[:3, 0], np.cross(self.affine[:3, 2], self.affine[:3, 1])
        cosine = abs(float(step @ normal)) / float(np.linalg.norm(step) * np.linalg.norm(normal))
        return float(np.degrees(np.arccos(np.clip(cosine, -1, 1))))

    @property
    def tilted(self) -> bool:
        """Whether it is sheared by more than rounding explains."""
        return self.tilt_degrees > MAX_TILT_DEGREES


def stack(
    planes: Sequence[Plane | None],
    *,
    tolerance_mm: float,
    keep_tilt: bool = False,
    keep_irregular: bool = False,
    labels: Sequence[str] = (),
) -> Grid:
    """Sort planes along their normal and fit the grid they form.

    Args:
        planes: At least two.
        tolerance_mm: How far an origin may lie from the fitted grid (never more than an eighth
            of the spacing).
        keep_tilt: Accept a stack that is sheared (gantry tilt); the affine holds the shear.
        keep_irregular: Accept uneven steps and gaps between planes that lie on one line; the
            grid holds their true positions.
        labels: What to call each plane beside its number along the normal (`instance 14`).

    Raises:
        GeometryError: They form no such stack; the message names the slices.
    """
    known = [plane for plane in planes if plane is not None]
    if len(known) < len(planes):
        lost = [index for index, plane in enumerate(planes) if plane is None]
        raise GeometryError(
            "slices lack a position, orientation or pixel spacing",
            code="series-missing-position",
            got=f"{len(lost)} of {len(planes)}{called(lost, labels)}",
            next_step=NEXT,
        )
    first = min(known, key=lambda plane: (plane.along_row, plane.along_column, plane.spacing))
    row, column, normal = axes_of(first)
    check_same_orientation(known, first, labels)
    origins = np.array([plane.origin for plane in known])
    along = origins @ normal
    order = np.lexsort((*origins.T, along))
    names = [labels[index] for index in order] if labels else []
    along, origins = along[order], origins[order]
    check_apart(along, names)
    positions = None
    try:
        check_spacing(along, tolerance_mm, names)
        step, fitted = fit_line(origins)
    except GeometryError:
        if not keep_irregular:
            raise
        step, fitted, positions = fit_ragged(origins, along)
    check_on_line(origins - fitted, step, tolerance_mm, names)
    affine = np.eye(4)
    affine[:3, 0] = step
    affine[:3, 1] = column * first.spacing[0]
    affine[:3, 2] = row * first.spacing[1]
    affine[:3, 3] = fitted[0]
    grid = Grid(tuple(int(index) for index in order), affine, positions)
    if grid.tilted and not keep_tilt:
        raise GeometryError(
            "the stack is sheared (gantry tilt)",
            code="series-tilt",
            got=f"{grid.tilt_degrees:.1f} degrees, all {len(planes)} slices",
            limit=f"{MAX_TILT_DEGREES} degrees",
            next_step="set tilt: keep to store the shear in the affine, or resample",
        )
    return grid


def single(plane: Plane, thickness_mm: float) -> Grid:
    """The grid of one plane; its depth is the slice thickness."""
    row, column, normal = axes_of(plane)
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
    positions_mm: np.ndarray | None = None
    """Of a ragged stack: where d lies along the first column of the affine, from 0."""

    def shape(self, stacked: tuple[int, int, int]) -> tuple[int, int, int]:
        """The canonical shape of a stack's shape."""
        d, h, w = (stacked[axis] for axis in self.axes)
        return d, h, w

    def reorient(self, stacked: np.ndarray) -> np.ndarray:
        """A stack [slice, row, column] as [d, h, w], without copying."""
        steps = tuple(slice(None, None, -1 if flipped else 1) for flipped in self.flip)
        return stacked.transpose(self.axes)[steps]

    def view(self, volume: np.ndarray) -> np.ndarray:
        """A canonical volume seen as [slice, row, column], without copying."""
        steps = tuple(slice(None, None, -1 if flipped else 1) for flipped in self.flip)
        return volume[steps].transpose(np.argsort(self.axes))


def as_acquired(affine: np.ndarray) -> Canonical:
    """No reorientation: d, h, w are slice, row, column."""
    return Canonical((0, 1, 2), (False, False, False), affine)


def canonical(
    affine: np.ndarray, shape: tuple[int, int, int], positions_mm: np.ndarray | None = None
) -> Canonical:
    """The reorientation that brings a stack closest to the patient's axes.

    Exact: axes are permuted and reversed, nothing is interpolated, and the affine follows. The
    slices of a ragged stack stay the first axis, because only that axis has positions.

    Args:
        affine: float64 [4, 4]; [slice, row, column, 1] -> LPS mm.
        shape: (slices, rows, columns).
        positions_mm: Of a ragged stack, as in `Grid`.
    """
    unit = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    axes, towards = _closest(unit, ragged=positions_mm is not None)
    flip = tuple(bool(unit[p, a] < 0) for p, a in zip(towards, axes, strict=True))
    moved = np.eye(4)
    moved[:3, 3] = affine[:3, 3]
    positions = positions_mm
    for new, (axis, flipped) in enumerate(zip(axes, flip, strict=True)):
        direction = affine[:3, axis]
        if flipped:
            if positions is not None and axis == 0:
                moved[:3, 3] += unit[:, 0] * positions[-1]
                positions = positions[-1] - positions[::-1]
            else:
                moved[:3, 3] += direction * (shape[axis] - 1)
            direction = -direction
        moved[:3, new] = direction
    return Canonical((axes[0], axes[1], axes[2]), (flip[0], flip[1], flip[2]), moved, positions)


def _closest(unit: np.ndarray, *, ragged: bool) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Which stack axes become d, h, w, and which patient axes (LPS numbers) these follow."""
    patient = (2, 1, 0)  # d, h, w lie along S, P, L

    def fit(axes: tuple[int, ...]) -> float:
        return sum(float(abs(unit[p, a])) for p, a in zip(patient, axes, strict=True))

    orders = [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)]
    axes = max(orders, key=fit)
    if not ragged:
        return axes, patient
    pairs = sorted(zip(axes, patient, strict=True), key=lambda pair: pair[0] != 0)  # stable
    return tuple(axis for axis, _ in pairs), tuple(towards for _, towards in pairs)


def axes_of(plane: Plane) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Unit row, column and normal directions of a plane."""
    row, column = np.array(plane.along_row), np.array(plane.along_column)
    lengths = np.linalg.norm(row), np.linalg.norm(column)
    if min(lengths) < 0.9 or max(lengths) > 1.1 or abs(row @ column) > 0.01:
        raise GeometryError(
            "the image orientation is not two perpendicular unit vectors",
            code="series-bad-orientation",
            next_step=NEXT,
        )
    row, column = row / lengths[0], column / lengths[1]
    normal = np.cross(row, column)
    return row, column, normal / np.linalg.norm(normal)
