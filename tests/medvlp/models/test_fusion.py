from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch.autograd import gradcheck

from medvlp.models.config import FusionConfig
from medvlp.models.fusion import (
    FusionEncoder,
    cell_code,
    cells_per_side,
    gather_visual,
    rows_by_length,
)


def random(*shape, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=draw, dtype=torch.float64)


def encoder(seed=0, embed_dim=6, **config) -> FusionEncoder:
    torch.manual_seed(seed)
    settings_ = {"layers": 2, "heads": 2, "width": 8, "grid": 2, **config}
    return FusionEncoder(embed_dim, FusionConfig(**settings_)).double()


def masks(lengths, size):
    return torch.arange(size) < torch.tensor(lengths)[:, None]


def slow_gather(patches, lengths, grid):
    """Cell by cell, pixel by pixel: the adaptive average's window is [floor, ceil)."""
    side = math.isqrt(patches.shape[1])
    rows = min(side, grid)
    out, start = [], 0
    for length in lengths:
        tokens = []
        for frame in range(start, start + length):
            for r in range(rows):
                for c in range(rows):
                    inside = [
                        patches[frame, y * side + x]
                        for y in range(r * side // rows, math.ceil((r + 1) * side / rows))
                        for x in range(c * side // rows, math.ceil((c + 1) * side / rows))
                    ]
                    tokens.append(sum(inside) / len(inside))
        out.append(tokens)
        start += length
    return out


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.integers(1, 4), min_size=1, max_size=4), st.integers(1, 5), st.integers(1, 6),
    st.integers(0, 100),
)  # fmt: skip
def test_gather_equals_the_slow_loop(lengths, side, grid, seed):
    patches = random(sum(lengths), side * side, 3, seed=seed)
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    tokens, mask = gather_visual(patches, offsets, grid)
    wanted = slow_gather(patches, lengths, grid)
    assert tokens.shape[1] == max(len(row) for row in wanted)
    for i, row in enumerate(wanted):
        assert mask[i].tolist() == [True] * len(row) + [False] * (tokens.shape[1] - len(row))
        assert torch.allclose(tokens[i, : len(row)], torch.stack(row), atol=1e-12)
        assert (tokens[i, len(row) :] == 0).all()


def test_patches_that_are_no_square_are_refused():
    with pytest.raises(ValueError, match="square"):
        cells_per_side(6, 3)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=12), st.integers(0, 3))
def test_rows_of_about_a_length_go_together(lengths, padding):
    mask = masks(lengths, max(lengths) + padding)
    groups = rows_by_length(mask)
    assert sorted(row for rows, _ in groups for row in rows.tolist()) == list(range(len(lengths)))
    for rows, longest in groups:
        own = [lengths[row] for row in rows.tolist()]
        assert max(own) == longest
        assert longest < 2 * min(own)


@torch.no_grad()
@settings(max_examples=15, deadline=None)
@given(st.integers(0, 1000), st.booleans())
def test_padding_never_changes_a_result(seed, knowledge):
    model = encoder(seed, knowledge=knowledge)
    cells, tokens = [4, 8, 12], [1, 5, 3]
    visual, words = random(3, 16, 6, seed=seed), 9 * random(3, 7, 6, seed=seed + 1)
    together = model(visual, masks(cells, 16), words, masks(tokens, 7))
    for i in range(3):
        alone = model(
            visual[i : i + 1, : cells[i]], masks(cells[i : i + 1], cells[i]),
            words[i : i + 1, : tokens[i]], masks(tokens[i : i + 1], tokens[i]),
        )  # fmt: skip
        assert torch.allclose(alone.visual_cls[0], together.visual_cls[i], atol=1e-6)
        assert torch.allclose(alone.word_cls[0], together.word_cls[i], atol=1e-6)
        for layer, other in zip(alone.visual_layers, together.visual_layers, strict=True):
            assert torch.allclose(layer[0], other[i, : cells[i]], atol=1e-6)
            assert (other[i, cells[i] :] == 0).all()
        for layer, other in zip(alone.word_layers, together.word_layers, strict=True):
            assert torch.allclose(layer[0], other[i, : tokens[i]], atol=1e-6)
            assert (other[i, tokens[i] :] == 0).all()


@torch.no_grad()
def test_a_layer_reads_the_other_stream_after_its_self_attention():
    layer = encoder().layers[0]
    x, y = random(2, 4, 8), random(2, 3, 8, seed=1)
    x_mask, y_mask = masks([4, 2], 4), masks([1, 3], 3)
    got = layer(x, x_mask, y, y_mask)
    x1, y1 = layer.visual.within(x, x_mask), layer.words.within(y, y_mask)
    x2 = layer.visual.across(x1, y_mask, y1)
    y2 = layer.words.across(y1, x_mask, x1)
    assert torch.allclose(got[0], layer.visual.ffn(x2), atol=1e-12)
    assert torch.allclose(got[1], layer.words.ffn(y2), atol=1e-12)


