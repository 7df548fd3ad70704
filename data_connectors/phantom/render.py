"""Hounsfield units of a chest on a grid, with the true mask of every finding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_connectors.phantom.anatomy import (
    Anatomy,
    cavity_radius,
    cavity_scale,
    diaphragm,
    heart_depth,
    hilum_depth,
    knob_distance,
    lung_depth,
    side_index,
    skin_depth,
)
from data_connectors.phantom.findings import Planted, reshape
from data_connectors.phantom.grid import Array, Grid, splat
from data_connectors.phantom.lesions import plant
from data_connectors.phantom.scene import Scene
from data_connectors.phantom.skeleton import rib_points

AIR_HU = -1000.0
_PAINT = (
    "cardiomegaly", "emphysema", "consolidation", "atelectasis", "mass", "nodule",
    "pleural_effusion", "pneumothorax",
)  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Rendered:
    """A chest on a grid."""

    grid: Grid
    hu: Array
    """[D, H, W], without noise of the scanner."""
    masks: tuple[tuple[Planted, Array], ...]
    """Each finding with the share of every voxel that it fills, [D, H, W] in [0, 1]."""


def soft(depth: NDArray[np.floating[Any]], width: float) -> Array:
    """Share of a voxel inside a surface, from the depth in mm: a linear ramp over `width`."""
    return np.asarray(np.clip(depth * np.float32(1 / width) + np.float32(0.5), 0, 1), np.float32)


def blend(hu: Array, share: Array, value: NDArray[Any] | float) -> None:
    """Put a tissue into the voxels it fills, in place."""
    hu += share * (value - hu)


def render(anatomy: Anatomy, findings: tuple[Planted, ...], grid: Grid) -> Rendered:
    """Sample one chest, with its findings, on a grid."""
    a = reshape(anatomy, findings)
    axes = grid.axes()
    vectors = (grid.axis(0), grid.axis(1), grid.axis(2))
    texture, coarse = a.texture.on(*vectors), a.coarse.on(*vectors)
    ribs = splat(grid, *rib_points(a))
    vessels = splat(grid, a.vessels[:, :3], a.vessels[:, 3])
    hu = np.full(grid.shape, AIR_HU, np.float32)
    depth = {side: np.empty(grid.shape, np.float32) for side in (-1.0, 1.0)}
    # A few slices at a time, so that what is worked on stays in the processor's cache.
    step = max(1, 60_000 // (grid.shape[1] * grid.shape[2]))
    for first in range(0, grid.shape[0], step):
        rows = slice(first, first + step)
        slab = _Slab(
            a, hu[rows], axes[0][rows], axes[1], axes[2], texture[rows], coarse[rows],
            edge=1.2 * grid.spacing_mm[2],
        )  # fmt: skip
        _trunk(slab)
        _spine(slab)
        blend(slab.hu, ribs[rows], 420.0)
        for side in (-1.0, 1.0):
            depth[side][rows] = lung_depth(a, side, slab.z, slab.y, slab.x)
            _lung(slab, side, depth[side][rows], vessels[rows])
        _airways(slab)
    scene = Scene(a, grid, axes, texture, coarse, depth, hu)
    # What lies on top is drawn last: fluid covers lung, air pushes it away.
    order = sorted(range(len(findings)), key=lambda i: _PAINT.index(findings[i].concept))
    shares = {i: plant(scene, findings[i]) for i in order}
    return Rendered(grid, hu, tuple((findings[i], shares[i]) for i in range(len(findings))))


@dataclass(frozen=True, slots=True, eq=False)
class _Slab:
    """Some slices of the chest while it is drawn."""

    a: Anatomy
    hu: Array
    z: Array
    y: Array
    x: Array
    texture: Array
    coarse: Array
    edge: float
    """Width of a soft edge in mm: slices are thicker than pixels are wide, so in plane."""

    def put(self, depth: NDArray[np.floating[Any]], value: NDArray[Any] | float) -> None:
        """Fill the inside of a surface, given by the depth inside it in mm."""
        blend(self.hu, soft(depth, self.edge), value)


def _trunk(s: _Slab) -> None:
    """Skin, fat, muscle; the mediastinum with heart and aorta; the belly under the diaphragm."""
    a, z, y, x = s.a, s.z, s.y, s.x
    skin = skin_depth(a, z, y, x)
    if a.breast:
        beside = ((np.abs(x) - 72) / 58) ** 2 + ((z + 30) / 55) ** 2
        skin += np.clip(1 - beside, 0, 1) * a.breast * (y < 0)
    s.put(skin, -95 + 12 * s.coarse)
    s.put(skin - a.fat, 45.0)
    wall = (cavity_scale(a, z) - cavity_radius(a, y, x)) * np.float32(a.cavity_width)
    s.put(np.minimum(wall - 3, 115 - z), -40 + 35 * s.coarse)
    s.put(-knob_distance(a, z, y, x), 42.0)
    cava = np.sqrt((x + 24) ** 2 + (y + 4) ** 2) - 10
    s.put(-np.maximum(cava, np.abs(z - 35) - 45), 40.0)
    s.put(heart_depth(a, z, y, x), 42.0)
    for side in (-1.0, 1.0):
        s.put(hilum_depth(side, z, y, x), 40.0)
        below = np.minimum(diaphragm(a, side, y, x) - z, skin - a.wall)
        organ = 58.0 + 0 * s.coarse if side < 0 else 46 + 6 * s.coarse
        s.put(np.minimum(below, np.float32(side) * x), organ)
    if a.bubble:
        gas = np.sqrt((x - 62) ** 2 + (y + 30) ** 2 + ((z - a.dome[1] + 34) * 1.3) ** 2)
        s.put(a.bubble - gas, -950.0)


def _spine(s: _Slab) -> None:
    """Vertebral bodies, dense at the rim, discs between them; arches behind."""
    a = s.a
    radius = np.sqrt(s.x**2 + ((s.y - a.spine_y) / 0.85) ** 2)
    bony = np.asarray((s.z % 24) > 4.5, np.float32)
    inside = soft(a.spine - radius, s.edge)
    blend(s.hu, inside, 60 + bony * (130 + 150 * (radius > a.spine - 4)))
    arch = np.maximum(np.abs(s.x) - 4.5, np.abs(s.y - a.spine_y - a.spine - 13) - 11)
    blend(s.hu, soft(-arch, s.edge) * bony, 330.0)


def _lung(s: _Slab, side: float, depth: Array, vessels: Array) -> None:
    """Parenchyma, denser towards the back and in places, and its vessels."""
    thin = s.a.emphysema[side_index(side)]
    tissue = s.a.lung_hu - 95 * thin + 0.28 * s.y + 10 * s.texture + 12 * s.coarse
    tissue += vessels * (1 - 0.35 * thin) * (30 - tissue)
    s.put(depth, tissue)


def _airways(s: _Slab) -> None:
    """The trachea down to its fork, and the main bronchi."""
    a, z, y, x = s.a, s.z, s.y, s.x
    fork = 38.0
    if float(z.max()) < 0:
        return
    tube = a.trachea - np.sqrt(x**2 + (y - 10) ** 2)
    s.put(np.minimum(tube, z - fork), AIR_HU)
    for side, slope in ((-1.0, 0.85), (1.0, 1.15)):
        axis = np.float32(side) * (fork - z) * np.float32(slope)
        branch = 0.68 * a.trachea - np.sqrt(((x - axis) * 0.72) ** 2 + (y - 10) ** 2)
        s.put(np.minimum(branch, np.minimum(fork + 4 - z, z - 6)), AIR_HU)
