"""Sampling grids in patient coordinates (LPS, millimetres), and two ways to fill them.

Shape letters: D slices towards the head, H rows towards the back, W columns towards the patient's
left, n points.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Grid:
    """Axis-aligned voxels: their number and size along z, y, x, and the centre of the first."""

    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    origin_mm: tuple[float, float, float]
    """LPS z, y, x of the centre of voxel [0, 0, 0]."""

    def axis(self, number: int) -> Array:
        """Coordinates along one axis (0 z, 1 y, 2 x), float32."""
        steps = np.arange(self.shape[number], dtype=np.float64)
        return (self.origin_mm[number] + self.spacing_mm[number] * steps).astype(np.float32)

    def axes(self) -> tuple[Array, Array, Array]:
        """Z [D, 1, 1], y [1, H, 1], x [1, 1, W]: they broadcast to [D, H, W]."""
        return self.axis(0)[:, None, None], self.axis(1)[None, :, None], self.axis(2)[None, None, :]

    @property
    def voxel_mm3(self) -> float:
        """Volume of one voxel."""
        d, h, w = self.spacing_mm
        return d * h * w

    def box(self, centre_mm: tuple[float, float, float], radius_mm: float) -> tuple[slice, ...]:
        """Slices of the voxels within a cube around a point (z, y, x); may be empty."""
        found = []
        for number in range(3):
            low = (centre_mm[number] - radius_mm - self.origin_mm[number]) / self.spacing_mm[number]
            high = (centre_mm[number] + radius_mm - self.origin_mm[number]) / self.spacing_mm[
                number
            ]
            size = self.shape[number]
            found.append(slice(min(max(int(low), 0), size), min(max(int(high) + 2, 0), size)))
        return tuple(found)


def splat(grid: Grid, points: NDArray[np.float64], volume_mm3: NDArray[np.float64]) -> Array:
    """Spread small volumes over the voxels around their points: partial volume in [0, 1].

    Args:
        grid: Where to.
        points: [n, 3] z, y, x in mm.
        volume_mm3: [n].

    Returns:
        [D, H, W]; the share of each voxel that is filled.
    """
    origin, spacing = np.asarray(grid.origin_mm), np.asarray(grid.spacing_mm)
    place = (points - origin) / spacing
    inside = np.all((place >= 0) & (place < np.asarray(grid.shape) - 1), axis=1)
    place, mass = place[inside], volume_mm3[inside]
    base = place.astype(np.int64)
    part = place - base
    _, rows, columns = grid.shape
    flat = (base[:, 0] * rows + base[:, 1]) * columns + base[:, 2]
    indices, weights = [], []
    for corner in range(8):
        dz, dy, dx = corner >> 2, corner >> 1 & 1, corner & 1
        share = (
            (part[:, 0] if dz else 1 - part[:, 0])
            * (part[:, 1] if dy else 1 - part[:, 1])
            * (part[:, 2] if dx else 1 - part[:, 2])
        )
        indices.append(flat + (dz * rows + dy) * columns + dx)
        weights.append(mass * share)
    total = np.bincount(
        np.concatenate(indices), np.concatenate(weights), minlength=int(np.prod(grid.shape))
    )
    filled = np.minimum(total / grid.voxel_mm3, 1.0)
    return filled.astype(np.float32).reshape(grid.shape)


@dataclass(frozen=True, slots=True, eq=False)
class NoiseField:
    """A smooth random field in space: the same at every point whatever the grid."""

    lattice: Array
    """Standard normal values [nz, ny, nx] at the corners."""
    cell_mm: float
    origin_mm: tuple[float, float, float]

    @classmethod
    def draw(cls, rng: np.random.Generator, cell_mm: float, half_mm: float = 230.0) -> NoiseField:
        """A field over the cube of +-half_mm."""
        size = int(np.ceil(2 * half_mm / cell_mm)) + 2
        lattice = rng.standard_normal((size, size, size), dtype=np.float32)
        return cls(lattice, cell_mm, (-half_mm, -half_mm, -half_mm))

    def on(self, z: Array, y: Array, x: Array) -> Array:
        """Trilinear values on the outer product of three coordinate vectors.

        Interpolated one axis after the other, by hand: a matrix product would depend on how many
        threads the linear algebra library uses.
        """
        values = self.lattice
        for number, coordinate in enumerate((z, y, x)):
            place = (coordinate - self.origin_mm[number]) / self.cell_mm
            place = np.clip(place, 0, values.shape[number] - 1.001)
            base = place.astype(np.int64)
            shape = [1, 1, 1]
            shape[number] = -1
            part = (place - base).astype(np.float32).reshape(shape)
            low = np.take(values, base, axis=number)
            high = np.take(values, base + 1, axis=number)
            values = low + part * (high - low)
        return values
