from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydicom.dataset import Dataset

from data_connectors.dicom.cine import frame_times_ms
from medvlp.errors import InputError

US = {
    "SOPClassUID": "1.2.840.10008.5.1.4.1.1.3.1",
    "Modality": "US",
    "RescaleSlope": None,
    "RescaleIntercept": None,
}


def loop(**values: Any) -> Dataset:
    dataset = Dataset()
    dataset.NumberOfFrames = 3
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    return dataset


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ({"FrameTime": 40}, [0, 40, 80]),
        ({"FrameTimeVector": [0, 30, 50]}, [0, 30, 80]),
        ({"FrameTimeVector": [10, 30, 50], "FrameTime": 7}, [0, 30, 80]),
        ({"CineRate": 25}, [0, 40, 80]),
        ({"FrameTimeVector": [0, 30], "FrameTime": 7}, [0, 7, 14]),
    ],
)
def test_frame_times(header: dict[str, Any], expected: list[float]) -> None:
    assert frame_times_ms(loop(**header)) == pytest.approx(expected)


@pytest.mark.parametrize("header", [{}, {"FrameTime": 0}, {"CineRate": 0}, {"FrameTime": -3}])
def test_frames_without_times_are_refused(header: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="dicom-no-frame-time"):
        frame_times_ms(loop(**header))


def test_loop_becomes_a_clip_with_its_times(ingest: Any, tmp_path: Path, write_dicom: Any) -> None:
    frames = np.zeros((4, 32, 24), np.uint8)
    for k in range(4):
        frames[k, :, 6 * k : 6 * k + 6] = 200
    write_dicom(tmp_path / "x", frames, NumberOfFrames=4, FrameTime=33.3, **US)
    item = ingest(tmp_path).only
    names = [name for name, _ in item.payload.members]
    assert names == ["0000000000.jpg", "0000000033.jpg", "0000000067.jpg", "0000000100.jpg"]
    for (_, data), frame in zip(item.payload.members, frames, strict=True):
        shown = np.asarray(Image.open(io.BytesIO(data)).convert("L")).astype(int)
        assert np.abs(shown - frame).mean() < 3
    assert item.kind == "clip"
    assert item.geometry.start_s == 0
    assert item.geometry.end_s == pytest.approx(0.1332)
    assert item.geometry.fps == pytest.approx(30.03, abs=0.01)


def test_names_ascend_above_a_thousand_frames_a_second(
    ingest: Any, tmp_path: Path, write_dicom: Any
) -> None:
    frames = np.zeros((5, 8, 8), np.uint8)
    write_dicom(tmp_path / "x", frames, NumberOfFrames=5, FrameTime=0.2, **US)
    names = [name for name, _ in ingest(tmp_path).only.payload.members]
    assert len(set(names)) == 5
    assert names == sorted(names)


def test_deep_grey_loop_is_shown_through_its_window(
    ingest: Any, tmp_path: Path, write_dicom: Any
) -> None:
    frames = np.full((2, 16, 16), 1000, np.uint16)
    frames[1] = 1500
    change = {**US, "BitsStored": 12, "HighBit": 11, "WindowCenter": 1500, "WindowWidth": 2000}
    write_dicom(tmp_path / "x", frames, NumberOfFrames=2, FrameTime=40, **change)
    levels = [
        int(np.asarray(Image.open(io.BytesIO(data))).mean())
        for _, data in ingest(tmp_path).only.payload.members
    ]
    assert levels == pytest.approx([64, 128], abs=2)
