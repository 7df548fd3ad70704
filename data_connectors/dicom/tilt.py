"""Gantry tilt taken out: every slice moved within its own plane onto an orthogonal grid.

Where slices stay where they are, trilinear interpolation on the sheared grid is bilinear in each
slice, with one shift a slice; nothing is interpolated between slices.
"""

from __future__ import annotations

import numpy as np

from data_connectors.dicom.geometry import Grid

_EXACT = 1e-6
"""Pixels: a smaller shift is rounding of the header."""


def straightened(grid: Grid, shape: tuple[int, int, int]) -> tuple[Grid, tuple[int, int, int]]:
    """The orthogonal grid that holds every pixel of a tilted stack, and its shape."""
    low, high = _reach(grid, shape)
    affine = grid.affine.copy()
    affine[:3, 3] += affine[:3, 1] * low[0] + affine[:3, 2] * low[1]
    normal, step = _normal(affine), affine[:3, 0]
    affine[:3, 0] = normal * (step @ normal)
    positions = grid.positions_mm
    if positions is not None:
        positions = positions * float(step @ normal) / float(np.linalg.norm(step))
    rows, columns = (int(size) for size in np.array(shape[1:]) + high - low)
    return Grid(grid.order, affine, positions), (shape[0], rows, columns)


def straighten(stack: np.ndarray, grid: Grid, outside: float) -> np.ndarray:
    """Resample a tilted stack onto `straightened` by linear interpolation.

    Args:
        stack: [slice, row, column], as acquired; int16 stays int16 (rounded).
        grid: Where the stack lies.
        outside: What pixels become that no slice covers.

    Returns:
        [slice, row, column] of the shape that `straightened` says.
    """
    shape = (stack.shape[0], stack.shape[1], stack.shape[2])
    low, _ = _reach(grid, shape)
    _, target = straightened(grid, shape)
    out = np.full(target, outside, stack.dtype)
    for index, shift in enumerate(_shifts(grid, shape[0])):
        start = low - shift  # where the new first pixel lies in this slice, in pixels
        values = stack[index].astype(np.promote_types(stack.dtype, np.float32))
        values = _moved(values, float(start[0]), target[1], axis=0)
        values = _moved(values, float(start[1]), target[2], axis=1)
        inside = ~np.isnan(values)
        if stack.dtype.kind == "i":
            values = np.rint(values)
        out[index][inside] = values[inside].astype(stack.dtype)
    return out


def _moved(values: np.ndarray, start: float, count: int, *, axis: int) -> np.ndarray:
    """Values at start, start + 1, ... along an axis; nan outside the first and last."""
    if abs(start - round(start)) < _EXACT:
        start = round(start)
    places = start + np.arange(count)
    size = values.shape[axis]
    inside = (places >= 0) & (places <= size - 1)
    lower = np.clip(np.floor(places).astype(int), 0, size - 1)
    upper = np.minimum(lower + 1, size - 1)
    weight = (places - np.floor(places)).astype(values.dtype)
    along = [1, 1]
    along[axis] = count
    weight = weight.reshape(along)
    mixed: np.ndarray = values.take(lower, axis) * (1 - weight)
    mixed += values.take(upper, axis) * weight
    mixed[(~inside, slice(None)) if axis == 0 else (slice(None), ~inside)] = np.nan
    return mixed


def _shifts(grid: Grid, count: int) -> np.ndarray:
    """float64 [slices, 2]: how far each slice lies off the first, in rows and columns."""
    affine = grid.affine
    step = affine[:3, 0]
    if grid.positions_mm is None:
        ahead = np.arange(count, dtype=np.float64)
    else:
        ahead = grid.positions_mm / np.linalg.norm(step)
    in_plane = affine[:3, 1:3]
    slope = np.array([step @ axis / (axis @ axis) for axis in in_plane.T])
    shifts: np.ndarray = ahead[:, None] * slope
    return shifts


def _reach(grid: Grid, shape: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Whole pixels [2] by which the slices reach beyond the first, before and behind."""
    shifts = _shifts(grid, shape[0])
    low = np.floor(shifts.min(axis=0) + _EXACT).astype(int)
    high = np.ceil(shifts.max(axis=0) - _EXACT).astype(int)
    return low, high


def _normal(affine: np.ndarray) -> np.ndarray:
    normal = np.cross(affine[:3, 2], affine[:3, 1])
    normal = normal / np.linalg.norm(normal)
    along: np.ndarray = normal if normal @ affine[:3, 0] > 0 else -normal
    return along
