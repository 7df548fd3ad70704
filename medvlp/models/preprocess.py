"""From stored pixels to uint8 frames, and from a heat map back to the stored pixels.

One code path for training and inference, deterministic per visual: CT in Hounsfield units is
shown through three windows as three channels, other grey is replicated, colour is kept. Frames
are padded to a square (nothing is cropped or distorted) and resized with antialiasing.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional

from medvlp.models.config import PreprocessConfig
from medvlp.types import Visual

_CHUNK_VALUES = 64 * 512 * 512
"""Pixels that are worked on at once, so that a long series needs little memory."""
_PERCENTILE_VALUES = 4_000_000


def preprocess(visual: Visual, config: PreprocessConfig) -> UInt8[Tensor, "n 3 s s"]:
    """The tower's input of one visual, still as bytes so that it can be cached.

    Args:
        visual: n frames of h x w pixels.
        config: Size and windows.

    Returns:
        uint8 [n, 3, s, s].
    """
    n, h, w = visual.frames.shape[:3]
    windows = _windows(visual, config)
    step = max(1, _CHUNK_VALUES // (h * w * 3))
    parts = [_frames(visual.frames[i : i + step], windows, config.size) for i in range(0, n, step)]
    return torch.cat(parts)


def normalise(
    frames: UInt8[Tensor, "n 3 s s"] | Float[Tensor, "n 3 s s"], config: PreprocessConfig
) -> Float[Tensor, "n 3 s s"]:
    """Float frames with about zero mean and unit deviation.

    Args:
        frames: uint8, or float in [0, 1] (after augmentation).
        config: Says whether one scale serves all frames, or each frame has its own.
    """
    values = frames.float() / 255 if frames.dtype == torch.uint8 else frames
    if config.standardise == "fixed":
        fixed = values.new_tensor([config.mean, config.deviation])[:, :, None, None]
        return (values - fixed[0]) / fixed[1]
    mean = values.mean(dim=(1, 2, 3), keepdim=True)
    deviation = values.std(dim=(1, 2, 3), keepdim=True)
    # A constant frame has deviation 0: it becomes 0, not noise blown up.
    return (values - mean) / (deviation + 1e-2)


def heat_to_original(heat: Float[Tensor, "gh gw"], shape: tuple[int, int]) -> Float[Tensor, "h w"]:
    """A patch grid's values at the pixels of the stored frame: undoes resize and padding.

    Args:
        heat: One value a patch, over the padded square.
        shape: (h, w) of the stored frame.
    """
    h, w = shape
    side = max(h, w)
    square = functional.interpolate(
        heat[None, None].float(), size=(side, side), mode="bilinear", align_corners=False
    )[0, 0]
    top, left = (side - h) // 2, (side - w) // 2
    return square[top : top + h, left : left + w]


def _windows(visual: Visual, config: PreprocessConfig) -> list[tuple[float, float]] | None:
    """(low, high) for each of the three channels; None for colour, which is kept."""
    if visual.frames.ndim == 4:
        return None
    if visual.unit == "HU":
        return [(c - width / 2, c + width / 2) for c, width in config.hu_windows]
    if visual.window is not None and visual.window[1] > 0:
        centre, width = visual.window
        return [(centre - width / 2, centre + width / 2)]
    flat = visual.frames.reshape(-1)
    stride = max(1, flat.size // _PERCENTILE_VALUES)
    values = flat[::stride]
    if values.dtype.kind == "f":
        values = values[np.isfinite(values)]
    if values.size == 0:
        return [(0.0, 1.0)]
    low, high = np.percentile(values, config.percentiles)
    return [(float(low), float(high))]


def _frames(
    stored: np.ndarray, windows: list[tuple[float, float]] | None, size: int
) -> UInt8[Tensor, "n 3 s s"]:
    if windows is None:
        values = torch.from_numpy(stored.astype(np.float32)).permute(0, 3, 1, 2)
    else:
        grey = np.nan_to_num(stored.astype(np.float32))
        values = torch.from_numpy(np.stack([_to_bytes(grey, *window) for window in windows], 1))
    resized = _square(values, size)
    bytes_ = resized.round_().clamp_(0, 255).to(torch.uint8)
    return bytes_.expand(-1, 3, -1, -1).contiguous()


def _to_bytes(grey: np.ndarray, low: float, high: float) -> np.ndarray:
    """Linear in the window, 0 below and 255 above; a constant image becomes 0."""
    return np.clip((grey - low) * (255.0 / max(high - low, 1e-6)), 0, 255)


def _square(values: Float[Tensor, "n c h w"], size: int) -> Float[Tensor, "n c s s"]:
    h, w = values.shape[-2:]
    side = max(h, w)
    top, left = (side - h) // 2, (side - w) // 2
    padded = functional.pad(values, (left, side - w - left, top, side - h - top))
    if side == size:
        return padded
    return functional.interpolate(
        padded, size=(size, size), mode="bilinear", align_corners=False, antialias=True
    )
