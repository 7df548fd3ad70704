from __future__ import annotations

import importlib
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck

from medvlp.errors import ConfigError
from medvlp.losses.fusion.masked_image import (
    CellDecoder,
    MaskedImage,
    cell_pixels,
    draw_cells,
    masked_cell_error,
    paint_over,
)


def random(*shape, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=draw, dtype=torch.float64)


def slow_error(prediction, target, masked):
    total, count = 0.0, 0
    for n in range(len(masked)):
        for c in range(masked.shape[1]):
            if masked[n, c]:
                squares = [
                    float(prediction[n, c, v] - target[n, c, v]) ** 2
                    for v in range(target.shape[2])
                ]
                total += sum(squares) / len(squares)
                count += 1
    return total / count if count else 0.0


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 4), st.integers(1, 5), st.integers(1, 4), st.integers(0, 100))
def test_the_error_equals_the_naive_loop(n, cells, values, seed):
    prediction, target = (
        random(n, cells, values, seed=seed),
        random(n, cells, values, seed=seed + 1),
    )
    masked = random(n, cells, seed=seed + 2) > 0
    got = masked_cell_error(prediction, target, masked)
    assert got.item() == pytest.approx(slow_error(prediction, target, masked), abs=1e-12)


def test_gradcheck():
    masked = torch.tensor([[True, False], [True, True]])
    assert gradcheck(
        lambda x: masked_cell_error(x, random(2, 2, 3, seed=1), masked),
        (random(2, 2, 3).requires_grad_(),),
    )


def test_targets_that_are_not_masked_change_nothing():
    masked = torch.tensor([[True, False, True]])
    prediction, target = random(1, 3, 4).requires_grad_(), random(1, 3, 4, seed=1)
    other = target.clone()
    other[:, 1] = 1e9
    one, two = (masked_cell_error(prediction, t, masked) for t in (target, other))
    assert torch.equal(one, two)
    one.backward()
    assert (prediction.grad[:, 1] == 0).all()
    assert (prediction.grad[:, 0] != 0).all()


