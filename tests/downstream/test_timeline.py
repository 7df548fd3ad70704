from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from downstream.timeline import (
    PhaseSpan,
    Timeline,
    find_timelines,
    judged_instants,
    window_frames,
)


def test_lectures_are_top_level_clips_with_annotated_phases(hospital: Any) -> None:
    found = find_timelines(hospital, hospital.samples)
    assert [t.lecture.key for t in found] == [f"lecture{i:02d}" for i in range(6)]
    assert [(s.phase, s.start_s, s.end_s) for s in found[0].spans] == [
        ("red_phase", 0, 10), ("out_of_body", 10, 12), ("green_phase", 12, 20),
        ("blue_phase", 20, 30),
    ]  # fmt: skip


def test_a_span_holds_from_its_start_to_just_before_its_end(hospital: Any) -> None:
    timeline = find_timelines(hospital, hospital.samples)[0]
    assert timeline.at(np.array([0.0, 9.999, 10.0, 12.0, 29.9, 30.0])) == [
        "red_phase", "red_phase", "out_of_body", "green_phase", "blue_phase", None,
    ]  # fmt: skip


def test_out_of_body_wins_over_a_phase_around_it(hospital: Any) -> None:
    lecture = hospital.samples[-1]
    spans = (PhaseSpan("out_of_body", 2, 3), PhaseSpan("red_phase", 0, 10))
    assert Timeline(lecture, spans).at(np.array([1.0, 2.5, 4.0])) == [
        "red_phase", "out_of_body", "red_phase",
    ]  # fmt: skip


def test_an_instant_shows_the_latest_frame_before_it() -> None:
    positions = np.array([0.5, 1.4, 1.6, 4.0])
    times, frames = judged_instants(positions, fps=1.0)
    assert times.tolist() == [0.5, 1.5, 2.5, 3.5]
    assert frames.tolist() == [0, 1, 2, 2]


@given(
    st.lists(st.floats(0, 60), min_size=1, max_size=40, unique=True).map(sorted),
    st.floats(0, 60), st.floats(0, 20), st.booleans(),
)  # fmt: skip
@settings(max_examples=200, deadline=None)
def test_a_causal_window_never_holds_a_later_frame(
    times: list[float], instant: float, window_s: float, causal: bool
) -> None:
    positions = np.array(times)
    instant = max(instant, positions[0])
    first, last = window_frames(positions, instant, window_s=window_s, causal=causal)
    assert 0 <= first < last <= len(positions)
    shown = int((positions <= instant + 1e-6).sum()) - 1
    assert first <= shown < last
    if causal:
        assert (positions[first:last] <= instant + 1e-5).all()
        assert last == shown + 1
    else:
        seen = np.delete(positions[first:last], shown - first)
        assert (np.abs(seen - instant) <= window_s / 2 + 1e-5).all()


@pytest.mark.parametrize(("causal", "expected"), [(True, (2, 5)), (False, (3, 6))])
def test_the_window_ends_at_the_instant_or_is_centred_on_it(
    causal: bool, expected: tuple[int, int]
) -> None:
    assert window_frames(np.arange(10.0), 4.0, window_s=2.0, causal=causal) == expected
