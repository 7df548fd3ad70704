"""What a model is made of, as data. Imports no torch."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

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
    mean: tuple[float, float, float] = (0.45, 0.45, 0.45)
    """Of each channel, in [0, 1]; with `fixed` only. The default suits grey medical frames."""
    deviation: tuple[PositiveFloat, PositiveFloat, PositiveFloat] = (0.25, 0.25, 0.25)


class FrameTowerConfig(Config):
    """The tower that sees frames: one by one, or with `monai` all of a sample together."""

    library: Literal["plain", "timm", "open_clip", "monai"] = "plain"
    """`plain`: our small convolutional net, the best start from scratch on a few cores; `monai`: a
    3D network over evenly spaced slices."""
    name: str = Field(default="conv", pattern=r"^[^:]+$")
    """Of the library's models; `conv` is the only plain one, `monai` has `unet` and `segresnet`."""
    kwargs: dict[str, Any] = Field(default_factory=dict)
    """Passed to the model's builder; `plain` takes `width` and `stages`, `monai` also `depth` (most
    slices) and `spacing` (their distance, mm or s)."""
    levels: PositiveInt = 1
    """Feature levels that are merged into the patch tokens: each further one doubles the grid
    (convolutional towers only)."""
    weights: WeightsRef | None = None
    """Pretrained weights; None starts from scratch."""
    vector: Literal["patches", "tower"] = "patches"
    """What a sample's vector is pooled from: the patches of its frames, or the tower's own vector
    of each frame (class token or attention pool, projected; open_clip only). The tower's own lies
    in the joint space already: nothing is normed or projected after it."""

    @model_validator(mode="after")
    def _nothing_unpinned(self) -> FrameTowerConfig:
        named = [key for key in self.kwargs if key.startswith(("pretrained", "checkpoint"))]
        if named:
            raise ValueError(
                f"kwargs must not name {named[0]}: `weights` says where they come from"
            )
        if self.vector == "tower" and self.library != "open_clip":
            raise ValueError("`vector: tower` needs a tower of open_clip")
        return self


class TextTowerConfig(Config):
    """The text tower: a small BERT from scratch, or any Hugging Face encoder."""

    layers: PositiveInt = 2
    width: PositiveInt = 128
    heads: PositiveInt = 4
    vocabulary: PositiveInt = 2048
    """Most word pieces in the vocabulary trained on the dataset."""
    max_tokens: PositiveInt = 128
    dropout: float = Field(default=0.0, ge=0, lt=1)
    pooling: Literal["mean", "cls", "pooler"] = "mean"
    """What of an encoder's output is a text's vector; `pooler`: the encoder's own head says it."""
    hf: WeightsRef | None = None
    """A Hugging Face encoder with its tokenizer; replaces the small BERT. With `model.start`: only
    the encoder's config and tokenizer, where the start has none."""
    projection: Literal["normed", "linear", "mlp", "none"] = "normed"
    """How a text's vector gets into the joint space. `normed`: batch norm, then linear, the best
    start from scratch; the others are what open_clip's checkpoints have."""
    library: Literal["hf", "open_clip"] = "hf"
    """`open_clip`: its own text transformer. Written by `model.start`."""
    architecture: dict[str, Any] | None = None
    """A Hugging Face config, or open_clip's `text_cfg`. Written by `model.start`."""


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
    slices: Literal["gated", "self_attention", "learned", "mean"] = "gated"
    """How the attention statistic of frames becomes a sample's. `gated`: each frame is weighed by
    itself; `self_attention`: slices see each other and their positions, as in RadCLIP (which has
    nothing else: `statistics: [attention]`); `learned`: by one learned query; `mean`: all count
    alike and positions do not matter."""
    layers: PositiveInt = 1
    """Of `self_attention`."""
    readout: Literal["learned", "mean"] = "learned"
    """What follows `self_attention`: a learned query, or the mean."""
    checkpoint_frames: PositiveInt | None = None
    """Training: at most about so many frames go through the tower at once, and their activations
    are computed again for the gradient instead of kept. A tower with batch norm then normalises
    by the frames of each part. None: all frames at once."""

    @model_validator(mode="after")
    def _something(self) -> PoolingConfig:
        if not self.statistics or len(set(self.statistics)) != len(self.statistics):
            raise ValueError("statistics must name at least one, each once")
        return self


