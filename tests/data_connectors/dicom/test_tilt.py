"""Gantry tilt is kept as a shear or resampled; either way nothing moves in the patient."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import map_coordinates
from scipy.spatial.transform import Rotation

from data_connectors.dicom import load_volume
from data_connectors.dicom.geometry import Grid
from data_connectors.dicom.tilt import straighten, straightened


def sheared(degrees: float, seed: int, *, spacing: float = 2.0) -> Grid:
    """A stack that leans by an angle towards rows and half of it towards columns."""
    lean = np.tan(np.radians(degrees)) * spacing
    turn = Rotation.random(rng=seed).as_matrix()
    columns = np.array([[lean / 2, lean, spacing], [0.0, 0.8, 0.0], [0.6, 0.0, 0.0]]).T
    affine = np.eye(4)
    affine[:3, :3] = turn @ columns
    affine[:3, 3] = [3.0, -50.0, 12.0]
    return Grid(tuple(range(7)), affine)


def trilinear(stack: np.ndarray, grid: Grid, straight: Grid, shape: tuple[int, ...]) -> np.ndarray:
    """Oracle: scipy's linear interpolation in float64; nan outside."""
    index = np.indices(shape).reshape(3, -1)
    index = np.vstack([index, np.ones(index.shape[1])])
    there = (np.linalg.inv(grid.affine) @ straight.affine @ index)[:3]
    there = np.where(np.abs(there - np.rint(there)) < 1e-9, np.rint(there), there)
    found = map_coordinates(stack.astype(np.float64), there, order=1, mode="constant", cval=np.nan)
    return found.reshape(shape)


@settings(deadline=None, max_examples=40)
@given(degrees=st.integers(-300, 300).map(lambda tenths: tenths / 10), seed=st.integers(0, 1000))
def test_resampling_is_trilinear_interpolation_on_an_orthogonal_grid(
    degrees: float, seed: int
) -> None:
    grid = sheared(degrees, seed)
    stack = np.random.default_rng(seed).normal(0, 500, (7, 9, 8)).astype(np.float32)
    straight, shape = straightened(grid, stack.shape)
    axes = straight.affine[:3, :3] / np.linalg.norm(straight.affine[:3, :3], axis=0)
    np.testing.assert_allclose(axes.T @ axes, np.eye(3), atol=1e-9)
    moved = straighten(stack, grid, -1024)
    assert moved.shape == shape
    expected = trilinear(stack, grid, straight, shape)
    outside = np.isnan(expected)
    assert (moved[outside] == -1024).all()
    np.testing.assert_allclose(moved[~outside], expected[~outside], atol=1e-3)


@settings(deadline=None, max_examples=20)
@given(degrees=st.integers(-300, 300).map(lambda tenths: tenths / 10), seed=st.integers(0, 1000))
def test_every_pixel_has_room_in_the_new_grid(degrees: float, seed: int) -> None:
    grid = sheared(degrees, seed)
    straight, shape = straightened(grid, (7, 9, 8))
    corners = np.array([[k, r, c, 1] for k in (0, 6) for r in (0, 8) for c in (0, 7)], float).T
    index = (np.linalg.inv(straight.affine) @ grid.affine @ corners)[:3]
    assert (index > -1e-6).all()
    assert (index < np.array(shape)[:, None] - 1 + 1e-6).all()


def test_whole_numbers_stay_whole_and_are_rounded() -> None:
    grid = sheared(15, 0)
    stack = np.random.default_rng(0).integers(-1000, 2000, (7, 9, 8)).astype(np.int16)
    moved = straighten(stack, grid, -1024)
    exact = straighten(stack.astype(np.float64), grid, -1024)
    assert moved.dtype == np.int16
    assert np.abs(moved - exact).max() <= 0.5 + 1e-3


def write_tilted(folder: Path, write_series: Any, volume: np.ndarray) -> np.ndarray:
    """A CT tilted by 15 degrees, as scanners write it; returns the affine of the stack."""
    angle = np.radians(15)
    cosines = [1.0, 0, 0, 0, float(np.cos(angle)), float(-np.sin(angle))]
    count = len(volume)
    places = [(-10.0, -20.0, 30.0 + 2.0 * k) for k in range(count)]
    write_series(folder, volume, positions=places, ImageOrientationPatient=cosines)
    affine = np.eye(4)
    affine[:3, 0] = [0, 0, 2]
    affine[:3, 1] = 0.8 * np.array(cosines[3:])
    affine[:3, 2] = [0.6, 0, 0]
    affine[:3, 3] = places[0]
    return affine


