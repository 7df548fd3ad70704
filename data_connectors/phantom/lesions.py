"""Draw one finding into a rendered chest and say which voxels it fills."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_connectors.phantom.anatomy import cavity_radius, cavity_scale, heart_depth, lobe_depth
from data_connectors.phantom.findings import Planted
from data_connectors.phantom.grid import Array
from data_connectors.phantom.scene import Scene

Box = tuple[slice, ...]
Floats = NDArray[np.floating[Any]]


def plant(scene: Scene, finding: Planted) -> Array:
    """Change `scene.hu` in place; return the finding's share of every voxel, [D, H, W]."""
    match finding.concept:
        case "nodule":
            return _nodule(scene, finding)
        case "mass":
            return _mass(scene, finding)
        case "consolidation":
            return _consolidation(scene, finding)
        case "pleural_effusion":
            return _effusion(scene, finding)
        case "pneumothorax":
            return _pneumothorax(scene, finding)
        case "atelectasis":
            return _atelectasis(scene, finding)
        case "emphysema":
            return _emphysema(scene, finding)
        case "cardiomegaly":
            # The heart has grown with the anatomy already.
            return _soft(heart_depth(scene.anatomy, *scene.axes), scene)
        case other:
            raise ValueError(f"no such finding: {other}")


def _soft(depth: Floats, scene: Scene) -> Array:
    width = np.float32(1.2 * scene.grid.spacing_mm[2])
    return np.asarray(np.clip(depth / width + np.float32(0.5), 0, 1), np.float32)


def _blend(scene: Scene, share: Array, value: Floats | float, box: Box = ()) -> None:
    target = scene.hu[box]
    target += share * (value - target)


def _offsets(scene: Scene, box: Box, centre: tuple[float, float, float]) -> tuple[Array, ...]:
    z, y, x = scene.axes
    return z[box[0]] - centre[0], y[:, box[1]] - centre[1], x[:, :, box[2]] - centre[2]


def _thick(scene: Scene, dz: Array) -> Array:
    """Slices average over their thickness: a height counts from the nearest point of the slice."""
    half = np.float32(max(scene.grid.spacing_mm[0] - scene.grid.spacing_mm[2], 0) / 2)
    return np.asarray(np.sign(dz) * np.maximum(np.abs(dz) - half, 0), np.float32)


def _nodule(scene: Scene, finding: Planted) -> Array:
    """Round, sharp, of soft tissue or calcified."""
    rng = np.random.default_rng(finding.shape_seed)
    assert finding.centre_mm is not None
    assert finding.size_mm is not None
    share = np.zeros(scene.grid.shape, np.float32)
    value = rng.uniform(500, 800)
    for number, centre in enumerate((finding.centre_mm, *finding.more_mm)):
        radius = finding.size_mm / 2 * (1.0 if number == 0 else 0.8)
        box = scene.grid.box(centre, radius + 8)
        dz, dy, dx = _offsets(scene, box, centre)
        distance = np.sqrt(_thick(scene, dz) ** 2 + dy**2 + dx**2)
        part = _soft(np.float32(radius) - distance + 0.8 * scene.texture[box], scene)
        _blend(scene, part, value, box)
        share[box] = np.maximum(share[box], part)
    return share


