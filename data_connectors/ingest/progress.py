"""How far an ingest is, how fast it goes and when it will be done: by bytes, not by units.

A series of a thousand slices is one unit, and so is a single image; bytes tell them apart. A
terminal shows a bar, a log file gets a line now and then.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

log = logging.getLogger(__name__)

_TELL_S: Final = 15.0
_WINDOW_S: Final = 60.0
"""The rate is that of the last minute: an archive of two kinds of file has two rates."""


class Meter:
    """Counts work done and estimates the rest.

    Args:
        what: "reading", "indexing": the verb that lines begin with.
        unit: What is counted besides bytes: "units", "files".
        total: How many of them there are.
        total_bytes: How large they are together.
    """

    def __init__(self, what: str, unit: str, total: int, total_bytes: int) -> None:
        self.what = what
        self.unit = unit
        self.total = total
        self.total_bytes = total_bytes
        self.count = 0
        self.bytes = 0
        self._recent: deque[tuple[float, int, int]] = deque([(time.monotonic(), 0, 0)])

    def skip(self, count: int, size: int) -> None:
        """What an earlier run has done: it counts as done, but not for the rate."""
        self.count += count
        self.bytes += size
        self._recent = deque([(time.monotonic(), self.count, self.bytes)])

    def add(self, count: int, size: int) -> None:
        """Work done just now."""
        self.count += count
        self.bytes += size
        now = time.monotonic()
        self._recent.append((now, self.count, self.bytes))
        while len(self._recent) > 2 and now - self._recent[1][0] > _WINDOW_S:
            self._recent.popleft()

    @property
    def rates(self) -> tuple[float, float]:
        """(units, bytes) a second, of the last minute; zeros before anything is known."""
        (since, count, size), (now, *_) = self._recent[0], self._recent[-1]
        seconds = now - since
        if seconds <= 0:
            return 0.0, 0.0
        return (self.count - count) / seconds, (self.bytes - size) / seconds

    @property
    def left_s(self) -> float | None:
        """Seconds left at the present rate, or None before it is known."""
        units, size = self.rates
        if size > 0:
            return max(0, self.total_bytes - self.bytes) / size
        return (self.total - self.count) / units if units > 0 else None

    def line(self) -> str:
        """Where it is, in words."""
        units, size = self.rates
        left = self.left_s
        rest = "" if left is None else f", about {_spell(left)} left"
        return (
            f"{self.what}: {self.count} of {self.total} {self.unit}, "
            f"{self.bytes / 1e6:.0f} of {self.total_bytes / 1e6:.0f} MB "
            f"({size / 1e6:.1f} MB/s, {units:.3g} {self.unit}/s){rest}"
        )


@contextmanager
def shown(meter: Meter) -> Iterator[Shown]:
    """Show a meter while the body runs."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.fields[line]}"), BarColumn(bar_width=24))
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        yield Shown(meter, bar, console.is_terminal)


class Shown:
    """A meter and where it is shown."""

    def __init__(self, meter: Meter, bar: Progress, terminal: bool) -> None:
        self.meter = meter
        self._bar, self._terminal = bar, terminal
        self._task = bar.add_task("", total=max(1, meter.total_bytes), line=meter.line())
        self._told = time.monotonic()

    def skip(self, count: int, size: int) -> None:
        """See `Meter.skip`."""
        self.meter.skip(count, size)

    def add(self, count: int, size: int) -> None:
        """See `Meter.add`; tells where it is when it is time to."""
        self.meter.add(count, size)
        now = time.monotonic()
        if self._terminal:
            self._bar.update(self._task, completed=self.meter.bytes, line=self.meter.line())
        elif now - self._told > _TELL_S:
            self._told = now
            log.info("%s", self.meter.line())


def _spell(seconds: float) -> str:
    """Seconds as a person would say them."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
