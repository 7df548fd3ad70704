"""Retrieval: the text of a visual among all texts, and the visual of a text among all visuals.

Identical texts are one answer: a visual whose own text stands elsewhere in the gallery, word for
word, finds it there too. Chance is computed for exactly that rule. The gallery is the evaluated
samples; the bootstrap resamples the patients of the queries and leaves the gallery as it is.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from downstream.bootstrap import Estimate, Resamples, mean_estimate, resample
from downstream.card import MetricCard, digest, split_digest
from downstream.config import RetrievalTask
from downstream.embedder import Embedder, unit
from downstream.outcome import Context, Outcome, PredictionRow, Result, SkipTask, make_result
from downstream.ranking import chance_median_rank, chance_recall, first_hit_ranks
from downstream.scoring import weights
from downstream.selection import select
from medvlp.models.config import AnswerConfig
from medvlp.types import Sample

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

DIRECTIONS = ("image_to_text", "text_to_image")
_BANK = 256
"""Most training visuals that tell what is typical of a text."""
_SENTENCE = re.compile(r"\n|(?<=[.!?])\s+")


@dataclass(frozen=True, slots=True)
class Example:
    """One query of the report: a sample, its text, and the texts that came first."""

    sample: Sample
    own: str
    rank: int
    found: tuple[tuple[str, float, bool], ...]
    """(text, cosine, whether it is a hit), best first."""


@dataclass(frozen=True, slots=True, eq=False)
class RetrievalView:
    """What the report shows of one retrieval task."""

    items: int
    distinct: int
    ranks: dict[str, Ints]
    examples: tuple[Example, ...]


@dataclass(frozen=True, slots=True, eq=False)
class _Pairs:
    """The gallery: samples with their texts, and how many samples share each text."""

    samples: tuple[Sample, ...]
    texts: tuple[str, ...]
    keys: tuple[str, ...]
    """Texts with case and white space evened out."""
    hits: Ints
    """[n] number of gallery items with the same text, itself included."""


def run_retrieval(task: RetrievalTask, context: Context) -> Outcome:
    """Evaluate recall at k and median rank, both ways.

    Raises:
        SkipTask: Fewer than two distinct texts.
    """
    pairs = _pairs(task, context)
    resamples = resample(
        [sample.patient for sample in pairs.samples],
        n=context.config.bootstrap,
        seed=context.config.seed,
    )
    ranks: dict[str, dict[str, Ints]] = {}
    vectors: dict[str, tuple[Floats, Floats]] = {}
    for name, embedder in context.embedders.items():
        visual, text = _sides(task, context, embedder, pairs)
        vectors[name] = visual, text
        ranks[name] = {
            "image_to_text": first_hit_ranks(visual, text, pairs.keys, pairs.keys),
            "text_to_image": first_hit_ranks(text, visual, pairs.keys, pairs.keys),
        }
    results = [
        result
        for direction in DIRECTIONS
        for result in _results(task, context, pairs, resamples, direction, ranks)
    ]
    visual, text = vectors["model"]
    return Outcome(
        task=task.name,
        kind="retrieval",
        results=results,
        predictions=[
            PredictionRow(sample.key, task.name, f"rank/{direction}", float(rank), float(hits))
            for direction in DIRECTIONS
            for sample, rank, hits in zip(
                pairs.samples, ranks["model"][direction], pairs.hits, strict=True
            )
        ],
        headline=_headline(results),
        view=RetrievalView(
            items=len(pairs.samples),
            distinct=len(set(pairs.keys)),
            ranks=ranks["model"],
            examples=_examples(
                pairs, visual, text, ranks["model"]["image_to_text"], context.config.examples
            ),
        ),
    )


def _pairs(task: RetrievalTask, context: Context) -> _Pairs:
    samples = select(context.dataset, task.where, task.where.split or context.config.split)
    found = [(sample, text) for sample in samples if (text := _text(sample, task))]
    if task.max_items is not None and len(found) > task.max_items:
        found = _subset(found, task.max_items, context.config.seed)
    keys = [" ".join(text.lower().split()) for _, text in found]
    if len(set(keys)) < 2:
        raise SkipTask("fewer than two distinct texts of the asked levels in this split")
    counts = Counter(keys)
    return _Pairs(
        samples=tuple(sample for sample, _ in found),
        texts=tuple(text for _, text in found),
        keys=tuple(keys),
        hits=np.array([counts[key] for key in keys], dtype=np.int64),
    )


def _text(sample: Sample, task: RetrievalTask) -> str | None:
    for level in task.levels:
        found = [t.text.strip() for t in sample.texts if t.level == level and t.text.strip()]
        if found:
            return found[0] if task.texts == "first" else "\n".join(found)
    return None


def _subset(found: list[tuple[Sample, str]], most: int, seed: int) -> list[tuple[Sample, str]]:
    """Whole patients in a seeded order until the limit, then back in the order of the keys."""
    patients = sorted({sample.patient for sample, _ in found})
    order = {patients[i]: rank for rank, i in
             enumerate(np.random.default_rng(seed).permutation(len(patients)))}  # fmt: skip
    chosen = sorted(found, key=lambda pair: (order[pair[0].patient], pair[0].key))[:most]
    return sorted(chosen, key=lambda pair: pair[0].key)


def _text_vectors(task: RetrievalTask, embedder: Embedder, pairs: _Pairs) -> Floats:
    """Unit vectors [n, e] of the texts, whole or as the mean of their sentences."""
    if task.encode == "whole":
        return embedder.texts(pairs.texts)
    parts = [_sentences(s, t) for s, t in zip(pairs.samples, pairs.texts, strict=True)]
    embedder.texts([sentence for part in parts for sentence in part])
    return unit(np.stack([embedder.texts(part).mean(axis=0) for part in parts]))


def _sides(
    task: RetrievalTask, context: Context, embedder: Embedder, pairs: _Pairs
) -> tuple[Floats, Floats]:
    """Vectors [n, f] of the visuals and of the texts; their product is the score.

    Evidence and what is typical of a text are further columns, so that one product holds all.
    """
    text = _text_vectors(task, embedder, pairs)
    visual = _seen(task, embedder, pairs.samples, pairs)
    if weights(task.evidence, embedder.answers)[1]:
        text = np.concatenate([text, np.eye(len(text))], axis=1)
    if task.typical == "removed":
        bank = select(context.dataset, task.where, "train")
        if not bank:
            raise SkipTask("no training visual to learn from what is typical of a text")
        chosen = np.random.default_rng(context.config.seed).permutation(len(bank))[:_BANK]
        usual = (
            _seen(task, embedder, [bank[i] for i in sorted(chosen)], pairs).mean(axis=0) @ text.T
        )
        text = np.concatenate([text, -usual[:, None]], axis=1)
        visual = np.concatenate([visual, np.ones((len(visual), 1))], axis=1)
    return visual, text


def _seen(
    task: RetrievalTask, embedder: Embedder, samples: Sequence[Sample], pairs: _Pairs
) -> Floats:
    """Unit vectors of visuals [b, e], and weighted evidence for every text [b, e + n] if asked."""
    whole, local = weights(task.evidence, embedder.answers)
    if not local:
        return embedder.samples(samples)
    parts = [_sentences(s, t) for s, t in zip(pairs.samples, pairs.texts, strict=True)]
    sentences = sorted({sentence for part in parts for sentence in part})
    place = {sentence: row for row, sentence in enumerate(sentences)}
    share = np.zeros((len(sentences), len(parts)))
    for column, part in enumerate(parts):
        for sentence in part:
            share[place[sentence], column] += 1 / len(part)
    evidence = embedder.evidence(samples, embedder.texts(sentences)) @ share
    return np.concatenate([whole * embedder.samples(samples), local * evidence], axis=1)


def _sentences(sample: Sample, text: str) -> list[str]:
    """The sample's stored sentences that lie in the text; without any, the text split up."""
    stored = [t.text for t in sample.texts if t.level == "sentence" and t.text in text]
    return stored or [part for part in _SENTENCE.split(text.strip()) if part] or [text]


