"""The pixels of a visual that has been read: as frames to look at, and changed."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
from PIL import Image

from data_connectors.dicom.volume import pixel_digest
from data_connectors.items import Payload, VisualItem

_QUALITY = 95


def frames_of(item: VisualItem) -> Iterator[np.ndarray]:
    """Every frame as uint8 [h, w] or [h, w, 3], as a person would see it.

    Deep grey values are stretched from their 0.1st to their 99.9th percentile, and what lies
    outside stays black or white: text is drawn in the extremes.
    """
    for extension, data in item.payload.members:
        if extension == "npy":
            volume = np.load(io.BytesIO(data), allow_pickle=False)
            yield from (shown(frame) for frame in volume)
        else:
            yield shown(_decoded(data))


def shown(frame: np.ndarray) -> np.ndarray:
    """A frame of any depth as uint8."""
    if frame.dtype == np.uint8:
        return frame
    values = frame.astype(np.float32)
    low, high = np.percentile(values, (0.1, 99.9))
    scale = 255 / (high - low) if high > low else 1.0
    grey: np.ndarray = np.clip(np.rint((values - low) * scale), 0, 255).astype(np.uint8)
    return grey


def changed(item: VisualItem, change: Callable[[int, np.ndarray], np.ndarray]) -> VisualItem:
    """The item with every frame put through a function, and the digest of what it has become.

    Args:
        item: A visual with its payload.
        change: (number of the frame, frame as stored) -> frame of the same shape and type.
            JPEG frames that come back unchanged keep their bytes.
    """
    members: list[tuple[str, bytes]] = []
    digests: list[bytes] = []
    digest = ""
    for number, (extension, data) in enumerate(item.payload.members):
        if extension == "npy":
            volume = np.load(io.BytesIO(data), allow_pickle=False)
            after = np.stack([change(index, frame) for index, frame in enumerate(volume)])
            buffer = io.BytesIO()
            np.lib.format.write_array(buffer, after, allow_pickle=False)
            members.append((extension, buffer.getvalue()))
            digest = pixel_digest(after)
            continue
        before = _decoded(data)
        after = change(number, before)
        same = np.array_equal(before, after)
        members.append((extension, data if same else _encoded(after, extension)))
        digest = pixel_digest(after)
        digests.append(bytes.fromhex(digest))
    if item.kind == "clip":
        digest = pixel_digest(np.frombuffer(b"".join(digests), np.uint8))
    return replace(item, payload=Payload(tuple(members)), digest=digest)


def _decoded(data: bytes) -> np.ndarray:
    """uint8 or uint16 [h, w], or uint8 [h, w, 3]."""
    with Image.open(io.BytesIO(data)) as image:
        if image.mode.startswith("I"):
            return np.asarray(image).astype(np.uint16)
        return np.asarray(image if image.mode in ("L", "RGB") else image.convert("RGB"))


def _encoded(frame: np.ndarray, extension: str) -> bytes:
    buffer = io.BytesIO()
    image = Image.fromarray(frame)
    if extension.endswith("jpg"):
        image.save(buffer, "JPEG", quality=_QUALITY, subsampling=0)
    else:
        image.save(buffer, "PNG", compress_level=3)
    return buffer.getvalue()