def test_a_plane_in_the_patient_survives_both_ways(tmp_path: Path, write_series: Any) -> None:
    """A linear ramp over the patient is exact under linear interpolation, wherever it is read."""
    shape = (12, 40, 30)
    weights = np.array([3.0, 5.0, 7.0])
    affine = write_tilted(tmp_path, write_series, np.zeros(shape, np.int16))
    index = np.indices(shape).reshape(3, -1)
    world = affine[:3, :3] @ index + affine[:3, 3:]
    ramp = np.rint(weights @ world).reshape(shape).astype(np.int16)
    write_tilted(tmp_path, write_series, ramp + 1024)
    for how in ("keep", "resample"):
        volume = load_volume(tmp_path, tilt=how)
        index = np.indices(volume.array.shape).reshape(3, -1)
        world = volume.affine[:3, :3] @ index + volume.affine[:3, 3:]
        expected = (weights @ world).reshape(volume.array.shape)
        inside = volume.array != -1024
        assert inside.mean() > 0.8
        assert np.abs(volume.array - expected)[inside].max() < 2  # two roundings
    axes = volume.affine[:3, :3] / np.linalg.norm(volume.affine[:3, :3], axis=0)
    np.testing.assert_allclose(axes.T @ axes, np.eye(3), atol=1e-9)
    assert volume.spacing_mm[0] == pytest.approx(2 * np.cos(np.radians(15)))


def test_agrees_with_simpleitk(tmp_path: Path, write_series: Any) -> None:
    sitk = pytest.importorskip("SimpleITK")
    rng = np.random.default_rng(4)
    noise = rng.integers(0, 3000, (8, 24, 20)).astype(np.int16)
    affine = write_tilted(tmp_path, write_series, noise)
    image = sitk.GetImageFromArray(noise.astype(np.float64) - 1024)  # [slice, row, column]
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    image.SetSpacing([float(value) for value in spacing[::-1]])
    image.SetDirection([float(v) for v in (affine[:3, :3] / spacing)[:, ::-1].ravel()])
    image.SetOrigin([float(value) for value in affine[:3, 3]])
    volume = load_volume(tmp_path, tilt="resample")
    compared = 0
    for d, h, w in np.ndindex(volume.array.shape):
        place = [float(value) for value in (volume.affine @ [d, h, w, 1])[:3]]
        at = np.array(image.TransformPhysicalPointToContinuousIndex(place))
        if (at > 1e-6).all() and (at < np.array(image.GetSize()) - 1 - 1e-6).all():
            value = image.EvaluateAtContinuousIndex(at.tolist(), sitk.sitkLinear)
            assert abs(volume.array[d, h, w] - value) <= 0.51
            compared += 1
    assert compared > 2000


def test_real_tilted_head(shared_data: Path) -> None:
    """Siemens, 14 degrees: kept whole, with room for all of it."""
    siemens = shared_data / "dicom/vendors/failing/gantrytilting"
    kept, moved = (load_volume(siemens, tilt=how) for how in ("keep", "resample"))
    assert kept.array.shape == (4, 512, 512)
    assert moved.array.shape[0] == 4
    assert moved.array.shape[1] > 512
    assert moved.spacing_mm[0] == pytest.approx(5 * 0.970296, abs=1e-3)
    points = np.random.default_rng(0).integers(0, moved.array.shape, (20_000, 3))
    world = moved.affine @ np.vstack([points.T, np.ones(len(points))])
    there = (np.linalg.inv(kept.affine) @ world)[:3]
    there[0] = np.rint(there[0])  # the slices are the same
    expected = map_coordinates(
        kept.array.astype(float), there, order=1, mode="constant", cval=np.nan
    )
    inside = ~np.isnan(expected)
    assert inside.sum() > 15_000
    assert np.abs(moved.array[tuple(points.T)] - expected)[inside].max() <= 0.51
