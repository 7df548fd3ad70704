"""Videos whose pictures carry their own number as a bar code, written by a real encoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

BITS = 10
WIDTH, HEIGHT = 16 * BITS, 64


def bar_code(number: int) -> np.ndarray:
    bits = [(number >> k) & 1 for k in range(BITS)]
    row = np.repeat(np.array(bits, np.uint8) * 220 + 16, WIDTH // BITS)
    return np.broadcast_to(row[None, :, None], (HEIGHT, WIDTH, 3)).copy()


def read_bar_code(rgb: np.ndarray) -> int:
    """The number in a picture of any size with the bar code's proportions."""
    block = rgb.shape[1] / BITS
    middle = rgb[rgb.shape[0] // 4 : 3 * rgb.shape[0] // 4]
    means = [middle[:, int((k + 0.3) * block) : int((k + 0.7) * block)].mean() for k in range(BITS)]
    return sum((mean > 126) << k for k, mean in enumerate(means))


def write_video(
    path: Path,
    times_s: Sequence[float],
    *,
    codec: str = "libx264",
    b_frames: int = 2,
    gop: int = 25,
    sound_s: tuple[float, float] | None = None,
    options: dict[str, str] | None = None,
    x264: str = "",
    tick: Fraction = Fraction(1, 1000),
) -> Path:
    """Picture number k is shown from times_s[k]; sound, if any, from sound_s[0] to sound_s[1]."""
    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height = WIDTH, HEIGHT
        stream.pix_fmt = "rgb8" if codec == "gif" else "yuv420p"
        stream.codec_context.time_base = Fraction(1, 25) if codec == "mpeg2video" else tick
        if codec != "gif":
            stream.codec_context.gop_size = gop
            stream.codec_context.max_b_frames = b_frames
        if codec == "libx264":
            stream.options = {"preset": "veryfast", "crf": "18", "x264-params": x264}
        sound = container.add_stream("aac", rate=16000) if sound_s else None
        for number, time_s in enumerate(times_s):
            frame = av.VideoFrame.from_ndarray(bar_code(number), format="rgb24")
            frame.time_base = stream.codec_context.time_base
            frame.pts = round(time_s / frame.time_base)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if sound is not None and sound_s is not None:
            write_silence(container, sound, sound_s)
    return path


def write_silence(
    container: av.container.OutputContainer, sound: av.AudioStream, span_s: tuple[float, float]
) -> None:
    for start in range(round(span_s[0] * 16000), round(span_s[1] * 16000), 1024):
        frame = av.AudioFrame.from_ndarray(
            np.zeros((1, 1024), np.float32), format="fltp", layout="mono"
        )
        frame.sample_rate, frame.pts, frame.time_base = 16000, start, Fraction(1, 16000)
        container.mux(sound.encode(frame))
    container.mux(sound.encode(None))


@pytest.fixture(scope="session")
def video() -> Callable[..., Path]:
    return write_video


@pytest.fixture(scope="session")
def number_in() -> Callable[[np.ndarray], int]:
    return read_bar_code


@pytest.fixture
def sound_only(tmp_path: Path) -> Path:
    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as container:
        write_silence(container, container.add_stream("aac", rate=16000), (0.0, 1.0))
    return path
