"""The tower of frames: frames to patch tokens. Any timm or open_clip tower by name, or a 3D one."""

from __future__ import annotations

from typing import Any, NamedTuple

import open_clip
import timm
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from medvlp.errors import ConfigError
from medvlp.models.config import FrameTowerConfig
from medvlp.models.plain import PlainConv
from medvlp.models.volumes import VolumeTower
from medvlp.models.weights import load_tower_weights


class Patches(NamedTuple):
    """Patch tokens of n frames, row by row of the grid."""

    tokens: Float[Tensor, "n p d"]
    grid: tuple[int, int]
    """(gh, gw) with gh * gw = p."""
    vector: Float[Tensor, "n v"] | None = None
    """The tower's own vector of each frame; None unless the config asks for it."""


class FrameTower(nn.Module):
    """A network that turns each frame into a grid of patch tokens.

    A 2D network sees a frame by itself; one of `monai` sees all frames of a sample together.

    Args:
        config: Library, name and arguments.
        size: Height and width of a frame, pixels.
        pretrained: Load `config.weights`; False where a checkpoint follows anyway.
    """

    def __init__(self, config: FrameTowerConfig, size: int, *, pretrained: bool = True) -> None:
        super().__init__()
        self.library = config.library
        self.has_vector = config.vector == "tower"
        self.network: Any = _build(config, size)
        if pretrained and config.weights is not None:
            inner = self.network.network if self.by_sample else self.network
            load_tower_weights(inner, config.weights, config.library)
        self.prefix_tokens = int(getattr(self.network, "num_prefix_tokens", 0))
        if not self.by_sample:
            self.to(memory_format=torch.channels_last)
        widths, self.vector_dim = self._probe(size)
        self.dim = widths[-1]
        # Earlier levels are brought to the width of the last and added to it, upsampled.
        self.laterals = nn.ModuleList(nn.Conv2d(width, self.dim, 1) for width in widths[:-1])

    @property
    def by_sample(self) -> bool:
        """Whether the frames of a sample must come together."""
        return self.library == "monai"

    def forward(
        self,
        frames: Float[Tensor, "n 3 s s"],
        offsets: Int[Tensor, " bounds"] | None = None,
        positions: Float[Tensor, " n"] | None = None,
    ) -> Patches:
        """Patch tokens of every frame; they do not depend on frames of other samples.

        Args:
            frames: Normalised.
            offsets: Sample i owns frames offsets[i]:offsets[i + 1]; None: each is a sample. Only a
                3D network looks at it.
            positions: Millimetres or seconds; likewise.
        """
        channels_last = frames.contiguous(memory_format=torch.channels_last)
        levels, vector = self._run(channels_last, offsets, positions)
        top = levels[-1]
        for lateral, level in zip(reversed(self.laterals), reversed(levels[:-1]), strict=True):
            up = functional.interpolate(top, size=level.shape[-2:], mode="nearest")
            top = lateral(level) + up
        if self.laterals:
            top = functional.relu(top)
        grid = (int(top.shape[-2]), int(top.shape[-1]))
        return Patches(top.flatten(2).transpose(1, 2), grid, vector)

    def _run(
        self,
        frames: Float[Tensor, "n 3 s s"],
        offsets: Int[Tensor, " bounds"] | None = None,
        positions: Float[Tensor, " n"] | None = None,
    ) -> tuple[list[Tensor], Tensor | None]:
        """Feature maps [n, c, h, w], coarsest last, and the tower's own vectors."""
        if self.by_sample:
            if offsets is None or positions is None:
                offsets = torch.arange(len(frames) + 1, device=frames.device)
                positions = torch.zeros(len(frames), device=frames.device)
            return self.network(frames, offsets, positions), None
        if self.library != "open_clip":
            return self._levels(frames), None
        out = self.network.forward_intermediates(
            frames,
            indices=1,
            normalize_intermediates=True,
            intermediates_only=not self.has_vector,
        )
        return [out["image_intermediates"][-1]], out.get("image_features")

    def _levels(self, frames: Float[Tensor, "n 3 s s"]) -> list[Tensor]:
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

    def _probe(self, size: int) -> tuple[list[int], int]:
        """Widths of the levels and of the tower's own vector, by one forward without a trace."""
        training = self.training
        self.eval()
        with torch.no_grad():
            levels, vector = self._run(torch.zeros(1, 3, size, size))
        self.train(training)
        return [int(level.shape[1]) for level in levels], 0 if vector is None else vector.shape[1]


def _build(config: FrameTowerConfig, size: int) -> Any:
    try:
        if config.library == "plain":
            return PlainConv(levels=config.levels, **config.kwargs)
        if config.library == "monai":
            return VolumeTower(config.name, levels=config.levels, **config.kwargs)
        if config.library == "open_clip":
            known = open_clip.get_model_config(config.name) or {}
            return _open_clip_tower({**known, **config.kwargs}, size)
        if config.levels > 1:
            return timm.create_model(
                config.name,
                features_only=True,
                out_indices=tuple(range(-config.levels, 0)),
                **config.kwargs,
            )
        return timm.create_model(config.name, num_classes=0, global_pool="", **config.kwargs)
    except (
        RuntimeError, TypeError, ValueError, KeyError, AttributeError, AssertionError
    ) as error:  # fmt: skip
        raise ConfigError(
            "the frame tower cannot be built",
            code="tower-unknown",
            got=f"{config.library} {config.name}: {type(error).__name__}",
            next_step=f"see the models of {config.library} and their arguments",
        ) from error


def _open_clip_tower(config: dict[str, Any], size: int) -> Any:
    """The visual tower of an open_clip model config, without weights.

    Only what is public of open_clip makes towers, and only in pairs: a text tower of no size comes
    with it and is dropped. `create_model` would make the whole text tower, and for some names fetch
    it from the hub at no fixed revision.
    """
    vision = {**config["vision_cfg"], "timm_model_pretrained": False, "patch_dropout": 0.0}
    if vision.get("attentional_pool"):
        raise ValueError("an attentional pool has no patch tokens of the tower's width")
    resized = vision.get("image_size", 224) != size
    text = {"context_length": 1, "vocab_size": 1, "width": 8, "heads": 1, "layers": 1}
    tower = open_clip.CLIP(
        config["embed_dim"],
        {**vision, "image_size": size},
        text,
        quick_gelu=config.get("quick_gelu", False),
    ).visual
    if resized and hasattr(tower, "set_input_size"):
        tower.set_input_size(size)
    return tower
