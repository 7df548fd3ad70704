"""From judged instants to results: frame accuracy and F1, over videos and pooled."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from downstream import metrics
from downstream.bootstrap import Estimate, Resamples, mean_estimate, ratio_estimate
from downstream.card import MetricCard, split_digest
from downstream.config import PhaseTask
from downstream.outcome import Context, PredictionRow, Result, make_result
from downstream.phase_prompts import PhasePrompts

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

_F1 = "macro F1 of each video over the phases in its truth or prediction, then mean over videos"


@dataclass(frozen=True, slots=True, eq=False)
class LectureView:
    """One lecture: truth and prediction at every judged instant."""

    key: str
    times: Floats
    truth: Ints
    """Index into the phases; -1 where nothing is annotated or the instant is not judged."""
    predicted: Ints
    scores: Floats
    """Cosines [t, k]."""

    @property
    def judged(self) -> tuple[Ints, Ints]:
        """Truth and prediction of the instants that count."""
        rows = self.truth >= 0
        return self.truth[rows], self.predicted[rows]


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """Everything that the results of one task are made from."""

    task: PhaseTask
    context: Context
    prompts: PhasePrompts
    resamples: Resamples
    """Of lectures, grouped by patient."""
    views: Mapping[str, Sequence[LectureView]]
    """Of the model (`model`), each rival, and the constant `majority`."""

    @property
    def instants(self) -> int:
        """Number of instants that count."""
        return sum(len(view.judged[0]) for view in self.views["model"])

    def estimates(
        self, of: Callable[[Sequence[LectureView], Resamples], Estimate]
    ) -> tuple[Estimate, dict[str, Estimate | float]]:
        """The model's estimate, and those of what stands beside it."""
        all_ = {name: of(views, self.resamples) for name, views in self.views.items()}
        return all_.pop("model"), dict(all_)


def video_metric(
    metric: Callable[[Ints, Ints], float], views: Sequence[LectureView], resamples: Resamples
) -> Estimate:
    """A metric of each video, averaged over the videos that have it."""
    return mean_estimate(np.array([metric(*view.judged) for view in views]), resamples)


def pooled_accuracy(views: Sequence[LectureView], resamples: Resamples) -> Estimate:
    """Right instants over instants of all videos together."""
    right = np.array([float((truth == said).sum()) for truth, said in (v.judged for v in views)])
    count = np.array([float(len(view.judged[0])) for view in views])
    return ratio_estimate(right, count, resamples)


def phase_results(judged: Judged) -> list[Result]:
    """Accuracy (video mean, pooled) and F1 per video."""
    chance = 1 / len(judged.prompts.phases)
    plans: list[tuple[str, str, Callable[[Sequence[LectureView], Resamples], Estimate]]] = [
        (
            "accuracy",
            "accuracy of each video, then mean over videos",
            lambda views, r: video_metric(metrics.frame_accuracy, views, r),
        ),
        ("f1_video", _F1, lambda views, r: video_metric(metrics.macro_f1, views, r)),
        ("accuracy_pooled", "right instants over instants, all videos pooled", pooled_accuracy),
    ]
    results = []
    for metric, aggregation, of in plans:
        estimate, beside = judged.estimates(of)
        if metric != "f1_video":
            beside = {"chance": chance, **beside}
        results.append(_result(judged, metric, aggregation, estimate, beside))
    return results


def per_phase_results(judged: Judged) -> list[Result]:
    """F1 of every phase, over the videos that show or predict it."""
    results = []
    for index, phase in enumerate(judged.prompts.phases):

        def one(truth: Ints, said: Ints, index: int = index) -> float:
            return metrics.f1(truth == index, said == index)

        estimate, beside = judged.estimates(
            lambda views, r, one=one: video_metric(one, views, r)  # type: ignore[misc]
        )
        results.append(
            _result(
                judged, f"f1/{phase}",
                "F1 of each video that has the phase in truth or prediction, then mean over videos",
                estimate, beside,
            )
        )  # fmt: skip
    return results


def _result(
    judged: Judged,
    metric: str,
    aggregation: str,
    estimate: Estimate,
    beside: Mapping[str, Estimate | float],
) -> Result:
    return make_result(
        judged.task.name,
        metric,
        estimate,
        n=judged.instants,
        groups=judged.resamples.groups,
        card=_card(judged, metric, aggregation),
        baselines=beside,
    )


def _card(judged: Judged, metric: str, aggregation: str) -> MetricCard:
    task, context = judged.task, judged.context
    return MetricCard(
        task="zero-shot phase recognition",
        metric=metric,
        aggregation=aggregation,
        undefined="a video without the phase in truth and prediction has no F1 of it and is left "
        "out",
        truth="annotated phase at the instant; instants without annotation are not judged; out of "
        f"body: {'not judged' if task.out_of_body == 'exclude' else 'a class of its own'}",
        score="cosine to the ensembled prompts of each phase; the nearest is predicted",
        ties="the first of equal phases",
        relaxation="none: no tolerance at phase borders",
        fps=task.fps,
        frames_seen=frames_seen(task),
        interval=f"95 % percentile, {context.config.bootstrap} resamples of patients with their "
        f"videos, seed {context.config.seed}",
        split=task.where.split or context.config.split,
        split_digest=split_digest(
            (view.key, f"{time:.3f}", str(truth))
            for view in judged.views["model"]
            for time, truth in zip(view.times, view.truth, strict=True)
        ),
        prompt_digest=judged.prompts.digest,
        dataset_digest=context.dataset.digest,
        model_digest=context.model.digest,
        labels=judged.prompts.phases,
    )


def frames_seen(task: PhaseTask) -> str:
    """Which frames a score may use, in words."""
    if task.window_s == 0:
        return "causal: the frame shown at the instant, alone"
    pooling = "encoded as one clip" if task.pooling == "model" else "mean of the frames' vectors"
    if task.causal:
        return f"causal: frames of the {task.window_s:g} s up to the instant, {pooling}"
    return f"NOT causal: frames of {task.window_s:g} s around the instant, {pooling}"


def prediction_rows(judged: Judged) -> list[PredictionRow]:
    """The score of every phase at every judged instant; the key is `lecture@seconds`."""
    return [
        PredictionRow(
            key=f"{view.key}@{time:.3f}",
            task=judged.task.name,
            label=phase,
            score=float(view.scores[row, column]),
            truth=float(view.truth[row] == column) if view.truth[row] >= 0 else None,
        )
        for view in judged.views["model"]
        for row, time in enumerate(view.times)
        for column, phase in enumerate(judged.prompts.phases)
    ]


def confusion_matrix(judged: Judged) -> Ints:
    """Instants, rows truth, columns prediction, all videos pooled."""
    pairs = [view.judged for view in judged.views["model"]]
    truth, said = (np.concatenate(part) for part in zip(*pairs, strict=True))
    return metrics.confusion(truth, said, len(judged.prompts.phases))
