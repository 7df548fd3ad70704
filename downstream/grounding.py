"""Grounding: does the most similar patch lie in the finding? The pointing game, with baselines.

Heat of a patch = how strongly the positive prompts are seen in it, less how strongly the negative
ones are, brought back to the stored pixels by bilinear interpolation. In a volume the maximum is
taken over all slices; heat is first shifted to be >= 0 over the volume and multiplied by the share
of its slice in the vector.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from downstream.bootstrap import Estimate, Resamples, mean_estimate, resample
from downstream.card import MetricCard, digest, split_digest
from downstream.config import GroundingTask
from downstream.embedder import Embedder, progress
from downstream.outcome import Context, Outcome, PredictionRow, Result, SkipTask, make_result
from downstream.prompting import CONTRASTS, contrast_pair, label_prompts
from downstream.ranking import area_fraction, centre_hit, pointed_pixel, pointing_hit, prior_hit
from downstream.regions import Mask, by_concept, mean_location, region_mask, visual_shape
from downstream.selection import select
from medvlp.knowledge.prompts import PromptSet
from medvlp.models.preprocess import heat_to_original
from medvlp.types import Sample, Visual

Floats = npt.NDArray[np.float64]
Heat = npt.NDArray[np.float32]

_MOST_PICTURES = 64


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """One finding as the report shows it: the slice that was pointed at."""

    key: str
    concept: str
    visual: Visual
    heat: Heat
    """[h, w] of the pointed slice."""
    mask: Mask
    """[h, w] of that slice."""
    slice: int
    pixel: tuple[int, int]
    hit: float
    slice_weights: Floats
    """[n]."""
    lesion_slices: npt.NDArray[np.bool_]
    """[n]: whether the finding is on the slice."""


@dataclass(frozen=True, slots=True, eq=False)
class GroundingView:
    """What the report shows of one grounding task."""

    overall: Result
    per_concept: tuple[Result, ...]
    pictures: tuple[Picture, ...]


@dataclass(frozen=True, slots=True, eq=False)
class _Case:
    """One finding of one sample, with everybody's hits."""

    sample: Sample
    concept: str
    hits: dict[str, float]


def run_grounding(task: GroundingTask, context: Context) -> Outcome:
    """Evaluate the pointing game over all findings, and per concept.

    Raises:
        SkipTask: No sample of the split has a region.
    """
    split = task.where.split or context.config.split
    samples = [
        sample
        for sample in select(context.dataset, task.where, split)
        if _concepts(task, context, sample)
    ]
    if not samples:
        raise SkipTask("no sample of this split has a region of the asked concepts")
    concepts = sorted({c for sample in samples for c in _concepts(task, context, sample)})
    prompts = label_prompts(task.prompts, concepts)
    training = select(context.dataset, task.where, "train")
    priors = mean_location(context.dataset, training, concepts, task.grid)
    asked = {
        name: contrast_pair(prompts, embedder, task.contrast)
        for name, embedder in context.embedders.items()
    }
    shown = _shown(samples, context.config.examples)
    cases: list[_Case] = []
    pictures: list[Picture] = []
    for number, sample in enumerate(progress(samples, f"{task.name}: pointing")):
        new, drawn = _point(task, context, sample, concepts, asked, priors)
        cases += new
        if sample.key in shown and drawn:
            pictures.append(drawn[number % len(drawn)])
    resamples = resample(
        [case.sample.patient for case in cases],
        n=context.config.bootstrap,
        seed=context.config.seed,
    )
    overall = _results(task, context, cases, resamples, prompts, "pointing")
    per_concept = [
        result
        for concept in concepts
        for result in _results(
            task, context, cases, resamples, prompts, f"pointing/{concept}", concept
        )
    ]
    missing = sorted({c.concept for c in cases if (c.sample.kind, c.concept) not in priors})
    return Outcome(
        task=task.name,
        kind="grounding",
        results=[*overall, *per_concept],
        predictions=[
            PredictionRow(case.sample.key, task.name, case.concept, case.hits["model"], 1.0)
            for case in cases
        ],
        headline=_headline(overall[0]),
        view=GroundingView(overall[0], tuple(per_concept), tuple(pictures)),
        notes=[f"No training mask, so the mean-location baseline scores 0: {', '.join(missing)}."]
        * bool(missing),
    )


def _concepts(task: GroundingTask, context: Context, sample: Sample) -> list[str]:
    """Concepts that have a region in the sample and, if it has gold labels, are among them."""
    return [
        concept
        for concept in sorted(by_concept(context.dataset.regions(sample.key)))
        if (isinstance(task.labels, str) or concept in task.labels)
        and (not sample.labels or concept in sample.labels)
    ]


def _point(
    task: GroundingTask,
    context: Context,
    sample: Sample,
    concepts: Sequence[str],
    asked: dict[str, tuple[Floats, Floats | None]],
    priors: dict[tuple[str, str], Floats],
) -> tuple[list[_Case], list[Picture]]:
    """Everybody's hits for the findings of one sample, and the model's pictures."""
    visual = context.dataset.visual(sample)
    shape = visual_shape(sample, visual.frames.shape)
    regions = by_concept(context.dataset.regions(sample.key))
    maps = {
        name: contrast_heat(embedder, sample, *asked[name])
        for name, embedder in context.embedders.items()
    }
    cases, pictures = [], []
    for concept in _concepts(task, context, sample):
        mask = region_mask(regions[concept], shape)
        if not mask.any():
            continue
        column = concepts.index(concept)
        prior = priors.get((sample.kind, concept))
        hits = {
            "mean_location": 0.0 if prior is None else prior_hit(prior, mask),
            "centre": centre_hit(mask),
            "all_ones": area_fraction(mask),
        }
        for name, (heats, weights) in maps.items():
            heat = heat_map(heats[column], weights, visual.frames.shape, task.slices)
            volume = mask.reshape(heat.shape)
            hits[name] = pointing_hit(heat, volume)
            if name == "model":
                pictures.append(_picture(sample, concept, visual, heat, volume, weights))
        cases.append(_Case(sample, concept, hits))
    return cases, pictures


