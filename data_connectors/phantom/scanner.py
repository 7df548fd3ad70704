"""What the CT scanner does to a chest: slices, a table, noise, numbers stored with a slope."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from data_connectors.phantom.anatomy import Anatomy
from data_connectors.phantom.grid import Array, Grid

Codec = Literal["implicit", "explicit", "rle", "jpeg_ls", "jpeg_2000"]
_CODECS: tuple[Codec, ...] = ("explicit", "implicit", "rle", "jpeg_ls", "jpeg_2000")


Stored = NDArray[np.uint16] | NDArray[np.int16]
"""Pixels as a scanner stores them."""


@dataclass(frozen=True, slots=True)
class Scan:
    """How one CT series was taken and stored."""

    grid: Grid
    noise_hu: float
    table_y: float
    slope: float
    intercept: float
    signed: bool
    codec: Codec
    thorax_turn: float = 0.0


def draw_codec(rng: np.random.Generator) -> Codec:
    """Half of the archive is uncompressed."""
    return _CODECS[int(rng.choice(len(_CODECS), p=[0.4, 0.15, 0.15, 0.15, 0.15]))]


def draw_scan(rng: np.random.Generator, anatomy: Anatomy, size: int = 128) -> Scan:
    """A plausible protocol for this patient."""
    slices = int(rng.integers(23, 27))
    gap = float(rng.choice([10.5, 11.0, 11.5]))
    pixel = round(2 * anatomy.half_width * rng.uniform(0.96, 1.36) / size, 3)
    top = anatomy.apex + rng.uniform(6, 18)
    half = pixel * (size - 1) / 2
    origin = (
        round(top - gap * (slices - 1), 2),
        round(rng.normal(0, 6) - half, 2),
        round(rng.normal(0, 5) - half, 2),
    )
    slope, intercept, signed = (
        (1.0, -1024.0, False), (1.0, 0.0, True), (0.5, -1024.0, False), (2.0, -1000.0, True),
    )[int(rng.choice(4, p=[0.5, 0.25, 0.15, 0.1]))]  # fmt: skip
    return Scan(
        grid=Grid((slices, size, size), (gap, pixel, pixel), origin),
        noise_hu=rng.uniform(10, 24),
        table_y=anatomy.half_depth + rng.uniform(4, 18),
        slope=slope,
        intercept=intercept,
        signed=signed,
        codec=draw_codec(rng),
    )


def acquire(hu: Array, scan: Scan, rng: np.random.Generator) -> Stored:
    """Stored values [D, H, W] of a rendered chest: HU = stored * slope + intercept."""
    _, y, x = scan.grid.axes()
    seen = hu + scan.noise_hu * rng.standard_normal(hu.shape, dtype=np.float32)
    sag = scan.table_y - 14 * (x / 190) ** 2
    table = (y > sag) & (y < sag + 22) & (np.abs(x) < 200)
    rim = (np.abs(y - sag) < 3) | (np.abs(y - sag - 22) < 3)
    seen = np.where(table, np.maximum(seen, np.where(rim, -250.0, -890.0)), seen)
    stored = np.rint((np.clip(seen, -1024, 3071) - scan.intercept) / scan.slope)
    return stored.astype(np.int16) if scan.signed else stored.astype(np.uint16)
