"""The 2D tower: frames to patch tokens. Any timm or open_clip visual tower by name."""

from __future__ import annotations

from typing import Any, NamedTuple

import open_clip
import timm
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from medvlp.errors import ConfigError
from medvlp.models.config import FrameTowerConfig
from medvlp.models.plain import PlainConv
from medvlp.models.weights import load_tower_weights


class Patches(NamedTuple):
    """Patch tokens of n frames, row by row of the grid."""

    tokens: Float[Tensor, "n p d"]
    grid: tuple[int, int]
    """(gh, gw) with gh * gw = p."""


class FrameTower(nn.Module):
    """A 2D network that turns each frame into a grid of patch tokens.

    Args:
        config: Library, name and arguments.
        size: Height and width of a frame, pixels.
        pretrained: Load `config.weights`; False where a checkpoint follows anyway.
    """

    def __init__(self, config: FrameTowerConfig, size: int, *, pretrained: bool = True) -> None:
        super().__init__()
        self.library = config.library
        self.network: Any = _build(config, size)
        if pretrained and config.weights is not None:
            load_tower_weights(self.network, config.weights, config.library)
        self.prefix_tokens = int(getattr(self.network, "num_prefix_tokens", 0))
        self.to(memory_format=torch.channels_last)
        widths = self._probe(size)
        self.dim = widths[-1]
        # Earlier levels are brought to the width of the last and added to it, upsampled.
        self.laterals = nn.ModuleList(nn.Conv2d(width, self.dim, 1) for width in widths[:-1])

    def forward(self, frames: Float[Tensor, "n 3 s s"]) -> Patches:
        """Patch tokens of every frame; a frame's tokens do not depend on the other frames."""
        levels = self._levels(frames.contiguous(memory_format=torch.channels_last))
        top = levels[-1]
        for lateral, level in zip(reversed(self.laterals), reversed(levels[:-1]), strict=True):
            up = functional.interpolate(top, size=level.shape[-2:], mode="nearest")
            top = lateral(level) + up
        if self.laterals:
            top = functional.relu(top)
        grid = (int(top.shape[-2]), int(top.shape[-1]))
        return Patches(top.flatten(2).transpose(1, 2), grid)

    def _levels(self, frames: Float[Tensor, "n 3 s s"]) -> list[Tensor]:
        """Feature maps [n, c, h, w], coarsest last."""
        if self.library == "open_clip":
            out = self.network.forward_intermediates(
                frames, indices=1, normalize_intermediates=True, intermediates_only=True
            )
            return [out["image_intermediates"][-1]]
        if self.library == "plain" or not hasattr(self.network, "forward_features"):
            return list(self.network(frames))
        out = self.network.forward_features(frames)
        if out.ndim == 4:
            # Windowed transformers of timm keep channels last.
            width = self.network.num_features
            return [out if out.shape[1] == width else out.permute(0, 3, 1, 2)]
        tokens = out[:, self.prefix_tokens :]
        side = round(tokens.shape[1] ** 0.5)
        return [tokens.transpose(1, 2).unflatten(2, (side, -1))]

    def _probe(self, size: int) -> list[int]:
        """Widths of the levels, by one forward that leaves no trace."""
        training = self.training
        self.eval()
        with torch.no_grad():
            widths = [int(level.shape[1]) for level in self._levels(torch.zeros(1, 3, size, size))]
        self.train(training)
        return widths


def _build(config: FrameTowerConfig, size: int) -> Any:
    try:
        if config.library == "plain":
            return PlainConv(levels=config.levels, **config.kwargs)
        if config.library == "open_clip":
            model = open_clip.create_model(
                config.name, pretrained=None, force_image_size=size, **config.kwargs
            )
            return model.visual
        if config.levels > 1:
            return timm.create_model(
                config.name,
                features_only=True,
                out_indices=tuple(range(-config.levels, 0)),
                **config.kwargs,
            )
        return timm.create_model(config.name, num_classes=0, global_pool="", **config.kwargs)
    except (RuntimeError, TypeError, ValueError, AttributeError, AssertionError) as error:
        raise ConfigError(
            "the frame tower cannot be built",
            code="tower-unknown",
            got=f"{config.library} {config.name}: {type(error).__name__}",
            next_step=f"see {config.library}.list_models() and the arguments of the model",
        ) from error
