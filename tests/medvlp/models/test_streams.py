from __future__ import annotations

import itertools
import math

import pytest
import torch
from pydantic import ValidationError

from medvlp.models.config import StreamsConfig
from medvlp.models.streams import DualStream, PatchPlace, average_patches, spread_patches

CONFIG = StreamsConfig(layers=1, heads=2, width=8, ffn=12, frequencies=3)
DIM, EMBED = 6, 5


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def streams(**changes) -> DualStream:
    torch.manual_seed(0)
    config = StreamsConfig.model_validate(CONFIG.model_dump() | changes)
    return DualStream(DIM, EMBED, config).double().eval()


def offsets_of(lengths):
    return torch.tensor([0, *lengths]).cumsum(0)


def read(made, tokens, lengths, *, grid=(2, 3), s=3, r=2, attention=False, positions=None):
    where = torch.arange(float(sum(lengths))) if positions is None else positions
    concepts, regions = draw(s, EMBED, seed=5), draw(r, EMBED, seed=6)
    return made(tokens, grid, offsets_of(lengths), where, concepts, regions, attention)


def every_field(output):
    return {name: value for name, value in output._asdict().items() if value is not None}


def test_a_patch_is_shared_out_between_the_streams():
    made, x = streams(), draw(2, 4, DIM)
    pathology, anatomy = made.share_out(x)
    assert torch.allclose(pathology + anatomy, x)
    # No stream gets more than there is, or less than nothing: the gate is between 0 and 1.
    assert (pathology.abs() <= x.abs()).all()
    assert torch.equal(pathology.sign(), x.sign())
    gate = made.gate(x).sigmoid()
    assert torch.allclose(pathology, gate * x)


def test_the_published_gate_has_no_bound_and_no_gate_shows_all():
    x = 10 * draw(2, 4, DIM)
    made = streams(gate="linear")
    pathology, anatomy = made.share_out(x)
    assert torch.allclose(pathology, made.gate(x) * x)
    assert torch.allclose(anatomy, x - made.gate(x) * x)
    assert (pathology.abs() > x.abs()).any()
    both = streams(gate="none").share_out(x)
    assert torch.equal(both[0], x)
    assert torch.equal(both[1], x)


def test_a_stream_reads_the_gated_patch_not_the_gate():
    # In the grounding code of MeDSLIP the gate itself is the feature.
    made, tokens = streams(), draw(1, 6, DIM)
    with torch.no_grad():
        made.gate.weight.zero_()
        made.gate.bias.fill_(100.0)
    ours = read(made, tokens, [1])
    other = read(made, tokens + draw(1, 6, DIM, seed=9), [1])
    # The gate is open for pathology and shut for anatomy, which then sees the same in any image.
    assert (ours.concepts - other.concepts).abs().max() > 1e-6
    assert torch.allclose(ours.regions, other.regions)


def test_outputs_are_the_maps_they_say():
    made = streams().requires_grad_(False)
    out = read(made, draw(3, 6, DIM), [1, 2])
    asked, places = made.query(draw(3, EMBED, seed=5)), made.query(draw(2, EMBED, seed=6))
    for i, j, k in itertools.product(range(2), range(3), range(2)):
        f, g = out.concepts[i, j], out.regions[i, k]
        pair = float(f @ g) / math.sqrt(8) + float(made.pair_bias)
        assert out.pair_logits[i, j, k].item() == pytest.approx(pair, abs=1e-9)
        weight, bias = made.concept_exists.weight[0], made.concept_exists.bias[0]
        exists = float(weight[:8] @ f + weight[8:] @ asked[j] + bias)
        assert out.concept_logits[i, j].item() == pytest.approx(exists, abs=1e-9)
        assert torch.allclose(out.concept_words[i, j], made.concept_projection(f))
        assert torch.allclose(out.region_words[i, k], made.region_projection(g))
        weight, bias = made.region_exists.weight[0], made.region_exists.bias[0]
        exists = float(weight[:8] @ g + weight[8:] @ places[k] + bias)
        assert out.region_logits[i, k].item() == pytest.approx(exists, abs=1e-9)


def test_shapes_and_what_is_not_asked_for():
    out = read(streams(), draw(3, 6, DIM), [1, 2])
    assert out.concept_attention is None
    assert out.concepts.shape == (2, 3, 8)
    assert out.regions.shape == (2, 2, 8)
    assert out.region_logits.shape == (2, 2)
    assert out.pair_logits.shape == (2, 3, 2)
    assert out.concept_words.shape == (2, 3, EMBED)
    assert out.region_words.shape == (2, 2, EMBED)