def _mass(scene: Scene, finding: Planted) -> Array:
    """Large, lobulated, with spikes; softer in the middle."""
    rng = np.random.default_rng(finding.shape_seed)
    assert finding.centre_mm is not None
    assert finding.size_mm is not None
    radius = finding.size_mm / 2
    box = scene.grid.box(finding.centre_mm, radius * 1.6 + 6)
    dz, dy, dx = _offsets(scene, box, finding.centre_mm)
    stretch = rng.uniform(0.85, 1.1, 3)
    distance = np.sqrt((dz / stretch[0]) ** 2 + (dy / stretch[1]) ** 2 + (dx / stretch[2]) ** 2)
    bumps = np.zeros_like(distance)
    for _ in range(5):
        wave = rng.normal(0, 1, 3)
        wave *= rng.uniform(2.5, 5.5) / np.linalg.norm(wave) / radius
        bumps += np.sin(wave[0] * dz + wave[1] * dy + wave[2] * dx + rng.uniform(0, 6.3))
    outline = radius * (0.92 + 0.07 * bumps) + 1.5 * scene.texture[box]
    inside = np.maximum(scene.depth[-1.0][box], scene.depth[1.0][box]) + 4
    share = _soft(np.minimum(outline - distance, inside), scene)
    core = np.clip(1 - distance / (0.55 * radius), 0, 1)
    _blend(scene, share, 75 + 10 * scene.texture[box] - 25 * core, box)
    whole = np.zeros(scene.grid.shape, np.float32)
    whole[box] = share
    return whole


def _consolidation(scene: Scene, finding: Planted) -> Array:
    """Filled air spaces: patchy, bounded by fissures, with open bronchi in it."""
    assert finding.centre_mm is not None
    assert finding.size_mm is not None
    assert finding.lobe is not None
    side = finding.sides[0]
    radius = finding.size_mm / 2
    box = scene.grid.box(finding.centre_mm, radius * 1.5)
    dz, dy, dx = _offsets(scene, box, finding.centre_mm)
    z, y, _ = scene.axes
    ragged = radius * (1 + 0.28 * scene.coarse[box]) + 5 * scene.texture[box]
    inside = ragged - np.sqrt(dz**2 + dy**2 + dx**2)
    lobe = np.minimum(
        lobe_depth(scene.anatomy, finding.lobe, z[box[0]], y[:, box[1]]) + 2, scene.depth[side][box]
    )
    # The edge is soft over about a centimetre except where a fissure or the pleura bounds it.
    share = np.clip(inside / 9, 0, 1) * _soft(lobe, scene)
    opacity = share * np.clip(0.9 + 0.1 * scene.texture[box], 0.4, 1)
    bronchi = (np.abs(scene.texture[box] - 0.6) < 0.1) * 0.35
    _blend(scene, np.asarray(opacity * (1 - bronchi), np.float32), 28.0, box)
    whole = np.zeros(scene.grid.shape, np.float32)
    whole[box] = share
    return whole


def _effusion(scene: Scene, finding: Planted) -> Array:
    """Free fluid: deepest behind and outside, its surface rising along the wall."""
    assert finding.size_mm is not None
    z, y, _ = scene.axes
    a = scene.anatomy
    share = np.zeros(scene.grid.shape, np.float32)
    wall = _wall(scene)
    for side in finding.sides:
        low = a.dome[int(side > 0)] - 1.5 * a.drop[int(side > 0)]
        behind = np.clip((y + 0.5 * a.cavity_depth) / (1.4 * a.cavity_depth), 0, 1)
        meniscus = np.exp(-np.maximum(wall, 0) / 16)
        level = low + finding.size_mm * (0.5 + 0.3 * behind + 0.55 * meniscus)
        part = _soft(np.minimum(level - z, scene.depth[side] + 1), scene)
        np.maximum(share, part, out=share)
    _blend(scene, share, 12 + 4 * scene.coarse)
    return share


def _wall(scene: Scene) -> Array:
    """Millimetres (about) from the wall of the thoracic cavity."""
    z, y, x = scene.axes
    a = scene.anatomy
    return (cavity_scale(a, z) - cavity_radius(a, y, x)) * np.float32(a.cavity_width)


