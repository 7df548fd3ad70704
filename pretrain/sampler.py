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
    (smooth weighted round-robin). Within a pool every sample is seen once before any is seen
    again, in an order drawn anew each time round.

    Args:
        pools: None empty; shares need not sum to 1.
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
        total = sum(pool.share for pool in self.pools)
        self._shares = [pool.share / total for pool in self.pools]
        self._block = 1 if mixing == "mixed" else batch_size
        self._batch_size = batch_size
        self._seed = seed
        self._credit = [0.0] * len(self.pools)
        self._counts = [[0] * len(self.pools)]
        self._owners: list[int] = []
        self._order = lru_cache(maxsize=4 * len(self.pools))(self._order_of)

    def batch(self, step: int) -> list[int]:
        """Sample indices of one step (from 0)."""
        per_batch = self._batch_size // self._block
        self._extend((step + 1) * per_batch)
        chosen: list[int] = []
        for place in range(step * per_batch, (step + 1) * per_batch):
            pool = self._owners[place]
            first = self._counts[place][pool] * self._block
            chosen += [self._draw(pool, first + i) for i in range(self._block)]
        return chosen

    def epoch(self, step: int) -> float:
        """How often the samples have been seen on average before a step."""
        return step * self._batch_size / sum(len(pool.members) for pool in self.pools)

    def _extend(self, places: int) -> None:
        while len(self._owners) < places:
            self._credit = [
                credit + share for credit, share in zip(self._credit, self._shares, strict=True)
            ]
            # Rounded, so that equal shares do not tie differently after many additions.
            pool = int(np.argmax(np.round(self._credit, 9)))
            self._credit[pool] -= 1
            self._owners.append(pool)
            counts = list(self._counts[-1])
            counts[pool] += 1
            self._counts.append(counts)

    def _draw(self, pool: int, place: int) -> int:
        members = self.pools[pool].members
        epoch, within = divmod(place, len(members))
        return members[self._order(pool, epoch)[within]]

    def _order_of(self, pool: int, epoch: int) -> tuple[int, ...]:
        generator = np.random.default_rng([self._seed, pool, epoch])
        return tuple(generator.permutation(len(self.pools[pool].members)).tolist())
