from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.uid import JPEG2000Lossless

from data_connectors.dicom import load_volume, slices
from data_connectors.dicom.decode import Frames


@pytest.fixture
def volume() -> np.ndarray:
    noise = np.random.default_rng(4).normal(size=(12, 40, 36)).cumsum(1).cumsum(2)
    return (noise * 5 + 900).astype(np.int16)


def test_threads_change_nothing(
    tmp_path: Path, write_series: Any, volume: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_series(tmp_path, volume, syntax=JPEG2000Lossless)
    seen: set[str] = set()
    real = Frames.decoded

    def decoded(self: Frames, stream: bytes) -> np.ndarray:
        seen.add(threading.current_thread().name)
        return real(self, stream)

    monkeypatch.setattr(Frames, "decoded", decoded)
    arrays = []
    for threads in (1, 4):
        monkeypatch.setattr(slices, "decoding_threads", lambda threads=threads: threads)
        arrays.append(load_volume(tmp_path).array)
        assert bool(seen) == (threads > 1)
    np.testing.assert_array_equal(arrays[0], volume - 1024)
    np.testing.assert_array_equal(arrays[1], arrays[0])


@pytest.mark.parametrize("threads", [1, 3])
def test_a_slice_that_does_not_decode_is_named_whatever_the_threads(
    tmp_path: Path,
    write_series: Any,
    ingest: Any,
    volume: np.ndarray,
    monkeypatch: pytest.MonkeyPatch,
    threads: int,
) -> None:
    monkeypatch.setattr(slices, "decoding_threads", lambda: threads)
    paths = write_series(tmp_path, volume, syntax=JPEG2000Lossless)
    data = bytearray(paths[0].read_bytes())  # the end of the stack: the rest is still regular
    at = data.index(b"\xff\x4f\xff\x51")
    data[at + 40 : at + 400] = bytes(360)
    paths[0].write_bytes(bytes(data))
    found = ingest(tmp_path)
    assert found.codes == {"dicom-not-decodable": 1}
    assert [item.inputs for item in found.refused] == [(paths[0].name,)]
    [whole] = found.visuals
    assert len(whole.inputs) == len(volume) - 1


def test_what_waits_to_be_decoded_is_bounded(
    tmp_path: Path, write_series: Any, volume: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_series(tmp_path, volume, syntax=JPEG2000Lossless)
    monkeypatch.setattr(slices, "decoding_threads", lambda: 2)
    read = decoded = most = 0
    lock = threading.Lock()
    real_stream, real_decoded = Frames.stream, Frames.decoded

    def stream(self: Frames, index: int) -> bytes:
        nonlocal read, most
        with lock:
            read += 1
            most = max(most, read - decoded)
        return real_stream(self, index)

    def finish(self: Frames, data: bytes) -> np.ndarray:
        nonlocal decoded
        array = real_decoded(self, data)
        with lock:
            decoded += 1
        return array

    monkeypatch.setattr(Frames, "stream", stream)
    monkeypatch.setattr(Frames, "decoded", finish)
    load_volume(tmp_path)
    assert read == len(volume)
    assert most <= 2 * 2 + 2
