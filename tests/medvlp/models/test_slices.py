from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medvlp.models import slices
from medvlp.models.config import PoolingConfig
from medvlp.models.pooling import FrameStats, Pooled, RaggedPooling
from medvlp.models.slices import SliceAttention, by_length, rolled_back

D = 8
VARIANTS = {
    "gated": {"slices": "gated"},
    "self_attention": {"slices": "self_attention"},
    "self_attention, two layers": {"slices": "self_attention", "layers": 2},
    "self_attention, mean": {"slices": "self_attention", "layers": 2, "readout": "mean"},
    "learned": {"slices": "learned"},
    "mean": {"slices": "mean"},
}
KINDLY = [name for name in VARIANTS if name not in ("mean", "learned")]
DEFAULT_KEYS = [
    "frame_score.gate.bias", "frame_score.gate.weight", "frame_score.out.weight",
    "frame_score.value.bias", "frame_score.value.weight", "gates", "kind.weight", "norm.bias",
    "norm.weight", "patch_score.gate.bias", "patch_score.gate.weight", "patch_score.out.weight",
    "patch_score.value.bias", "patch_score.value.weight", "position.weight",
]  # fmt: skip


def build(name: str, **changes) -> RaggedPooling:
    torch.manual_seed(0)
    config = PoolingConfig(heads=2, hidden=6, frequencies=4, **(VARIANTS[name] | changes))
    pool = RaggedPooling(D, config)
    if name != "mean":
        torch.nn.init.normal_(pool.position.weight, std=0.5)
    for out in pool.context.outputs if pool.context is not None else ():
        out.reset_parameters()
    return pool.eval()


def offsets_of(lengths) -> torch.Tensor:
    return torch.tensor([0, *lengths]).cumsum(0)


def stats_of(n: int, seed: int = 0) -> FrameStats:
    generator = torch.Generator().manual_seed(seed)
    return FrameStats(*torch.randn(3, n, D, generator=generator))


def pick(stats: FrameStats, rows) -> FrameStats:
    return FrameStats(*(part[rows] for part in stats))


def pool_all(pool, stats, lengths, positions, kinds=None) -> Pooled:
    kind = torch.tensor(kinds if kinds is not None else [1] * len(lengths))
    return pool.pool_frames(stats, offsets_of(lengths), positions, kind)


def test_the_default_has_the_parameters_of_the_first_version():
    assert sorted(RaggedPooling(D, PoolingConfig(hidden=6)).state_dict()) == DEFAULT_KEYS


def test_what_no_softmax_sees_is_no_parameter():
    """The same for all frames of a sample, before one linear score."""
    assert "kind.weight" not in build("learned").state_dict()
    unplaced = build("mean").state_dict()
    assert not {"kind.weight", "position.weight", "frame_score.weight"} & unplaced.keys()


def test_a_config_without_the_new_fields_is_the_default():
    old = {"heads": 4, "hidden": 64, "frequencies": 16, "wavelengths": [2.0, 2000.0],
           "statistics": ["mean", "top", "attention"]}  # fmt: skip
    assert PoolingConfig.model_validate(old) == PoolingConfig()


@settings(max_examples=20, deadline=None)
@given(
    name=st.sampled_from(list(VARIANTS)),
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=6),
    seed=st.integers(0, 1000),
)
def test_a_sample_does_not_depend_on_its_neighbours(name, lengths, seed):
    pool, n = build(name), sum(lengths)
    stats = stats_of(n, seed)
    positions = torch.rand(n, generator=torch.Generator().manual_seed(seed)) * 300
    kinds = [i % 3 for i in range(len(lengths))]
    together = pool_all(pool, stats, lengths, positions, kinds)
    for i, (start, end) in enumerate(itertools.pairwise(offsets_of(lengths).tolist())):
        rows = slice(start, end)
        alone = pool_all(pool, pick(stats, rows), [end - start], positions[rows], [kinds[i]])
        assert torch.allclose(alone.vector[0], together.vector[i], atol=1e-5)
        assert torch.allclose(alone.weights, together.weights[rows], atol=1e-5)
        assert alone.weights.sum().item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("name", VARIANTS)
def test_the_order_of_rows_does_not_matter_when_positions_move_along(name):
    pool, stats, positions = build(name), stats_of(6), torch.tensor([0.0, 3, 6, 7, 20, 90])
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    a = pool_all(pool, stats, [6], positions)
    b = pool_all(pool, pick(stats, order), [6], positions[order])
    assert torch.allclose(a.vector, b.vector, atol=1e-5)
    assert torch.allclose(a.weights[order], b.weights, atol=1e-5)


