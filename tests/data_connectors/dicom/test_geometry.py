from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from data_connectors.dicom.geometry import as_acquired, canonical, single, stack
from data_connectors.dicom.header import Plane
from medvlp.errors import GeometryError


def planes(
    count: int = 10,
    *,
    step: tuple[float, float, float] = (0, 0, 2),
    rotation: np.ndarray | None = None,
) -> list[Plane]:
    turn = np.eye(3) if rotation is None else rotation

    def triple(vector: np.ndarray) -> tuple[float, float, float]:
        x, y, z = (float(value) for value in turn @ vector)
        return x, y, z

    return [
        Plane(
            origin=triple(np.array([-50.0, -40.0, 7.0]) + k * np.array(step)),
            along_row=triple(np.array([1.0, 0, 0])),
            along_column=triple(np.array([0, 1.0, 0])),
            spacing=(0.8, 0.6),
        )
        for k in range(count)
    ]


def code_of(given: list[Plane | None], **options: float) -> tuple[str, str]:
    with pytest.raises(GeometryError) as caught:
        stack(given, tolerance_mm=options.get("tolerance_mm", 0.1))
    return caught.value.code, str(caught.value)


@settings(deadline=None)
@given(order=st.permutations(range(8)), seed=st.integers(0, 1000))
def test_any_order_gives_the_same_grid(order: list[int], seed: int) -> None:
    straight = planes(8, rotation=Rotation.random(rng=seed).as_matrix())
    shuffled = stack([straight[k] for k in order], tolerance_mm=0.1)
    plain = stack(straight, tolerance_mm=0.1)
    assert [order[k] for k in shuffled.order] == list(plain.order)
    np.testing.assert_array_equal(shuffled.affine, plain.affine)


@settings(deadline=None)
@given(seed=st.integers(0, 10_000))
def test_affine_gives_the_standard_position_of_every_pixel(seed: int) -> None:
    """Oracle: PS3.3 C.7.6.2.1.1, equation C.7.6.2.1-1, written out for one pixel."""
    given_planes = planes(5, rotation=Rotation.random(rng=seed).as_matrix())
    grid = stack(given_planes, tolerance_mm=0.1)
    for k, row, column in [(0, 0, 0), (4, 3, 7), (2, 9, 1)]:
        plane = given_planes[grid.order[k]]
        expected = (
            np.array(plane.origin)
            + np.array(plane.along_row) * plane.spacing[1] * column
            + np.array(plane.along_column) * plane.spacing[0] * row
        )
        np.testing.assert_allclose((grid.affine @ [k, row, column, 1])[:3], expected, atol=1e-9)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_canonical_moves_pixels_and_affine_together(seed: int) -> None:
    """Every voxel keeps its value and its place in the patient, whatever the acquisition plane."""
    grid = stack(planes(4, rotation=Rotation.random(rng=seed).as_matrix()), tolerance_mm=0.1)
    shape = (4, 3, 5)
    frame = canonical(grid.affine, shape)
    stacked = np.arange(60).reshape(shape)
    volume = np.zeros(frame.shape(shape), int)
    frame.view(volume)[...] = stacked

    def places(array: np.ndarray, affine: np.ndarray) -> np.ndarray:
        """[number of the voxel] -> its position."""
        found = np.zeros((60, 3))
        for index in np.ndindex(array.shape):
            found[array[index]] = (affine @ [*index, 1])[:3]
        return found

    np.testing.assert_allclose(
        places(volume, frame.affine), places(stacked, grid.affine), atol=1e-9
    )
    towards = np.array([[0, 0, 1], [0, 1, 0], [1, 0, 0]])  # S, P, L
    unit = frame.affine[:3, :3] / np.linalg.norm(frame.affine[:3, :3], axis=0)
    along = np.diag(towards @ unit)
    assert (along >= 0).all()
    best = max(
        sum(abs((towards @ unit)[p, q]) for p, q in enumerate(order))
        for order in itertools.permutations(range(3))
    )
    assert along.sum() == pytest.approx(best)


def test_as_acquired_changes_nothing() -> None:
    affine = np.diag([2.0, 1.0, 1.0, 1.0])
    frame = as_acquired(affine)
    array = np.arange(24).reshape(2, 3, 4)
    np.testing.assert_array_equal(frame.view(array), array)


def test_one_plane_is_as_deep_as_its_thickness() -> None:
    grid = single(planes(1)[0], 5.0)
    np.testing.assert_allclose(np.linalg.norm(grid.affine[:3, :3], axis=0), [5.0, 0.8, 0.6])


