"""Hounsfield units of a chest on a grid, with the true mask of every finding."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data_connectors.phantom.anatomy import (
    Anatomy,
    body_radius,
    cavity_radius,
    cavity_scale,
    diaphragm,
    heart_depth,
    hilum_depth,
    knob_distance,
    lung_depth,
    side_index,
)
from data_connectors.phantom.findings import Planted, reshape
from data_connectors.phantom.grid import Array, Grid, splat
from data_connectors.phantom.lesions import plant
from data_connectors.phantom.skeleton import rib_points, spine_points

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


@dataclass(slots=True, eq=False)
class Scene:
    """What the lesions need to know of the chest they are put into."""

    anatomy: Anatomy
    grid: Grid
    axes: tuple[Array, Array, Array]
    texture: Array
    coarse: Array
    depth: dict[float, Array]
    """Side -> millimetres inside the pleural space."""
    hu: Array


def soft(depth: Array, width: float) -> Array:
    """Share of a voxel inside a surface, from the depth in mm: a linear ramp over `width`."""
    return np.asarray(np.clip(depth * np.float32(1 / width) + np.float32(0.5), 0, 1), np.float32)


def blend(hu: Array, share: Array, value: Array | float) -> None:
    """Put a tissue into the voxels it fills, in place."""
    hu += share * (value - hu)


def render(anatomy: Anatomy, findings: tuple[Planted, ...], grid: Grid) -> Rendered:
    """Sample one chest, with its findings, on a grid."""
    a = reshape(anatomy, findings)
    z, y, x = grid.axes()
    # Slices are far thicker than pixels are wide: in-plane spacing sets the edge.
    edge = float(grid.spacing_mm[2]) * 1.2
    vectors = (grid.axis(0), grid.axis(1), grid.axis(2))
    texture = a.texture.on(*vectors)
    coarse = a.coarse.on(*vectors)
    hu = np.full(grid.shape, AIR_HU, np.float32)
    _trunk(a, hu, (z, y, x), coarse, edge)
    blend(hu, splat(grid, *spine_points(a)), 230.0)
    blend(hu, splat(grid, *rib_points(a)), 850.0)
    depth = {side: lung_depth(a, side, z, y, x) for side in (-1.0, 1.0)}
    _lungs(a, grid, hu, depth, texture, coarse, edge)
    _airways(a, hu, (z, y, x), edge)
    scene = Scene(a, grid, (z, y, x), texture, coarse, depth, hu)
    # What lies on top is drawn last: fluid covers lung, air pushes it away.
    order = sorted(range(len(findings)), key=lambda i: _PAINT.index(findings[i].concept))
    shares = {i: plant(scene, findings[i]) for i in order}
    return Rendered(grid, hu, tuple((findings[i], shares[i]) for i in range(len(findings))))


def _trunk(
    a: Anatomy, hu: Array, axes: tuple[Array, Array, Array], coarse: Array, edge: float
) -> None:
    """Skin, fat, muscle; the mediastinum with heart and aorta; the belly under the diaphragm."""
    z, y, x = axes
    radius = body_radius(a, z, y, x)
    skin = (1 - radius) * np.float32(min(a.half_width, a.half_depth))
    if a.breast:
        beside = ((np.abs(x) - 72) / 58) ** 2 + ((z + 30) / 55) ** 2
        skin = skin + np.clip(1 - beside, 0, 1) * a.breast * (y < 0)
    inside = soft(skin, edge)
    blend(hu, inside, -95 + 12 * coarse)
    flesh = soft(np.minimum(skin - a.fat, (1 - radius) * 120 - 0.72 * a.fat), edge)
    blend(hu, flesh, 45.0)
    wall = (cavity_scale(a, z) - cavity_radius(a, y, x)) * np.float32(a.cavity_width)
    blend(hu, soft(wall - 3, edge) * np.clip((115 - z) / 30, 0, 1), -40 + 35 * coarse)
    blend(hu, soft(-knob_distance(a, z, y, x), edge), 42.0)
    cava = np.sqrt((x + 24) ** 2 + (y + 4) ** 2) - 10
    blend(hu, soft(-np.maximum(cava, np.abs(z - 35) - 45), edge), 40.0)
    for side in (-1.0, 1.0):
        blend(hu, soft(hilum_depth(side, z, y, x), edge), 40.0)
    blend(hu, soft(heart_depth(a, z, y, x), edge), 42.0)
    for side in (-1.0, 1.0):
        mine = soft(np.float32(side) * x, edge)
        below = soft(np.minimum(diaphragm(a, side, y, x) - z, skin - a.wall), edge)
        blend(hu, below * mine, 58.0 if side < 0 else 46 + 6 * coarse)
    if a.bubble:
        gas = np.sqrt((x - 62) ** 2 + (y + 30) ** 2 + ((z - a.dome[1] + 34) * 1.3) ** 2)
        blend(hu, soft(a.bubble - gas, edge), -950.0)


def _lungs(
    a: Anatomy, grid: Grid, hu: Array, depth: dict[float, Array], texture: Array, coarse: Array,
    edge: float,
) -> None:  # fmt: skip
    """Parenchyma, denser towards the back and in places, and its vessels."""
    _, y, _ = grid.axes()
    vessels = splat(grid, a.vessels[:, :3], a.vessels[:, 3])
    for side in (-1.0, 1.0):
        share = soft(depth[side], edge)
        tissue = a.lung_hu + 0.28 * y + 14 * texture + 16 * coarse
        thin = a.emphysema[side_index(side)]
        tissue = tissue - 75 * thin
        tissue = tissue + vessels * (1 - 0.35 * thin) * (30 - tissue)
        blend(hu, share, tissue)


def _airways(a: Anatomy, hu: Array, axes: tuple[Array, Array, Array], edge: float) -> None:
    """The trachea down to its fork, and the main bronchi."""
    z, y, x = axes
    fork = 38.0
    tube = a.trachea - np.sqrt(x**2 + (y - 10) ** 2)
    blend(hu, soft(np.minimum(tube, z - fork), edge), AIR_HU)
    for side, slope in ((-1.0, 0.85), (1.0, 1.15)):
        axis = np.float32(side) * (fork - z) * np.float32(slope)
        branch = 0.68 * a.trachea - np.sqrt(((x - axis) * 0.72) ** 2 + (y - 10) ** 2)
        branch = np.minimum(branch, np.minimum(fork + 4 - z, z - 6))
        blend(hu, soft(branch, edge), AIR_HU)
