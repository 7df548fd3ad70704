"""Ribs, clavicles, sternum and shoulder blades, as points that each carry some volume."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from data_connectors.phantom.anatomy import Anatomy, cavity_scale

Points = NDArray[np.float64]


def rib_points(a: Anatomy) -> tuple[Points, Points]:
    """Flat bones: points [n, 3] (z, y, x in mm) and the volume at each, [n] mm3."""
    return _joined([_ribs(a), _clavicles(a), _sternum(a), _blades(a)])


def _joined(parts: list[tuple[Points, float]]) -> tuple[Points, Points]:
    points = np.concatenate([points for points, _ in parts])
    return points, np.concatenate([np.full(len(points), volume) for points, volume in parts])


def _around(line: Points, half: tuple[float, float, float], counts: tuple[int, int, int]) -> Points:
    """A small block of points around each point of a line: [n, 3] -> [n * prod(counts), 3]."""
    steps = [
        np.linspace(-h, h, c) if c > 1 else np.zeros(1) for h, c in zip(half, counts, strict=True)
    ]
    block = np.stack(np.meshgrid(*steps, indexing="ij"), axis=-1).reshape(-1, 3)
    return np.asarray((line[:, None] + block[None]).reshape(-1, 3))


def _ribs(a: Anatomy) -> tuple[Points, float]:
    """Ten pairs that run round the cavity, down towards the front."""
    angle = np.linspace(0.16, 2.55, 90)
    lines = []
    for number in range(10):
        start = a.apex - 4 - number * 23.5
        fall = a.rib_slope * (1 - np.cos(angle)) * (0.55 + 0.06 * number)
        z = start - fall
        scale = cavity_scale(a, z.astype(np.float32)).astype(np.float64)
        sin, cos = np.sin(angle), np.cos(angle)
        out = 1 / (np.abs(sin) ** 2.5 + np.abs(cos) ** 2.5) ** 0.4
        # The first ribs hug a small circle: never less than a quarter of the cavity.
        reach = np.maximum(scale, 0.25)
        x = (a.cavity_width * reach + 5) * sin * out
        y = (a.cavity_depth * reach + 5) * cos * out
        keep = (z > -175) & (angle < 2.55 - 0.05 * max(number - 5, 0) * 4)
        for side in (-1.0, 1.0):
            lines.append(np.stack([z, y, side * x], axis=1)[keep])
    line = np.concatenate(lines)
    # Twelve millimetres tall, six thick, about four along: eight points of the mean share.
    return _around(line, (4.6, 2.2, 2.2), (3, 2, 2)), 13.0 * 8.0 * 4.15 / 12 * 0.8


def _clavicles(a: Anatomy) -> tuple[Points, float]:
    """From the sternum outwards and up, in a flat S."""
    t = np.linspace(0, 1, 60)
    lines = []
    for side in (-1.0, 1.0):
        x = side * (22 + t * (a.cavity_width * 0.95))
        z = a.apex - 26 + 22 * t + 4 * np.sin(2 * np.pi * t)
        y = -0.62 * a.cavity_depth + 30 * t + 7 * np.sin(2 * np.pi * t)
        lines.append(np.stack([z, y, x], axis=1))
    return _around(np.concatenate(lines), (4.0, 4.0, 0.0), (3, 3, 1)), 2.2 * 140 / 9 * 0.9


def _sternum(a: Anatomy) -> tuple[Points, float]:
    """A plate in front of the mediastinum."""
    z = np.arange(-50, a.apex - 34, 3.0)
    line = np.stack([z, np.full(len(z), -a.cavity_depth - 6), np.zeros(len(z))], axis=1)
    return _around(line, (0.0, 4.0, 16.0), (1, 3, 9)), 3.0 * 12 * 36 / 27 * 0.45


def _blades(a: Anatomy) -> tuple[Points, float]:
    """Thin triangles behind and outside the upper ribs."""
    u, v = np.meshgrid(np.linspace(0, 1, 30), np.linspace(0, 1, 18), indexing="ij")
    points = []
    for side in (-1.0, 1.0):
        x = side * (a.cavity_width * 0.72 + (1 - u) * v * 48 + 8 * u)
        z = a.apex - 18 - u * 125
        y = a.cavity_depth * 0.78 - v * (1 - u) * 30 + 16
        points.append(np.stack([z, y, x], axis=-1).reshape(-1, 3))
    return np.concatenate(points), 125 * 24 * 5.0 / 540 * 0.5
