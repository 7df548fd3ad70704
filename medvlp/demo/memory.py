"""How much memory the demo needs."""

from __future__ import annotations

import threading


class PeakMemory:
    """Peak resident memory of this process and its children, sampled."""

    def __init__(self, interval_s: float = 0.5) -> None:
        self.peak_mb = 0
        self._interval_s = interval_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        import psutil

        me = psutil.Process()
        while True:
            total = 0
            for process in [me, *me.children(recursive=True)]:
                try:
                    total += process.memory_info().rss
                except psutil.Error:
                    continue
            self.peak_mb = max(self.peak_mb, total // 2**20)
            if self._stop.wait(self._interval_s):
                return
