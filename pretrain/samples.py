"""Which samples are trained on, in which pools, and what is swapped between them."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np

from data_connectors.dataset.store import Dataset
from medvlp.errors import ConfigError
from medvlp.types import Sample
from pretrain.config import DataConfig, PretrainConfig
from pretrain.sampler import Pool

_SIDE_WORDS = re.compile(r"\b(left|right|bilateral|bilaterally|unilateral)\b", re.IGNORECASE)


def train_samples(dataset: Dataset, config: PretrainConfig) -> tuple[Sample, ...]:
    """The train samples with a visual and a text, in a fixed order; shuffled for a control run."""
    data = config.data
    samples = [
        sample
        for sample in sorted(dataset.select(split="train"), key=lambda sample: sample.key)
        if sample.kind != "text"
        and any(text.text.strip() for text in sample.texts)
        and (not data.provenance or sample.provenance in data.provenance)
    ]
    if data.shuffle_pairs:
        samples = shuffle_pairs(samples, config.trainer.seed)
    if data.caption_noise:
        samples = swap_captions(samples, data.caption_noise, config.trainer.seed)
    return tuple(samples)


def require_samples(samples: Sequence[Sample]) -> None:
    """Refuse a run without data.

    Raises:
        ConfigError: There is no train sample.
    """
    if not samples:
        raise ConfigError(
            "no train sample with a visual and a text is left",
            code="train-empty",
            next_step="see data.provenance, and `medvlp inspect`",
        )


def shuffle_pairs(samples: Sequence[Sample], seed: int) -> list[Sample]:
    """Texts and findings permuted among the samples of each pool; no sample keeps its own."""
    shuffled = list(samples)
    for number, (_, members) in enumerate(sorted(_by_pool(samples).items())):
        order = np.random.default_rng([seed, 7, number]).permutation(members).tolist()
        for here, there in zip(order, order[1:] + order[:1], strict=True):
            giver = samples[there]
            shuffled[here] = replace(samples[here], texts=giver.texts, findings=giver.findings)
    return shuffled


def swap_captions(samples: Sequence[Sample], share: float, seed: int) -> list[Sample]:
    """The texts of a share of the clips given to other clips of that share: wrong narration."""
    clips = [i for i, sample in enumerate(samples) if sample.kind == "clip"]
    rng = np.random.default_rng([seed, 11])
    wrong = rng.permutation(clips)[: round(share * len(clips))].tolist()
    swapped = list(samples)
    for here, there in zip(wrong, wrong[1:] + wrong[:1], strict=True):
        giver = samples[there]
        swapped[here] = replace(samples[here], texts=giver.texts, findings=giver.findings)
    return swapped


def build_pools(samples: Sequence[Sample], shares: dict[str, float]) -> list[Pool]:
    """Pools by `provenance/kind`; without a given share a pool counts by the root of its size.

    A share for `provenance/kind/level` splits that pool by the level of the samples' first text.

    Raises:
        ConfigError: A share names no pool.
    """
    groups = _by_pool(samples, split={name.rsplit("/", 1)[0] for name in shares})
    unknown = sorted(set(shares) - set(groups))
    if unknown:
        raise ConfigError(
            "data.pools names a pool that the dataset has not",
            code="pool-unknown",
            got=", ".join(unknown),
            limit=", ".join(sorted(groups)),
        )
    return [
        Pool(name, tuple(members), shares.get(name, math.sqrt(len(members))))
        for name, members in sorted(groups.items())
    ]


def carries_side(sample: Sample) -> bool:
    """Whether a text or finding of a sample speaks of left or right."""
    return any(finding.side in ("left", "right") for finding in sample.findings) or any(
        _SIDE_WORDS.search(text.text) for text in sample.texts
    )


def flippable(samples: Sequence[Sample], pools: Sequence[Pool], data: DataConfig) -> list[bool]:
    """Of each sample, whether left-right flips leave everything true that is said of its pool.

    Raises:
        ConfigError: Flips are demanded where a side is named.
    """
    flips = [False] * len(samples)
    wanted = data.augment.flip
    for pool in pools if wanted else ():
        sided = any(carries_side(samples[i]) for i in pool.members)
        if sided and wanted is True:
            raise ConfigError(
                "left-right flips would swap sides that texts or findings name",
                code="flip-laterality",
                got=pool.name,
                next_step="set data.augment.flip to auto or false",
            )
        for i in pool.members:
            flips[i] = not sided
    return flips


def _by_pool(samples: Sequence[Sample], split: Collection[str] = ()) -> dict[str, list[int]]:
    groups: dict[str, list[int]] = {}
    for i, sample in enumerate(samples):
        name = f"{sample.provenance or 'data'}/{sample.kind}"
        groups.setdefault(f"{name}/{sample.texts[0].level}" if name in split else name, []).append(
            i
        )
    return groups
