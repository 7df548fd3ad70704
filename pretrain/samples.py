"""Which samples are trained on, in which pools, and what is swapped between them."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from data_connectors.dataset.store import Dataset
from medvlp.errors import ConfigError
from medvlp.types import Level, Sample
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


def build_pools(samples: Sequence[Sample], data: DataConfig) -> list[Pool]:
    """Pools by `provenance/kind`; without a given share a pool counts by the root of its size.

    With `levels`, clips have a pool for each level of their first text, and these divide the share
    that the clips of the source have together. Clips of a source with none of the levels are left
    as they are.

    Raises:
        ConfigError: A share names no pool, or a level has clips and no share.
    """
    shares = data.pools
    pools: list[Pool] = []
    groups = _by_pool(samples)
    _require_known("data.pools names a pool that the dataset has not", "pool-unknown",
                   set(shares) - set(groups), groups)  # fmt: skip
    for name, members in sorted(groups.items()):
        share = shares.get(name, math.sqrt(len(members)))
        levels = {samples[i].texts[0].level for i in members if samples[i].kind == "clip"}
        if levels & set(data.levels):
            pools += _by_level(samples, Pool(name, tuple(members), share), data.levels)
        else:
            pools.append(Pool(name, tuple(members), share))
    return pools


def _by_level(
    samples: Sequence[Sample], clips: Pool, shares: Mapping[Level, float]
) -> Iterator[Pool]:
    """A pool of clips as one pool a level, which divide its share."""
    groups: dict[Level, list[int]] = {}
    for i in clips.members:
        groups.setdefault(samples[i].texts[0].level, []).append(i)
    _require_known("data.levels leaves out a level that has clips (0 leaves it out on purpose)",
                   "level-without-share", set(groups) - set(shares), shares)  # fmt: skip
    total = sum(shares[level] for level in groups) or 1.0
    for level, members in sorted(groups.items()):
        yield Pool(f"{clips.name}/{level}", tuple(members), clips.share * shares[level] / total)


def _require_known(
    message: str, code: str, strange: Collection[str], known: Collection[str]
) -> None:
    if strange:
        raise ConfigError(
            message, code=code, got=", ".join(sorted(strange)), limit=", ".join(sorted(known))
        )


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


def _by_pool(samples: Sequence[Sample]) -> dict[str, list[int]]:
    groups: dict[str, list[int]] = {}
    for i, sample in enumerate(samples):
        groups.setdefault(f"{sample.provenance or 'data'}/{sample.kind}", []).append(i)
    return groups