@pytest.mark.parametrize("grid", [(2, 3), (7, 5)])
def test_a_sample_does_not_depend_on_its_batch(grid):
    made, lengths = streams(grid=3).float(), [2, 1, 3, 1]
    tokens = draw(7, grid[0] * grid[1], DIM).float()
    positions = torch.tensor([0, 4, 0, 1, 2, 9, 3.0])
    asked = draw(3, EMBED, seed=5).float(), draw(2, EMBED, seed=6).float()
    together = made(tokens, grid, offsets_of(lengths), positions, *asked, True)
    for i, (start, end) in enumerate(itertools.pairwise(offsets_of(lengths).tolist())):
        alone = made(
            tokens[start:end], grid, offsets_of([end - start]), positions[start:end], *asked, True
        )
        for name, value in every_field(alone).items():
            rows = slice(start, end) if name == "concept_attention" else slice(i, i + 1)
            assert torch.allclose(value, getattr(together, name)[rows], atol=1e-6), name


def test_an_answer_does_not_depend_on_what_else_is_asked():
    made, tokens = streams(), draw(3, 6, DIM)
    concepts, regions = draw(4, EMBED, seed=5), draw(3, EMBED, seed=6)
    where = (tokens, (2, 3), offsets_of([1, 2]), torch.arange(3.0))
    all_ = made(*where, concepts, regions, True)
    one = made(*where, concepts[2:3], regions[1:2], True)
    assert torch.allclose(one.concept_logits, all_.concept_logits[:, 2:3])
    assert torch.allclose(one.region_logits, all_.region_logits[:, 1:2])
    assert torch.allclose(one.pair_logits, all_.pair_logits[:, 2:3, 1:2])
    assert torch.allclose(one.concept_words, all_.concept_words[:, 2:3])
    assert torch.allclose(one.concept_attention, all_.concept_attention[:, 2:3])
    seeing = streams(self_attention=True)
    gap = seeing(*where, concepts[2:3], regions).concept_logits
    assert (gap - seeing(*where, concepts, regions).concept_logits[:, 2:3]).abs().max() > 1e-6


@pytest.mark.parametrize("axis", [1, 2])
def test_a_mirrored_image_gives_another_answer(axis):
    made = streams()
    tokens = torch.zeros(1, 4, 4, DIM, dtype=torch.float64)
    tokens[0, 1, 1] = draw(DIM)
    plain = read(made, tokens.flatten(1, 2), [1], grid=(4, 4))
    turned = read(made, tokens.flip(axis).flatten(1, 2), [1], grid=(4, 4))
    assert (plain.concept_logits - turned.concept_logits).abs().max() > 1e-4
    assert (plain.region_words - turned.region_words).abs().max() > 1e-4


def test_only_distances_between_frames_of_a_sample_matter():
    made, tokens = streams(), draw(3, 6, DIM)
    here = read(made, tokens, [3], positions=torch.tensor([0.0, 2, 7]))
    there = read(made, tokens, [3], positions=torch.tensor([512.0, 514, 519]))
    other = read(made, tokens, [3], positions=torch.tensor([0.0, 2, 40]))
    assert torch.allclose(here.concept_logits, there.concept_logits, atol=1e-6)
    assert (here.concept_logits - other.concept_logits).abs().max() > 1e-4


def test_the_order_of_frames_does_not_matter_when_positions_move_along():
    made, tokens, positions = streams(), draw(3, 6, DIM), torch.tensor([0.0, 2, 7])
    order = [2, 0, 1]
    plain = read(made, tokens, [3], positions=positions)
    moved = read(made, tokens[order], [3], positions=positions[order])
    assert torch.allclose(plain.concept_logits, moved.concept_logits)


def test_places_equal_the_formula():
    torch.manual_seed(0)
    place = PatchPlace(DIM, 2, (4.0, 400.0)).double()
    code = place((2, 4), offsets_of([2, 1]), torch.tensor([10.0, 20.0, 3.0]))
    inside = [2 * math.pi / wave for wave in (2.0, 0.25)]
    along = [2 * math.pi / wave for wave in (400.0, 4.0)]
    for frame, centred in enumerate((-5.0, 5.0, 0.0)):
        for row, column in itertools.product(range(2), range(4)):
            y, x = (row + 0.5) / 2, (column + 0.5) / 4
            spot = [f(v * k) for v in (y, x) for f in (math.sin, math.cos) for k in inside]
            slot = [f(centred * k) for f in (math.sin, math.cos) for k in along]
            expected = place.inside.weight @ torch.tensor(spot, dtype=torch.float64)
            expected = expected + place.along.weight @ torch.tensor(slot, dtype=torch.float64)
            assert torch.allclose(code[frame, row * 4 + column], expected, atol=1e-5)


