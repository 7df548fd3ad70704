"""Video files as packets and pictures: what FFmpeg reads, within limits, and named refusals."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
from av.codec.context import CodecContext
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from medvlp.errors import InputError

log = logging.getLogger(__name__)

_DEMUXERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts,mpegvideo,gif,asf,flv,ogg,mxf,"
    "h264,hevc,m4v,dv,nut"
)
"""Containers that hold their own pictures. Playlists, which name other files, are not opened."""


def open_video(path: Path) -> InputContainer:
    """Open a video file, and nothing that it may point to.

    Raises:
        InputError: `video-truncated` (an MP4 whose index is cut off), `video-not-decodable`.
    """
    try:
        return av.open(
            str(path),
            mode="r",
            metadata_errors="ignore",
            options={"format_whitelist": _DEMUXERS, "protocol_whitelist": "file"},
        )
    except av.error.FFmpegError as error:
        if _breaks_off(path):
            raise InputError(
                "the video file ends before its index",
                code="video-truncated",
                next_step="copy it again from the recorder",
            ) from None
        raise InputError(
            "no video container that can be read",
            code="video-not-decodable",
            got=type(error).__name__,
            next_step="check that the file is a video; re-encode it",
        ) from None


def _breaks_off(path: Path) -> bool:
    """Whether an MP4 or MOV file lacks its index or the end of one of its boxes."""
    size = path.stat().st_size
    place = 0
    names: list[bytes] = []
    with path.open("rb") as file:
        while place + 8 <= size and len(names) < 1000:
            file.seek(place)
            header = file.read(16)
            length = int.from_bytes(header[:4], "big")
            names.append(header[4:8])
            if length == 1:
                length = int.from_bytes(header[8:16], "big")
            place = size if length == 0 else place + max(length, 8)
    return names[:1] in ([b"ftyp"], [b"wide"], [b"mdat"]) and (b"moov" not in names or place > size)


def video_stream(container: InputContainer) -> VideoStream:
    """The first video stream that is no cover picture.

    Raises:
        InputError: `video-no-stream`; `video-not-decodable` where its codec is unknown.
    """
    streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    if not streams:
        raise InputError(
            "the file has no video stream",
            code="video-no-stream",
            got=f"{len(container.streams)} other streams",
            next_step="export the recording with its picture",
        )
    if not isinstance(streams[0].codec_context, CodecContext):
        raise InputError(
            "no decoder for this video codec",
            code="video-not-decodable",
            next_step="re-encode it as H.264",
        )
    return streams[0]


def time_base(stream: VideoStream) -> Fraction:
    """Seconds a tick of a stream's timestamps."""
    return Fraction(stream.time_base or Fraction(1, av.time_base))


def packets(container: InputContainer, stream: VideoStream) -> Iterator[Packet[VideoStream]]:
    """A stream's packets, to its end or to where the file breaks off."""
    try:
        for packet in container.demux(stream):
            if packet.size:
                yield packet
    except av.error.FFmpegError:
        log.debug("a video breaks off before its end")


def decode(path: Path, keep: frozenset[int] | None = None) -> Iterator[tuple[int, VideoFrame]]:
    """(presentation tick, picture) in the order the decoder gives, which is that of presentation.

    Args:
        path: The video.
        keep: Ticks of the pictures that matter; other non-reference pictures are not decoded,
            which changes no bit of the others. None decodes all.
    """
    with open_video(path) as container:
        stream = video_stream(container)
        context = stream.codec_context
        context.thread_count = 1  # ingest runs one process a core
        for packet in packets(container, stream):
            if keep is not None:
                context.skip_frame = "DEFAULT" if packet.pts in keep else "NONREF"
            yield from _pictures(context, packet)
        yield from _pictures(context, None)


def _pictures(
    context: VideoCodecContext, packet: Packet[VideoStream] | None
) -> Iterator[tuple[int, VideoFrame]]:
    """The timed pictures that a packet completes; a damaged packet gives none."""
    try:
        frames = context.decode(packet)
    except av.error.FFmpegError:
        return
    for frame in frames:
        tick = frame.dts if frame.pts is None else frame.pts
        if tick is not None:
            yield tick, frame


def declared_s(container: InputContainer, stream: VideoStream) -> float | None:
    """The length of the video stream in seconds, as the headers claim; None if they do not."""
    if stream.duration is not None:
        return float(stream.duration * time_base(stream))
    parts = stream.metadata.get("DURATION", "").split(":")  # Matroska: 00:02:05.040000000
    if len(parts) == 3:
        try:
            return int(parts[0]) * 3600 + int(parts[1]) * 60 + float(parts[2])
        except ValueError:
            return None
    if container.duration is not None and len(container.streams) == 1:
        return container.duration / av.time_base
    return None
