"""A projection radiograph of a rendered chest.

The rays are parallel and run from back to front (a PA view, heads up). What arrives follows
Beer and Lambert, I = I0 exp(-integral of mu); scatter and noise come before the logarithm, as in
a detector. Exposure, positioning and collimation differ from patient to patient.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from data_connectors.phantom.findings import Planted
from data_connectors.phantom.grid import Array, Grid
from data_connectors.phantom.render import Rendered

WATER_PER_MM = 0.0195
"""Attenuation of water at about 65 keV effective energy."""
BITS = 12
SEEN_MM = 15.0
"""So much water along a ray is seen in the lung, also where far more of it lies elsewhere."""
AIRY = ("pneumothorax", "emphysema")
"""Findings of air, which contrasts with the lung seven times less than water."""


Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True)
class Exposure:
    """How one radiograph was taken."""

    size: int
    """Pixels a side."""
    field_mm: float
    centre_mm: tuple[float, float]
    """z, x in the middle of the picture."""
    turn: float
    """Radians."""
    black: float
    """Grey level (0 to 1) of the thinnest part of the chest."""
    white: float
    contrast: float
    """Bend of the grey curve: contrast in the lungs at the cost of the bones."""
    scatter: float
    noise: float
    shutters: tuple[float, float, float, float]
    """Share of the picture hidden at the top, bottom, left, right."""
    shutter_level: float

    @property
    def pixel_mm(self) -> float:
        """Spacing of the pixels at the chest."""
        return self.field_mm / self.size


def draw_exposure(rng: np.random.Generator, half_width: float) -> Exposure:
    """A plausible setting for a patient of this width."""
    field = float(np.clip(2 * half_width * rng.uniform(1.0, 1.12), 300, 430))
    shut = np.where(rng.uniform(0, 1, 4) < 0.35, rng.uniform(0.0, 0.06, 4), 0.0)
    black = rng.uniform(0.02, 0.22)
    return Exposure(
        size=int(rng.choice([160, 176, 192])),
        field_mm=field,
        centre_mm=(rng.normal(-12, 6), rng.normal(0, 5)),
        turn=rng.normal(0, 0.022),
        black=black,
        white=rng.uniform(0.62, 1.0),
        contrast=rng.uniform(1.6, 3.0),
        scatter=rng.uniform(0.03, 0.09),
        noise=rng.uniform(0.004, 0.01),
        shutters=(float(shut[0]), float(shut[1]), float(shut[2]), float(shut[3])),
        shutter_level=float(rng.choice([0.0, 0.0, 1.0])),
    )


def projection_grid(half_width: float, half_depth: float) -> Grid:
    """Voxels fine in the picture's plane, coarse along the rays."""
    step, deep = 2.9, 6.0
    wide = int(np.ceil(2 * (half_width + 12) / step))
    rows = int(np.ceil(2 * (half_depth + 30) / deep))
    tall = 116
    return Grid(
        (tall, rows, wide),
        (step, deep, step),
        (-172.0, -deep * (rows - 1) / 2, -step * (wide - 1) / 2),
    )


def attenuation(body: Rendered) -> Array:
    """The line integral of the attenuation along every ray: [D, W], no unit."""
    density = np.maximum(body.hu + 1000, 0)
    # Bone absorbs more than its density says (photo-electric effect).
    density = density + 0.4 * np.maximum(body.hu - 150, 0)
    integral = density.sum(axis=1) * (WATER_PER_MM * body.grid.spacing_mm[1] / 1000)
    return np.asarray(integral, np.float32)


def expose(body: Rendered, exposure: Exposure, rng: np.random.Generator) -> NDArray[np.uint16]:
    """The picture, [size, size] of 12 bits, white where dense (MONOCHROME2).

    Row 0 is the top; columns run towards the patient's left.
    """
    path = attenuation(body)
    path = _place(path, body.grid, exposure, outside=0.0)
    arrived = np.exp(-path)
    stray = ndimage.gaussian_filter(arrived, exposure.size / 9)
    arrived = arrived + exposure.scatter * stray
    # Photon noise grows with the square root of what arrives; relative to it, it falls.
    sigma = exposure.noise * np.sqrt(np.maximum(arrived, 1e-4) / 0.2)
    arrived = arrived + sigma * 0.35 * rng.standard_normal(arrived.shape)
    signal = -np.log(np.clip(arrived, 2e-3, None))
    # As every digital system does: compress the range of the large structures, keep the small.
    signal = signal - 0.4 * ndimage.gaussian_filter(signal, exposure.size / 9, mode="nearest")
    # Automatic exposure looks at the chest, not at the air beside it.
    chest = signal[(path > 0.9) & (np.abs(np.arange(exposure.size) / exposure.size - 0.5) < 0.36)]
    low, high = np.percentile(chest, (0.5, 98)) if chest.size else (0.0, 1.0)
    grey = np.clip((signal - low) / (high - low), 0, 1.2)
    # The film's curve: most contrast where it is dark, in the lungs.
    grey = (1 - np.exp(-exposure.contrast * grey)) / (1 - np.exp(-exposure.contrast))
    grey = exposure.black + (exposure.white - exposure.black) * grey
    grey = _shut(np.clip(grey, 0, 1), exposure)
    return np.asarray(np.rint(grey * (2**BITS - 1)), np.uint16)


def project_mask(
    body: Rendered, share: Array, exposure: Exposure, *, airy: bool = False
) -> NDArray[np.bool_]:
    """Where a finding is seen in the picture, [size, size]."""
    depth = share.sum(axis=1) * body.grid.spacing_mm[1]
    depth = _place(depth, body.grid, exposure, outside=0.0)
    peak = float(depth.max())
    least = max(0.3 * peak if airy else min(0.3 * peak, SEEN_MM), 1.0)
    seen = depth > least
    return np.asarray(_shut(seen.astype(np.float32), exposure, level=0.0) > 0.5)


def masks_in_picture(body: Rendered, exposure: Exposure) -> list[tuple[Planted, NDArray[np.bool_]]]:
    """Every finding's projected mask."""
    return [
        (finding, project_mask(body, share, exposure, airy=finding.concept in AIRY))
        for finding, share in body.masks
    ]


def _place(image: Array, grid: Grid, exposure: Exposure, outside: float) -> Array:
    """Resample [z up, x] onto the detector: top row first, turned, shifted, scaled."""
    ticks = (np.arange(exposure.size) - (exposure.size - 1) / 2) * exposure.pixel_mm
    down, across = np.meshgrid(ticks, ticks, indexing="ij")
    cos, sin = np.cos(exposure.turn), np.sin(exposure.turn)
    z = exposure.centre_mm[0] - (down * cos - across * sin)
    x = exposure.centre_mm[1] + down * sin + across * cos
    rows = (z - grid.origin_mm[0]) / grid.spacing_mm[0]
    columns = (x - grid.origin_mm[2]) / grid.spacing_mm[2]
    # Above and below the grid the body goes on; beside it there is air.
    rows = np.clip(rows, 0, grid.shape[0] - 1)
    placed = ndimage.map_coordinates(image, [rows, columns], order=1, mode="constant", cval=outside)
    return np.asarray(placed, np.float32)


def _shut(grey: Floats, exposure: Exposure, level: float | None = None) -> Floats:
    top, bottom, left, right = (round(part * exposure.size) for part in exposure.shutters)
    value = exposure.shutter_level if level is None else level
    shut = grey.copy()
    shut[:top] = value
    shut[exposure.size - bottom :] = value
    shut[:, :left] = value
    shut[:, exposure.size - right :] = value
    return shut
