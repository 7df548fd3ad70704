from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from medvlp.errors import CheckpointError, ConfigError
from medvlp.models import volumes
from medvlp.models.checkpoint import load_encoder, save_model
from medvlp.models.config import FrameTowerConfig, ModelConfig, WeightsRef
from medvlp.models.encoder import Encoder
from medvlp.models.frames import FrameTower
from medvlp.models.vlp import VLP
from medvlp.models.volumes import between, stack

TOWERS = {
    "unet": {"name": "unet", "kwargs": {"width": 4, "stages": 3}},
    "unet, two levels": {"name": "unet", "levels": 2, "kwargs": {"width": 4, "stages": 3}},
    "unet, strided": {
        "name": "unet", "kwargs": {"width": 4, "stages": 3, "depth_strides": [1, 2, 2]},
    },
    "unet, spaced": {
        "name": "unet", "kwargs": {"width": 4, "stages": 3, "spacing": 3.0, "depth": 12},
    },
    "segresnet": {
        "name": "segresnet",
        "kwargs": {"init_filters": 8, "blocks_down": [1, 1], "norm": ["group", {"num_groups": 4}]},
    },
}  # fmt: skip


def build(name: str) -> FrameTower:
    torch.manual_seed(0)
    config = FrameTowerConfig.model_validate({"library": "monai", **TOWERS[name]})
    return FrameTower(config, 32).eval()