class StreamsConfig(Config):
    """Two query decoders: concepts are read in a pathology stream, regions in an anatomy stream."""

    layers: PositiveInt = 2
    """Of each decoder; MeDSLIP has 4."""
    heads: PositiveInt = 4
    width: PositiveInt = 64
    """Of queries and of both streams; MeDSLIP has 256."""
    ffn: PositiveInt = 256
    """Hidden width of a decoder's feed-forward part; MeDSLIP has 1024."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """In attention and feed-forward parts; MeDSLIP has 0.1."""
    gate: Literal["sigmoid", "linear", "none"] = "sigmoid"
    """How a patch is shared out between the streams. `linear`: without a bound, as in MeDSLIP's
    code; `none`: both streams see the whole patch."""
    grid: PositiveInt = 12
    """Patches of a frame are averaged to at most so many rows and columns."""
    self_attention: bool = False
    """Queries see each other, as in DETR and MeDSLIP. An answer then depends on what else is
    asked."""
    frequencies: PositiveInt = 8
    """Sine-cosine pairs of each of the three position encodings: row, column and frame."""
    wavelengths: tuple[PositiveFloat, PositiveFloat] = (2.0, 2000.0)
    """Shortest and longest wavelength of the frame's position, mm or s."""

    @model_validator(mode="after")
    def _heads_divide(self) -> StreamsConfig:
        if self.width % self.heads:
            raise ValueError(f"{self.heads} heads do not divide a width of {self.width}")
        return self


class AnswerConfig(Config):
    """How the trained model is asked: what makes up a zero-shot score, and what draws a map.

    Part of the model: a query that was never trained answers at random.
    """

    vector: NonNegativeFloat = 1.0
    """Weight of the cosine of the vectors of a visual and a text."""
    evidence: NonNegativeFloat = 0.0
    """Weight of the evidence for a text in the patches."""
    source: Literal["patches", "queries"] = "patches"
    """`patches`: evidence is late interaction (`medvlp.models.evidence`), the map the product of
    patch and text. `queries`: the text is a knowledge query of the pathology stream, evidence the
    probability that it gives, the map its attention."""


class FusionConfig(Config):
    """Co-attention of one visual's cells and one text's words."""

    layers: PositiveInt = 2
    """M3AE has 6, of width 768."""
    heads: PositiveInt = 4
    width: PositiveInt = 64
    grid: PositiveInt = 6
    """Patches of a frame are averaged to at most so many rows and columns of cells."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    knowledge: bool = False
    """Vectors of the named concepts are added to their words, as in ARL."""

    @model_validator(mode="after")
    def _divides(self) -> FusionConfig:
        if self.width % self.heads:
            raise ValueError(f"{self.heads} heads do not divide a width of {self.width}")
        if self.width % 4:
            raise ValueError("width must be a multiple of 4: sine and cosine of row and column")
        return self


class ModelConfig(Config):
    """The whole vision-language model."""

    start: WeightsRef | None = None
    """An open_clip model as it lies on the hub (`open_clip_config.json` and safetensors): both
    towers, their projections, the tokenizer and the scale of the pixels come from it."""
    embed_dim: PositiveInt = 128
    preprocess: PreprocessConfig = PreprocessConfig()
    frames: FrameTowerConfig = FrameTowerConfig()
    pooling: PoolingConfig = PoolingConfig()
    text: TextTowerConfig = TextTowerConfig()
    words: bool = False
    """Vectors of tokens in the joint space, for objectives that look at words."""
    streams: StreamsConfig | None = None
    """Anatomy and pathology read apart by knowledge queries, for objectives that ask for it."""
    fusion: FusionConfig | None = None
    """Patches and words read together, for objectives that ask for it."""
    answers: AnswerConfig = AnswerConfig()