def _pneumothorax(scene: Scene, finding: Planted) -> Array:
    """Air between lung and wall, widest at the apex; the lung's edge is a thin line."""
    assert finding.size_mm is not None
    z, y, _ = scene.axes
    a = scene.anatomy
    side = finding.sides[0]
    scale = (a.apex - z) / 250
    wide = finding.size_mm * np.clip(1.15 - 0.95 * scale, 0.2, 1.2)
    # Only the free wall counts (outside, top, front): the lung stays attached at its hilum.
    free = _wall(scene) + 14 * np.clip((y - 20) / 60, 0, 1)
    space = _soft(scene.depth[side], scene)
    gap = np.asarray(wide - free, np.float32)
    # Edges are as soft as the surface crosses a voxel: else a projection shows its steps.
    step = np.abs(np.gradient(gap, axis=1))
    edge = np.maximum(step, np.float32(1.2 * scene.grid.spacing_mm[2]))
    air = np.clip(gap / edge + 0.5, 0, 1)
    width = np.maximum(step, np.float32(2.6))
    line = np.clip(1 - np.abs(gap + 2.0) / width, 0, 1) * (2.6 / width)
    share = np.asarray(air * space, np.float32)
    # The lung behind has lost volume.
    _blend(scene, np.asarray(0.3 * (1 - air) * space, np.float32), -300.0)
    _blend(scene, share, -1000.0)
    _blend(scene, np.asarray(line * space, np.float32), 20.0)
    return share


def _atelectasis(scene: Scene, finding: Planted) -> Array:
    """A plate of airless lung, thicker towards the hilum."""
    rng = np.random.default_rng(finding.shape_seed)
    assert finding.centre_mm is not None
    assert finding.size_mm is not None
    side = finding.sides[0]
    half = finding.size_mm / 2
    box = scene.grid.box(finding.centre_mm, half + 12)
    dz, dy, dx = _offsets(scene, box, finding.centre_mm)
    roll, pitch = rng.uniform(-0.55, 0.55), rng.uniform(-0.25, 0.25)
    height = (dz - np.tan(roll) * dx - np.tan(pitch) * dy) * np.cos(roll) * np.cos(pitch)
    reach = np.sqrt(dx**2 + (dy / 0.8) ** 2)
    medial = np.clip(0.5 - np.float32(side) * dx / (2 * half), 0, 1)
    thick = (6.5 + 5.0 * finding.grade) * (0.6 + 0.9 * medial)
    plate = np.minimum(thick - np.abs(height), half - reach)
    width = np.float32(max(1.2 * scene.grid.spacing_mm[2], 0.5 * scene.grid.spacing_mm[0]))
    share = np.clip(plate / width + 0.5, 0, 1) * _soft(scene.depth[side][box] + 1, scene)
    share = np.asarray(share, np.float32)
    _blend(scene, share, 40.0, box)
    whole = np.zeros(scene.grid.shape, np.float32)
    whole[box] = share
    return whole


def _emphysema(scene: Scene, finding: Planted) -> Array:
    """Thin lung with bullae: round holes, most in the upper parts, with thin walls."""
    rng = np.random.default_rng(finding.shape_seed)
    a = scene.anatomy
    share = np.zeros(scene.grid.shape, np.float32)
    for side in finding.sides:
        space = scene.depth[side]
        for _ in range(4 + int(3 * finding.grade)):
            radius = rng.uniform(15, 20 + 8 * finding.grade)
            centre = (
                rng.triangular(-60, 0.75 * a.apex, 0.8 * a.apex),
                rng.uniform(-0.6, 0.6) * a.cavity_depth,
                side * rng.uniform(0.3, 0.85) * a.cavity_width,
            )
            box = scene.grid.box(centre, radius + 6)
            dz, dy, dx = _offsets(scene, box, centre)
            inside = np.float32(radius) - np.sqrt(_thick(scene, dz) ** 2 + dy**2 + dx**2)
            room = _soft(space[box] - 2, scene)
            hole = _soft(inside, scene) * room
            rim = np.clip(1 - np.abs(inside + 1.5) / 2.6, 0, 1) * room
            _blend(scene, np.asarray(rim, np.float32), 20.0, box)
            _blend(scene, hole, -990.0, box)
            np.maximum(share[box], hole, out=share[box])
    return share