@pytest.mark.parametrize(("grid", "cells"), [((6, 6), (3, 3)), ((7, 5), (3, 5)), ((5, 4), (3, 3))])
def test_patches_are_averaged_as_in_adaptive_pooling(grid, cells):
    tokens = draw(2, grid[0] * grid[1], 3)
    maps = tokens.transpose(1, 2).reshape(2, 3, *grid)
    expected = torch.nn.functional.adaptive_avg_pool2d(maps, cells).flatten(2).transpose(1, 2)
    assert torch.allclose(average_patches(tokens, grid, cells), expected)


@pytest.mark.parametrize(("grid", "cells"), [((6, 6), (3, 3)), ((7, 5), (3, 5)), ((2, 2), (2, 2))])
def test_a_spread_share_weighs_a_patch_as_much_as_its_cells_did(grid, cells):
    patches, count = draw(2, grid[0] * grid[1], 3), cells[0] * cells[1]
    shares = draw(2, 4, count, seed=1).softmax(-1)
    spread = spread_patches(shares, grid, cells)
    assert torch.allclose(spread.sum(-1), shares.sum(-1))
    assert torch.allclose(spread @ patches, shares @ average_patches(patches, grid, cells))


@pytest.mark.parametrize("grid", [(2, 3), (9, 7)])
def test_attention_is_of_the_tower_s_grid_and_sums_to_one(grid):
    tokens = draw(3, grid[0] * grid[1], DIM)
    out = read(streams(grid=4), tokens, [1, 2], grid=grid, attention=True)
    assert out.concept_attention.shape == (3, 3, grid[0] * grid[1])
    ones = torch.ones(3, dtype=torch.float64)
    # One by one: not divided by the largest of the batch, as in the published grounding.
    assert torch.allclose(out.concept_attention[:1].sum((0, 2)), ones)
    assert torch.allclose(out.concept_attention[1:].sum((0, 2)), ones)
    assert (out.concept_attention >= 0).all()


def test_a_fine_grid_is_read_coarsely():
    made, tokens = streams(grid=2), draw(1, 16, DIM)
    shuffled = tokens.reshape(1, 2, 2, 2, 2, DIM).flip(2).flip(4).reshape(1, 16, DIM)
    plain, moved = (read(made, x, [1], grid=(4, 4)) for x in (tokens, shuffled))
    assert torch.allclose(plain.concept_logits, moved.concept_logits)


@pytest.mark.parametrize(("s", "r"), [(0, 2), (3, 0), (0, 0)])
def test_nothing_asked_gives_nothing(s, r):
    out = read(streams(), draw(3, 6, DIM), [1, 2], s=s, r=r, attention=True)
    assert out.pair_logits.shape == (2, s, r)
    assert out.concept_attention.shape == (3, s, 6)


def test_the_streams_pass_gradcheck():
    made = streams(grid=2)
    tokens = draw(2, 6, DIM).requires_grad_()

    def answer(x):
        return torch.cat([v.flatten() for v in every_field(read(made, x, [2], s=1, r=1)).values()])

    assert torch.autograd.gradcheck(answer, (tokens,))


def test_every_parameter_gets_a_gradient():
    made = streams()
    out = read(made, draw(3, 6, DIM), [1, 2], positions=torch.tensor([0.0, 0, 5]))
    sum(value.square().sum() for value in every_field(out).values()).backward()
    for name, parameter in made.named_parameters():
        assert parameter.grad is not None, name
        # A key's bias adds the same to all logits: it cannot matter.
        assert parameter.grad.abs().sum() > 0 or name.endswith("key.bias"), name


def test_outputs_are_float32_under_autocast():
    made = streams().float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = made(
            draw(3, 6, DIM).float(), (2, 3), offsets_of([1, 2]), torch.arange(3.0),
            draw(3, EMBED).float(), draw(2, EMBED).float(), True,
        )  # fmt: skip
    assert {value.dtype for value in every_field(out).values()} == {torch.float32}


def test_heads_must_divide_the_width():
    with pytest.raises(ValidationError, match="divide"):
        StreamsConfig(width=10, heads=4)
