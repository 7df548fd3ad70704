"""The slices of a series, decoded one after the other or, where it is worth it, by threads."""

from __future__ import annotations

import multiprocessing
import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from data_connectors.dicom.decode import Frames, frames_of
from data_connectors.dicom.header import read_dataset
from data_connectors.dicom.slots import Slot, in_uptake
from data_connectors.dicom.source import DicomSource
from data_connectors.dicom.values import Meaning, meaning_of
from data_connectors.files import Handle, fetch
from medvlp.errors import InputError

Decoded = np.ndarray | InputError


def decode_slices(source: DicomSource, slots: list[Slot]) -> Iterator[tuple[str, Decoded]]:
    """Real values of every file of a series, or why there are none.

    JPEG 2000 is decoded by threads: it takes ten times as long as reading, and lets other threads
    run. What waits is bounded, so memory is too.

    Args:
        source: Where the files are.
        slots: What they are.

    Yields:
        (name, int16 or float [rows, columns]), in the order in which the files are read.
    """
    of = {name: slot for slot in slots for name in slot.names}
    threads = decoding_threads()
    waiting: deque[tuple[str, Future[Decoded]]] = deque()
    with ThreadPoolExecutor(threads, "decode") as pool:
        for name, handle in fetch(source.path, tuple(of)):
            try:
                frames, meaning = _frames(of[name], name, handle)
                stream = frames.stream(0) if frames.slow and threads > 1 else None
                values = _values(frames[0], meaning) if stream is None else None
            except InputError as error:
                yield name, error
                continue
            if values is not None:
                yield name, values
                continue
            assert stream is not None
            waiting.append((name, pool.submit(_decode, frames, stream, meaning)))
            if len(waiting) > 2 * threads:
                done, future = waiting.popleft()
                yield done, future.result()
        yield from ((name, future.result()) for name, future in waiting)


def decoding_threads() -> int:
    """One a core; one in a process of a pool, because that has one for every core already."""
    alone = multiprocessing.parent_process() is None
    return len(os.sched_getaffinity(0)) if alone else 1


def _frames(slot: Slot, name: str, handle: Handle) -> tuple[Frames, Meaning]:
    found = slot.frames.get(name)
    if found is None:
        dataset = read_dataset(handle)
        found = frames_of(dataset), meaning_of(dataset)
    frames, meaning = found
    return frames, in_uptake(meaning, slot.suv_factor)


def _decode(frames: Frames, stream: bytes, meaning: Meaning) -> Decoded:
    try:
        return _values(frames.decoded(stream), meaning)
    except InputError as error:
        return error


def _values(stored: np.ndarray, meaning: Meaning) -> np.ndarray:
    if stored.ndim != 2:
        raise InputError("a slice is in colour", code="series-mixed-colour")
    return meaning.apply(stored)