def contrast_heat(
    embedder: Embedder, sample: Sample, claims: Floats, against: Floats | None
) -> tuple[Tensor, Tensor]:
    """Maps [k, n, gh, gw] of claims, less those of what they stand against, and slice weights."""
    if embedder.answers.source == "queries":
        against = None  # a denial is no query: its attention is nowhere in particular
    asked = claims if against is None else np.concatenate([claims, against])
    seen = embedder.heat(sample, asked)
    maps = seen.maps
    if against is not None:
        maps = maps[: len(claims)] - maps[len(claims) :]
    return maps, seen.slice_weights


def heat_map(patches: Tensor, weights: Tensor, shape: tuple[int, ...], slices: str) -> Heat:
    """A map of the patches as a map of the stored pixels.

    Args:
        patches: [n, gh, gw].
        weights: How much each slice counts, [n].
        shape: Shape of `Visual.frames`: (n, h, w) or (n, h, w, 3).
        slices: `weighted` or `plain`.

    Returns:
        [n, h, w].
    """
    heat = patches
    if slices == "weighted" and len(heat) > 1:
        heat = (heat - heat.min()) * (weights / weights.max())[:, None, None]
    size = (int(shape[1]), int(shape[2]))
    full = torch.stack([heat_to_original(one, size) for one in heat])
    values: Heat = full.float().numpy()
    return values


def _picture(
    sample: Sample,
    concept: str,
    visual: Visual,
    heat: Heat,
    mask: Mask,
    weights: Tensor,
) -> Picture:
    index, y, x = pointed_pixel(heat)
    return Picture(
        key=sample.key,
        concept=concept,
        visual=Visual(
            visual.frames[index : index + 1], np.zeros(1), "image", visual.unit, visual.window
        ),
        heat=heat[index],
        mask=mask[index],
        slice=index,
        pixel=(y, x),
        hit=pointing_hit(heat, mask),
        slice_weights=weights.double().numpy(),
        lesion_slices=np.asarray(mask.any(axis=(1, 2))),
    )


def _shown(samples: Sequence[Sample], count: int) -> set[str]:
    """Samples evenly spread over the keys within each kind: chosen without looking at results."""
    chosen: set[str] = set()
    kinds = sorted({sample.kind for sample in samples})
    for kind in kinds:
        keys = [sample.key for sample in samples if sample.kind == kind]
        take = min(len(keys), -(-count // len(kinds)))
        chosen |= {keys[i] for i in np.linspace(0, len(keys) - 1, take).astype(int)}
    return chosen


def _results(
    task: GroundingTask,
    context: Context,
    cases: Sequence[_Case],
    resamples: Resamples,
    prompts: PromptSet,
    metric: str,
    concept: str | None = None,
) -> list[Result]:
    rows = np.array([concept in (None, case.concept) for case in cases])
    used = [case for case, keep in zip(cases, rows, strict=True) if keep]
    if not used:
        return []
    own = resamples.take(rows)
    estimates: dict[str, Estimate] = {
        name: mean_estimate(np.array([case.hits[name] for case in used], dtype=np.float64), own)
        for name in used[0].hits
    }
    model = estimates.pop("model")
    return [
        make_result(
            task.name,
            metric,
            model,
            n=len(used),
            groups=len({case.sample.patient for case in used}),
            card=_card(task, context, used, prompts, metric),
            baselines=estimates,
        )
    ]


def _card(
    task: GroundingTask,
    context: Context,
    cases: Sequence[_Case],
    prompts: PromptSet,
    metric: str,
) -> MetricCard:
    minus = CONTRASTS[task.contrast].format("patch").replace("cos(", "seen(")
    weighted = ", shifted to >= 0 and times the slice's weight in volumes"
    slices = weighted if task.slices == "weighted" else ""
    return MetricCard(
        task="pointing game",
        metric=metric,
        aggregation="mean over findings (sample and concept); sides of one concept are one region",
        undefined="only findings that are truly present and have a region",
        truth="the maximal pixel lies in the mask or box, at stored resolution, no margin",
        score=f"seen(patch, positive prompts){minus}{slices}; bilinear to the stored pixels",
        ties="several maximal pixels: the share of them that is inside",
        interval=f"95 % percentile, {context.config.bootstrap} resamples of patients, "
        f"seed {context.config.seed}",
        split=task.where.split or context.config.split,
        split_digest=split_digest((case.sample.key, case.concept) for case in cases),
        prompt_digest=digest([prompts.digest, task.contrast]),
        dataset_digest=context.dataset.digest,
        model_digest=context.model.digest,
        selection="mean-location baseline fitted on the training split; nothing on the evaluated "
        "one",
        labels=tuple(sorted({case.concept for case in cases})),
    )


def _headline(overall: Result) -> dict[str, float | None]:
    return {
        "value": overall["value"],
        "low": overall["low"],
        "high": overall["high"],
        **{name: value["value"] for name, value in overall["baselines"].items()},
    }