def _results(
    task: RetrievalTask,
    context: Context,
    pairs: _Pairs,
    resamples: Resamples,
    direction: str,
    ranks: dict[str, dict[str, Ints]],
) -> list[Result]:
    items = len(pairs.samples)
    results = []
    for k in task.ks:
        estimates = {
            name: mean_estimate((own[direction] <= k).astype(np.float64), resamples)
            for name, own in ranks.items()
        }
        beside: dict[str, Estimate | float] = {"chance": chance_recall(pairs.hits, items, k)}
        beside |= {name: e for name, e in estimates.items() if name != "model"}
        results.append((f"{direction}_r_at_{k}", estimates["model"], beside))
    medians = {name: _median_estimate(own[direction], resamples) for name, own in ranks.items()}
    beside = {"chance": chance_median_rank(pairs.hits, items)}
    beside |= {name: e for name, e in medians.items() if name != "model"}
    results.append((f"{direction}_median_rank", medians["model"], beside))
    return [
        make_result(
            task.name, metric, estimate, n=items, groups=resamples.groups,
            card=_card(task, context, pairs, metric), baselines=baselines,
        )
        for metric, estimate, baselines in results
    ]  # fmt: skip


def _median_estimate(ranks: Ints, resamples: Resamples) -> Estimate:
    """The lower weighted median of the ranks, in every resample."""
    order = np.argsort(ranks, kind="stable")
    mass = np.cumsum(resamples.weights[order], axis=0, dtype=np.int64)
    middle = (2 * mass >= mass[-1]).argmax(axis=0)
    sorted_ranks = ranks[order].astype(np.float64)
    return Estimate(float(sorted_ranks[(len(ranks) - 1) // 2]), sorted_ranks[middle])


def _card(task: RetrievalTask, context: Context, pairs: _Pairs, metric: str) -> MetricCard:
    how = "mean of its sentences' vectors" if task.encode == "sentence_mean" else "in one piece"
    return MetricCard(
        task="retrieval",
        metric=metric,
        aggregation=f"mean over queries; gallery of {len(pairs.samples)} samples, "
        f"{len(set(pairs.keys))} distinct texts"
        if "median" not in metric
        else "lower median over queries",
        undefined="always defined",
        truth="the sample's own text; word-for-word identical texts (case and white space apart) "
        "are hits too",
        score=f"cosine{_more(task, context.model.answers)}; "
        f"text: {task.texts} of {', '.join(task.levels)}, {how}",
        ties="a tie with an item that is no hit counts against us",
        interval=f"95 % percentile, {context.config.bootstrap} resamples of the queries' patients, "
        f"gallery fixed, seed {context.config.seed}",
        split=task.where.split or context.config.split,
        split_digest=split_digest(
            (sample.key, digest(key)) for sample, key in zip(pairs.samples, pairs.keys, strict=True)
        ),
        prompt_digest="none: the samples' own texts",
        dataset_digest=context.dataset.digest,
        model_digest=context.model.digest,
    )


def _more(task: RetrievalTask, answers: AnswerConfig) -> str:
    """What is added to the cosine, in words."""
    _, local = weights(task.evidence, answers)
    evidence = f" + {local:g} evidence({answers.source}, sentences), mean over the text's sentences"
    usual = f", less its mean over at most {_BANK} training visuals"
    return evidence * bool(local) + usual * (task.typical == "removed")


def _headline(results: list[Result]) -> dict[str, float | None]:
    first = results[0]
    return {
        "r_at_1" if first["metric"].endswith("r_at_1") else first["metric"]: first["value"],
        "low": first["low"],
        "high": first["high"],
        **{name: value["value"] for name, value in first["baselines"].items()},
    }


def _examples(
    pairs: _Pairs, visual: Floats, text: Floats, ranks: Ints, count: int
) -> tuple[Example, ...]:
    """Queries evenly spread from best to worst rank, each with the three best distinct texts."""
    order = np.argsort(ranks, kind="stable")
    chosen = order[np.unique(np.linspace(0, len(order) - 1, min(count, len(order))).astype(int))]
    examples = []
    for query in chosen if count else ():
        scores = text @ visual[query]
        found: dict[str, tuple[str, float, bool]] = {}
        for item in np.argsort(-scores, kind="stable"):
            key = pairs.keys[item]
            hit = key == pairs.keys[query]
            found.setdefault(key, (pairs.texts[item], float(scores[item]), hit))
            if len(found) == 3:
                break
        examples.append(
            Example(
                pairs.samples[query], pairs.texts[query], int(ranks[query]), tuple(found.values())
            )
        )
    return tuple(examples)
