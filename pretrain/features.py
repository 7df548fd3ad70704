"""Training on what a frozen tower saw in the frames: adapter training of RadCLIP (2403.09948).

Every train sample goes through the tower once, whole. What slice pooling needs of it lies on disk
(`medvlp.models.slice_features`); a step draws slices of that instead of pixels.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Sequence
from pathlib import Path

import torch

from data_connectors.dataset.store import Dataset
from medvlp.batch import FrameFeatures
from medvlp.errors import ConfigError
from medvlp.losses.config import objective_name
from medvlp.losses.objective import Need
from medvlp.models.pooling import FrameStats
from medvlp.models.slice_features import SliceFeatureCache, SliceFeatures, features_digest, freeze
from medvlp.models.vlp import VLP
from medvlp.types import Sample, Visual
from pretrain.config import PretrainConfig

log = logging.getLogger(__name__)

PATCH_NEEDS: frozenset[Need] = frozenset({"patches", "streams", "fusion"})
"""What objectives need that is made of the patches of frames."""
_PIXEL_KINDS = frozenset({"masked_image"})
"""Objectives that put changed frames through the tower."""
_MOST_SAMPLES = 256
_SHARD_SECONDS = 60.0
"""A shard is written about so often, and has at most so many samples: little is lost by a kill,
and one sample of it is found quickly."""


class TowerFeatures:
    """Features of the frames of a dataset, on disk and, up to a bound, in memory.

    Args:
        model: Whose tower saw them; what shapes them is frozen from here on.
        dataset: Where the pixels are.
        folder: Of caches; what another tower or dataset left there is neither read nor changed.
        tokens: Also every patch. Such features are kept apart from those without.
        room_mb: Memory for features; samples beyond it are read from the disk each time.
    """

    def __init__(
        self, model: VLP, dataset: Dataset, folder: Path, *, tokens: bool, room_mb: int
    ) -> None:
        freeze(model)
        self._model = model
        self._dataset = dataset
        self._tokens = tokens
        # A cache does not say of a sample whether its patches were kept.
        self._source = f"{dataset.digest} with tokens" if tokens else dataset.digest
        self._cache = SliceFeatureCache(folder, features_digest(model, self._source))
        self._room = room_mb * 1_000_000
        self._kept: dict[str, SliceFeatures] = {}

    @property
    def digest(self) -> str:
        """Names the tower, the preprocessing, the dataset and what is kept."""
        return self._cache.digest

    def get(self, sample: Sample) -> SliceFeatures:
        """Of all frames of one sample."""
        return self._kept.get(sample.key) or self._cache.get(sample.key)

    def compute(self, samples: Sequence[Sample]) -> int:
        """Put what is missing on disk through the tower; a killed run goes on where it was.

        Returns:
            How many samples were missing.
        """
        by_key = {sample.key: sample for sample in samples}
        missing = [key for key in by_key if key not in self._cache]
        log.info("cached features: %d of %d samples are missing", len(missing), len(by_key))

        def read(key: str) -> Visual:
            return self._dataset.visual(by_key[key])

        model, home = self._model, next(self._model.parameters()).device
        model.to("cuda" if torch.cuda.is_available() else home)
        begin, done, group = time.monotonic(), 0, 8
        try:
            while done < len(missing):
                started = time.monotonic()
                keys = missing[done : done + group]
                self._cache.fill(model, keys, read, self._source, tokens=self._tokens)
                done += len(keys)
                now = time.monotonic()
                pace = _SHARD_SECONDS / max(now - started, 1e-3)
                group = max(1, min(_MOST_SAMPLES, 4 * group, int(group * pace)))
                log.info(
                    "cached features: %d of %d computed, %.0f s", done, len(missing), now - begin
                )
        finally:
            model.to(home)
        return len(missing)

    def keep(self, samples: Sequence[Sample]) -> None:
        """Read into memory as many samples as fit, in order."""
        for sample in samples:
            if sample.key in self._kept:
                continue
            features = self._cache.get(sample.key)
            parts = [*features.stats, features.positions, features.tokens]
            size = sum(part.nbytes for part in parts if part is not None)
            if size > self._room:
                log.warning(
                    "memory for cached features is full after %d of %d samples: the rest is read "
                    "every time (data.cache_mb)", len(self._kept), len(samples),
                )  # fmt: skip
                return
            self._room -= size
            self._kept[sample.key] = features


def tower_features(
    config: PretrainConfig, model: VLP, dataset: Dataset, needs: Collection[Need], folder: Path
) -> TowerFeatures | None:
    """The features that a run trains on; None where it computes them at each step.

    Args:
        config: Of the run.
        model: Its tower is frozen.
        dataset: Of the run.
        needs: Of the objectives.
        folder: Of caches, where the config names none.

    Raises:
        ConfigError: The run cannot be trained on cached features.
    """
    if config.data.features == "computed":
        return None
    refuse_unfit(config, needs)
    log.info("data.features is cached: the tower is frozen, and frames are not augmented")
    return TowerFeatures(
        model,
        dataset,
        config.data.features_folder or folder,
        tokens=bool(PATCH_NEEDS & set(needs)),
        room_mb=config.data.cache_mb,
    )


def refuse_unfit(config: PretrainConfig, needs: Collection[Need]) -> None:
    """Refuse what cannot be trained on features that were computed once.

    Raises:
        ConfigError: An objective sees frames changed, or a part that would be frozen has learned
            nothing.
    """
    again = [objective_name(part) for part in config.objectives if part.kind in _PIXEL_KINDS]
    if again or "second" in needs:
        raise ConfigError(
            "an objective puts changed frames through the tower, which cached features cannot give",
            code="features-pixels", got=", ".join(again) or "two views",
            next_step="leave the objective out, or set data.features to computed",
        )  # fmt: skip
    if config.model.start is None and config.model.frames.weights is None:
        raise ConfigError(
            "the tower starts from nothing and would stay so: cached features freeze it",
            code="features-untrained",
            next_step="name model.frames.weights or model.start, or set data.features to computed",
        )
    if config.model.frames.levels > 1:
        raise ConfigError(
            "what merges the levels of the tower starts from nothing and would stay so",
            code="features-levels", got=config.model.frames.levels, limit=1,
            next_step="set model.frames.levels to 1, or data.features to computed",
        )  # fmt: skip


def packed(parts: Sequence[SliceFeatures]) -> FrameFeatures:
    """The features of the samples of a batch, all frames in a row."""
    stats = FrameStats(
        *(torch.cat(values) for values in zip(*(p.stats for p in parts), strict=True))
    )
    tokens = [part.tokens for part in parts if part.tokens is not None]
    return FrameFeatures(
        mean=stats.mean,
        top=stats.top,
        attention=stats.attention,
        grid=parts[0].grid,
        tokens=torch.cat(tokens) if tokens else None,
    )
