"""Which samples are in the batch of a step: a pure function of the seed and the step.

Nothing is remembered from one batch to the next, so a resumed run sees exactly what an
uninterrupted one would have seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np

from medvlp.errors import ConfigError

_PARTS = 10_000
"""Shares are kept to one part in so many."""


@dataclass(frozen=True, slots=True)
class Pool:
    """Samples that are drawn together: one source, one kind."""

    name: str
    members: tuple[int, ...]
    """Indices into the train samples."""
    share: float
    """Relative to the other pools."""


class StepSampler:
    """Batches of sample indices by step.

    Shares are kept exactly: place after place goes to the pool that is furthest behind its share
    (smooth weighted round-robin). Shares are rounded to a fixed number of parts, so the deal
    repeats and any step is found without walking there. Within a pool every sample is seen once
    before any is seen again, in an order drawn anew each time round.

    Args:
        pools: Shares need not sum to 1; a pool without members or share is left out.
        batch_size: Samples a batch.
        mixing: `mixed`: every batch holds samples of every pool; `alternate`: of one.
        seed: Of the orders.

    Raises:
        ConfigError: There is nothing to draw from.
    """

    def __init__(
        self,
        pools: Sequence[Pool],
        batch_size: int,
        mixing: Literal["mixed", "alternate"],
        seed: int,
    ) -> None:
        self.pools = tuple(pool for pool in pools if pool.members and pool.share > 0)
        if not self.pools:
            raise ConfigError(
                "no train sample with a visual and a text is left",
                code="train-empty",
                next_step="see data.provenance and data.pools, and `medvlp inspect`",
            )
        self._block = 1 if mixing == "mixed" else batch_size
        self._batch_size = batch_size
        self._seed = seed
        self._parts = _parts([pool.share for pool in self.pools])
        self._deal, self._before = _round_robin(self._parts)
        self._order = lru_cache(maxsize=4 * len(self.pools))(self._order_of)

    def batch(self, step: int) -> list[int]:
        """Sample indices of one step (from 0)."""
        per_batch = self._batch_size // self._block
        chosen: list[int] = []
        for place in range(step * per_batch, (step + 1) * per_batch):
            rounds, within = divmod(place, len(self._deal))
            pool = int(self._deal[within])
            turn = rounds * self._parts[pool] + int(self._before[within])
            chosen += [self._draw(pool, turn * self._block + i) for i in range(self._block)]
        return chosen

    def epoch(self, step: int) -> float:
        """How often the samples have been seen on average before a step."""
        return step * self._batch_size / sum(len(pool.members) for pool in self.pools)

    def _draw(self, pool: int, place: int) -> int:
        members = self.pools[pool].members
        epoch, within = divmod(place, len(members))
        return members[self._order(pool, epoch)[within]]

    def _order_of(self, pool: int, epoch: int) -> tuple[int, ...]:
        generator = np.random.default_rng([self._seed, pool, epoch])
        return tuple(generator.permutation(len(self.pools[pool].members)).tolist())


def _parts(shares: Sequence[float]) -> list[int]:
    """Shares as whole parts of `_PARTS`, at least one each."""
    total = sum(shares)
    return [max(1, round(_PARTS * share / total)) for share in shares]


def _round_robin(parts: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Whose turn each place of one round is, and how many turns that pool had before it."""
    places = sum(parts)
    weight = np.array(parts, dtype=np.int64)
    credit = np.zeros_like(weight)
    deal = np.empty(places, dtype=np.int32)
    before = np.empty(places, dtype=np.int32)
    turns = np.zeros_like(weight)
    for place in range(places):
        credit += weight
        pool = int(credit.argmax())
        credit[pool] -= places
        deal[place], before[place] = pool, turns[pool]
        turns[pool] += 1
    return deal, before
