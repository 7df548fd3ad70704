from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from data_connectors.video.clock import clock_frames, open_clock
from data_connectors.video.decord_frames import decord_frames
from data_connectors.video.frames import store_video
from data_connectors.video.source import LecturesSource

Writer = Callable[..., Path]
EVEN = [k / 25 for k in range(100)]


def test_where_decord_agrees_with_the_clock_it_gives_the_same_pictures(
    tmp_path: Path, video: Writer
) -> None:
    clock = open_clock(video(tmp_path / "v.mp4", EVEN))
    frames = decord_frames(clock, 5, None)
    assert frames is not None
    ours = list(clock_frames(clock, 5))
    theirs = list(frames)
    assert [t for t, _ in theirs] == [t for t, _ in ours]
    for (_, a), (_, b) in zip(theirs, ours, strict=True):
        assert np.array_equal(a, b)


def test_where_decord_mistimes_a_stream_pyav_is_used_and_it_is_said(
    tmp_path: Path, video: Writer, caplog: pytest.LogCaptureFixture
) -> None:
    path = video(tmp_path / "v.mkv", [5 + t for t in EVEN], sound_s=(0.0, 9.0))
    with caplog.at_level(logging.INFO):
        assert decord_frames(open_clock(path), 5, None) is None
    assert "PyAV is used" in caplog.text
    config = LecturesSource(name="s", path=tmp_path, fps=5, backend="decord")
    _, stored = store_video(path, config)
    assert 4.9 < stored.times_s[0] < 5.3
    assert len(stored.times_s) in (19, 20)
