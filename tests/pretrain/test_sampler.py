from __future__ import annotations

import time
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medvlp.errors import ConfigError
from pretrain.sampler import Pool, StepSampler

POOLS = [Pool("a", tuple(range(10)), 2.0), Pool("b", tuple(range(10, 17)), 1.0)]


@pytest.mark.parametrize("mixing", ["mixed", "alternate"])
def test_a_batch_is_a_function_of_seed_and_step(mixing):
    forward = StepSampler(POOLS, 6, mixing, seed=3)
    batches = [forward.batch(step) for step in range(30)]
    backward = StepSampler(POOLS, 6, mixing, seed=3)
    assert [backward.batch(step) for step in reversed(range(30))] == batches[::-1]
    assert batches != [StepSampler(POOLS, 6, mixing, seed=4).batch(step) for step in range(30)]


@pytest.mark.parametrize("mixing", ["mixed", "alternate"])
def test_every_sample_is_seen_once_a_round(mixing):
    sampler = StepSampler(POOLS, 6, mixing, seed=0)
    seen = [i for step in range(200) for i in sampler.batch(step)]
    for pool in POOLS:
        own = [i for i in seen if i in pool.members]
        size = len(pool.members)
        for start in range(0, len(own) - size + 1, size):
            assert sorted(own[start : start + size]) == sorted(pool.members)


@settings(max_examples=25, deadline=None)
@given(
    shares=st.lists(st.floats(0.05, 10), min_size=1, max_size=5),
    batch_size=st.integers(1, 12),
    steps=st.integers(1, 60),
)
def test_shares_are_kept_to_one_sample_in_mixed_batches(shares, batch_size, steps):
    pools = [Pool(str(i), (2 * i, 2 * i + 1), share) for i, share in enumerate(shares)]
    sampler = StepSampler(pools, batch_size, "mixed", seed=0)
    counts = Counter(i // 2 for step in range(steps) for i in sampler.batch(step))
    for i, share in enumerate(shares):
        expected = share / sum(shares) * batch_size * steps
        rounding = batch_size * steps * len(shares) / 10_000
        assert abs(counts[i] - expected) <= len(shares) + rounding


def test_a_far_step_is_found_at_once_and_agrees_with_walking_there():
    near = StepSampler(POOLS, 6, "mixed", seed=1)
    walked = [near.batch(step) for step in range(4000)]
    assert StepSampler(POOLS, 6, "mixed", seed=1).batch(3999) == walked[3999]
    started = time.perf_counter()
    StepSampler(POOLS, 6, "mixed", seed=1).batch(10**9)
    assert time.perf_counter() - started < 2


def test_alternate_batches_are_of_one_pool():
    sampler = StepSampler(POOLS, 6, "alternate", seed=0)
    names = [{i < 10 for i in sampler.batch(step)} for step in range(30)]
    assert all(len(name) == 1 for name in names)
    assert sum(name == {True} for name in names) == 20


def test_mixed_batches_hold_every_pool():
    sampler = StepSampler(POOLS, 6, "mixed", seed=0)
    assert all(sum(i < 10 for i in sampler.batch(step)) == 4 for step in range(30))


def test_a_pool_without_a_share_is_left_out():
    pools = [POOLS[0], Pool("b", POOLS[1].members, 0.0)]
    sampler = StepSampler(pools, 4, "mixed", seed=0)
    assert all(i < 10 for step in range(9) for i in sampler.batch(step))
    assert sampler.epoch(5) == 2.0


def test_nothing_to_draw_from_is_refused():
    with pytest.raises(ConfigError) as refused:
        StepSampler([Pool("a", (), 1.0)], 4, "mixed", seed=0)
    assert refused.value.code == "train-empty"
