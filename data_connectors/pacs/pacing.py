"""Not faster than allowed, and again after a while: rate limits, retries, waits."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from data_connectors.pacs.source import Pace
from medvlp.errors import ArchiveError

T = TypeVar("T")


class Interrupted(Exception):
    """A request failed in a way that may be gone the next time. Carries no text of the peer.

    Args:
        why: What happened, in our words.
        wait_s: What the archive asked for (`Retry-After`).
    """

    def __init__(self, why: str, wait_s: float | None = None) -> None:
        super().__init__(why)
        self.why = why
        self.wait_s = wait_s


class _Bucket:
    """So many units a second on average, by giving each taker a time at which it may go on."""

    def __init__(self, rate: float | None) -> None:
        self._rate = rate
        self._free = 0.0
        self._lock = threading.Lock()

    def take(self, amount: float) -> None:
        if self._rate is None:
            return
        with self._lock:
            now = time.monotonic()
            start = max(self._free, now)
            self._free = start + amount / self._rate
        if start > now:
            time.sleep(start - now)


class Pacer:
    """The pace of a config, shared by all workers of one pull."""

    def __init__(self, pace: Pace) -> None:
        self.pace = pace
        self._requests = _Bucket(pace.requests_per_s)
        self._bytes = _Bucket(pace.megabytes_per_s and pace.megabytes_per_s * 1e6)

    def request(self) -> None:
        """Wait until another request may be made."""
        self._requests.take(1)

    def received(self, count: int) -> None:
        """Wait until the bytes that have come are paid for."""
        self._bytes.take(count)

    def wait(self, attempt: int, asked_s: float | None) -> None:
        """Sleep before another attempt: doubling, with full jitter; not less than was asked."""
        longest = self.pace.longest_wait_s
        drawn = random.uniform(0, min(longest, 0.5 * 2**attempt))
        time.sleep(min(longest, max(drawn, asked_s or 0.0)))

    def retry(self, action: Callable[[], T]) -> T:
        """Run something that may be interrupted, several times if need be.

        Raises:
            ArchiveError: It was interrupted every time.
        """
        for attempt in range(self.pace.retries + 1):
            try:
                return action()
            except Interrupted as error:
                last = error
                if attempt < self.pace.retries:
                    self.wait(attempt, error.wait_s)
        raise ArchiveError(
            f"the archive does not answer: {last.why}", got=f"{self.pace.retries + 1} attempts",
            next_step="check the archive and the network, then run the same command again",
        )  # fmt: skip