@pytest.mark.parametrize("name", VARIANTS)
def test_only_distances_within_a_sample_matter(name):
    pool, stats, positions = build(name), stats_of(6), torch.tensor([0.0, 2, 3, 7, 8, 12])
    here = pool_all(pool, stats, [6], positions).vector
    there = pool_all(pool, stats, [6], positions + 500).vector
    assert torch.allclose(here, there, atol=1e-4)


@pytest.mark.parametrize("name", VARIANTS)
def test_spacing_is_seen_unless_all_slices_count_alike(name):
    pool, stats = build(name), stats_of(6)
    regular = pool_all(pool, stats, [6], torch.arange(6.0)).vector
    for other in (torch.arange(6.0) * 5, torch.tensor([0.0, 1, 2, 30, 31, 32])):
        change = (regular - pool_all(pool, stats, [6], other).vector).abs().max()
        assert (change > 1e-3) == (name != "mean")


@pytest.mark.parametrize("name", KINDLY)
def test_millimetres_and_seconds_are_told_apart(name):
    pool, stats = build(name), stats_of(6)
    torch.nn.init.normal_(pool.kind.weight)
    volume, clip = (pool_all(pool, stats, [6], torch.arange(6.0), [k]).vector for k in (1, 2))
    assert (volume - clip).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["gated", "learned", "mean"])
def test_one_frame_counts_fully_where_slices_are_only_weighed(name):
    stats = stats_of(1)
    pooled = pool_all(build(name), stats, [1], torch.tensor([17.0]), [0])
    assert pooled.weights.tolist() == [1]
    assert torch.allclose(pooled.vector[0], torch.stack(stats).mean(0)[0], atol=1e-6)


def test_one_frame_under_self_attention_sees_only_itself():
    """Its attention is 1 wherever it lies: what it gets is its own value."""
    pool = build("self_attention, mean", layers=1, statistics=("attention",))
    stats = stats_of(1)
    pooled = pool_all(pool, stats, [1], torch.tensor([170.0]), [0])
    waves = torch.cat([torch.zeros(4), torch.ones(4)])
    shown = pool.norm(stats.attention[0]) + pool.position(waves) + pool.kind.weight[0]
    value = pool.context.inputs[0](shown)[2 * D :]
    expected = stats.attention[0] + pool.context.outputs[0](value)
    assert torch.allclose(pooled.vector[0], expected, atol=1e-5)
    assert pooled.weights.tolist() == [1]


def test_self_attention_starts_as_the_mean_of_its_slices():
    torch.manual_seed(0)
    config = PoolingConfig(heads=2, slices="self_attention", readout="mean", layers=2)
    pooled, stats = RaggedPooling(D, config), stats_of(7)
    mean = RaggedPooling(D, PoolingConfig(heads=2, slices="mean"))
    started, plain = (pool_all(p, stats, [3, 4], torch.rand(7) * 9) for p in (pooled, mean))
    assert torch.allclose(started.vector, plain.vector, atol=1e-6)


@pytest.mark.parametrize("name", VARIANTS)
def test_every_parameter_gets_a_finite_gradient(name):
    pool = build(name).train()
    tokens = torch.randn(9, 5, D, generator=torch.Generator().manual_seed(3))
    stats = pool.pool_patches(tokens)
    pooled = pool_all(pool, stats, [2, 3, 4], torch.arange(9.0) ** 2, [0, 1, 2])
    pooled.vector.square().sum().backward()
    for key, parameter in pool.named_parameters():
        assert parameter.grad is not None, key
        assert torch.isfinite(parameter.grad).all(), key
        assert parameter.grad.abs().sum() > 0, key


@pytest.mark.parametrize("name", VARIANTS)
def test_bfloat16_is_close_to_float32(name):
    pool, lengths, positions = build(name), [1, 4, 7], torch.arange(12.0) * 4
    stats = FrameStats(*(part.bfloat16() for part in stats_of(12)))
    full = FrameStats(*(part.float() for part in stats))
    exact = pool_all(pool, full, lengths, positions)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = pool_all(pool, stats, lengths, positions)
    pure = pool_all(pool.bfloat16(), stats, lengths, positions)
    for other in (mixed, pure):
        assert other.vector.dtype == torch.float32
        assert torch.allclose(exact.vector, other.vector.float(), atol=0.05)
        assert torch.allclose(exact.weights, other.weights.float(), atol=0.05)


@pytest.mark.parametrize("name", VARIANTS)
def test_huge_slices_stay_finite(name):
    stats = FrameStats(*(part * 1e18 for part in stats_of(7)))
    pooled = pool_all(build(name), stats, [3, 4], torch.arange(7.0) * 1e4)
    assert torch.isfinite(pooled.vector).all()
    assert torch.isfinite(pooled.weights).all()


