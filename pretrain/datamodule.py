"""From a dataset folder to batches: pools, cached frames, drawn texts."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import lightning as L
import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from data_connectors.dataset.store import Dataset
from medvlp.losses.objectives import Objectives
from medvlp.models.preprocess import preprocess
from medvlp.models.slice_features import SliceFeatures
from medvlp.models.tokens import TextTokenizer
from medvlp.types import KINDS, Batch, Sample
from pretrain.augment import augment
from pretrain.config import PretrainConfig
from pretrain.features import TowerFeatures, packed
from pretrain.questions import Questions
from pretrain.sampler import StepSampler
from pretrain.samples import build_pools, flippable
from pretrain.texts import Drawn, TextBank

log = logging.getLogger(__name__)


class PretrainData(L.LightningDataModule):
    """Batches by step, on the model's device, augmented.

    Args:
        config: The run.
        dataset: Where the pixels are.
        samples: Train samples as `train_samples` gives them.
        tokenizer: Of the model.
        objectives: What they need decides what a batch holds; None: what the config names.
        start: First step (after a resume).
        features: What a frozen tower saw in the frames; batches then hold it instead of pixels.
    """

    def __init__(
        self,
        config: PretrainConfig,
        dataset: Dataset,
        samples: Sequence[Sample],
        tokenizer: TextTokenizer,
        *,
        objectives: Objectives | None = None,
        start: int = 0,
        features: TowerFeatures | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        if objectives is None:
            objectives = Objectives(config.objectives, config.model, tokenizer, config.doubt)
        self._needs = objectives.needs
        self.samples = tuple(samples)
        self.bank = TextBank(samples, tokenizer)
        if self.bank.cut:
            log.warning("%d of %d texts are longer than %d tokens (model.text.max_tokens): "
                        "their ends are not read",
                        self.bank.cut, len(self.bank.texts), tokenizer.max_tokens)  # fmt: skip
        self.start = start
        data = config.data
        pools = build_pools(self.samples, data)
        self.sampler = StepSampler(pools, data.batch_size, data.mixing, config.trainer.seed)
        self.flippable = flippable(self.samples, self.sampler.pools, data)
        self.frames = FrameCache(dataset, config)
        self.features = features
        closed = data.closed_world
        self.stated = torch.stack(
            [
                torch.as_tensor(
                    self.bank.slots.stated(
                        sample.findings,
                        closed_world=closed
                        if isinstance(closed, bool)
                        else sample.provenance in closed,
                    )
                )
                for sample in self.samples
            ]
        )
        self.questions = Questions(
            self.bank.slots,
            self.stated,
            [sample.findings for sample in self.samples],
            tokenizer,
            objectives.asks,
            facet_drop=data.facet_drop,
        )
        self._index = {sample.key: i for i, sample in enumerate(self.samples)}

    @property
    def drawn(self) -> list[Sample]:
        """The samples that batches are drawn from."""
        members = sorted({i for pool in self.sampler.pools for i in pool.members})
        return [self.samples[i] for i in members]

    def setup(self, stage: str) -> None:
        """Read what fits into memory; before that, compute the features that are missing."""
        if self.features is None:
            self.frames.fill(self.drawn)
        else:
            self.features.compute(self.drawn)
            self.features.keep(self.drawn)

    def train_dataloader(self) -> DataLoader[Batch]:
        """Batches from the start step on, without end."""
        return DataLoader(_Steps(self), batch_size=None, num_workers=0)

    def batch(self, step: int) -> Batch:
        """The batch of one step, frames as bytes or as cached features."""
        data = self.config.data
        rng = np.random.default_rng([self.config.trainer.seed, step, 1])
        chosen = self.sampler.batch(step)
        frames, seen, positions, lengths = [], [], [], []
        texts: list[Drawn] = []
        counts = []
        for i in chosen:
            pixels, where, features = self._slices(self.samples[i], rng)
            frames.append(pixels)
            positions.append(where)
            lengths.append(len(where))
            if features is not None:
                seen.append(features)
            drawn = self.bank.draw(
                i, data.texts_per_sample, data.document_share, rng,
                lead=data.lead_texts, parents=data.parent_texts,
            )  # fmt: skip
            texts += drawn
            counts.append(len(drawn))
        rows = [text.row for text in texts]
        tokens = self.bank.tokenizer.pad([self.bank.ids[row] for row in rows])
        return Batch(
            frames=torch.cat(frames),
            offsets=_offsets(lengths),
            positions=torch.cat(positions),
            kind=torch.tensor([KINDS.index(self.samples[i].kind) for i in chosen]),
            tokens=tokens.ids,
            token_mask=tokens.mask,
            text_offsets=_offsets(counts),
            text_key=self.bank.keys[rows],
            claims=self.bank.claims[rows],
            stated=self.stated[chosen],
            text_role=torch.tensor([text.role for text in texts]),
            text_index=torch.tensor([text.sample for text in texts]),
            mentions=self.bank.mentions(rows) if "words" in self._needs else None,
            asked=self.questions.draw(chosen, rng),
            index=torch.tensor(chosen),
            features=packed(seen) if seen else None,
            keys=tuple(self.samples[i].key for i in chosen),
        )

    def _slices(
        self, sample: Sample, rng: np.random.Generator
    ) -> tuple[Tensor, Tensor, SliceFeatures | None]:
        """Some frames of a sample: uint8 [n, 3, s, s], positions [n], cached features."""
        data = self.config.data
        most = {"volume": data.volume_frames, "clip": data.clip_frames}.get(sample.kind)
        if self.features is None:
            pixels, where = self.frames.get(sample)
            keep = spread(len(where), most, rng)
            return pixels[keep], where[keep], None
        features = self.features.get(sample)
        some = features.at(spread(len(features.positions), most, rng))
        no_pixels = torch.zeros(len(some.positions), 3, 0, 0, dtype=torch.uint8)
        return no_pixels, some.positions, some

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Augment on the device; the trainer's step decides how."""
        assert self.trainer is not None
        return self.augmented(batch, self.trainer.global_step)

    def augmented(self, batch: Batch, step: int) -> Batch:
        """One batch after its step's random changes; a second time if two views are needed.

        Cached features stay as they are.
        """
        if batch.features is not None:
            return batch
        generator = torch.Generator().manual_seed(self.config.trainer.seed * 1_000_003 + step)
        owner = torch.repeat_interleave(
            torch.arange(len(batch), device=batch.offsets.device), batch.offsets.diff()
        )
        flippable = torch.tensor([self.flippable[self._index[key]] for key in batch.keys])
        views = [
            augment(batch.frames, owner, flippable, self.config.data.augment, generator)
            for _ in range(2 if "second" in self._needs else 1)
        ]
        return replace(batch, frames=views[0], second=views[1] if len(views) > 1 else None)


