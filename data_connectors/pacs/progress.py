"""How far a pull is: series, rate and time left, in a line now and then. No patient data."""

from __future__ import annotations

import logging
import threading
import time

log = logging.getLogger(__name__)

_TELL_S = 15.0


class Progress:
    """Counts what several workers do and tells it."""

    def __init__(self, series: int, instances: int) -> None:
        """Start.

        Args:
            series: How many are to be fetched.
            instances: How many are missing in them.
        """
        self._series = series
        self._instances = instances
        self._lock = threading.Lock()
        self._began = self._told = time.monotonic()
        self.done = self.came = self.bytes = 0

    def file(self, size: int) -> None:
        """A file was kept."""
        with self._lock:
            self.came += 1
            self.bytes += size
            now = time.monotonic()
            if now - self._told < _TELL_S:
                return
            self._told = now
            log.info(self.line(now))

    def finished(self) -> None:
        """A series has come to its end."""
        with self._lock:
            self.done += 1

    def line(self, now: float) -> str:
        """Where we are."""
        took = max(now - self._began, 1e-3)
        rate = self.came / took
        left = max(0, self._instances - self.came) / rate if rate else 0.0
        return (
            f"pulled {self.done} of {self._series} series, {self.came} of {self._instances} "
            f"instances, {rate:.1f} a second, {self.bytes / 1e6 / took:.1f} MB/s, "
            f"about {left:.0f} s left"
        )
