"""Zero-shot phase recognition: an instant of a lecture gets the phase whose prompt is nearest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from downstream.bootstrap import resample
from downstream.config import PhaseTask
from downstream.embedder import Embedder, unit
from downstream.outcome import Context, Outcome, Result, SkipTask
from downstream.phase_prompts import PhasePrompts, phase_prompts
from downstream.phase_results import (
    Judged,
    LectureView,
    confusion_matrix,
    per_phase_results,
    phase_results,
    prediction_rows,
)
from downstream.selection import select
from downstream.timeline import Timeline, find_timelines, judged_instants, window_frames
from medvlp.types import Visual

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class PhaseView:
    """What the report shows of one phase task."""

    prompts: PhasePrompts
    lectures: tuple[LectureView, ...]
    confusion: Ints
    per_phase: tuple[Result, ...]


def run_phase(task: PhaseTask, context: Context) -> Outcome:
    """Evaluate frame accuracy and F1 per video.

    Raises:
        SkipTask: No lecture of the split has annotated phases.
    """
    split = task.where.split or context.config.split
    timelines = find_timelines(context.dataset, select(context.dataset, task.where, split))
    if not timelines:
        raise SkipTask("no lecture of this split has annotated phases")
    prompts = phase_prompts(task, context.dataset)
    views = {
        name: [_judge(task, embedder, timeline, prompts) for timeline in timelines]
        for name, embedder in context.embedders.items()
    }
    used = [i for i, view in enumerate(views["model"]) if (view.truth >= 0).any()]
    if not used:
        raise SkipTask("no annotated instant has one of the phases")
    views = {name: [lectures[i] for i in used] for name, lectures in views.items()}
    majority = _majority(task, context, prompts, views["model"])
    views["majority"] = [_constant(view, majority) for view in views["model"]]
    judged = Judged(
        task=task,
        context=context,
        prompts=prompts,
        resamples=resample(
            [timelines[i].lecture.patient for i in used],
            n=context.config.bootstrap,
            seed=context.config.seed,
        ),
        views=views,
    )
    results, per_phase = phase_results(judged), per_phase_results(judged)
    return Outcome(
        task=task.name,
        kind="phase",
        results=[*results, *per_phase],
        predictions=prediction_rows(judged),
        headline=_headline(results),
        view=PhaseView(
            prompts=prompts,
            lectures=tuple(views["model"]),
            confusion=confusion_matrix(judged),
            per_phase=tuple(per_phase),
        ),
        notes=_notes(judged, len(timelines) - len(used)),
    )


def _headline(results: list[Result]) -> dict[str, float | None]:
    accuracy, f1, pooled = results
    return {
        "accuracy": accuracy["value"],
        "low": accuracy["low"],
        "high": accuracy["high"],
        **{name: value["value"] for name, value in accuracy["baselines"].items()},
        "f1_video": f1["value"],
        "accuracy_pooled": pooled["value"],
    }


def _notes(judged: Judged, unused: int) -> list[str]:
    left = sum(int((view.truth < 0).sum()) for view in judged.views["model"])
    notes = [f"{left} instants are out of body or not annotated, and are not judged."] * bool(left)
    if unused:
        notes.append(f"{unused} lectures show none of the phases and take no part.")
    return notes


def _judge(
    task: PhaseTask, embedder: Embedder, timeline: Timeline, prompts: PhasePrompts
) -> LectureView:
    visual = embedder.read(timeline.lecture)
    times, shown = judged_instants(visual.positions, task.fps)
    vectors = window_vectors(task, embedder, visual, times, shown)
    scores = vectors @ prompts.vectors(embedder).T
    index = {phase: i for i, phase in enumerate(prompts.phases)}
    truth = [index.get(phase, -1) if phase else -1 for phase in timeline.at(times)]
    return LectureView(
        key=timeline.lecture.key,
        times=times,
        truth=np.array(truth, dtype=np.int64),
        predicted=scores.argmax(axis=1).astype(np.int64),
        scores=scores,
    )


def window_vectors(
    task: PhaseTask, embedder: Embedder, visual: Visual, times: Floats, shown: Ints
) -> Floats:
    """The unit vector [t, e] of what may be seen at every instant.

    Args:
        task: Window, causality, pooling.
        embedder: The model.
        visual: The stored frames of a lecture.
        times: Instants in seconds [t].
        shown: The frame shown at each instant [t].
    """
    if task.window_s == 0:
        return _frame_vectors(embedder, visual, shown)
    spans = [
        window_frames(visual.positions, t, window_s=task.window_s, causal=task.causal)
        for t in times
    ]
    if task.pooling == "mean":
        every = _frame_vectors(embedder, visual, np.arange(len(visual.frames)))
        return unit(np.stack([every[first:last].mean(axis=0) for first, last in spans]))
    clips = [_cut(visual, first, last, task.max_window_frames) for first, last in spans]
    step = max(1, embedder.batch_frames // task.max_window_frames)
    parts = [embedder.visuals(clips[i : i + step]) for i in range(0, len(clips), step)]
    return np.concatenate(parts)


def _frame_vectors(embedder: Embedder, visual: Visual, frames: Ints) -> Floats:
    """Unit vectors [t, e] of single frames, each distinct frame encoded once."""
    found, back = np.unique(frames, return_inverse=True)
    distinct: list[int] = found.tolist()
    step = embedder.batch_frames
    parts = [
        embedder.visuals([_cut(visual, i, i + 1, 1) for i in distinct[start : start + step]])
        for start in range(0, len(distinct), step)
    ]
    vectors: Floats = np.concatenate(parts)[back]
    return vectors


def _cut(visual: Visual, first: int, last: int, most: int) -> Visual:
    """Frames [first, last) as a clip; too many are thinned out, the last one always stays."""
    count = last - first
    index = np.arange(first, last)
    if count > most:
        index = last - 1 - (np.arange(most)[::-1] * count) // most
    return Visual(visual.frames[index], visual.positions[index], "clip", visual.unit, visual.window)


def _majority(
    task: PhaseTask, context: Context, prompts: PhasePrompts, judged: Sequence[LectureView]
) -> int:
    """The phase with most annotated time in training; in the judged lectures if none is there."""
    seconds = np.zeros(len(prompts.phases))
    for timeline in find_timelines(context.dataset, select(context.dataset, task.where, "train")):
        for span in timeline.spans:
            if span.phase in prompts.phases:
                seconds[prompts.phases.index(span.phase)] += span.end_s - span.start_s
    if not seconds.any():
        truth = np.concatenate([view.truth[view.truth >= 0] for view in judged])
        seconds = np.bincount(truth, minlength=len(prompts.phases)).astype(float)
    return int(seconds.argmax())


def _constant(view: LectureView, phase: int) -> LectureView:
    predicted = np.full_like(view.predicted, phase)
    return LectureView(view.key, view.times, view.truth, predicted, view.scores)