@pytest.mark.parametrize("name", VARIANTS)
def test_the_peak_sees_a_lesion_on_one_slice_of_many(name):
    parts = torch.zeros(3, 40, D)
    parts[1, 17, 2] = 10.0
    pool = build(name, statistics=("top",))
    pooled = pool_all(pool, FrameStats(*parts), [40], torch.arange(40.0))
    assert pooled.vector[0, 2].item() == pytest.approx(10)


def looped(pool: RaggedPooling, x: torch.Tensor, positions: list[float], kind: int) -> torch.Tensor:
    """One sample through V = I + MHSA(norm(I) + PE(P)) and the learned query, cell by cell."""
    centre, c = sum(positions) / len(positions), D // 2
    where = []
    for p in positions:
        angles = [(p - centre) * float(f) for f in pool.frequencies]
        code = torch.tensor([math.sin(a) for a in angles] + [math.cos(a) for a in angles])
        where.append(pool.position.weight @ code + pool.kind.weight[kind])
    shown = [pool.norm(row) for row in x]
    rows = list(x)
    layers = zip(pool.context.inputs, pool.context.outputs, pool.context.norms, strict=True)
    for into, out, norm in layers:
        wide = [into(s + w) for s, w in zip(shown, where, strict=True)]
        mixed = []
        for mine in wide:
            heads = []
            for h in range(2):
                q, k, v = (slice(i * D + h * c, i * D + h * c + c) for i in range(3))
                e = [math.exp(float(mine[q] @ other[k]) / math.sqrt(c)) for other in wide]
                heads.append(sum(a / sum(e) * other[v] for a, other in zip(e, wide, strict=True)))
            mixed.append(torch.cat(heads))
        rows = [row + out(m) for row, m in zip(rows, mixed, strict=True)]
        shown = [norm(row) for row in rows]
    heads = []
    for h in range(2):
        query = pool.frame_score.weight[h]
        e = [math.exp(float(query @ (s + w))) for s, w in zip(shown, where, strict=True)]
        part = slice(h * c, h * c + c)
        heads.append(sum(a / sum(e) * row[part] for a, row in zip(e, rows, strict=True)))
    return torch.cat(heads)


@torch.no_grad()
@pytest.mark.parametrize("layers", [1, 2])
def test_self_attention_equals_a_loop(layers):
    pool = build("self_attention", layers=layers, statistics=("attention",))
    torch.nn.init.normal_(pool.kind.weight)
    stats, lengths = stats_of(8), [3, 1, 4]
    positions = torch.tensor([0.0, 2.5, 9, 4, 1, 2, 40, 41])
    vector = pool_all(pool, stats, lengths, positions, [1, 0, 2]).vector
    bounds = itertools.pairwise(offsets_of(lengths).tolist())
    for row, (start, end), kind in zip(vector, bounds, (1, 0, 2), strict=True):
        expected = looped(pool, stats.attention[start:end], positions[start:end].tolist(), kind)
        assert torch.allclose(row, expected, atol=1e-5)


def test_samples_of_a_length_go_together():
    groups = [rows.tolist() for rows in by_length(offsets_of([2, 1, 2, 3, 1]))]
    assert groups == [[[2], [8]], [[0, 1], [3, 4]], [[5, 6, 7]]]


def test_weights_rolled_back_equal_the_product_of_matrices(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(slices, "QUERIES_AT_ONCE", 3)
    torch.manual_seed(0)
    attention = SliceAttention(D, 2, 2)
    frames, where = torch.randn(2, 5, D)
    looks = attention(frames, frames, where, torch.tensor([0, 5])).looks
    expected = weights = torch.rand(5).softmax(0)
    for query, key in reversed(looks):
        matrix = (torch.einsum("qhc,khc->hqk", query, key) / 2).softmax(-1).mean(0)
        expected = expected @ (0.5 * torch.eye(5) + 0.5 * matrix)
    assert torch.allclose(rolled_back(weights, looks, torch.tensor([0, 5])), expected, atol=1e-6)


def test_a_slice_that_all_others_look_at_counts_most():
    pool = build("self_attention, mean", layers=1)
    into = pool.context.inputs[0]
    with torch.no_grad():
        pool.position.weight.zero_()
        into.weight.zero_()
        into.bias.zero_()
        into.bias[:D] = 5.0  # every query
        into.weight[D : 2 * D, 0] = 5.0  # keys: channel 0
    stats = stats_of(6)
    stats.attention[4] = torch.tensor([9.0, *[0.0] * (D - 1)])
    assert pool_all(pool, stats, [6], torch.arange(6.0)).weights.argmax() == 4