@torch.no_grad()
def test_every_layer_is_returned_with_its_shape():
    out = encoder(layers=3)(random(2, 4, 6), masks([4, 4], 4), random(2, 5, 6), masks([5, 2], 5))
    assert [tuple(layer.shape) for layer in out.visual_layers] == [(2, 4, 8)] * 3
    assert [tuple(layer.shape) for layer in out.word_layers] == [(2, 5, 8)] * 3
    assert out.visual_cls.shape == out.word_cls.shape == (2, 8)


@torch.no_grad()
def test_streams_read_each_other():
    model, visual, words = encoder(), random(1, 4, 6), random(1, 3, 6, seed=1)
    there = masks([4], 4), masks([3], 3)
    one = model(visual, there[0], words, there[1])
    other_words = model(visual, there[0], words + 1, there[1])
    other_cells = model(visual + 1, there[0], words, there[1])
    assert (one.visual_cls - other_words.visual_cls).abs().max() > 1e-4
    assert (one.word_cls - other_cells.word_cls).abs().max() > 1e-4


@torch.no_grad()
def test_cells_have_a_place_and_frames_have_no_order():
    model, words = encoder(), random(1, 3, 6, seed=1)
    visual, there = random(1, 8, 6), (masks([8], 8), masks([3], 3))
    one = model(visual, there[0], words, there[1]).visual_cls
    frames_swapped = visual[:, [4, 5, 6, 7, 0, 1, 2, 3]]
    cells_swapped = visual[:, [1, 0, 2, 3, 4, 5, 6, 7]]
    assert torch.allclose(one, model(frames_swapped, there[0], words, there[1]).visual_cls)
    swapped = model(cells_swapped, there[0], words, there[1]).visual_cls
    assert (one - swapped).abs().max() > 1e-5


@pytest.mark.parametrize("side", [1, 2, 6, 14])
def test_every_place_has_a_code_of_its_own(side):
    code = cell_code(side * side, 16)
    assert code.shape == (side * side, 16)
    distance = torch.cdist(code, code) + 9 * torch.eye(side * side)
    assert distance.min() > 0.05


def test_rows_and_columns_are_told_apart():
    code = cell_code(9, 16).reshape(3, 3, 16)
    assert torch.equal(code[0, 1, :8], code[0, 2, :8])
    assert torch.equal(code[1, 0, 8:], code[2, 0, 8:])
    assert torch.equal(code[0, 1, 8:], code[1, 0, :8])


@torch.no_grad()
def test_pairs_may_come_in_any_order():
    model = encoder()
    visual, words = random(3, 4, 6), random(3, 3, 6, seed=1)
    there = masks([4, 2, 3], 4), masks([3, 1, 2], 3)
    order = torch.tensor([2, 0, 1])
    one = model(visual, there[0], words, there[1])
    other = model(visual[order], there[0][order], words[order], there[1][order])
    assert torch.allclose(one.visual_cls[order], other.visual_cls, atol=1e-12)
    assert torch.allclose(one.word_cls[order], other.word_cls, atol=1e-12)


def test_gradcheck():
    model = encoder(layers=1, embed_dim=2, width=4)
    visual = random(1, 2, 2).requires_grad_()
    words = random(1, 2, 2, seed=1).requires_grad_()
    there = masks([2], 2), masks([1], 2)

    def run(a, b):
        out = model(a, there[0], b, there[1])
        return out.visual_cls, out.word_cls

    assert gradcheck(run, (visual, words))


def test_gradients_reach_every_parameter():
    model = encoder()
    out = model(random(2, 4, 6), masks([4, 2], 4), random(2, 3, 6), masks([3, 1], 3))
    (out.visual_cls.square().sum() + out.word_cls[:, 0].sum()).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_dropout_is_off_outside_training():
    model = encoder(dropout=0.5)
    inputs = random(1, 4, 6), masks([4], 4), random(1, 3, 6), masks([3], 3)
    with torch.no_grad():
        assert not torch.equal(model(*inputs).word_cls, model(*inputs).word_cls)
        model.eval()
        assert torch.equal(model(*inputs).word_cls, model(*inputs).word_cls)


@pytest.mark.parametrize("wrong", [{"width": 66}, {"heads": 3}, {"width": 6, "heads": 2}])
def test_widths_that_do_not_divide_are_refused(wrong):
    with pytest.raises(ValidationError):
        FusionConfig(**wrong)


def test_gather_keeps_samples_apart():
    patches = random(5, 4, 3).requires_grad_()
    offsets = torch.tensor([0, 2, 5])
    tokens, _ = gather_visual(patches, offsets, 1)
    for i, (start, end) in enumerate(pairwise(offsets.tolist())):
        (gradient,) = torch.autograd.grad(tokens[i].sum(), patches, retain_graph=True)
        touched = gradient.abs().sum((1, 2)) > 0
        assert touched.tolist() == [start <= frame < end for frame in range(5)]
