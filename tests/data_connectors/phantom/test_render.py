"""The body on a grid: geometry, planted values, sides, masks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from data_connectors.phantom.anatomy import Anatomy, draw_anatomy
from data_connectors.phantom.findings import CONCEPTS, Planted, draw_concepts, draw_findings
from data_connectors.phantom.grid import Array, Grid, NoiseField, splat
from data_connectors.phantom.radiograph import (
    SEEN_MM,
    Exposure,
    attenuation,
    draw_exposure,
    expose,
    project_mask,
    projection_grid,
)
from data_connectors.phantom.render import Rendered, render

GRID = Grid((24, 96, 96), (11.0, 3.9, 3.9), (-140.0, -185.0, -185.0))


def anatomy(seed: int = 0) -> Anatomy:
    return draw_anatomy(np.random.default_rng(seed))


def planted(concept: str, *, grade: float = 0.7, tries: int = 4000) -> tuple[Anatomy, Planted]:
    """The first patient with exactly this finding, its grade replaced where that is harmless."""
    for seed in range(tries):
        rng = np.random.default_rng([seed, CONCEPTS.index(concept)])
        if draw_concepts(np.random.default_rng([seed, CONCEPTS.index(concept)])) != (concept,):
            continue
        body = anatomy(seed)
        (finding,) = draw_findings(rng, body)
        return body, finding
    raise AssertionError(f"no patient with {concept} alone")


def changed(body: Anatomy, finding: Planted, grid: Grid = GRID) -> tuple[Rendered, np.ndarray]:
    """The chest with the finding, and where it differs from the healthy one by over 60 HU."""
    ill = render(body, (finding,), grid)
    return ill, np.abs(ill.hu - render(body, (), grid).hu) > 60


def at(grid: Grid, point: tuple[float, float, float]) -> tuple[int, ...]:
    return tuple(
        round((p - o) / s) for p, o, s in zip(point, grid.origin_mm, grid.spacing_mm, strict=True)
    )


def test_organs_are_where_they_belong() -> None:
    body = anatomy(3)
    hu = render(body, (), GRID).hu
    heart = hu[at(GRID, body.heart)]
    assert 30 < heart < 60
    for x in (-75.0, 75.0):
        d, h, w = at(GRID, (30.0, -10.0, x))
        lung = hu[d - 1 : d + 2, h - 4 : h + 5, w - 4 : w + 5]
        assert -950 < float(np.median(lung)) < -750
    assert hu[at(GRID, (80.0, 10.0, 0.0))] < -850  # trachea
    assert hu[at(GRID, (60.0, body.spine_y, 0.0))] > 120  # vertebra
    assert hu[at(GRID, (0.0, -180.0, -180.0))] == -1000  # air outside
    assert 40 < hu[at(GRID, (-125.0, -10.0, -60.0))] < 75  # liver on the right
    assert body.heart[2] > 0  # the heart lies to the left: LPS x grows leftwards


@pytest.mark.parametrize(
    ("concept", "low", "high"),
    [
        ("nodule", 450, 850),
        ("mass", 20, 110),
        ("consolidation", -250, 60),
        ("pleural_effusion", -40, 40),
        ("pneumothorax", -1001, -940),
        ("emphysema", -1001, -930),
        ("cardiomegaly", 30, 60),
    ],
)
def test_planted_values_are_those_of_the_tissue(concept: str, low: float, high: float) -> None:
    body, finding = planted(concept)
    rendered = render(body, (finding,), GRID)
    inside = rendered.hu[rendered.masks[0][1] > 0.95]
    assert len(inside) > 3
    assert low < float(np.median(inside)) < high


@pytest.mark.parametrize("concept", [c for c in CONCEPTS if c not in ("cardiomegaly", "emphysema")])
def test_the_mask_is_where_the_picture_changed(concept: str) -> None:
    body, finding = planted(concept)
    ill, differs = changed(body, finding)
    mask = ill.masks[0][1] > 0.5
    # Fluid may lie where soft tissue was next to it; everything else replaces lung.
    assert differs[mask].mean() > (0.75 if concept == "pleural_effusion" else 0.9)


def test_an_enlarged_heart_and_thin_lungs_change_their_masks_too() -> None:
    body, finding = planted("cardiomegaly")
    ill, differs = changed(body, finding)
    grown = (ill.masks[0][1] > 0.5) & differs
    assert grown.sum() > 100  # the heart has replaced lung
    body, finding = planted("emphysema")
    ill, _ = changed(body, finding)
    mask = ill.masks[0][1] > 0.5
    healthy = render(body, (), GRID).hu
    assert float((ill.hu - healthy)[mask].mean()) < -60


@pytest.mark.parametrize("concept", ["pleural_effusion", "pneumothorax", "nodule", "atelectasis"])
@pytest.mark.parametrize("seed", [1, 2])
def test_a_left_finding_lies_on_the_patients_left(concept: str, seed: int) -> None:
    body, finding = planted(concept)
    for side, sign in (("left", 1.0), ("right", -1.0)):
        mirrored = finding
        if finding.side != side and finding.centre_mm is not None:
            z, y, x = finding.centre_mm
            flip = {"left": "right", "right": "left"}
            lobe = (
                finding.lobe.replace(*list(flip.items())[finding.side == "right"])
                if finding.lobe
                else None
            )
            lobe = lobe.replace("left middle", "left lower") if lobe else None
            mirrored = replace(finding, centre_mm=(z, y, -x), lobe=lobe, more_mm=())
        mirrored = replace(mirrored, side=side, shape_seed=seed, more_mm=())
        mask = render(body, (mirrored,), GRID).masks[0][1]
        x = GRID.axis(2)[None, None]
        assert mask.sum() > 0
        assert sign * float((mask * x).sum() / mask.sum()) > 15


def test_fluid_gathers_low_and_behind_and_more_of_it_when_large() -> None:
    body, finding = planted("pleural_effusion")
    volumes = []
    for size in (45.0, 80.0, 118.0):
        rendered = render(body, (replace(finding, side="left", size_mm=size),), GRID)
        mask = rendered.masks[0][1]
        volumes.append(float(mask.sum()))
        z, y, _ = GRID.axes()
        assert float((mask * z).sum() / mask.sum()) < -20
        assert float((mask * y).sum() / mask.sum()) > 0
    assert volumes[0] < volumes[1] < volumes[2]


@pytest.mark.parametrize("concept", ["cardiomegaly", "emphysema", "atelectasis"])
def test_a_severe_finding_fills_more_than_a_mild_one(concept: str) -> None:
    body, finding = planted(concept)
    mild, severe = (
        float(render(body, (replace(finding, grade=grade),), GRID).masks[0][1].sum())
        for grade in (0.0, 1.0)
    )
    assert severe > 1.2 * mild


@pytest.mark.parametrize("concept", ["pneumothorax", "consolidation"])
def test_a_larger_finding_fills_more_than_a_small_one(concept: str) -> None:
    body, finding = planted(concept)
    assert finding.size_mm is not None
    small, large = (
        float(render(body, (replace(finding, size_mm=size),), GRID).masks[0][1].sum())
        for size in (0.7 * finding.size_mm, 1.3 * finding.size_mm)
    )
    assert large > 1.2 * small


@pytest.mark.parametrize("concept", ["nodule", "mass"])
def test_a_lesion_has_the_size_that_the_truth_says(concept: str) -> None:
    body, finding = planted(concept)
    assert finding.size_mm is not None
    fine = Grid((90, 120, 120), (3.0, 2.0, 2.0), (-140.0, -119.0, -119.0))
    finding = replace(finding, more_mm=())
    rendered = render(body, (finding,), fine)
    volume = float(rendered.masks[0][1].sum()) * fine.voxel_mm3
    diameter = 2 * (3 * volume / (4 * np.pi)) ** (1 / 3)
    assert diameter == pytest.approx(finding.size_mm, rel=0.2)
    assert finding.size_mm < 30 if concept == "nodule" else finding.size_mm > 30


def test_the_radiograph_shows_the_left_on_the_right_and_the_head_at_the_top() -> None:
    body, finding = planted("mass")
    rendered = render(body, (finding,), projection_grid(body.half_width, body.half_depth))
    exposure = steady(draw_exposure(np.random.default_rng(0), body.half_width))
    mask = project_mask(rendered, rendered.masks[0][1], exposure)
    rows, columns = np.nonzero(mask)
    assert finding.centre_mm is not None
    middle = (exposure.size - 1) / 2
    z = exposure.centre_mm[0] - (rows.mean() - middle) * exposure.pixel_mm
    x = exposure.centre_mm[1] + (columns.mean() - middle) * exposure.pixel_mm
    assert z == pytest.approx(finding.centre_mm[0], abs=8)
    assert x == pytest.approx(finding.centre_mm[2], abs=8)


def steady(exposure: Exposure) -> Exposure:
    return replace(exposure, turn=0.0, noise=0.0, shutters=(0.0, 0.0, 0.0, 0.0), scatter=0.0)


def test_the_radiograph_follows_the_attenuation_law() -> None:
    """mu of water times millimetres of water; bone weakens more than its density."""
    grid = Grid((2, 40, 8), (6.0, 5.0, 6.0), (0.0, 0.0, 0.0))
    hu = np.full(grid.shape, -1000.0, np.float32)
    for k in range(8):
        hu[:, : 5 * k, k] = 0.0
    hu[1] = np.where(hu[1] == 0, 600.0, hu[1])
    integral = attenuation(Rendered(grid, hu, ()))
    np.testing.assert_allclose(integral[0], 0.0195 * 25 * np.arange(8), rtol=1e-5)
    assert (integral[1, 1:] > 1.6 * integral[0, 1:]).all()


def test_denser_is_brighter() -> None:
    body = anatomy(2)
    grid = projection_grid(body.half_width, body.half_depth)
    exposure = steady(draw_exposure(np.random.default_rng(2), body.half_width))
    rendered = render(body, (), grid)
    image = expose(rendered, exposure, np.random.default_rng(0)).astype(float)
    rows = (exposure.centre_mm[0] - np.array([30.0, -90.0])) / exposure.pixel_mm
    lung, belly = (rows + exposure.size / 2).astype(int)
    column = int((75 - exposure.centre_mm[1]) / exposure.pixel_mm + exposure.size / 2)
    assert image[belly, column] > 1.5 * image[lung, column]


def test_the_projected_mask_is_where_the_radiograph_changed() -> None:
    body, finding = planted("mass")
    grid = projection_grid(body.half_width, body.half_depth)
    exposure = steady(draw_exposure(np.random.default_rng(1), body.half_width))
    ill, well = render(body, (finding,), grid), render(body, (), grid)
    rng = np.random.default_rng(0)
    change = expose(ill, exposure, rng).astype(float) - expose(well, exposure, rng)
    mask = project_mask(ill, ill.masks[0][1], exposure)
    assert change[mask].mean() > 4 * abs(change[~mask]).mean()


def test_shallow_fluid_is_in_the_mask_though_more_lies_elsewhere() -> None:
    body, finding = planted("pleural_effusion")
    grid = projection_grid(body.half_width, body.half_depth)
    exposure = steady(draw_exposure(np.random.default_rng(1), body.half_width))
    ill = render(body, (finding,), grid)
    share = ill.masks[0][1]
    deepest = float(share.sum(axis=1).max()) * grid.spacing_mm[1]
    assert deepest > 4 * SEEN_MM
    fluid = project_mask(ill, share, exposure)
    # As air of the same shape, only where much of it lies.
    air = project_mask(ill, share, exposure, airy=True)
    assert not (air & ~fluid).any()
    assert fluid.sum() > 1.1 * air.sum()


def test_the_edge_of_a_collapsed_lung_projects_without_steps() -> None:
    """The front of the lung is sampled every 6 mm: a thin line there would show as arcs."""
    body, finding = planted("pneumothorax")
    coarse = projection_grid(body.half_width, body.half_depth)
    ratio = 4
    fine = Grid(
        (coarse.shape[0], coarse.shape[1] * ratio, coarse.shape[2]),
        (coarse.spacing_mm[0], coarse.spacing_mm[1] / ratio, coarse.spacing_mm[2]),
        (
            coarse.origin_mm[0],
            coarse.origin_mm[1] - coarse.spacing_mm[1] * (ratio - 1) / (2 * ratio),
            coarse.origin_mm[2],
        ),
    )

    def change(grid: Grid) -> Array:
        return attenuation(render(body, (finding,), grid)) - attenuation(render(body, (), grid))

    exact, quick = change(fine), change(coarse)
    wrong = np.abs(np.diff(quick - exact, axis=1)).mean()
    assert wrong < 0.45 * np.abs(np.diff(exact, axis=1)).mean()


def test_tissue_partial_volumes_keep_their_sum() -> None:
    grid = Grid((8, 8, 8), (2.0, 3.0, 4.0), (0.0, 0.0, 0.0))
    rng = np.random.default_rng(0)
    points = rng.uniform([1, 1, 1], [12, 18, 24], (50, 3))
    filled = splat(grid, points, np.full(50, 0.4))
    assert float(filled.sum()) * grid.voxel_mm3 == pytest.approx(50 * 0.4, rel=1e-5)


def test_a_noise_field_is_the_same_on_every_grid() -> None:
    field = NoiseField.draw(np.random.default_rng(0), 20.0)
    fine, coarse = np.arange(-90, 90, 3, np.float32), np.arange(-90, 90, 9, np.float32)
    dense, sparse = field.on(fine, fine, fine), field.on(coarse, coarse, coarse)
    np.testing.assert_allclose(dense[::3, ::3, ::3], sparse, atol=1e-6)
