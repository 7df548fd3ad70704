"""Lectures as timelines: which instants are judged, what is true there, which frames count."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from downstream.bootstrap import Floats
from downstream.interfaces import SampleStore
from medvlp.types import Sample

PHASE = "phase:"
OUT_OF_BODY = "out_of_body"
_EPSILON_S = 1e-6

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class PhaseSpan:
    """One stretch of a lecture, [start_s, end_s) on the media clock."""

    phase: str
    """Phase id, or `out_of_body`."""
    start_s: float
    end_s: float


@dataclass(frozen=True, slots=True)
class Timeline:
    """A lecture with its annotated phases."""

    lecture: Sample
    spans: tuple[PhaseSpan, ...]

    def at(self, times_s: Floats) -> list[str | None]:
        """The phase at each time; None where nothing is annotated.

        Of overlapping stretches the one that starts last holds, and out-of-body before a phase.
        """
        truth: list[str | None] = [None] * len(times_s)
        for span in sorted(self.spans, key=lambda s: (s.phase == OUT_OF_BODY, s.start_s)):
            inside = (times_s >= span.start_s - _EPSILON_S) & (times_s < span.end_s - _EPSILON_S)
            for index in np.flatnonzero(inside):
                truth[index] = span.phase
        return truth


def find_timelines(dataset: SampleStore, lectures: Sequence[Sample]) -> tuple[Timeline, ...]:
    """The lectures (top-level clips) that have annotated phases, with their phases."""
    spans: dict[str, list[PhaseSpan]] = {}
    for sample in dataset.samples:
        phase = phase_of(sample)
        start, end = sample.geometry.start_s, sample.geometry.end_s
        if phase is None or sample.parent is None or start is None or end is None:
            continue
        spans.setdefault(sample.parent, []).append(PhaseSpan(phase, start, end))
    return tuple(
        Timeline(lecture, tuple(sorted(spans[lecture.key], key=lambda s: (s.start_s, s.phase))))
        for lecture in lectures
        if lecture.kind == "clip"
        and lecture.parent is None
        and any(span.phase != OUT_OF_BODY for span in spans.get(lecture.key, ()))
    )


def phase_of(sample: Sample) -> str | None:
    """The phase id that a clip is labelled with, or `out_of_body`, or None."""
    for label in sample.labels:
        if label.startswith(PHASE):
            return label.removeprefix(PHASE)
        if label == OUT_OF_BODY:
            return OUT_OF_BODY
    return None


def judged_instants(positions: Floats, fps: float) -> tuple[Floats, Ints]:
    """A regular grid over the frames' times, and the frame shown at each instant.

    The frame of an instant is the latest at or before it: nothing is shown before its time.

    Args:
        positions: Times of the stored frames in seconds, ascending [n].
        fps: Instants per second.

    Returns:
        Times [t] and frame indices [t].
    """
    count = int(np.floor((positions[-1] - positions[0]) * fps + _EPSILON_S)) + 1
    times = positions[0] + np.arange(count) / fps
    frames = np.searchsorted(positions, times + _EPSILON_S, side="right") - 1
    return times, frames.astype(np.int64)


def window_frames(
    positions: Floats, instant_s: float, *, window_s: float, causal: bool
) -> tuple[int, int]:
    """The frames [first, last) that a score at an instant may see.

    Causal: frames in [instant - window, instant]. Otherwise the window is centred on the
    instant. It always holds the frame shown at the instant.
    """
    after = 0.0 if causal else window_s / 2
    before = window_s - after
    shown = int(np.searchsorted(positions, instant_s + _EPSILON_S, side="right")) - 1
    first = int(np.searchsorted(positions, instant_s - before - _EPSILON_S, side="left"))
    last = int(np.searchsorted(positions, instant_s + after + _EPSILON_S, side="right"))
    return min(first, shown), max(last, shown + 1)
