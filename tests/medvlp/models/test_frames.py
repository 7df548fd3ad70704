from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from medvlp.errors import CheckpointError, ConfigError
from medvlp.models.config import FrameTowerConfig, WeightsRef
from medvlp.models.frames import FrameTower
from medvlp.models.plain import PlainConv

TOWERS = {
    "plain": ({"library": "plain", "kwargs": {"width": 4}}, (2, 2)),
    "plain, two levels": ({"library": "plain", "levels": 2, "kwargs": {"width": 4}}, (4, 4)),
    "plain, one convolution a stage": (
        {"library": "plain", "kwargs": {"width": 4, "stages": 3, "convs": [1, 1, 1]}}, (4, 4),
    ),
    "timm resnet": ({"library": "timm", "name": "test_resnet"}, (1, 1)),
    "timm resnet, three levels": ({"library": "timm", "name": "test_resnet", "levels": 3}, (4, 4)),
    "timm vit": (
        {"library": "timm", "name": "test_vit", "kwargs": {"img_size": 32}}, (2, 2)
    ),
    "timm swin": (
        {"library": "timm", "name": "swin_tiny_patch4_window7_224",
         "kwargs": {"img_size": 32, "window_size": 2, "embed_dim": 8, "depths": [1, 1],
                    "num_heads": [1, 2]}}, (4, 4),
    ),
    "open_clip vit": (
        {"library": "open_clip", "name": "ViT-S-32-alt"}, (1, 1)
    ),
}  # fmt: skip


def build(name: str) -> FrameTower:
    torch.manual_seed(0)
    return FrameTower(FrameTowerConfig.model_validate(TOWERS[name][0]), 32).eval()


@pytest.mark.parametrize("name", TOWERS)
def test_every_kind_of_tower_gives_a_grid_of_tokens(name):
    tower, grid = build(name), TOWERS[name][1]
    frames = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        patches = tower(frames)
        alone = tower(frames[1:2])
    assert patches.grid == grid
    assert patches.tokens.shape == (3, grid[0] * grid[1], tower.dim)
    assert torch.allclose(patches.tokens[1], alone.tokens[0], atol=1e-5)


def test_tokens_lie_where_the_frame_shows_something():
    torch.manual_seed(0)
    tower = FrameTower(FrameTowerConfig(levels=2, kwargs={"width": 4}), 128).eval()
    dark = torch.zeros(1, 3, 128, 128)
    spot = dark.clone()
    spot[:, :, 96:112, 16:32] = 5.0  # rows 12-13, columns 2-3 of 16
    with torch.no_grad():
        change = (tower(spot).tokens - tower(dark).tokens).norm(dim=-1).view(16, 16)
    quadrants = change.view(2, 8, 2, 8).sum((1, 3))
    assert quadrants.argmax() == 2
    assert quadrants[1, 0] > 0.5 * quadrants.sum()


def test_an_unknown_tower_is_refused():
    for config in ({"library": "timm", "name": "resnot"}, {"kwargs": {"widht": 3}},
                   {"levels": 9}, {"library": "open_clip", "name": "nothing"}):  # fmt: skip
        with pytest.raises(ConfigError) as refused:
            FrameTower(FrameTowerConfig.model_validate(config), 32)
        assert refused.value.code == "tower-unknown"


def timm_folder(folder: Path, **changes: torch.Tensor) -> FrameTowerConfig:
    torch.manual_seed(1)
    state = timm.create_model("test_resnet", num_classes=5).state_dict() | changes
    save_file(state, folder / "model.safetensors")
    return FrameTowerConfig(library="timm", name="test_resnet", weights=WeightsRef(folder=folder))


def test_weights_come_from_a_local_folder(tmp_path: Path):
    tower = FrameTower(timm_folder(tmp_path), 32)
    torch.manual_seed(1)
    donor = timm.create_model("test_resnet", num_classes=5)
    assert torch.equal(tower.network.conv1[0].weight, donor.conv1[0].weight)


def test_weights_of_another_tower_are_refused(tmp_path: Path):
    config = timm_folder(tmp_path, surplus=torch.zeros(1))
    with pytest.raises(CheckpointError) as refused:
        FrameTower(config, 32)
    assert refused.value.code == "checkpoint-keys"
    assert "surplus" in str(refused.value)


def test_open_clip_weights_fill_the_visual_tower(tmp_path: Path):
    import open_clip

    torch.manual_seed(1)
    donor = open_clip.create_model("ViT-S-32-alt", pretrained=None, force_image_size=32)
    state = {key: value.contiguous() for key, value in donor.state_dict().items()}
    save_file(state, tmp_path / "open_clip_model.safetensors")
    config = FrameTowerConfig(
        library="open_clip", name="ViT-S-32-alt", weights=WeightsRef(folder=tmp_path)
    )
    tower = FrameTower(config, 32)
    assert torch.equal(tower.network.conv1.weight, donor.visual.conv1.weight)


def test_missing_weights_are_refused(tmp_path: Path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        config = FrameTowerConfig(
            library="timm", name="test_resnet", weights=WeightsRef(folder=folder)
        )
        with pytest.raises(CheckpointError) as refused:
            FrameTower(config, 32)
        assert refused.value.code == "weights-missing"


@pytest.mark.parametrize(("convs", "reach"), [([1, 1, 1], 15), ([1, 2, 1], 23), (None, 39)])
def test_convolutions_a_stage_decide_how_far_a_patch_sees(convs, reach):
    # 3 x 3 convolutions of stride 2, 4, 8: each adds twice the stride before it.
    net = PlainConv(width=2, stages=3, convs=convs).eval()
    for module in net.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.constant_(module.weight, 0.1)
    frames = torch.ones(1, 3, 96, 96, requires_grad=True)
    net(frames)[-1][0, 0, 6, 6].backward()
    seen = (frames.grad[0, 0].abs().sum(0) > 0).nonzero()
    assert int(seen.max() - seen.min()) + 1 == reach


def test_a_plain_net_needs_a_number_for_every_stage():
    with pytest.raises(ConfigError, match="tower-unknown"):
        FrameTower(FrameTowerConfig(kwargs={"stages": 3, "convs": [1, 2]}), 32)


@torch.no_grad()
def test_merged_levels_say_how_much_is_seen_and_never_less_than_nothing() -> None:
    """As every level of a convolutional tower: zero is silence, and pooled peaks start there."""
    tokens = build("plain, two levels")(torch.randn(3, 3, 32, 32)).tokens
    assert tokens.min() == 0
    assert tokens.max() > 0
