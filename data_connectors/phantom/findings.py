"""Which findings a patient has, and where: concept, side, lobe, severity, millimetres.

Findings come together as they do in life (fluid with a large heart, collapse with fluid, air
leaks with emphysema): a Gaussian copula sets the correlations, a threshold the prevalence.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from data_connectors.phantom.anatomy import (
    LOBES,
    Anatomy,
    heart_depth,
    lobe_depth,
    lung_depth,
    side_index,
)
from data_connectors.phantom.grid import Array

CONCEPTS = (
    "nodule",
    "mass",
    "consolidation",
    "pleural_effusion",
    "pneumothorax",
    "cardiomegaly",
    "atelectasis",
    "emphysema",
)
PREVALENCE = 0.24
MOST = 4
_TOGETHER = {
    ("cardiomegaly", "pleural_effusion"): 0.35,
    ("pleural_effusion", "atelectasis"): 0.3,
    ("consolidation", "pleural_effusion"): 0.2,
    ("emphysema", "pneumothorax"): 0.2,
    ("nodule", "mass"): 0.2,
    ("emphysema", "nodule"): 0.1,
    ("emphysema", "cardiomegaly"): -0.2,
}

_ORDER = ("cardiomegaly", "emphysema", "pleural_effusion", "pneumothorax", "atelectasis",
          "consolidation", "mass", "nodule")  # fmt: skip

Where = Literal["left", "right", "bilateral", "midline"]
GRADES = {
    "size": ("small", "moderate", "large"),
    "degree": ("mild", "moderate", "severe"),
}
SCALE_OF = {
    "nodule": "size",
    "mass": "size",
    "consolidation": "degree",
    "pleural_effusion": "size",
    "pneumothorax": "size",
    "cardiomegaly": "degree",
    "atelectasis": "degree",
    "emphysema": "degree",
}


@dataclass(frozen=True, slots=True)
class Planted:
    """One finding of one patient."""

    concept: str
    side: Where
    lobe: str | None
    severity: str
    grade: float
    """0 the least to 1 the most; `severity` says it in words."""
    centre_mm: tuple[float, float, float] | None
    """z, y, x (LPS); None where the finding has no one place."""
    size_mm: float | None
    """Largest diameter of a nodule or mass; depth of a fluid or air collection."""
    shape_seed: int
    """Names the random shape: edges, texture, tilt."""
    more_mm: tuple[tuple[float, float, float], ...] = ()
    """Centres of further nodules."""

    @property
    def sides(self) -> tuple[float, ...]:
        """-1 for the right and 1 for the left."""
        return {"left": (1.0,), "right": (-1.0,)}.get(self.side, (-1.0, 1.0))


def draw_concepts(rng: np.random.Generator) -> tuple[str, ...]:
    """A correlated draw of at most four concepts."""
    size = len(CONCEPTS)
    covariance = np.eye(size)
    for (one, other), value in _TOGETHER.items():
        i, j = CONCEPTS.index(one), CONCEPTS.index(other)
        covariance[i, j] = covariance[j, i] = value
    latent = np.linalg.cholesky(covariance) @ rng.standard_normal(size)
    threshold = 0.7063  # the standard normal exceeds it with probability PREVALENCE
    order = np.argsort(-latent)[:MOST]
    chosen = {CONCEPTS[i] for i in order if latent[i] > threshold}
    return tuple(concept for concept in CONCEPTS if concept in chosen)


def draw_findings(rng: np.random.Generator, anatomy: Anatomy) -> tuple[Planted, ...]:
    """The findings of one patient, each with its place in this anatomy."""
    concepts = draw_concepts(rng)
    planted: list[Planted] = []
    shaped = anatomy
    taken: set[str] = set()
    hidden: list[tuple[float, float, float]] = []
    # First what changes the shape of the chest, so that the others find their place in it.
    for concept in sorted(concepts, key=_ORDER.index):
        finding = _draw(rng, concept, shaped, taken, hidden)
        planted.append(finding)
        shaped = reshape(anatomy, planted)
        if concept == "pleural_effusion":
            taken |= {f"{side} lower lobe" for side in ("left", "right")
                      if finding.side in (side, "bilateral")}  # fmt: skip
        elif finding.lobe:
            taken.add(finding.lobe)
        if finding.centre_mm is not None and finding.size_mm is not None:
            z, _, x = finding.centre_mm
            hidden.append((z, x, 0.5 * finding.size_mm))
    return tuple(sorted(planted, key=lambda finding: CONCEPTS.index(finding.concept)))


def reshape(anatomy: Anatomy, findings: list[Planted] | tuple[Planted, ...]) -> Anatomy:
    """The anatomy as these findings leave it: a larger heart, a raised or flattened diaphragm."""
    for finding in findings:
        grade = finding.grade
        match finding.concept:
            case "cardiomegaly":
                p, q, r = anatomy.heart_radii
                grow = 1.26 + 0.24 * grade
                z, y, x = anatomy.heart
                anatomy = replace(
                    anatomy,
                    heart_radii=(p * grow, q * (1 + 0.5 * (grow - 1)), r * grow),
                    heart=(z + 2, y, x + 5),
                )
            case "emphysema":
                amount = _per_side(finding, 0.55 + 0.45 * grade)
                anatomy = replace(
                    anatomy,
                    emphysema=amount,
                    dome=(anatomy.dome[0] - 16 * amount[0], anatomy.dome[1] - 16 * amount[1]),
                    drop=(
                        anatomy.drop[0] * (1 - 0.5 * amount[0]),
                        anatomy.drop[1] * (1 - 0.5 * amount[1]),
                    ),
                )
            case "atelectasis":
                lift = _per_side(finding, 8 + 12 * grade)
                dome = (anatomy.dome[0] + lift[0], anatomy.dome[1] + lift[1])
                anatomy = replace(anatomy, dome=dome)
    return anatomy


def _per_side(finding: Planted, value: float) -> tuple[float, float]:
    """The value right and left, 0 on a side that the finding leaves alone."""
    return (value if -1.0 in finding.sides else 0.0, value if 1.0 in finding.sides else 0.0)


def _free_lobe(
    rng: np.random.Generator, side: Literal["left", "right"], taken: set[str]
) -> tuple[Literal["left", "right"], str]:
    """A lobe that nothing else hides, on the wished side where there is one; its side."""
    other: Literal["left", "right"] = "right" if side == "left" else "left"
    for chosen in (side, other):
        free = [lobe for lobe in LOBES[chosen] if lobe not in taken]
        if free:
            return chosen, free[int(rng.integers(len(free)))]
    return side, LOBES[side][int(rng.integers(len(LOBES[side])))]


def _draw(
    rng: np.random.Generator, concept: str, a: Anatomy, taken: set[str],
    hidden: list[tuple[float, float, float]],
) -> Planted:  # fmt: skip
    grade = float(rng.uniform())
    wished: Literal["left", "right"] = "left" if rng.uniform() < 0.5 else "right"
    side: Where = wished
    shape_seed = int(rng.integers(2**31))
    severity = GRADES[SCALE_OF[concept]][min(int(grade * 3), 2)]
    lobe: str | None = None
    centre: tuple[float, float, float] | None = None
    size: float | None = None
    more: tuple[tuple[float, float, float], ...] = ()
    match concept:
        case "nodule":
            size = 20 + 9 * grade
            side, lobe = _free_lobe(rng, wished, taken)
            centre = _place_in(rng, a, side, lobe, hidden, margin=size / 2)
            more = _neighbours(rng, a, side, lobe, hidden, centre, size)
        case "mass":
            size = 48 + 32 * grade
            side, lobe = _free_lobe(rng, wished, taken)
            centre = _place_in(rng, a, side, lobe, hidden, margin=size / 2 * 0.8)
        case "consolidation":
            side, lobe = _free_lobe(rng, wished, taken)
            centre = _place_in(rng, a, side, lobe, hidden, margin=14.0)
            size = 100 + 50 * grade
        case "pleural_effusion":
            if rng.uniform() < 0.25:
                side = "bilateral"
            size = 42 + 78 * grade
        case "pneumothorax":
            size = 20 + 26 * grade
        case "cardiomegaly":
            side = "midline"
        case "atelectasis":
            side, lobe = _free_lobe(rng, wished, taken)
            centre = _place_in(rng, a, side, lobe, hidden, margin=12.0)
            size = 80 + 35 * grade
        case "emphysema":
            if rng.uniform() < 0.7:
                side = "bilateral"
    return Planted(concept, side, lobe, severity, grade, centre, size, shape_seed, more)


def _neighbours(
    rng: np.random.Generator, a: Anatomy, side: Where, lobe: str,
    hidden: list[tuple[float, float, float]], centre: tuple[float, float, float], size: float,
) -> tuple[tuple[float, float, float], ...]:  # fmt: skip
    """Up to three further nodules of the same lobe, apart from each other."""
    wanted = int(rng.choice(4, p=[0.2, 0.25, 0.3, 0.25]))
    found = [centre]
    for _ in range(4 * wanted):
        place = _place_in(rng, a, side, lobe, hidden, margin=size / 2)
        if len(found) <= wanted and min(math.dist(place, other) for other in found) > 1.2 * size:
            found.append(place)
    return tuple(found[1:])


def _place_in(
    rng: np.random.Generator, a: Anatomy, side: Where, lobe: str,
    hidden: list[tuple[float, float, float]], margin: float,
) -> tuple[float, float, float]:  # fmt: skip
    """A random point of a lobe, at least `margin` from its surface where it is that thick.

    `hidden` holds circles (z, x, radius) of a radiograph that earlier lesions fill.
    """
    sign = 1.0 if side == "left" else -1.0
    count = 600
    z = rng.uniform(-120, a.apex, count).astype(np.float32)
    y = rng.uniform(-a.cavity_depth, a.cavity_depth, count).astype(np.float32)
    x = (sign * rng.uniform(0, a.cavity_width, count)).astype(np.float32)
    lobar = lobe_depth(a, lobe, z, y)
    depth: Array = np.minimum(lung_depth(a, sign, z, y, x), lobar + np.float32(0.5 * margin))
    # Not behind the heart, nor below the dome: a radiograph would not show it.
    seen = (np.abs(x) > 48) & (z > a.dome[side_index(sign)] + 8)
    seen &= heart_depth(a, z, np.full_like(y, a.heart[1]), x) < -6
    for row, column, radius in hidden:
        seen &= np.hypot(z - row, x - column) > radius + min(margin, 20.0)
    fits = np.flatnonzero((depth > margin) & seen)
    if len(fits):
        chosen = int(fits[0])
    else:
        chosen = int(np.argmax(np.where(lobar > 2, depth + 20 * seen, depth - 1000)))
    return float(z[chosen]), float(y[chosen]), float(x[chosen])
