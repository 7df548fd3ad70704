"""Retrieval and pointing metrics as pure functions; every one states its tie rule.

Shape letters: q queries, n gallery items, e joint embedding, h w pixels, k cut-off.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

_TILE = 1024


def first_hit_ranks(
    queries: npt.NDArray[np.floating],
    gallery: npt.NDArray[np.floating],
    query_key: Sequence[str],
    gallery_key: Sequence[str],
) -> Ints:
    """Rank of the best hit of every query; 1 is best.

    A hit is a gallery item with the query's key, so identical texts are hits of each other. Only
    items that are not hits can stand before the best hit, and a tie with it counts against us.
    Scores are computed in tiles of queries: memory is O(tile x n).

    Args:
        queries: Unit vectors [q, e].
        gallery: Unit vectors [n, e].
        query_key: What each query must find; it must occur in `gallery_key`.
        gallery_key: What each item is.

    Returns:
        [q].
    """
    _, codes = np.unique(np.asarray([*query_key, *gallery_key], dtype=str), return_inverse=True)
    wanted, owned = codes[: len(query_key)], codes[len(query_key) :]
    ranks = np.empty(len(queries), dtype=np.int64)
    for start in range(0, len(queries), _TILE):
        rows = slice(start, start + _TILE)
        scores = queries[rows] @ gallery.T
        hit = wanted[rows, None] == owned[None, :]
        best = np.where(hit, scores, -np.inf).max(axis=1, keepdims=True)
        ranks[rows] = 1 + ((scores >= best) & ~hit).sum(axis=1)
    return ranks


def chance_recall(hits: Ints, items: int, k: int) -> float:
    """Expected recall at k of a random order: mean over queries of 1 - C(n - m, k) / C(n, k).

    Args:
        hits: [q] number of hits m in the gallery for each query.
        items: Gallery size n.
        k: Cut-off.
    """
    return float(np.mean(_chance_found(hits, items, min(k, items))))


def chance_median_rank(hits: Ints, items: int) -> float:
    """Median rank of the best hit under a random order, over queries and orders."""
    low, high = 1, items
    while low < high:
        middle = (low + high) // 2
        if np.mean(_chance_found(hits, items, middle)) >= 0.5:
            high = middle
        else:
            low = middle + 1
    return float(low)


def _chance_found(hits: Ints, items: int, k: int) -> Floats:
    """P(at least one of m hits among the first k of n), for every query."""
    steps = np.arange(k, dtype=np.float64)
    missed = np.clip(items - hits[:, None] - steps[None, :], 0, None) / (items - steps[None, :])
    found: Floats = 1 - missed.prod(axis=1)
    return found


def pointing_hit(heat: npt.NDArray[np.floating], mask: npt.NDArray[np.bool_]) -> float:
    """1 if the maximal pixel lies inside; with several maximal pixels, the share that does.

    Pixels that are nan (outside the model's crop) are never maximal; 0 if all are.

    Args:
        heat: [h, w] or [n, h, w].
        mask: Of the same shape.
    """
    if np.isnan(heat).all():
        return 0.0
    return float(mask[heat == np.nanmax(heat)].mean())


def pointed_pixel(heat: npt.NDArray[np.floating]) -> tuple[int, ...]:
    """Index of the first maximal pixel."""
    return tuple(int(i) for i in np.unravel_index(int(np.nanargmax(heat)), heat.shape))


def area_fraction(mask: npt.NDArray[np.bool_]) -> float:
    """Chance of a uniformly random pixel: the score of a map that is the same everywhere."""
    return float(mask.mean())


def centre_hit(mask: npt.NDArray[np.bool_]) -> float:
    """Score of always pointing at the middle pixel."""
    return float(mask[tuple(size // 2 for size in mask.shape)])


def prior_hit(prior: Floats, mask: npt.NDArray[np.bool_]) -> float:
    """Score of pointing where the training masks overlap most, in relative coordinates.

    Args:
        prior: Mean training mask on a regular grid of as many axes as the mask.
        mask: [h, w] or [n, h, w].

    Returns:
        The share of maximal cells whose centre falls inside; 0 for a prior without mass.
    """
    if prior.max() <= 0:
        return 0.0
    cells = np.argwhere(prior == prior.max())
    scale = np.array(mask.shape) / np.array(prior.shape)
    pixels = np.floor((cells + 0.5) * scale).astype(int)
    return float(mask[tuple(pixels.T)].mean())
