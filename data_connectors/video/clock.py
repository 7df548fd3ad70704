"""The media clock: which picture is shown when, by the container's own timestamps.

Time 0 is the earliest start of the file's video and sound, as a player counts it and as a speech
recogniser hears it; a picture is shown from its presentation time (PTS x time base) until the
next one's. Everything is compared in whole ticks of the stream's time base, so a time on a
boundary belongs to the picture that starts there. Frame numbers, `index / rate` and declared
frame counts are never used: on variable-rate or offset streams they are wrong by seconds.

Rotation flags and non-square pixels are reported by `probe` and otherwise ignored: pictures come
as they are coded.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
from av.video.frame import VideoFrame
from PIL import Image

from data_connectors.video.container import (
    declared_s,
    decode,
    open_video,
    packets,
    time_base,
    video_stream,
)
from medvlp.errors import InputError

HOLD_S = 1.0
"""A damaged picture is replaced by the one before it, as a player would, for at most this long."""
_SKIPPABLE = frozenset({"h264", "mpeg2video"})
"""Codecs for which skipping non-reference pictures was checked to be bit-exact."""
_UNTIMED = frozenset({"avi", "h264", "hevc", "m4v", "mpegvideo"})
"""Containers that store no presentation times; what FFmpeg reports instead is the coding order."""
_AGAIN = "export the recording again"


@dataclass(frozen=True, slots=True)
class Media:
    """What a video file says and holds."""

    container: str
    codec: str
    width: int
    height: int
    frames: int
    """Pictures in the file, counted by their times."""
    clashes: int
    """Further pictures, whose time another one claims; they are not shown."""
    duration_s: float
    """End of the last picture, on the media clock."""
    declared_s: float | None
    """The length of the video stream that the headers claim, if they do."""
    start_s: float
    """Where the media clock's 0 lies in the container's own timestamps."""
    first_frame_s: float
    """When the first picture appears; above 0 where sound starts earlier."""
    average_rate: float
    """Pictures a second, over the whole file."""
    variable_rate: bool
    rotation: int
    """Degrees that a player would turn the picture by; not applied."""
    pixel_aspect: float
    """Width of a pixel over its height; not applied."""


@dataclass(frozen=True, slots=True, eq=False)
class Clock:
    """The presentation times of one video stream."""

    path: Path
    media: Media
    pts: np.ndarray
    """int64 [n]: presentation time of every picture in ticks; ascending, unique."""
    end: int
    """Tick at which the last picture ends."""
    time_base: Fraction
    """Seconds a tick."""
    zero: Fraction
    """The media clock's 0, in ticks of the container's timestamps."""
    by_order: bool = False
    """The container has no presentation times (AVI): the k-th picture takes the k-th time."""

    @property
    def times_s(self) -> np.ndarray:
        """float64 [n]: when each picture appears, on the media clock."""
        return (self.pts - float(self.zero)) * float(self.time_base)

    def grid(self, fps: float) -> list[tuple[float, int]]:
        """Every time k/fps at which a picture is shown, with the tick of that picture.

        A video too short or too late for any such time gives its first picture, at its own time.
        """
        rate = Fraction(fps).limit_denominator(1_000_000)
        step = 1 / (rate * self.time_base)
        count = max(0, -int((self.zero - self.end) // step))
        ticks = np.array([(self.zero + k * step).__floor__() for k in range(count)], np.int64)
        shown = np.searchsorted(self.pts, ticks, side="right") - 1
        pairs = [(float(k / rate), int(self.pts[i])) for k, i in enumerate(shown) if i >= 0]
        return pairs or [(float(self.times_s[0]), int(self.pts[0]))]


def probe(path: Path) -> Media:
    """Read a video's headers and packet times and decode its first picture.

    Raises:
        InputError: See `open_clock`.
    """
    return open_clock(path).media


def open_clock(path: Path) -> Clock:
    """Index the presentation times of a video file by reading its packets once.

    Raises:
        InputError: `video-empty`, `video-truncated`, `video-not-decodable`, `video-no-stream`,
            `video-untimed`.
    """
    if path.stat().st_size == 0:
        raise InputError("the video file has no bytes", code="video-empty", next_step=_AGAIN)
    try:
        times = _packet_times(path)
        by_order = False
        if times is None:
            times, by_order = _coded_times(path)
        if not times[0]:
            raise InputError("the video has no pictures", code="video-empty", next_step=_AGAIN)
        return _clock(path, *times, by_order=by_order)
    except av.error.FFmpegError as error:
        raise InputError(
            "the video cannot be read",
            code="video-not-decodable",
            got=type(error).__name__,
            next_step="re-encode it with ffmpeg",
        ) from None


def sample_frames(
    path: Path, fps: float = 1.0, long_side: int | None = None
) -> Iterator[tuple[float, np.ndarray]]:
    """The pictures shown at t = 0, 1/fps, 2/fps, ... seconds of the media clock.

    Streams: one picture is in memory at a time, whatever the video's length.

    Args:
        path: Any of the containers and codecs that PyAV reads.
        fps: Pictures a second of the media clock, not of the file.
        long_side: Shrink pictures whose longer side is above this many pixels.

    Yields:
        (t in seconds, uint8 RGB [h, w, 3]), ascending. Times before the first picture and times
        whose picture is lost to damage are left out.

    Raises:
        InputError: See `open_clock`.
    """
    return clock_frames(open_clock(path), fps, long_side)


def clock_frames(
    clock: Clock, fps: float, long_side: int | None = None
) -> Iterator[tuple[float, np.ndarray]]:
    """`sample_frames` of a file that is already indexed."""
    wanted = clock.grid(fps)
    ticks = [tick for _, tick in wanted]
    done = 0
    may_skip = clock.media.codec in _SKIPPABLE and not clock.by_order
    for skip in (True, False) if may_skip else (False,):
        for index, shown in enumerate(_shown(clock, ticks, skip=skip)):
            if skip and (shown is None or shown[0] != ticks[index]):
                break  # what was skipped cannot be told from what is damaged: decode everything
            if index >= done:
                done = index + 1
                if shown is not None:
                    rgb = shown[1].to_ndarray(format="rgb24")
                    yield wanted[index][0], shrink(rgb, long_side)
        else:
            return


def shrink(rgb: np.ndarray, long_side: int | None) -> np.ndarray:
    """A picture with its longer side at most `long_side`, antialiased; never enlarged.

    Args:
        rgb: uint8 [h, w, 3] or [h, w].
        long_side: Pixels; None leaves the picture alone.
    """
    height, width = rgb.shape[:2]
    if long_side is None or max(height, width) <= long_side:
        return rgb
    scale = long_side / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(Image.fromarray(rgb).resize(size, Image.Resampling.BICUBIC))


def _shown(
    clock: Clock, ticks: list[int], *, skip: bool
) -> Iterator[tuple[int, VideoFrame] | None]:
    """For each tick that a picture should start at: that picture, with its own tick.

    Where it is lost to damage: the last good one before it, or None when that is more than
    `HOLD_S` away.
    """
    hold = int(HOLD_S / clock.time_base)
    held: tuple[int, VideoFrame] | None = None
    index = 0
    for place, (own, frame) in enumerate(decode(clock.path, frozenset(ticks) if skip else None)):
        tick = int(clock.pts[place]) if clock.by_order else own
        if held is not None and tick <= held[0]:
            continue  # a damaged stream that jumps back
        while index < len(ticks) and ticks[index] < tick:
            yield held if held is not None and ticks[index] - held[0] <= hold else None
            index += 1
        if index == len(ticks):
            return
        held = (tick, frame)
    for wanted in ticks[index:]:
        yield held if held is not None and wanted - held[0] <= hold else None


def _packet_times(path: Path) -> tuple[list[int], int] | None:
    """Presentation ticks from the packets and the end; None where packets are untimed."""
    pts: list[int] = []
    end = 0
    with open_video(path) as container:
        if container.format.name in _UNTIMED:
            return None
        for packet in packets(container, video_stream(container)):
            if packet.is_discard:
                continue  # cut away by an edit list
            if packet.pts is None:
                return None
            pts.append(packet.pts)
            end = max(end, packet.pts + (packet.duration or 0))
    return pts, end


def _coded_times(path: Path) -> tuple[tuple[list[int], int], bool]:
    """Decoding ticks of a container without presentation times (AVI), and how to use them.

    Where the pictures come in the order they were coded in, each is shown at its own tick. Where
    they are reordered, the k-th to be shown takes the k-th tick, as such containers have a
    constant rate; that needs every picture to be there.

    Raises:
        InputError: `video-untimed`.
    """
    ticks: list[int] = []
    end = 0
    with open_video(path) as container:
        for packet in packets(container, video_stream(container)):
            tick = packet.dts if packet.pts is None else packet.pts
            if tick is not None:
                ticks.append(tick)
                end = max(end, tick + (packet.duration or 0))
    shown = [tick for tick, _ in decode(path)]
    if all(a < b for a, b in pairwise(shown)):
        return (shown, end), False
    if len(shown) == len(ticks):
        return (sorted(ticks), end), True
    raise InputError(
        "the container has no presentation times and pictures are missing",
        code="video-untimed",
        got=f"{len(shown)} of {len(ticks)} pictures",
        next_step="re-encode it as MP4 or Matroska",
    )


def _clock(path: Path, ticks: list[int], end: int, *, by_order: bool) -> Clock:
    pts = np.unique(np.array(ticks, np.int64))
    gaps = np.diff(pts)
    if end <= pts[-1]:  # the last picture has no duration: as long as the usual one
        end = int(pts[-1]) + (int(np.median(gaps)) if len(gaps) else 1)
    first = next(decode(path), None)
    if first is None:
        raise InputError(
            "no picture of the video can be decoded",
            code="video-not-decodable",
            next_step="re-encode it with ffmpeg",
        )
    with open_video(path) as container:
        stream = video_stream(container)
        base = time_base(stream)
        begin = Fraction(int(pts[0]))
        sound = [
            s.start_time * Fraction(s.time_base) / base
            for s in container.streams.audio
            if s.start_time is not None and s.time_base is not None
        ]
        zero = min([begin, *sound])
        media = Media(
            container=container.format.name,
            codec=stream.codec_context.name,
            width=first[1].width,
            height=first[1].height,
            frames=len(pts),
            clashes=len(ticks) - len(pts),
            duration_s=float((end - zero) * base),
            declared_s=declared_s(container, stream),
            start_s=float(zero * base),
            first_frame_s=float((begin - zero) * base),
            average_rate=float(len(pts) / ((end - begin) * base)),
            # Containers round times to their tick: one tick up or down is no variable rate.
            variable_rate=bool(len(gaps) and np.ptp(gaps) > 2),
            rotation=first[1].rotation,
            pixel_aspect=float(stream.sample_aspect_ratio or 1),
        )
    return Clock(path, media, pts, end, base, zero, by_order)