def test_nothing_masked_is_zero_with_a_zero_gradient():
    prediction = random(1, 2, 3).requires_grad_()
    loss = masked_cell_error(prediction, random(1, 2, 3), torch.zeros(1, 2, dtype=torch.bool))
    loss.backward()
    assert loss.item() == 0
    assert (prediction.grad == 0).all()


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 3), st.integers(1, 3), st.integers(2, 13), st.integers(0, 100))
def test_cell_pixels_equal_the_slow_loop(side, pixels, size, seed):
    frames = torch.rand(2, 3, size, size, dtype=torch.float64)
    got = cell_pixels(frames, side * side, pixels)
    assert got.shape == (2, side * side, 3 * pixels * pixels)
    fine = side * pixels
    for n in range(2):
        for cell in range(side * side):
            values = []
            for channel in range(3):
                for y in range(pixels):
                    for x in range(pixels):
                        row, column = (cell // side) * pixels + y, (cell % side) * pixels + x
                        rows = range(row * size // fine, math.ceil((row + 1) * size / fine))
                        columns = range(
                            column * size // fine, math.ceil((column + 1) * size / fine)
                        )
                        inside = [float(frames[n, channel, i, j]) for i in rows for j in columns]
                        values.append(sum(inside) / len(inside))
            mean = sum(values) / len(values)
            variance = sum((v - mean) ** 2 for v in values) / len(values)
            wanted = [(v - mean) / math.sqrt(variance + 1e-4) for v in values]
            assert torch.allclose(got[n, cell], torch.tensor(wanted).double(), atol=1e-6)


def test_a_flat_cell_is_not_blown_up():
    frames = torch.full((1, 3, 8, 8), 0.3) + 1e-4 * torch.rand(1, 3, 8, 8)
    assert cell_pixels(frames, 4, 2).abs().max() < 0.02


@pytest.mark.parametrize("size", [6, 8, 11])
def test_masked_cells_are_painted_with_the_mean_of_the_frame(size):
    frames = torch.rand(2, 3, size, size)
    masked = torch.tensor([[1, 0, 0, 0, 1, 0, 0, 0, 0], [0] * 9]).bool()
    painted = paint_over(frames, masked)
    for y in range(size):
        for x in range(size):
            cell = (y * 3 // size) * 3 + x * 3 // size
            wanted = frames[0].mean((1, 2)) if cell in (0, 4) else frames[0, :, y, x]
            assert torch.allclose(painted[0, :, y, x], wanted)
    assert torch.equal(painted[1], frames[1])


@pytest.mark.parametrize(("rate", "count"), [(0.75, 27), (0.001, 1), (1.0, 36)])
def test_the_same_share_of_every_frame_is_masked(rate, count):
    torch.manual_seed(0)
    masked = draw_cells(5, 36, rate, "cpu")
    assert masked.sum(1).tolist() == [count] * 5
    if count == 27:
        assert not torch.equal(masked[0], masked[1])


def build(**settings_) -> MaskedImage:
    torch.manual_seed(3)
    small = {"pixels": 2, "decoder_width": 16, "decoder_heads": 2, **settings_}
    return MaskedImage(width=16, **small)


@torch.no_grad()
@pytest.mark.parametrize("layer", [1, 2])
def test_the_objective_equals_visuals_one_by_one(make_fused, monkeypatch, layer):
    scene = make_fused([2, 1, 3], [1, 0, 2])
    scene.model.eval()
    objective = build(layer=layer)
    module = importlib.import_module("medvlp.losses.fusion.masked_image")
    kept = {}

    def remember(*args):
        kept["masked"] = draw_cells(*args)
        return kept["masked"]

    monkeypatch.setattr(module, "draw_cells", remember)
    got = objective(scene)
    batch, model, total, at = scene.batch, scene.model, 0.0, 0
    for visual, text in ((0, 0), (2, 1)):
        start, end = (int(x) for x in batch.offsets[visual : visual + 2])
        frames = batch.frames[start:end].float() / 255
        masked = kept["masked"][at : at + end - start]
        at += end - start
        patches = model.encode_visual(
            paint_over(frames, masked), torch.tensor([0, end - start]),
            batch.positions[start:end], batch.kind[visual : visual + 1], tokens=True,
        ).patches  # fmt: skip
        planes = patches.transpose(1, 2).reshape(end - start, -1, 8, 8)
        cells = torch.nn.functional.adaptive_avg_pool2d(planes, 3).flatten(2).transpose(1, 2)
        cells = cells.reshape(1, -1, 8)
        length = int(batch.token_mask[text].sum())
        fused = model.fusion(
            cells, torch.ones(cells.shape[:2], dtype=torch.bool),
            scene.embeddings.words[text : text + 1, :length],
            torch.ones(1, length, dtype=torch.bool), cells=9,
        )  # fmt: skip
        hidden = fused.visual_layers[layer - 1].reshape(end - start, 9, -1)
        predicted = objective.decoder(hidden, masked)
        target = cell_pixels(frames, 9, 2)
        total += slow_error(predicted, target, masked) * int(masked.sum())
    assert at == len(kept["masked"]) == 5
    assert got.item() == pytest.approx(total / int(kept["masked"].sum()), abs=1e-5)


def test_frames_in_bytes_and_in_floats_give_the_same(make_fused):
    scene, objective = make_fused([1, 2]), build()
    values = []
    for frames in (scene.batch.frames, scene.batch.frames.float() / 255):
        torch.manual_seed(0)
        values.append(objective(replace(scene, batch=replace(scene.batch, frames=frames))).item())
    assert values[0] == pytest.approx(values[1], abs=1e-6)


def test_the_text_is_read(make_fused):
    scene, objective = make_fused([1, 2]), build()
    values = []
    for factor in (1, -1):
        torch.manual_seed(0)
        words = factor * scene.embeddings.words
        values.append(
            objective(replace(scene, embeddings=replace(scene.embeddings, words=words))).item()
        )
    assert values[0] != values[1]


def test_visuals_without_text_take_no_part(make_fused):
    scene = make_fused([1, 2], [0, 0])
    loss = build()(scene)
    loss.backward()
    assert loss.item() == 0


def test_a_layer_that_is_not_there_is_refused(make_fused):
    with pytest.raises(ConfigError, match="layer"):
        build(layer=3)(make_fused([1]))


def test_painted_frames_leave_no_trace_in_the_running_statistics(make_fused):
    scene = make_fused([2, 1])
    before = {k: v.clone() for k, v in scene.model.state_dict().items() if "running" in k}
    build()(scene)
    assert all(torch.equal(scene.model.state_dict()[k], v) for k, v in before.items())


def test_a_coarse_tower_has_fewer_cells(make_fused, make_model):
    """The grid of the config is larger than the tower's: each patch is a cell."""
    scene = make_fused([1, 2], model=make_model(grid=20))
    torch.manual_seed(0)
    assert torch.isfinite(build()(scene))


def test_the_error_falls(make_fused):
    scene, objective = make_fused([1, 2, 1]), build(decoder_width=32)
    parameters = [*objective.parameters(), *scene.model.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=3e-3)
    losses = []
    for step in range(30):
        torch.manual_seed(step % 5)
        loss = objective(scene_without_graph(scene))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])
    assert scene.model.frames.network.stages[0][0].weight.grad.abs().max() > 0


def scene_without_graph(scene):
    e = scene.embeddings
    return replace(scene, embeddings=replace(e, patches=e.patches.detach(), words=e.words.detach()))


def test_the_decoder_is_told_what_was_painted_and_where_a_cell_is():
    torch.manual_seed(0)
    decoder = CellDecoder(8, 8, 1, 2, 5)
    hidden, nothing = torch.randn(1, 4, 8), torch.zeros(1, 4, dtype=torch.bool)
    with torch.no_grad():
        plain = decoder(hidden, nothing)
        assert not torch.allclose(plain, decoder(hidden, ~nothing), atol=1e-5)
        swapped = decoder(hidden[:, [1, 0, 2, 3]], nothing)
        assert not torch.allclose(plain[:, [1, 0, 2, 3]], swapped, atol=1e-4)
