"""decord as the decoder, where its idea of time agrees with the container's.

decord alone returns times that are seconds off on offset and variable-rate streams; here its
frame times are compared with the media clock first, and pictures are chosen by the clock.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

import numpy as np

from data_connectors.video.clock import Clock, shrink

log = logging.getLogger(__name__)


def decord_frames(
    clock: Clock, fps: float, long_side: int | None
) -> Iterator[tuple[float, np.ndarray]] | None:
    """`clock_frames` by decord, or None (with a logged note) where it cannot be trusted.

    It is trusted when it counts as many pictures as the container has and times each of them
    to within half a picture.
    """
    import decord

    try:
        reader = decord.VideoReader(str(clock.path), num_threads=1)
        times = np.asarray(reader.get_frame_timestamp(range(len(reader))))[:, 0]
    except Exception as error:  # decord raises its own and bare RuntimeErrors
        log.info("decord cannot read a video (%s): PyAV is used", type(error).__name__)
        return None
    if len(times) != len(clock.pts):
        log.info("decord counts %d pictures of %d: PyAV is used", len(times), len(clock.pts))
        return None
    off = float(np.abs(times - clock.times_s).max())
    if off > 0.5 / clock.media.average_rate:
        log.info("decord's times are off by up to %.3f s: PyAV is used", off)
        return None
    return _read(reader, clock, fps, long_side)


def _read(
    reader: object, clock: Clock, fps: float, long_side: int | None
) -> Iterator[tuple[float, np.ndarray]]:
    for time_s, tick in clock.grid(fps):
        index = int(np.searchsorted(clock.pts, tick))
        yield time_s, shrink(reader[index].asnumpy(), long_side)  # type: ignore[index]
