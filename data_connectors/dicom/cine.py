"""Multi-frame loops (ultrasound, angiography) -> clips with their frame times."""

from __future__ import annotations

import io
import itertools
from dataclasses import replace

import numpy as np
from PIL import Image
from pydicom.dataset import Dataset

from data_connectors.dicom.decode import stored_frame
from data_connectors.dicom.header import number, numbers, whole
from data_connectors.dicom.image import to_8_bit
from data_connectors.dicom.values import meaning_of
from data_connectors.dicom.voi import show
from data_connectors.dicom.volume import Stored, pixel_digest
from data_connectors.items import Payload
from medvlp.errors import InputError
from medvlp.types import Geometry


def frame_times_ms(dataset: Dataset) -> list[float]:
    """When each frame is shown, in milliseconds from the first (PS3.3 C.7.6.5).

    Raises:
        InputError: The header gives no frame time (`dicom-no-frame-time`).
    """
    frames = whole(dataset, "NumberOfFrames")
    vector = numbers(dataset, "FrameTimeVector", frames)
    if vector is not None and min(vector) >= 0 and sum(vector) > 0:
        start = vector[0]
        return [time - start for time in itertools.accumulate(vector)]
    step = number(dataset, "FrameTime")
    if not step or step <= 0:
        rate = number(dataset, "CineRate") or number(dataset, "RecommendedDisplayFrameRate")
        if not rate or rate <= 0:
            raise InputError(
                "the frames have no times", code="dicom-no-frame-time",
                next_step="only loops with FrameTime, FrameTimeVector or CineRate are read",
            )  # fmt: skip
        step = 1000 / rate
    return [index * step for index in range(frames)]


def read_cine(dataset: Dataset, *, quality: int) -> Stored:
    """A multi-frame object as JPEG frames named by their milliseconds.

    Args:
        dataset: A whole object that passed `check_pixels`.
        quality: JPEG quality.

    Raises:
        InputError: A frame cannot be decoded, or there are no times.
    """
    times = frame_times_ms(dataset)
    members: list[tuple[str, bytes]] = []
    arrays = []
    shape: tuple[int, ...] = ()
    last = -1
    for index, time in enumerate(times):
        frame = _display(stored_frame(dataset, index), dataset)
        last = max(last + 1, round(time))  # names must ascend, even above 1000 frames a second
        buffer = io.BytesIO()
        Image.fromarray(frame).save(buffer, "JPEG", quality=quality, subsampling=0)
        members.append((f"{last:010d}.jpg", buffer.getvalue()))
        arrays.append(bytes.fromhex(pixel_digest(frame)))
        shape = (len(times), *frame.shape)
    digest = pixel_digest(np.frombuffer(b"".join(arrays), np.uint8))
    step = times[-1] / (len(times) - 1) if len(times) > 1 and times[-1] > 0 else 1000.0
    geometry = Geometry(
        shape=shape,
        start_s=0.0,
        end_s=(times[-1] + step) / 1000,
        fps=1000 / step,
        unit="rgb",
    )
    return Stored(Payload(tuple(members)), geometry, digest)


def _display(frame: np.ndarray, dataset: Dataset) -> np.ndarray:
    """A frame as uint8 [h, w] or [h, w, 3]; grey through its window, its table or whole range."""
    if frame.ndim == 3:
        return to_8_bit(frame, dataset)
    meaning = meaning_of(dataset)
    values = replace(meaning, inverse=False).apply(frame)
    shown = show(values, dataset, meaning.range_of(values))
    return 255 - shown if meaning.inverse else shown
