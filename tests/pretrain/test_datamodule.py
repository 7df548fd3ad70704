from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from medvlp.batch import Asked
from medvlp.errors import ConfigError
from medvlp.types import Finding
from pretrain.datamodule import PretrainData, spread
from pretrain.samples import train_samples
from pretrain.texts import build_tokenizer


@pytest.fixture
def build(dataset, smoke):
    def make(*overrides: str, samples=None, start: int = 0) -> PretrainData:
        config = smoke(*overrides)
        samples = train_samples(dataset, config) if samples is None else samples
        tokenizer = build_tokenizer(config.model.text, samples)
        return PretrainData(config, dataset, samples, tokenizer, start=start)

    return make


def same(a, b) -> bool:
    return all(
        torch.equal(x.nan_to_num(), y.nan_to_num())
        if isinstance(x := getattr(a, name), torch.Tensor)
        else same(x, y)
        if isinstance(x, Asked)
        else x == y
        for name in a.__slots__
        for y in [getattr(b, name)]
    )


def test_a_batch_holds_what_its_samples_hold(build, dataset):
    data = build()
    batch = data.batch(3)
    lengths = batch.offsets.diff().tolist()
    assert len(batch) == 6
    for i, key in enumerate(batch.keys):
        sample = dataset.by_key[key]
        assert lengths[i] == {"image": 1, "volume": 3, "clip": 2}[sample.kind]
        rows = range(int(batch.text_offsets[i]), int(batch.text_offsets[i + 1]))
        own = {data.bank.keys[data.bank.texts.index(text.text)].item() for text in sample.texts}
        assert {batch.text_key[row].item() for row in rows} <= own
        assert {batch.text_index[row].item() for row in rows} == {batch.index[i].item()}
        nodule = batch.stated[i][data.bank.slots.slot("nodule")]
        assert nodule == (1 if "nodule" in sample.labels else -1)
    assert batch.frames.dtype == torch.uint8
    assert len(batch.frames) == sum(lengths) == len(batch.positions)


def test_tokens_are_as_long_as_the_longest_text_of_the_batch(build):
    batch = build().batch(0)
    assert batch.token_mask.any(0).all()


def test_batches_do_not_depend_on_what_came_before(build):
    first, second = build(), build(start=4)
    for step in range(4):
        first.batch(step)
    assert same(first.batch(4), next(iter(second.train_dataloader())))


def test_augmentation_is_decided_by_the_step(build):
    data = build()
    batch = data.batch(0)
    assert torch.equal(data.augmented(batch, 5).frames, data.augmented(batch, 5).frames)
    assert not torch.equal(data.augmented(batch, 5).frames, data.augmented(batch, 6).frames)


def test_beyond_the_memory_bound_frames_are_made_anew(build, caplog):
    cached, uncached = build(), build("data.cache_mb=0")
    cached.setup("fit")
    uncached.setup("fit")
    assert "cache is full" in caplog.text
    assert not uncached.frames._kept
    assert same(cached.batch(2), uncached.batch(2))


def test_two_views_are_two_views(build):
    data = build("objectives=[{kind: infonce}, {kind: views}]")
    batch = data.augmented(data.batch(0), 0)
    assert batch.second is not None
    assert batch.second.shape == batch.frames.shape
    assert not torch.equal(batch.second, batch.frames)
    assert build().augmented(build().batch(0), 0).second is None


def sided(samples):
    first = replace(samples[0], findings=(Finding("nodule", "nodule", "present", side="left"),))
    return [first, *samples[1:]]


def test_flips_are_refused_where_a_side_is_stated(build, dataset, smoke):
    samples = sided(train_samples(dataset, smoke()))
    with pytest.raises(ConfigError) as refused:
        build("data.augment.flip=true", samples=samples)
    assert refused.value.code == "flip-laterality"
    pool = samples[0].provenance
    auto = build(samples=samples)
    for sample, may in zip(samples, auto.flippable, strict=True):
        assert may == (sample.provenance != pool)
    assert not any(build("data.augment.flip=false").flippable)


def test_training_frames_are_spread_over_the_sample():
    rng = np.random.default_rng(0)
    for n, most in [(5, None), (5, 9), (24, 8), (25, 8), (300, 12)]:
        for _ in range(20):
            keep = spread(n, most, rng).tolist()
            assert keep == sorted(set(keep))
            assert len(keep) == min(n, most or n)
            gaps = np.diff([-1, *keep, n])
            assert gaps.max() <= 2 * np.ceil(n / len(keep))


def test_closed_world_is_chosen_by_source(build):
    data = build("data.closed_world=[xray]")
    mass = data.bank.slots.slot("mass")
    for sample, stated in zip(data.samples, data.stated, strict=True):
        assert stated[mass] == (-1 if sample.provenance == "xray" else 0)
