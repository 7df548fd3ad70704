"""What a pretraining run is, as data. Imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from medvlp.config import Config
from medvlp.losses.config import LossConfig, objective_name
from medvlp.losses.contrast.config import InfoNCEConfig
from medvlp.losses.doubt_config import DoubtConfig
from medvlp.models.config import ModelConfig
from medvlp.types import Level


class AugmentConfig(Config):
    """Random changes of a training sample; all its frames change alike."""

    scale: tuple[PositiveFloat, PositiveFloat] = (0.6, 1.0)
    """Share of the area that is kept."""
    aspect: float = Field(default=1.15, ge=1)
    """Largest stretch of one axis against the other."""
    rotate: NonNegativeFloat = 10.0
    """Degrees, both ways."""
    shift: NonNegativeFloat = 0.0
    """Share of the frame, both ways, beyond what the crop moves."""
    brightness: NonNegativeFloat = 0.2
    contrast: NonNegativeFloat = 0.2
    gamma: NonNegativeFloat = 0.2
    erase: float = Field(default=0.0, ge=0, le=1)
    """Probability that a rectangle is blanked."""
    flip: bool | Literal["auto"] = "auto"
    """Left-right flips; `auto`: only in pools whose texts and findings carry no side."""


class DataConfig(Config):
    """Which samples, how many, how they are mixed."""

    batch_size: PositiveInt = 32
    texts_per_sample: PositiveInt = 2
    document_share: float = Field(default=0.1, ge=0, le=1)
    """How often a text is drawn from documents and sections where there are sentences too."""
    lead_texts: bool = False
    """Of a clip, always its own text first, then others in order of time: for objectives over
    several recognisers or levels."""
    parent_texts: bool = False
    """With `lead_texts`: also what the step and the phase are called that a clip lies in, because
    that holds for every part of them. The text of a whole video does not."""
    facet_drop: float = Field(default=0.3, ge=0, lt=1)
    """Probability that a described aspect of a concept is left out of a step."""
    caption_noise: float = Field(default=0.0, ge=0, le=1)
    """Share of the clips whose texts are swapped among them: to measure what wrong narration
    does."""
    volume_frames: PositiveInt = 12
    """Slices of a volume in training, spread over it; inference sees all."""
    clip_frames: PositiveInt = 6
    """Frames of a clip in training, spread over it."""
    mixing: Literal["mixed", "alternate"] = "mixed"
    """`mixed`: every batch holds samples of every pool; `alternate`: each batch of one pool."""
    pools: dict[str, NonNegativeFloat] = Field(default_factory=dict)
    """Share of each pool, `provenance/kind`; the rest by the square root of their size, 0 leaves
    one out."""
    levels: dict[Level, NonNegativeFloat] = Field(default_factory=dict)
    """How the clips of a source are shared out by level of narration, as `{task: 0.4, step: 0.3,
    phase: 0.25, video: 0.05}`; empty: every clip counts the same, and a level with few clips is
    hardly seen. A source with none of these levels is left as it is."""
    provenance: tuple[str, ...] = ()
    """Only samples of these sources; empty: all."""
    closed_world: bool | tuple[str, ...] = False
    """Whether a finding that is not mentioned counts as absent, or for which sources it does.
    Right for complete label tables, wrong for free text."""
    cache_mb: NonNegativeInt = 3000
    """Memory for preprocessed frames or cached features; samples beyond it are read anew each
    time."""
    augment: AugmentConfig = AugmentConfig()
    """With `features: cached` nothing is augmented."""
    features: Literal["computed", "cached"] = "computed"
    """`cached`: the tower is frozen, sees every frame of every train sample once and keeps what
    pooling needs on disk; slice pooling, projections and the text tower are trained on that, as
    RadCLIP trains its adapter. Frames are not augmented, whatever `augment` says. The tower must
    come with weights (`model.frames.weights`, `model.start`), and no objective may see frames
    changed (`views`, `masked_image`). A 3D tower has then seen the whole sample, not only the
    slices that are drawn."""
    features_folder: Path | None = None
    """Where cached features are looked for and kept, so that runs with the same tower and dataset
    share them; None: `features` in the run folder. Derived from the data, and as confidential."""
    shuffle_pairs: bool = False
    """Control run: texts and findings permuted among the train samples of each pool. A model
    that still scores above chance has seen something it should not."""


class OptimConfig(Config):
    """AdamW with warm-up and cosine decay."""

    lr: PositiveFloat = 1e-3
    text_lr: PositiveFloat | None = None
    """Of the text tower; None: the same."""
    weight_decay: NonNegativeFloat = 0.05
    betas: tuple[float, float] = (0.9, 0.98)
    warmup: float = Field(default=0.05, ge=0, lt=1)
    """Share of the steps."""
    final_lr: float = Field(default=0.01, ge=0, le=1)
    """Learning rate at the end, as a share of the peak."""
    clip: NonNegativeFloat = 1.0
    """Largest gradient norm; 0 switches clipping off."""
    ema: float | None = Field(default=0.99, gt=0, lt=1)
    """Decay of the weight average that becomes the model; None: the last weights do."""


class TrainerConfig(Config):
    """How long, where, and what is written."""

    max_steps: PositiveInt = 400
    max_seconds: PositiveFloat | None = None
    """Safety stop; the number of steps is the budget, so that runs can be repeated."""
    seed: int = 1
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """`auto`: bfloat16 autocast where the processor has it, else float32."""
    threads: PositiveInt | None = None
    """Processor threads; None: as many as cores."""
    log_every: PositiveInt = 10
    checkpoint_every: PositiveInt = 100


_LOGGED = {"loss", "step", "lr", "seconds", "doubted"}
"""Keys of a line of the history that no objective may have for a name."""


class PretrainConfig(Config):
    """One pretraining run."""

    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    objectives: tuple[LossConfig, ...] = (InfoNCEConfig(),)
    doubt: DoubtConfig | None = None
    """Leave out pairs that are probably wrong, in all objectives that contrast; None: trust all."""
    optim: OptimConfig = OptimConfig()
    trainer: TrainerConfig = TrainerConfig()

    @model_validator(mode="after")
    def _objectives(self) -> PretrainConfig:
        names = [objective_name(config) for config in self.objectives]
        if not names:
            raise ValueError("objectives must name at least one")
        if len(set(names)) != len(names) or _LOGGED & set(names):
            raise ValueError("objectives of the same kind need different, free names")
        return self
