from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from medvlp.batch import Asked
from medvlp.errors import ConfigError
from medvlp.types import Finding, Text
from pretrain import datamodule
from pretrain.datamodule import (
    PretrainData,
    build_pools,
    carries_side,
    shuffle_pairs,
    spread,
    swap_captions,
    train_samples,
)
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


def test_only_train_samples_with_visual_and_text_are_used(dataset, smoke):
    samples = train_samples(dataset, smoke())
    assert {sample.split for sample in samples} == {"train"}
    assert [s.key for s in samples] == sorted(s.key for s in samples)
    only = train_samples(dataset, smoke("data.provenance=[ct]"))
    assert {sample.kind for sample in only} == {"volume"}


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


def test_shuffled_pairs_keep_no_own_text_and_stay_in_their_pool(dataset, smoke):
    samples = [replace(s, texts=(Text("sentence", "r", s.key),)) for s in
               train_samples(dataset, smoke())]  # fmt: skip
    shuffled = shuffle_pairs(samples, seed=0)
    pool_of = {s.key: s.provenance for s in samples}
    for before, after in zip(samples, shuffled, strict=True):
        assert after.key == before.key
        giver = after.texts[0].text
        assert giver != before.key
        assert pool_of[giver] == before.provenance
        original = next(s for s in samples if s.key == giver)
        assert after.findings == original.findings
    assert sorted(s.texts[0].text for s in shuffled) == sorted(pool_of)
    assert shuffled == shuffle_pairs(samples, seed=0)


def test_the_control_config_shuffles(dataset, smoke):
    plain = train_samples(dataset, smoke())
    control = train_samples(dataset, smoke("data.shuffle_pairs=true"))
    assert [s.key for s in plain] == [s.key for s in control]
    assert any(a.texts != b.texts for a, b in zip(plain, control, strict=True))


def test_wrong_narration_goes_to_a_share_of_the_clips_alone(dataset, smoke):
    samples = [replace(s, texts=(Text("task", "r", s.key),)) for s in
               train_samples(dataset, smoke())]  # fmt: skip
    swapped = swap_captions(samples, 0.5, seed=0)
    wrong = [s for s in swapped if s.texts[0].text != s.key]
    clips = [s for s in samples if s.kind == "clip"]
    assert {s.kind for s in wrong} == {"clip"}
    assert len(wrong) == round(0.5 * len(clips)) > 1
    assert sorted(s.texts[0].text for s in swapped) == sorted(s.key for s in samples)


def test_two_views_are_two_views(build):
    data = build("objectives=[{kind: infonce}, {kind: views}]")
    batch = data.augmented(data.batch(0), 0)
    assert batch.second is not None
    assert batch.second.shape == batch.frames.shape
    assert not torch.equal(batch.second, batch.frames)
    assert build().augmented(build().batch(0), 0).second is None


def test_shares_must_name_pools(dataset, smoke):
    samples = train_samples(dataset, smoke())
    pools = build_pools(samples, {"ct/volume": 5.0})
    assert {pool.name: pool.share for pool in pools}["ct/volume"] == 5.0
    with pytest.raises(ConfigError) as refused:
        build_pools(samples, {"ctt/volume": 5.0})
    assert refused.value.code == "pool-unknown"


def test_a_share_for_a_level_splits_the_pool(dataset, smoke):
    samples = train_samples(dataset, smoke())
    name = next(p.name for p in build_pools(samples, {}) if p.name.endswith("/clip"))
    levels = {s.texts[0].level for s in samples if s.kind == "clip"}
    pools = {pool.name: pool for pool in build_pools(samples, {f"{name}/{min(levels)}": 2.0})}
    assert {f"{name}/{level}" for level in levels} <= set(pools)
    assert name not in pools
    assert pools[f"{name}/{min(levels)}"].share == 2.0
    assert sum(len(pool.members) for pool in pools.values()) == len(samples)


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


def test_a_side_is_found_in_words_too():
    from medvlp.types import Sample

    bare = Sample("k", "p", "s", "train", "image", "CR")
    assert not carries_side(bare)
    assert carries_side(replace(bare, texts=(Text("sentence", "r", "Left lung is clear."),)))
    assert not carries_side(replace(bare, texts=(Text("sentence", "r", "What is leftover"),)))


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


def test_nothing_left_is_refused(dataset, smoke):
    config = smoke("data.provenance=[nowhere]")
    with pytest.raises(ConfigError) as refused:
        datamodule.require_samples(train_samples(dataset, config))
    assert refused.value.code == "train-empty"