def test_missing_slice_is_named() -> None:
    given_planes = planes()
    del given_planes[4]
    code, message = code_of(given_planes)
    assert code == "series-gap"
    assert "slices 4 and 5" in message
    assert "13.00 and 17.00 mm" in message


def test_two_missing_slices_are_counted() -> None:
    given_planes = planes(20)
    del given_planes[10:12]
    code, message = code_of(given_planes)
    assert code == "series-gap"
    assert "missing: 2" in message


def test_duplicate_position_is_named() -> None:
    code, message = code_of([*planes(), planes()[3]])
    assert code == "series-duplicate-position"
    assert "slices 4 and 5" in message


def test_all_at_one_position_is_no_volume() -> None:
    assert code_of([planes()[0]] * 4)[0] == "series-not-a-volume"


def test_variable_gap_is_no_missing_slice() -> None:
    given_planes = [
        replace(plane, origin=(-50.0, -40.0, z))
        for plane, z in zip(planes(6), [0, 2, 4, 6.7, 8.7, 10.7], strict=True)
    ]
    code, message = code_of(given_planes)
    assert code == "series-variable-spacing"
    assert "slices 3 and 4" in message


def test_tilt_is_refused_by_its_angle_and_kept_on_request() -> None:
    tilted = planes(step=(0, 2 * float(np.tan(np.radians(15))), 2))
    code, message = code_of(list(tilted))
    assert code == "series-tilt"
    assert "15.0 degrees" in message
    grid = stack(tilted, tolerance_mm=0.1, keep_tilt=True)
    np.testing.assert_allclose((grid.affine @ [3, 0, 0, 1])[:3], tilted[3].origin, atol=1e-9)


@pytest.mark.parametrize("jitter_mm", [0.0, 0.02, 0.05])
def test_small_jitter_is_accepted(jitter_mm: float) -> None:
    jittered = [
        replace(plane, origin=(*plane.origin[:2], plane.origin[2] + jitter_mm * (-1) ** k))
        for k, plane in enumerate(planes())
    ]
    grid = stack(jittered, tolerance_mm=0.1)
    assert grid.affine[2, 0] == pytest.approx(2.0, abs=0.02)


def test_large_jitter_is_refused() -> None:
    jittered = [
        replace(plane, origin=(*plane.origin[:2], plane.origin[2] + 0.3 * (-1) ** k))
        for k, plane in enumerate(planes())
    ]
    assert code_of(list(jittered))[0] == "series-variable-spacing"


def test_slice_shifted_sideways_is_named() -> None:
    shifted = planes()
    shifted[6] = replace(shifted[6], origin=(-47.0, *shifted[6].origin[1:]))
    code, message = code_of(list(shifted))
    assert code == "series-irregular-position"
    assert "7" in message


def test_mixed_orientation_is_refused() -> None:
    turned = planes(rotation=Rotation.from_euler("x", 20, degrees=True).as_matrix())
    assert code_of([*planes(5), *turned[5:]])[0] == "series-mixed-orientation"


def test_mixed_pixel_spacing_is_refused() -> None:
    wider = [replace(plane, spacing=(0.9, 0.6)) for plane in planes()[5:]]
    assert code_of([*planes(5), *wider])[0] == "series-mixed-spacing"


def test_missing_position_is_refused() -> None:
    code, message = code_of([*planes(5), None])
    assert code == "series-missing-position"
    assert "1 of 6" in message


@pytest.mark.parametrize("along_row", [(0.0, 0.0, 0.0), (2.0, 0.0, 0.0), (0.7071, 0.7071, 0.0)])
def test_impossible_orientation_is_refused(along_row: tuple[float, float, float]) -> None:
    wrong = [replace(plane, along_row=along_row) for plane in planes(3)]
    assert code_of(list(wrong))[0] == "series-bad-orientation"


@pytest.mark.parametrize(("count", "lost"), [(4, 2), (4, 1), (5, 3), (10, 5), (200, 198)])
def test_tolerance_never_hides_a_gap_between_thin_slices(count: int, lost: int) -> None:
    thin = planes(count, step=(0, 0, 0.1))
    del thin[lost]
    # With two steps only nobody can tell a gap from uneven spacing.
    expected = "series-gap" if count > 4 else "series-variable-spacing"
    assert code_of(list(thin), tolerance_mm=1.0)[0] == expected
