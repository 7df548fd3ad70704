"""One patient's chest, as numbers in millimetres (LPS: x to the left, y to the back, z up).

The origin lies between the lungs at half height. Nothing here knows of voxels: the CT series
and the radiograph sample the same body.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data_connectors.phantom.grid import Array, NoiseField


@dataclass(frozen=True, slots=True, eq=False)
class Anatomy:
    """Sizes and places of the organs."""

    half_width: float
    """Half the width of the body."""
    half_depth: float
    fat: float
    """Thickness of the fat under the skin."""
    wall: float
    """Fat, muscle and ribs together: from the skin to the pleura."""
    apex: float
    """Height of the lung apices."""
    dome: tuple[float, float]
    """Height of the right and the left dome of the diaphragm."""
    drop: tuple[float, float]
    """How far the diaphragm falls off over 70 mm, right and left; flat when small."""
    heart: tuple[float, float, float]
    """Centre z, y, x."""
    heart_radii: tuple[float, float, float]
    """Along its long axis, to the back, across."""
    heart_tilt: float
    """Radians from the horizontal to the long axis, seen from the front."""
    mediastinum: float
    """Half the width of what lies between the lungs."""
    knob: float
    """Radius of the aortic arch."""
    trachea: float
    spine: float
    """Radius of a vertebral body."""
    lung_hu: float
    fissure_tilt: float
    rib_slope: float
    bubble: float
    """Radius of the gas in the stomach; 0: none."""
    breast: float
    """Thickness of the breasts; 0: none."""
    vessels: np.ndarray
    """[n, 4]: z, y, x, volume in mm3."""
    texture: NoiseField
    coarse: NoiseField
    emphysema: tuple[float, float] = (0.0, 0.0)
    """Right and left; 0 none to 1 severe."""

    @property
    def cavity_width(self) -> float:
        """Half the width of the thoracic cavity."""
        return self.half_width - self.wall

    @property
    def cavity_depth(self) -> float:
        """Half its depth."""
        return self.half_depth - 0.8 * self.wall

    @property
    def spine_y(self) -> float:
        """How far behind the origin the vertebral bodies are."""
        return self.cavity_depth - self.spine + 2


def draw_anatomy(rng: np.random.Generator) -> Anatomy:
    """A healthy chest of a random patient."""
    size = rng.normal(1.0, 0.05)
    habitus = rng.uniform(0, 1)
    fat = 5 + 25 * habitus**1.5
    wall = fat + rng.uniform(13, 17)
    half_width = 132 * size + wall + rng.normal(0, 5)
    half_depth = 92 * size * rng.uniform(0.93, 1.1) + 0.8 * wall
    breath = rng.normal(0, 9)
    right = -64 * size - breath
    scale = float(np.clip(rng.normal(0.985, 0.05), 0.87, 1.07)) * size
    return Anatomy(
        half_width=half_width,
        half_depth=half_depth,
        fat=fat,
        wall=wall,
        apex=126 * size + rng.normal(0, 5),
        dome=(right, right - rng.uniform(4, 16)),
        drop=(rng.uniform(24, 34), rng.uniform(24, 34)),
        heart=(-44 * size - 0.5 * breath, -26 + rng.normal(0, 3), 24 + rng.normal(0, 4)),
        heart_radii=(60 * scale, 44 * scale, 47 * scale),
        heart_tilt=rng.uniform(0.4, 0.8),
        mediastinum=rng.uniform(21, 28),
        knob=rng.uniform(14, 20),
        trachea=rng.uniform(7.5, 10),
        spine=rng.uniform(14.5, 17.5),
        lung_hu=rng.normal(-845, 20),
        fissure_tilt=rng.uniform(0.75, 1.05),
        rib_slope=rng.uniform(38, 58),
        bubble=float(rng.uniform(14, 28)) if rng.uniform() < 0.6 else 0.0,
        breast=float(rng.uniform(8, 34)) if rng.uniform() < 0.45 else 0.0,
        vessels=_vessel_tree(rng, size),
        texture=NoiseField.draw(rng, 9.0),
        coarse=NoiseField.draw(rng, 34.0),
    )


def _vessel_tree(rng: np.random.Generator, size: float) -> np.ndarray:
    """Arteries and veins: three generations of bent branches from both hila."""
    parts = []
    for side in (-1.0, 1.0):
        hilum = np.array([2.0, 8.0, side * 30.0])
        starts = np.repeat(hilum[None], 16, axis=0) + rng.normal(0, 6, (16, 3))
        aims = rng.normal(0, 1, (16, 3)) * (1.1, 0.8, 0.6) + (-0.15, 0.0, side * 0.8)
        for count, length, radius in ((5, 64.0, 3.2), (5, 42.0, 1.8), (0, 28.0, 1.0)):
            aims = aims / np.linalg.norm(aims, axis=1, keepdims=True)
            reach = size * length * rng.uniform(0.7, 1.25, len(starts))
            bend = rng.normal(0, 0.12, aims.shape)
            steps = np.linspace(0, 1, int(length / 2.5))
            line = (
                starts[:, None]
                + aims[:, None] * (reach[:, None, None] * steps[:, None])
                + bend[:, None] * (reach[:, None, None] * steps[:, None] ** 2)
            )
            thick = radius * (1 - 0.45 * steps)[None] * rng.uniform(0.8, 1.2, (len(starts), 1))
            volume = np.pi * thick**2 * (reach[:, None] / len(steps))
            spread = rng.normal(0, 0.5, line.shape) * thick[..., None]
            parts.append(np.concatenate([line + spread, volume[..., None]], axis=-1).reshape(-1, 4))
            if count:
                fork = rng.integers(len(steps) // 2, len(steps), (len(starts), count))
                starts = np.take_along_axis(line, fork[..., None], axis=1).reshape(-1, 3)
                aims = np.repeat(aims, count, axis=0) + rng.normal(0, 0.62, (len(starts), 3))
    return np.concatenate(parts)


def cavity_scale(a: Anatomy, z: Array) -> Array:
    """Size of the thoracic cavity at a height, as a share of its largest."""
    up = np.clip((z - 5) / (a.apex - 5), 0, 1)
    down = np.clip((-40 - z) / 260, 0, 1)
    return np.asarray((1 - 0.99 * up**2.3) ** 0.72 - 0.25 * down, np.float32)


def cavity_radius(a: Anatomy, y: Array, x: Array) -> Array:
    """Superelliptic radius of (y, x): 1 on the wall of the cavity where it is widest."""
    return _superellipse(x / np.float32(a.cavity_width), y / np.float32(a.cavity_depth))


def skin_depth(a: Anatomy, z: Array, y: Array, x: Array) -> Array:
    """Millimetres (about) under the skin. Wider at the shoulders, narrow at the neck."""
    shoulder = np.clip((z - 30) / 70, 0, 1)
    neck = np.clip((z - a.apex + 22) / 58, 0, 1)
    wide = a.half_width * (1 + 0.12 * shoulder) * (1 - neck) + 58 * neck
    deep = a.half_depth * (1 - 0.12 * shoulder) * (1 - neck) + 60 * neck
    # A superellipse; its radius to first order around 1, which saves a power of every voxel.
    power = np.abs(x / wide) ** 2.5 + np.abs(y / deep) ** 2.5
    return np.asarray((1 - power) * np.float32(0.4 * min(a.half_width, a.half_depth)), np.float32)


def _superellipse(u: Array, v: Array) -> Array:
    return np.asarray((np.abs(u) ** 2.5 + np.abs(v) ** 2.5) ** 0.4, np.float32)


def side_index(side: float) -> int:
    """0 for the right (x < 0), 1 for the left."""
    return int(side > 0)


def diaphragm(a: Anatomy, side: float, y: Array, x: Array) -> Array:
    """Height of the diaphragm of one side (-1 right, 1 left)."""
    number = side_index(side)
    across = (np.abs(x) - 62) / 70
    along = (y + 8) / 78
    fall = np.minimum(across**2 + along**2, 2.2) * a.drop[number]
    return np.asarray(a.dome[number] - fall, np.float32)


def heart_depth(a: Anatomy, z: Array, y: Array, x: Array) -> Array:
    """Millimetres (about) inside the heart; negative outside."""
    dz, dy, dx = z - a.heart[0], y - a.heart[1], x - a.heart[2]
    cos, sin = np.float32(np.cos(a.heart_tilt)), np.float32(np.sin(a.heart_tilt))
    long = dx * cos - dz * sin
    wide = dx * sin + dz * cos
    p, q, r = a.heart_radii
    radius = np.sqrt((long / p) ** 2 + (dy / q) ** 2 + (wide / r) ** 2)
    return np.asarray((1 - radius) * np.float32(min(p, q, r)), np.float32)


def lung_depth(a: Anatomy, side: float, z: Array, y: Array, x: Array) -> Array:
    """Millimetres (about) inside the pleural space of one side; negative outside.

    The space holds the lung and whatever takes its place: fluid or air.
    """
    wall = (cavity_scale(a, z) - cavity_radius(a, y, x)) * np.float32(a.cavity_width)
    # What lies between the lungs is thin in front (the lungs almost meet) and wide at the hila.
    between = a.mediastinum * (0.55 + 0.45 * np.clip((y + 70) / 60, 0, 1))
    waist = 1.6 * np.sin((z + 30 * side) / 19) + 5 * np.exp(-(((z - 72) / 22) ** 2))
    inner = np.float32(side) * x - between - waist
    spine = np.sqrt(x**2 + (y - a.spine_y) ** 2) - np.float32(a.spine + 4)
    floor = z - diaphragm(a, side, y, x)
    depth = np.minimum(np.minimum(wall, inner), np.minimum(spine, floor))
    depth = np.minimum(depth, -heart_depth(a, z, y, x))
    depth = np.minimum(depth, -hilum_depth(side, z, y, x))
    if side > 0:
        depth = np.minimum(depth, knob_distance(a, z, y, x))
    return np.asarray(depth, np.float32)


def hilum_depth(side: float, z: Array, y: Array, x: Array) -> Array:
    """Millimetres (about) inside the root of one lung; the left one sits higher."""
    height = 8.0 if side > 0 else -1.0
    dx = np.float32(side) * x - 25
    return np.asarray(
        16 - np.sqrt((dx * 0.9) ** 2 + (y - 4) ** 2 + ((z - height) * 0.72) ** 2), np.float32
    )


def knob_distance(a: Anatomy, z: Array, y: Array, x: Array) -> Array:
    """Millimetres outside the aorta (arch and descending part)."""
    arch = np.sqrt((x - 16) ** 2 + ((y - 8) * 0.6) ** 2 + (z - 52) ** 2) - a.knob
    down = np.sqrt((x - 15) ** 2 + (y - a.spine_y + a.spine + 4) ** 2) - 0.66 * a.knob
    down = np.maximum(down, z - 56)
    return np.asarray(np.minimum(arch, down), np.float32)


def oblique_fissure(a: Anatomy, y: Array) -> Array:
    """Height of the oblique fissure: high at the back, low in front."""
    return np.asarray(a.fissure_tilt * (y - 5) - 18, np.float32)


LOBES = {
    "right": ("right upper lobe", "right middle lobe", "right lower lobe"),
    "left": ("left upper lobe", "left lower lobe"),
}
HORIZONTAL_FISSURE_MM = -2.0


def lobe_depth(a: Anatomy, lobe: str, z: Array, y: Array) -> Array:
    """Millimetres (about) inside a lobe, as far as its fissures go."""
    above = (z - oblique_fissure(a, y)) * np.float32(0.72)
    level = z - np.float32(HORIZONTAL_FISSURE_MM)
    side, part = lobe.split()[:2]
    if part == "lower":
        depth = -above
    elif side == "left":
        depth = above
    else:
        depth = np.minimum(above, level if part == "upper" else -level)
    return np.asarray(depth, np.float32)
