"""Random changes of a batch: geometry and intensity, the same for all frames of a sample."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor
from torch.nn import functional

from pretrain.config import AugmentConfig


def augment(
    frames: UInt8[Tensor, "n c s s"],
    owner: Int[Tensor, " n"],
    flippable: Bool[Tensor, " b"],
    config: AugmentConfig,
    generator: torch.Generator,
) -> Float[Tensor, "n c s s"]:
    """Frames in [0, 1] after one random affine map and one random intensity curve a sample.

    Args:
        frames: As cached.
        owner: Which sample each frame belongs to.
        flippable: Samples in which nothing depends on the side.
        config: How much.
        generator: On the CPU; decides everything.
    """
    b = len(flippable)
    theta = _affine(b, flippable.cpu(), config, generator).to(frames.device)
    values = frames.float() / 255
    grid = functional.affine_grid(theta[owner], list(values.shape), align_corners=False)
    values = functional.grid_sample(values, grid, padding_mode="zeros", align_corners=False)
    values = _intensity(values, owner, b, config, generator)
    if config.erase:
        values = _erase(values, owner, b, config.erase, generator)
    return values


def _uniform(b: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    return torch.rand(b, generator=generator) * (high - low) + low


def _affine(
    b: int, flippable: Bool[Tensor, " b"], config: AugmentConfig, generator: torch.Generator
) -> Float[Tensor, "b 2 3"]:
    """Output to input coordinates: crop, stretch, rotate, shift, flip."""
    side = _uniform(b, *config.scale, generator).sqrt()
    bound = math.log(config.aspect)
    stretch = _uniform(b, -bound, bound, generator).exp().sqrt()
    width, height = side * stretch, side / stretch
    room_x = (1 - width).clamp(min=0) + config.shift
    room_y = (1 - height).clamp(min=0) + config.shift
    x = _uniform(b, -1, 1, generator) * room_x
    y = _uniform(b, -1, 1, generator) * room_y
    angle = _uniform(b, -1, 1, generator) * math.radians(config.rotate)
    flip = (_uniform(b, 0, 1, generator) < 0.5) & flippable
    sign = torch.where(flip, -1.0, 1.0)
    cos, sin = angle.cos(), angle.sin()
    return torch.stack(
        [
            torch.stack([cos * width * sign, -sin * height, x], 1),
            torch.stack([sin * width * sign, cos * height, y], 1),
        ],
        1,
    )


def _intensity(
    values: Float[Tensor, "n c s s"],
    owner: Int[Tensor, " n"],
    b: int,
    config: AugmentConfig,
    generator: torch.Generator,
) -> Float[Tensor, "n c s s"]:
    """Gamma, contrast about each frame's own mean, brightness."""

    def spread(width: float) -> Tensor:
        drawn = _uniform(b, -width, width, generator).to(values.device)
        return drawn[owner][:, None, None, None]

    if config.gamma:
        # The bound keeps the power's gradient and value finite at black.
        values = values.clamp(1e-4, 1).pow(spread(config.gamma).exp())
    if config.contrast or config.brightness:
        mean = values.mean((1, 2, 3), keepdim=True)
        scale = 1 + spread(config.contrast)
        values = (values - mean) * scale + mean + spread(config.brightness)
    return values


def _erase(
    values: Float[Tensor, "n c s s"],
    owner: Int[Tensor, " n"],
    b: int,
    probability: float,
    generator: torch.Generator,
) -> Float[Tensor, "n c s s"]:
    """Blank one rectangle of 15 to 40 % of the side in some samples."""
    size = values.shape[-1]
    hit = _uniform(b, 0, 1, generator) < probability
    extent = (_uniform(2 * b, 0.15, 0.4, generator) * size).view(2, b)
    start = torch.rand(2, b, generator=generator) * (size - extent)
    line = torch.arange(size)
    inside = [
        (line >= start[axis][:, None]) & (line < (start[axis] + extent[axis])[:, None])
        for axis in (0, 1)
    ]
    mask = inside[0][:, :, None] & inside[1][:, None, :] & hit[:, None, None]
    return values.masked_fill(mask.to(values.device)[owner][:, None], 0.0)
