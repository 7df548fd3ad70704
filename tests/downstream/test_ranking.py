from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from downstream import ranking
from downstream.ranking import (
    area_fraction,
    centre_hit,
    chance_median_rank,
    chance_recall,
    first_hit_ranks,
    pointed_pixel,
    pointing_hit,
    prior_hit,
)


def naive_rank(scores: list[float], hits: list[bool]) -> int:
    """Sort with every tie against us, and look for the first hit."""
    order = sorted(zip(scores, hits, strict=True), key=lambda row: (-row[0], row[1]))
    return 1 + next(i for i, (_, hit) in enumerate(order) if hit)


@given(st.integers(0, 10**6), st.integers(2, 12))
@settings(max_examples=60, deadline=None)
def test_ranks_match_a_sort_with_ties_against_us(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    queries = rng.integers(-1, 2, size=(n, 2)).astype(np.float64)
    gallery = rng.integers(-1, 2, size=(n, 2)).astype(np.float64)
    keys = [f"text {i}" for i in rng.integers(0, max(1, n // 2), n)]
    ranks = first_hit_ranks(queries, gallery, keys, keys)
    scores = queries @ gallery.T
    for query in range(n):
        hits = [key == keys[query] for key in keys]
        assert ranks[query] == naive_rank(scores[query].tolist(), hits)


def test_ranks_do_not_depend_on_the_tile(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    queries, gallery = rng.normal(size=(23, 4)), rng.normal(size=(23, 4))
    keys = [str(i % 9) for i in range(23)]
    whole = first_hit_ranks(queries, gallery, keys, keys)
    monkeypatch.setattr(ranking, "_TILE", 5)
    np.testing.assert_array_equal(first_hit_ranks(queries, gallery, keys, keys), whole)


def test_equal_vectors_rank_last_and_never_first() -> None:
    same = np.ones((4, 3))
    keys = ["a", "b", "c", "d"]
    assert first_hit_ranks(same, same, keys, keys).tolist() == [4, 4, 4, 4]


def test_identical_texts_are_hits_of_each_other() -> None:
    queries = np.eye(3)
    gallery = np.eye(3)[[1, 0, 2]]
    assert first_hit_ranks(queries, gallery, ["a", "b", "c"], ["a", "b", "c"]).tolist() == [3, 3, 1]
    assert first_hit_ranks(queries, gallery, ["a", "a", "c"], ["a", "a", "c"]).tolist() == [1, 1, 1]


@pytest.mark.parametrize("keys", ["abcde", "aabcd", "aaabb", "aaaaa"])
@pytest.mark.parametrize("k", [1, 2, 4, 9])
def test_chance_is_the_mean_over_all_orders(keys: str, k: int) -> None:
    hits = np.array([keys.count(key) for key in keys])
    found, firsts = [], []
    for order in itertools.permutations(range(5)):
        for key in keys:
            rank = 1 + min(order.index(i) for i in range(5) if keys[i] == key)
            firsts.append(rank)
            found.append(rank <= k)
    assert chance_recall(hits, 5, k) == pytest.approx(np.mean(found))
    assert chance_median_rank(hits, 5) == sorted(firsts)[(len(firsts) - 1) // 2]


def test_random_vectors_score_at_chance() -> None:
    rng = np.random.default_rng(1)
    n = 1500
    keys = [f"text {i}" for i in rng.integers(0, 60, n)]
    hits = np.array([keys.count(key) for key in keys])
    ranks = first_hit_ranks(rng.normal(size=(n, 8)), rng.normal(size=(n, 8)), keys, keys)
    for k in (1, 5, 10):
        assert np.mean(ranks <= k) == pytest.approx(chance_recall(hits, n, k), abs=0.03)
    assert np.median(ranks) == pytest.approx(chance_median_rank(hits, n), rel=0.15)


MASK = np.zeros((4, 6), dtype=bool)
MASK[1:3, 2:4] = True


@pytest.mark.parametrize(
    ("pixel", "hit"), [((1, 2), 1), ((2, 3), 1), ((0, 2), 0), ((3, 3), 0), ((1, 4), 0)]
)
def test_pointing_needs_the_maximal_pixel_inside(pixel: tuple[int, int], hit: int) -> None:
    heat = np.zeros((4, 6))
    heat[pixel] = 0.1
    assert pointing_hit(heat, MASK) == hit
    assert pointed_pixel(heat) == pixel


def test_several_maximal_pixels_score_their_share_inside() -> None:
    heat = np.zeros((4, 6))
    heat[1, 1:4] = 1
    assert pointing_hit(heat, MASK) == pytest.approx(2 / 3)
    assert pointing_hit(np.zeros((4, 6)), MASK) == area_fraction(MASK) == 4 / 24


def test_pixels_outside_the_crop_are_never_pointed_at() -> None:
    heat = np.full((4, 6), np.nan)
    assert pointing_hit(heat, MASK) == 0
    heat[2, 2] = -5
    assert pointing_hit(heat, MASK) == 1
    assert pointed_pixel(heat) == (2, 2)


def test_centre_and_prior_point_where_they_say() -> None:
    assert centre_hit(MASK) == 1
    assert centre_hit(~MASK) == 0
    prior = np.zeros((2, 3))
    prior[0, 1] = 0.5  # rows 0-1, columns 2-3: its centre is pixel (1, 3)
    assert prior_hit(prior, MASK) == 1
    prior[1, 1] = 0.5  # centre (3, 3), outside
    assert prior_hit(prior, MASK) == 0.5
    assert prior_hit(np.zeros((2, 3)), MASK) == 0


def test_priors_work_in_three_dimensions() -> None:
    mask = np.zeros((10, 8, 8), dtype=bool)
    mask[5:, 4:, :4] = True
    prior = np.zeros((2, 2, 2))
    prior[1, 1, 0] = 1
    assert prior_hit(prior, mask) == 1
    assert prior_hit(prior[::-1], mask) == 0
