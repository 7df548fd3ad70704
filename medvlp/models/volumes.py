"""The native 3D tower: frames of a sample are seen together, by a MONAI network.

Frames lie where they lie; a 3D convolution needs a regular stack. Frames of a sample are brought
to evenly spaced slices, the network sees the stack, and its maps are read where the frames were:
every frame gets its own maps, as from a 2D tower, so that pooling, patches and grounding do not
know the difference. An image is a stack of one slice.

The norms are group norms: no sample depends on others, in training as in use. MONAI's ResNets are
left out: whatever `norm` says, their blocks have batch norm (MONAI 1.6.1).
"""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

_PROBE = 64
"""Slices of the stack by which a network's strides along the depth are measured."""


class Stack(NamedTuple):
    """A sample's frames between evenly spaced slices, and the way back."""

    into: Float[Tensor, "slices n"]
    """Row by row, how much each frame counts in a slice; sums to 1."""
    places: Float[Tensor, " n"]
    """Where each frame lies, counted in slices."""


class VolumeTower(nn.Module):
    """A MONAI encoder over the frames of each sample, with one map a frame.

    Args:
        name: `unet` (convolutions with a stride, twice a stage) or `segresnet`.
        levels: How many of the last stages' maps are returned.
        depth: Most slices of a stack.
        spacing: Distance of slices, mm or s, where the stack holds them all; None: as many slices
            as frames.
        kwargs: Of the network (see `_unet` and MONAI's `SegResEncoder`).
    """

    def __init__(
        self,
        name: str,
        *,
        levels: int = 1,
        depth: int = 64,
        spacing: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__()
        if depth < 1 or (spacing is not None and spacing <= 0):
            raise ValueError("depth and spacing must be positive")
        self.depth, self.spacing, self.levels = depth, spacing, levels
        self.network: nn.Module = _build(name, kwargs)
        strides = _depth_strides(self.network)
        if not 1 <= levels <= len(strides):
            raise ValueError("levels must be between 1 and the network's stages")
        self.strides = strides[-levels:]

    def forward(
        self,
        frames: Float[Tensor, "n 3 s s"],
        offsets: Int[Tensor, " bounds"],
        positions: Float[Tensor, " n"],
    ) -> list[Tensor]:
        """Maps [n, c, h, w] of every frame, coarsest last.

        Args:
            frames: Of all samples in a row.
            offsets: Sample i owns frames offsets[i]:offsets[i + 1].
            positions: Millimetres or seconds, in any order.
        """
        bounds = list(itertools.pairwise(offsets.tolist()))
        stacks = [stack(positions[i:j].float(), self.depth, self.spacing) for i, j in bounds]
        volumes = [
            torch.einsum("dn,nchw->cdhw", to.into.to(frames.dtype), frames[i:j])
            for to, (i, j) in zip(stacks, bounds, strict=True)
        ]
        read: list[list[Tensor]] = [[] for _ in bounds]
        for group in _of_one_depth(volumes):
            maps = self.network(torch.stack([volumes[i] for i in group]))[-self.levels :]
            for level, stride in zip(maps, self.strides, strict=True):
                for i, volume in zip(group, functional.relu(level), strict=True):
                    back = between(stacks[i].places / stride, volume.shape[1])
                    read[i].append(torch.einsum("nd,cdhw->nchw", back.to(volume.dtype), volume))
        return [torch.cat(level) for level in zip(*read, strict=True)]


def stack(positions: Float[Tensor, " n"], depth: int, spacing: float | None) -> Stack:
    """How frames become evenly spaced slices.

    Slice d lies at t_d, between frames that are g_d apart; slices are h apart. A frame at p counts
    in it by max(0, 1 - |p - t_d| / max(g_d, h)), made to sum to 1: linear interpolation where
    slices are denser than frames, an average of all frames nearby where they are not. No frame
    within the stack is skipped, so a lesion on one frame of many is seen.

    Args:
        positions: Of one sample, in any order; where all are equal, the order is all there is.
        depth: Most slices.
        spacing: Wanted distance of slices; None: as many slices as frames.
    """
    n = len(positions)
    low, high = float(positions.min()), float(positions.max())
    if high == low:
        positions, low, high = torch.arange(n).to(positions), 0.0, float(n - 1)
        spacing = None
    count = n if spacing is None else round((high - low) / spacing) + 1
    count = max(1, min(count, depth))
    if n == 1:
        return Stack(positions.new_ones(1, 1), positions.new_zeros(1))
    if count == 1:
        return Stack(positions.new_full((1, n), 1 / n), positions.new_zeros(n))
    step = (high - low) / (count - 1)
    # Counted in slices, so that metres and millimetres round alike.
    places = (positions - low) / step
    slices = torch.arange(count).to(places)
    ordered = places.sort().values
    right = torch.searchsorted(ordered, slices).clamp(1, n - 1)
    width = (ordered[right] - ordered[right - 1]).clamp(min=1)
    hat = (1 - (places - slices[:, None]).abs() / width[:, None]).clamp(min=0)
    return Stack(hat / hat.sum(1, keepdim=True), places)


def between(places: Float[Tensor, " n"], count: int) -> Float[Tensor, "n d"]:
    """Linear interpolation among `count` slices: rows of weights; the ends are held."""
    slices = torch.arange(count).to(places)
    near = places.clamp(0, count - 1)
    return (1 - (near[:, None] - slices).abs()).clamp(min=0)


def _of_one_depth(volumes: list[Tensor]) -> list[list[int]]:
    """Which samples can go through the network together."""
    groups: dict[int, list[int]] = {}
    for i, volume in enumerate(volumes):
        groups.setdefault(volume.shape[1], []).append(i)
    return list(groups.values())


def _depth_strides(network: nn.Module) -> list[int]:
    """How many slices of the input one slice of each level stands for."""
    network.eval()
    with torch.no_grad():
        levels = network(torch.zeros(1, 3, _PROBE, 32, 32))
    network.train()
    return [_PROBE // level.shape[2] for level in levels]


def _build(name: str, kwargs: dict[str, Any]) -> nn.Module:
    # MONAI takes many seconds to import: only who asks for it pays.
    if name == "unet":
        return _UNetEncoder(**kwargs)
    if name == "segresnet":
        from monai.networks.nets.segresnet_ds import SegResEncoder

        given = {key: tuple(v) if isinstance(v, list) else v for key, v in kwargs.items()}
        settings: dict[str, Any] = {"norm": ("group", {"num_groups": 8}), "init_filters": 16}
        settings |= given
        network: nn.Module = SegResEncoder(3, in_channels=3, **settings)
        return network
    raise ValueError("the 3D networks are unet and segresnet")


class _UNetEncoder(nn.Module):
    """The way down of a U-Net, of MONAI's convolution blocks; each stage halves rows and columns.

    Args:
        width: Channels of the first stage; each further one has twice as many.
        stages: The last one has a stride of 2 ** stages.
        depth_strides: Of each stage; None: slices, which are thick, are kept apart.
        groups: Of each norm.
    """

    def __init__(
        self,
        *,
        width: int = 16,
        stages: int = 4,
        depth_strides: list[int] | tuple[int, ...] | None = None,
        groups: int = 4,
    ) -> None:
        from monai.networks.blocks.convolutions import Convolution

        super().__init__()
        along = list(depth_strides or [1] * stages)
        if len(along) != stages:
            raise ValueError("depth_strides must hold a number for every stage")
        norm = ("group", {"num_groups": groups})
        shared: dict[str, Any] = {"norm": norm, "act": ("relu", {"inplace": True}), "bias": False}
        blocks = []
        before = 3
        for stage, stride in enumerate(along):
            after = width * 2**stage
            down = Convolution(3, before, after, strides=(stride, 2, 2), **shared)
            blocks.append(nn.Sequential(down, Convolution(3, after, after, **shared)))
            before = after
        self.stages = nn.ModuleList(blocks)

    def forward(self, volume: Float[Tensor, "g 3 d h w"]) -> list[Tensor]:
        """Maps of every stage, coarsest last."""
        maps = []
        for stage in self.stages:
            volume = stage(volume)
            maps.append(volume)
        return maps