def packed(lengths, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    n = sum(lengths)
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    positions = torch.rand(n, generator=generator) * 40
    return torch.randn(n, 3, 32, 32, generator=generator), offsets, positions


@torch.no_grad()
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", TOWERS)
def test_a_sample_does_not_depend_on_its_batch(name, training):
    tower = build(name).train(training)
    frames, offsets, positions = packed([1, 6, 3, 6, 1])
    together = tower(frames, offsets, positions)
    assert together.tokens.shape == (17, together.grid[0] * together.grid[1], tower.dim)
    for i, j in itertools.pairwise(offsets.tolist()):
        alone = tower(frames[i:j], torch.tensor([0, j - i]), positions[i:j])
        assert torch.allclose(alone.tokens, together.tokens[i:j], atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("name", TOWERS)
def test_frames_may_come_in_any_order_and_anywhere(name):
    tower, (frames, offsets, positions) = build(name), packed([6])
    tokens = tower(frames, offsets, positions).tokens
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    permuted = tower(frames[order], offsets, positions[order]).tokens
    shifted = tower(frames, offsets, positions + 300).tokens
    assert torch.allclose(tokens[order], permuted, atol=1e-5)
    assert torch.allclose(tokens, shifted, atol=1e-3)


@torch.no_grad()
@pytest.mark.parametrize("name", TOWERS)
def test_a_frame_is_seen_in_the_light_of_its_sample_alone(name):
    tower, (frames, offsets, positions) = build(name), packed([5, 5])
    changed = frames.clone()
    changed[2] = 0
    change = tower(changed, offsets, positions).tokens - tower(frames, offsets, positions).tokens
    by_frame = change.square().sum((1, 2))
    assert (by_frame[:5] > 1e-3).all()
    assert (by_frame[5:] < 1e-6).all()


@torch.no_grad()
def test_an_image_is_a_stack_of_one_slice():
    tower, (frames, _, _) = build("unet"), packed([3])
    images = tower(frames).tokens
    offsets = torch.arange(4)
    assert torch.equal(images, tower(frames, offsets, torch.tensor([5.0, 0, 9])).tokens)


def looped(positions: list[float], count: int) -> list[list[float]]:
    """Weights of frames in slices, cell by cell."""
    ordered = sorted(positions)
    low, high = ordered[0], ordered[-1]
    step = (high - low) / (count - 1)
    rows = []
    for d in range(count):
        t = low + d * step
        before = max([p for p in ordered[:-1] if p < t], default=ordered[0])
        after = min(p for p in ordered[ordered.index(before) + 1 :])
        width = max(step, after - before)
        row = [max(0.0, 1 - abs(p - t) / width) for p in positions]
        rows.append([w / sum(row) for w in row])
    return rows


@settings(max_examples=40, deadline=None)
@given(
    steps=st.lists(st.integers(1, 9), min_size=1, max_size=12),
    depth=st.integers(2, 16),
    seed=st.integers(0, 99),
)
def test_the_stack_equals_a_loop_and_skips_no_frame(steps, depth, seed):
    ascending = list(itertools.accumulate(map(float, steps), initial=0.0))
    order = torch.randperm(len(ascending), generator=torch.Generator().manual_seed(seed))
    positions = torch.tensor(ascending, dtype=torch.float64)[order]
    got = stack(positions, depth, None)
    count = min(len(positions), depth)
    expected = torch.tensor(looped(positions.tolist(), count), dtype=torch.float64)
    assert torch.allclose(got.into, expected, atol=1e-9)
    assert (got.into.sum(0) > 0).all()
    assert got.places.min() == 0
    assert got.places.max().item() == pytest.approx(count - 1)


def test_evenly_spaced_frames_are_the_stack():
    got = stack(torch.arange(7) * 2.5, 64, None)
    assert torch.allclose(got.into, torch.eye(7))
    assert torch.allclose(between(got.places, 7), torch.eye(7))


def test_slices_denser_than_frames_are_interpolated():
    got = stack(torch.tensor([0.0, 4.0, 8.0]), 64, 1.0)
    assert got.into.shape == (9, 3)
    assert torch.allclose(got.into[1], torch.tensor([0.75, 0.25, 0]))
    assert torch.allclose(got.into @ torch.tensor([0.0, 4, 8]), torch.arange(9.0))


@pytest.mark.parametrize(
    ("positions", "depth", "spacing", "slices"),
    [([3.0], 64, 1.0, 1), ([0.0, 9], 1, None, 1), ([0.0, 2], 64, 50.0, 1), ([0.0, 0, 0], 9, 1.0, 3),
     ([0.0, 100], 64, 1.0, 64), ([0.0, 1, 2, 3], 2, None, 2)],
)  # fmt: skip
def test_short_flat_and_long_samples_have_a_stack(positions, depth, spacing, slices):
    got = stack(torch.tensor(positions), depth, spacing)
    assert got.into.shape == (slices, len(positions))
    assert torch.allclose(got.into.sum(1), torch.ones(slices))
    assert torch.isfinite(got.places).all()


def test_between_holds_the_ends():
    weights = between(torch.tensor([-1.0, 0, 0.25, 2, 7]), 3)
    expected = [[1, 0, 0], [1, 0, 0], [0.75, 0.25, 0], [0, 0, 1], [0, 0, 1]]
    assert torch.allclose(weights, torch.tensor(expected, dtype=torch.float32))


@torch.no_grad()
def test_a_lesion_on_one_slice_of_many_reaches_the_tokens_where_it_lies():
    tower = build("unet, spaced")  # 90 slices into 12
    frames = torch.zeros(90, 3, 32, 32)
    lesion = frames.clone()
    lesion[31, :, 8:16, 16:24] = 3.0
    offsets, positions = torch.tensor([0, 90]), torch.arange(90.0)
    seen = tower(lesion, offsets, positions).tokens - tower(frames, offsets, positions).tokens
    by_frame = seen.square().sum((1, 2))
    assert abs(int(by_frame.argmax()) - 31) <= 8
    rows = by_frame.argmax()
    cell = seen[rows].square().sum(-1).view(4, 4)
    assert cell.argmax() in (1 * 4 + 2, 1 * 4 + 1, 2 * 4 + 2)


class EveryFourth(torch.nn.Module):
    """What a stride along the depth leaves of a stack."""

    def forward(self, volume: torch.Tensor) -> list[torch.Tensor]:
        return [volume[:, :, ::2], volume[:, :, ::4]]


def test_maps_are_read_where_the_frames_were():
    tower = build("unet, two levels").network
    tower.network = EveryFourth()
    tower.strides = volumes._depth_strides(tower.network)
    assert tower.strides == [2, 4]
    positions = torch.tensor([0.0, 5, 10, 15, 20, 25, 30, 35, 40])
    frames = positions[:, None, None, None].expand(9, 3, 4, 4)
    for level in tower(frames, torch.tensor([0, 9]), positions):
        assert torch.allclose(level, frames, atol=1e-4)


@pytest.fixture
def volumetric(tokenizer) -> VLP:
    torch.manual_seed(0)
    config = ModelConfig.model_validate(
        {
            "embed_dim": 8,
            "preprocess": {"size": 32},
            "frames": {"library": "monai", **TOWERS["unet, two levels"]},
            "pooling": {"heads": 2, "hidden": 6, "frequencies": 4, "checkpoint_frames": 4},
            "text": {"layers": 1, "width": 16, "heads": 2, "max_tokens": 24},
        }
    )
    return VLP(config, len(tokenizer))


def test_images_volumes_and_clips_go_together(volumetric, tokenizer, visuals):
    encoder = Encoder(volumetric.eval(), tokenizer, digest="d")
    together = encoder.visuals(visuals)
    alone = torch.cat([encoder.visuals([visual]) for visual in visuals])
    assert torch.allclose(together, alone, atol=1e-5)
    assert torch.allclose(together.norm(dim=1), torch.ones(5), atol=1e-5)


@torch.no_grad()
def test_chunks_keep_samples_whole(volumetric):
    volumetric.eval()
    frames, offsets, positions = packed([1, 6, 3])
    inputs = (frames.sigmoid(), offsets, positions, torch.ones(3, dtype=torch.long))
    whole = volumetric.encode_visual(*inputs, True)
    parts = volumetric.encode_visual(*inputs, True, chunk=2)
    assert torch.allclose(whole.vector, parts.vector, atol=1e-6)
    assert torch.allclose(whole.patches, parts.patches, atol=1e-5)


@torch.no_grad()
def test_the_model_shows_the_tower_whole_samples(volumetric):
    volumetric.eval()
    frames, offsets, positions = packed([4, 4])
    kind = torch.ones(2, dtype=torch.long)
    inputs = (frames.sigmoid(), offsets, positions, kind)
    before = volumetric.encode_visual(*inputs, True).patches
    inputs[0][1] = 0
    change = (volumetric.encode_visual(*inputs, True).patches - before).abs().amax((1, 2))
    assert (change[:4] > 1e-4).all()
    assert (change[4:] < 1e-6).all()


def test_gradients_reach_every_parameter_of_the_tower_through_checkpoints(volumetric):
    volumetric.train()
    frames, offsets, positions = packed([1, 6, 3])
    inputs = (frames.sigmoid(), offsets, positions, torch.ones(3, dtype=torch.long))
    volumetric.encode_visual(*inputs).vector[:, 0].sum().backward()
    for name, parameter in volumetric.frames.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_a_model_comes_back_exactly(tmp_path, volumetric, tokenizer, visuals):
    save_model(tmp_path, volumetric, tokenizer)
    before = Encoder(volumetric, tokenizer, digest="x")
    assert torch.equal(before.visuals(visuals), load_encoder(tmp_path).visuals(visuals))


def test_weights_of_a_network_come_from_a_folder_and_must_fit(tmp_path):
    state = {key: value + 1 for key, value in build("unet").network.network.state_dict().items()}
    save_file(state, tmp_path / "model.safetensors")
    ref = WeightsRef(folder=tmp_path)
    config = FrameTowerConfig.model_validate({"library": "monai", **TOWERS["unet"], "weights": ref})
    tower = FrameTower(config, 32)
    for key, value in tower.network.network.state_dict().items():
        assert torch.equal(value, state[key]), key
    with pytest.raises(CheckpointError):
        FrameTower(config.model_copy(update={"kwargs": {"width": 8, "stages": 3}}), 32)


@pytest.mark.parametrize(
    "changes",
    [{"name": "resnet18"}, {"levels": 9}, {"kwargs": {"widht": 4}}, {"kwargs": {"depth": 0}},
     {"kwargs": {"spacing": -1.0}}, {"kwargs": {"depth_strides": [2]}},
     {"name": "segresnet", "kwargs": {"init_filters": 7}}],
)  # fmt: skip
def test_an_unknown_network_is_refused(changes):
    config = {"library": "monai", "name": "unet", **changes}
    with pytest.raises(ConfigError) as refused:
        FrameTower(FrameTowerConfig.model_validate(config), 32)
    assert refused.value.code == "tower-unknown"
