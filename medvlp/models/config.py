"""What a model is made of, as data. Imports no torch."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from medvlp.config import Config

_COMMIT = re.compile(r"^[0-9a-f]{40}$")


class WeightsRef(Config):
    """Where pretrained weights come from: a local folder, or a hub repository at one commit."""

    folder: Path | None = None
    hub: str | None = None
    """`owner/name` on the Hugging Face hub."""
    revision: str | None = None
    """Full commit hash; a branch name can change under us and is refused."""

    @model_validator(mode="after")
    def _one_place(self) -> WeightsRef:
        if (self.folder is None) == (self.hub is None):
            raise ValueError("name either a folder or a hub repository")
        if self.hub is not None and not _COMMIT.match(self.revision or ""):
            raise ValueError("a hub repository needs `revision`, a 40-digit commit hash")
        return self


class PreprocessConfig(Config):
    """From stored pixels to the tower's input; the same in training and inference."""

    size: PositiveInt = 96
    """Height and width of a frame after padding to a square and resizing, pixels."""
    hu_windows: tuple[tuple[float, float], tuple[float, float], tuple[float, float]] = (
        (-600.0, 1500.0),
        (40.0, 400.0),
        (300.0, 1500.0),
    )
    """Lung, soft tissue and bone as (centre, width) in HU; they become the three channels."""
    percentiles: tuple[float, float] = (0.5, 99.5)
    """Grey values mapped to black and white where the header names no window."""
    standardise: Literal["fixed", "frame"] = "frame"
    """`fixed`: one mean and deviation for all; `frame`: each frame to zero mean, unit deviation."""


class FrameTowerConfig(Config):
    """The 2D tower that sees one frame."""

    library: Literal["plain", "timm", "open_clip"] = "plain"
    """`plain`: our small convolutional net, the best start from scratch on a few cores."""
    name: str = "conv"
    """Of the library's models; `conv` is the only plain one."""
    kwargs: dict[str, Any] = Field(default_factory=dict)
    """Passed to the model's builder; `plain` takes `width` and `stages`."""
    levels: PositiveInt = 1
    """Feature levels that are merged into the patch tokens: each further one doubles the grid
    (convolutional towers only)."""
    weights: WeightsRef | None = None
    """Pretrained weights; None starts from scratch."""


class TextTowerConfig(Config):
    """The text tower: a small BERT from scratch, or any Hugging Face encoder."""

    layers: PositiveInt = 2
    width: PositiveInt = 128
    heads: PositiveInt = 4
    vocabulary: PositiveInt = 2048
    """Most word pieces in the vocabulary trained on the dataset."""
    max_tokens: PositiveInt = 128
    dropout: float = Field(default=0.0, ge=0, lt=1)
    pooling: Literal["mean", "cls"] = "mean"
    hf: WeightsRef | None = None
    """A Hugging Face encoder with its tokenizer; replaces the small BERT."""


class PoolingConfig(Config):
    """How patches become a frame and frames a sample."""

    heads: PositiveInt = 4
    hidden: PositiveInt = 64
    """Width of the attention scorer."""
    frequencies: PositiveInt = 16
    """Sine-cosine pairs of the position encoding."""
    wavelengths: tuple[PositiveFloat, PositiveFloat] = (2.0, 2000.0)
    """Shortest and longest wavelength of the position encoding, mm or s."""
    statistics: tuple[Literal["mean", "top", "attention"], ...] = ("mean", "top", "attention")
    """What is summed into the pooled vector; `top` (the largest values of each frame, of all frames
    the largest) sees a lesion that fills few patches of few slices."""

    @model_validator(mode="after")
    def _something(self) -> PoolingConfig:
        if not self.statistics or len(set(self.statistics)) != len(self.statistics):
            raise ValueError("statistics must name at least one, each once")
        return self


class ModelConfig(Config):
    """The whole vision-language model."""

    embed_dim: PositiveInt = 128
    preprocess: PreprocessConfig = PreprocessConfig()
    frames: FrameTowerConfig = FrameTowerConfig()
    pooling: PoolingConfig = PoolingConfig()
    text: TextTowerConfig = TextTowerConfig()
