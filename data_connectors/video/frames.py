"""A video's pictures as stored members: JPEG files named by their time on the media clock."""

from __future__ import annotations

import hashlib
import io
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from data_connectors.items import Payload
from data_connectors.video.clock import Clock, Media, clock_frames, open_clock, shrink
from data_connectors.video.decord_frames import decord_frames
from data_connectors.video.source import LecturesSource
from medvlp.errors import InputError

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Stored:
    """The kept pictures of one video or frame folder."""

    payload: Payload
    times_s: tuple[float, ...]
    shape: tuple[int, int, int]
    """Pictures, height, width."""

    @property
    def digest(self) -> str:
        """SHA-256 over the members' names and bytes."""
        return digest_of(self.payload)


def digest_of(payload: Payload) -> str:
    """SHA-256 over a payload's members: name, length and bytes of each."""
    digest = hashlib.sha256()
    for name, data in payload.members:
        digest.update(f"{name}:{len(data)}:".encode())
        digest.update(data)
    return digest.hexdigest()


def store(frames: Iterator[tuple[float, np.ndarray]], quality: int) -> Stored | None:
    """Encode pictures as they come; None if there are none.

    Args:
        frames: (seconds, uint8 [h, w, 3]), ascending, all of one size.
        quality: JPEG quality.
    """
    members: list[tuple[str, bytes]] = []
    times: list[float] = []
    height = width = 0
    for time_s, rgb in frames:
        if members and rgb.shape[:2] != (height, width):
            # A stream that changes its size half-way keeps that of its first picture.
            rgb = np.asarray(Image.fromarray(rgb).resize((width, height)))
        height, width = rgb.shape[:2]
        members.append((f"{round(time_s * 1000):010d}.jpg", jpeg(rgb, quality)))
        times.append(time_s)
    if not members:
        return None
    return Stored(Payload(tuple(members)), tuple(times), (len(members), height, width))


def store_video(path: Path, source: LecturesSource) -> tuple[Media, Stored]:
    """Index a video and keep its pictures at the source's rate and size.

    Raises:
        InputError: `video-no-stream`, `video-empty`, `video-not-decodable`, `video-truncated`.
    """
    clock = open_clock(path)
    media = clock.media
    if media.rotation or media.pixel_aspect != 1.0:
        log.info("a video asks to be turned by %d degrees, pixel aspect %.3f: kept as it is coded",
                 media.rotation, media.pixel_aspect)  # fmt: skip
    if media.clashes:
        log.info("%d of %d pictures of a video claim times already taken and are not shown",
                 media.clashes, media.clashes + media.frames)  # fmt: skip
    share = media.duration_s / media.declared_s if media.declared_s else 1.0
    if share < source.min_decodable:
        raise _truncated(share, source)
    stored = store(_frames(clock, source), source.jpeg_quality)
    if stored is None:
        raise InputError(
            "no picture of the video can be decoded", code="video-not-decodable",
            next_step="re-encode it with ffmpeg",
        )  # fmt: skip
    share = len(stored.times_s) / len(clock.grid(source.fps))
    if share < source.min_decodable:
        raise _truncated(share, source)
    if share < 1:
        log.info("%.1f %% of a video's pictures are damaged and left out", 100 * (1 - share))
    return media, stored


def _frames(clock: Clock, source: LecturesSource) -> Iterator[tuple[float, np.ndarray]]:
    if source.backend == "decord":
        frames = decord_frames(clock, source.fps, source.long_side)
        if frames is not None:
            return frames
    return clock_frames(clock, source.fps, source.long_side)


def _truncated(share: float, source: LecturesSource) -> InputError:
    return InputError(
        "part of the video cannot be decoded",
        code="video-truncated",
        got=f"{100 * share:.0f} % readable",
        limit=f"{100 * source.min_decodable:.0f} % (min_decodable)",
        next_step="copy it again from the recorder, or lower min_decodable",
    )


def jpeg(rgb: np.ndarray, quality: int) -> bytes:
    """A picture as JPEG, without metadata."""
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def read_picture(path: Path, long_side: int | None) -> np.ndarray:
    """A still picture, upright, without metadata, shrunk: uint8 [h, w] or [h, w, 3].

    Raises:
        InputError: `image-not-decodable`.
    """
    try:
        with Image.open(path) as image:
            upright = ImageOps.exif_transpose(image)
            grey = upright.mode in {"1", "L", "LA"}
            return shrink(np.asarray(upright.convert("L" if grey else "RGB")), long_side)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(
            "the picture cannot be decoded", code="image-not-decodable",
            got=type(error).__name__, next_step="export it again as PNG or JPEG",
        ) from None  # fmt: skip
