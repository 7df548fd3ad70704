from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medvlp.models.config import PoolingConfig
from medvlp.models.pooling import (
    FrameStats,
    RaggedPooling,
    segment_ids,
    segment_max,
    segment_mean,
    segment_softmax,
)

CONFIG = PoolingConfig(heads=2, hidden=6, frequencies=4)


def pooling(dim: int = 8, **changes) -> RaggedPooling:
    torch.manual_seed(0)
    pool = RaggedPooling(dim, CONFIG.model_copy(update=changes)).eval()
    torch.nn.init.normal_(pool.position.weight, std=0.5)
    return pool


def offsets_of(lengths) -> torch.Tensor:
    return torch.tensor([0, *lengths]).cumsum(0)


def pool_all(pool, tokens, lengths, positions, kinds):
    return pool.pool_frames(
        pool.pool_patches(tokens), offsets_of(lengths), positions, torch.tensor(kinds)
    )


lengths_strategy = st.lists(st.integers(1, 9), min_size=1, max_size=6)


@settings(max_examples=25, deadline=None)
@given(lengths=lengths_strategy, seed=st.integers(0, 1000))
def test_segment_operations_equal_a_loop(lengths, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(sum(lengths), 3, generator=generator, dtype=torch.float64)
    offsets = offsets_of(lengths)
    owner, b = segment_ids(offsets), len(lengths)
    parts = [x[i:j] for i, j in itertools.pairwise(offsets.tolist())]
    assert torch.allclose(segment_mean(x, owner, b), torch.stack([p.mean(0) for p in parts]))
    assert torch.equal(segment_max(x, owner, b), torch.stack([p.amax(0) for p in parts]))
    expected = torch.cat([p.softmax(0) for p in parts])
    assert torch.allclose(segment_softmax(x, owner, b), expected, atol=1e-12)


@settings(max_examples=20, deadline=None)
@given(lengths=lengths_strategy, seed=st.integers(0, 1000))
def test_a_sample_does_not_depend_on_its_neighbours(lengths, seed):
    generator = torch.Generator().manual_seed(seed)
    pool = pooling()
    n = sum(lengths)
    tokens = torch.randn(n, 5, 8, generator=generator)
    positions = torch.rand(n, generator=generator) * 300
    kinds = [i % 3 for i in range(len(lengths))]
    together = pool_all(pool, tokens, lengths, positions, kinds)
    for i, (start, end) in enumerate(itertools.pairwise(offsets_of(lengths).tolist())):
        alone = pool_all(pool, tokens[start:end], [end - start], positions[start:end], [kinds[i]])
        assert torch.allclose(alone.vector[0], together.vector[i], atol=1e-5)
        assert torch.allclose(alone.weights, together.weights[start:end], atol=1e-5)


def test_weights_sum_to_one_over_a_sample():
    pooled = pool_all(pooling(), torch.randn(7, 5, 8), [3, 4], torch.arange(7.0), [1, 2])
    assert pooled.weights[:3].sum().item() == pytest.approx(1, abs=1e-6)
    assert pooled.weights[3:].sum().item() == pytest.approx(1, abs=1e-6)


def test_only_distances_within_a_sample_matter():
    tokens, positions = torch.randn(6, 5, 8), torch.tensor([0.0, 2, 3, 7, 8, 12])
    here = pool_all(pooling(), tokens, [6], positions, [1]).vector
    there = pool_all(pooling(), tokens, [6], positions + 500, [1]).vector
    assert torch.allclose(here, there, atol=1e-4)


def test_irregular_spacing_is_seen():
    tokens = torch.randn(6, 5, 8)
    regular = pool_all(pooling(), tokens, [6], torch.arange(6.0), [1]).vector
    gap = pool_all(pooling(), tokens, [6], torch.tensor([0.0, 1, 2, 30, 31, 32]), [1]).vector
    assert (regular - gap).abs().max() > 1e-3


def test_the_order_of_rows_does_not_matter_when_positions_move_along():
    tokens, positions = torch.randn(6, 5, 8), torch.arange(6.0) * 3
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    a = pool_all(pooling(), tokens, [6], positions, [1])
    b = pool_all(pooling(), tokens[order], [6], positions[order], [1])
    assert torch.allclose(a.vector, b.vector, atol=1e-5)
    assert torch.allclose(a.weights[order], b.weights, atol=1e-5)


def test_the_peak_sees_a_lesion_on_one_slice_of_many():
    tokens = torch.zeros(40, 5, 8)
    tokens[17, 3, 2] = 10.0
    pooled = pool_all(pooling(statistics=("top",)), tokens, [40], torch.arange(40.0), [1])
    assert pooled.vector[0, 2].item() == pytest.approx(10)
    mean = pool_all(pooling(statistics=("mean",)), tokens, [40], torch.arange(40.0), [1])
    assert mean.vector[0, 2].item() == pytest.approx(10 / 200)


def test_the_peak_of_a_channel_is_the_mean_of_its_largest_values():
    tokens = torch.randn(2, 150, 8)
    largest = tokens.sort(dim=1, descending=True).values[:, :3].mean(1)
    assert torch.allclose(pooling().pool_patches(tokens).top, largest, atol=1e-6)


def test_one_patch_pools_to_itself():
    token = torch.randn(1, 1, 8)
    pooled = pool_all(pooling(), token, [1], torch.zeros(1), [0])
    assert torch.allclose(pooled.vector[0], token[0, 0], atol=1e-6)


def test_every_parameter_gets_a_gradient():
    pool = pooling()
    pooled = pool_all(pool, torch.randn(6, 5, 8), [2, 4], torch.arange(6.0) ** 2, [0, 1])
    pooled.vector.square().sum().backward()
    for name, parameter in pool.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match="divide"):
        RaggedPooling(7, CONFIG)


def test_statistics_of_a_frame_equal_a_loop():
    pool, tokens = pooling(), torch.randn(3, 5, 8)
    stats = pool.pool_patches(tokens)
    assert isinstance(stats, FrameStats)
    for i in range(3):
        weights = pool.patch_score(pool.norm(tokens[i])).softmax(0)
        parts = [(weights[:, h : h + 1] * tokens[i, :, 4 * h : 4 * h + 4]).sum(0) for h in (0, 1)]
        assert torch.allclose(stats.attention[i], torch.cat(parts), atol=1e-6)
        assert torch.allclose(stats.mean[i], tokens[i].mean(0), atol=1e-6)
