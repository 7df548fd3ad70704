"""Encode pictures as an H.264 mp4, the same bytes every time."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import av

from data_connectors.phantom.tissue import HEIGHT, WIDTH, Picture


def write_movie(path: Path, pictures: Iterable[Picture], fps: int) -> int:
    """Write every picture at a constant rate; return their number.

    One encoder thread: with more, the bytes would depend on how many cores there are.
    """
    count = 0
    with av.open(str(path), "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.thread_count = 1
        stream.options = {"preset": "superfast", "crf": "26", "threads": "1", "g": str(5 * fps)}
        for picture in pictures:
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = count
            container.mux(stream.encode(frame))
            count += 1
        container.mux(stream.encode())
    return count