class FrameCache:
    """Preprocessed frames in memory, up to a bound; the rest is made anew each time.

    Args:
        dataset: Where the pixels are.
        config: Preprocessing and bound.
    """

    def __init__(self, dataset: Dataset, config: PretrainConfig) -> None:
        self._dataset = dataset
        self._preprocess = config.model.preprocess
        self._room = config.data.cache_mb * 1_000_000
        self._kept: dict[str, tuple[Tensor, Tensor]] = {}

    def get(self, sample: Sample) -> tuple[Tensor, Tensor]:
        """uint8 [n, 3, s, s] and float32 [n] positions of one sample."""
        return self._kept.get(sample.key) or self._make(sample)

    def fill(self, samples: Sequence[Sample]) -> None:
        """Keep as many samples as fit, in order."""
        with ThreadPoolExecutor(2) as threads:
            for start in range(0, len(samples), 32):
                group = [s for s in samples[start : start + 32] if s.key not in self._kept]
                made = threads.map(self._make, group)
                for sample, entry in zip(group, made, strict=True):
                    if entry[0].nbytes > self._room:
                        log.warning(
                            "frame cache is full after %d of %d samples: the rest is decoded "
                            "every time (data.cache_mb)", len(self._kept), len(samples),
                        )  # fmt: skip
                        return
                    self._room -= entry[0].nbytes
                    self._kept[sample.key] = entry

    def _make(self, sample: Sample) -> tuple[Tensor, Tensor]:
        visual = self._dataset.visual(sample)
        frames = preprocess(visual, self._preprocess)
        return frames, torch.from_numpy(visual.positions.astype(np.float32))


def spread(n: int, most: int | None, rng: np.random.Generator) -> Int[Tensor, " k"]:
    """Ascending indices of at most `most` of n frames: one at random from each equal part."""
    if most is None or n <= most:
        return torch.arange(n)
    edges = np.linspace(0, n, most + 1)
    drawn = edges[:-1] + rng.random(most) * np.diff(edges)
    return torch.from_numpy(np.minimum(drawn.astype(np.int64), n - 1))


def _offsets(lengths: Sequence[int]) -> Int[Tensor, " b1"]:
    return torch.tensor([0, *lengths]).cumsum(0)


class _Steps(IterableDataset[Batch]):
    """The batches of a data module from its start step on."""

    def __init__(self, data: PretrainData) -> None:
        self._data = data

    def __iter__(self) -> Iterator[Batch]:
        step = self._data.start
        while True:
            yield self._data.batch(step)
            step += 1

    def __getitem__(self, index: Any) -> Batch:
        raise TypeError("batches are drawn in order")
