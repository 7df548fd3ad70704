from __future__ import annotations

from dataclasses import replace

import pytest

from medvlp.errors import ConfigError
from medvlp.types import Level, Sample, Text
from pretrain.config import DataConfig
from pretrain.samples import (
    build_pools,
    carries_side,
    require_samples,
    shuffle_pairs,
    swap_captions,
    train_samples,
)


def test_only_train_samples_with_visual_and_text_are_used(dataset, smoke):
    samples = train_samples(dataset, smoke())
    assert {sample.split for sample in samples} == {"train"}
    assert [s.key for s in samples] == sorted(s.key for s in samples)
    only = train_samples(dataset, smoke("data.provenance=[ct]"))
    assert {sample.kind for sample in only} == {"volume"}


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


def test_shares_must_name_pools(dataset, smoke):
    samples = train_samples(dataset, smoke())
    pools = build_pools(samples, DataConfig(pools={"ct/volume": 5.0}))
    assert {pool.name: pool.share for pool in pools}["ct/volume"] == 5.0
    with pytest.raises(ConfigError) as refused:
        build_pools(samples, DataConfig(pools={"ctt/volume": 5.0}))
    assert refused.value.code == "pool-unknown"


@pytest.fixture
def leveled(dataset, smoke) -> list[Sample]:
    """Samples of the fixture, and a lecture of tasks, steps and a phase."""
    clip = next(s for s in train_samples(dataset, smoke()) if s.kind == "clip")
    levels: tuple[Level, ...] = ("task",) * 6 + ("step",) * 3 + ("phase",)
    lecture = [
        replace(clip, key=f"{i}", provenance="lecture", texts=(Text(level, "r", "Cut."),))
        for i, level in enumerate(levels)
    ]
    return [*train_samples(dataset, smoke()), *lecture]


def test_levels_divide_the_share_of_the_clips(leveled):
    plain = {pool.name: pool for pool in build_pools(leveled, DataConfig())}
    clips = plain.pop("lecture/clip")
    shares: dict[Level, float] = {"task": 3.0, "step": 2.0, "phase": 1.0, "video": 9.0}
    pools = {pool.name: pool for pool in build_pools(leveled, DataConfig(levels=shares))}
    divided = {name: pools.pop(f"lecture/clip/{name}") for name in ("task", "step", "phase")}
    assert pools == plain, "other sources, clips without such levels among them, stay"
    assert {name: pool.share / clips.share for name, pool in divided.items()} == pytest.approx(
        {"task": 3 / 6, "step": 2 / 6, "phase": 1 / 6}
    )
    assert {name: len(pool.members) for name, pool in divided.items()} == {
        "task": 6, "step": 3, "phase": 1
    }  # fmt: skip
    for name, pool in divided.items():
        assert {leveled[i].texts[0].level for i in pool.members} == {name}


def test_a_level_without_share_is_refused(leveled):
    with pytest.raises(ConfigError) as refused:
        build_pools(leveled, DataConfig(levels={"task": 1.0, "step": 0.0}))
    assert refused.value.code == "level-without-share"
    assert "phase" in str(refused.value)


def test_a_side_is_found_in_words_too():
    bare = Sample("k", "p", "s", "train", "image", "CR")
    assert not carries_side(bare)
    assert carries_side(replace(bare, texts=(Text("sentence", "r", "Left lung is clear."),)))
    assert not carries_side(replace(bare, texts=(Text("sentence", "r", "What is leftover"),)))


def test_nothing_left_is_refused(dataset, smoke):
    config = smoke("data.provenance=[nowhere]")
    with pytest.raises(ConfigError) as refused:
        require_samples(train_samples(dataset, config))
    assert refused.value.code == "train-empty"
