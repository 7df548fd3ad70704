"""What to evaluate: a split, a bootstrap, and a list of tasks. Imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from medvlp.config import Config

Split = Literal["train", "val", "test"]
Unit = Literal["sample", "study"]
Kind = Literal["image", "volume", "clip", "text"]
TaskName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_\-]*$")]


class Where(Config):
    """Which samples a task looks at; an empty list means no restriction."""

    kinds: tuple[Kind, ...] = ()
    provenance: tuple[str, ...] = ()
    """Names of the ingest config's sources."""
    modality: tuple[str, ...] = ()
    split: Split | None = None
    """Overrides the evaluation's split for this task."""


class PromptTexts(Config):
    """Prompts of one label, instead of the templates."""

    positive: tuple[str, ...] = Field(min_length=1)
    negative: tuple[str, ...] = ()


class PromptConfig(Config):
    """How a label becomes texts. `{name}` and `{Name}` stand for the name of the label."""

    positive: tuple[str, ...] = ()
    """Templates that claim the label; empty: the templates of the prompt set."""
    negative: tuple[str, ...] = ()
    """Templates that deny it; empty: the templates of the prompt set."""
    synonyms: NonNegativeInt = 0
    """How many synonyms of a concept are used beside its name."""
    names: dict[str, str] = Field(default_factory=dict)
    """Names to use instead of the knowledge book's."""
    texts: dict[str, PromptTexts] = Field(default_factory=dict)
    """Whole prompts for single labels."""


class ZeroShotTask(Config):
    """Which labels are present, judged by prompts alone."""

    kind: Literal["zero_shot"]
    name: TaskName
    where: Where = Where()
    unit: Unit = "sample"
    """What is diagnosed: every sample alone, or a study by the mean score of its samples."""
    labels: Literal["auto"] | tuple[str, ...] = "auto"
    """Concept ids, or every label with at least `min_positives` samples in the split."""
    min_positives: PositiveInt = 5
    mode: Literal["multilabel", "multiclass"] = "multilabel"
    contrast: Literal["negative", "normal", "none"] = "negative"
    """Multi-label: what is subtracted from the similarity to the claim: that to the denial, that
    to the prompts of `normal` (for models whose texts never deny), or nothing."""
    evidence: NonNegativeFloat | Literal["chosen"] | None = None
    """Weight of the evidence in the patches for the claim, less that for what it is contrasted
    with, beside the vector's score; `chosen`: of 0 to 3, on the validation split; None: as the
    model is to be asked (`model.answers`), and for exclusive classes none where the vector was
    trained."""
    truth: Literal["auto", "labels", "findings"] = "auto"
    """Gold labels, or findings extracted from the texts; auto: gold labels where there are any."""
    unmentioned: Literal["absent", "ignore"] = "absent"
    """What a label is that neither gold labels nor findings mention."""
    prompts: PromptConfig = PromptConfig()
    threshold: Literal["youden", "f1"] = "youden"
    """What the operating point maximises on the validation split."""


class RetrievalTask(Config):
    """Find the text of a visual, and the visual of a text."""

    kind: Literal["retrieval"]
    name: TaskName
    where: Where = Where()
    levels: tuple[str, ...] = ("impression", "findings", "document", "caption")
    """The text of a sample is of the first of these levels that it has."""
    texts: Literal["first", "all"] = "first"
    """Of several texts of that level (captions, say): the first, or all of them in a row."""
    encode: Literal["whole", "sentence_mean"] = "sentence_mean"
    """Encode the text in one piece, or as the mean of its sentences' vectors."""
    evidence: NonNegativeFloat | None = 0.0
    """Weight of the evidence in the patches for the text's sentences (their mean), added to the
    cosine; None: as the model is to be asked. Memory grows with the square of the gallery."""
    typical: Literal["kept", "removed"] = "kept"
    """`removed`: what a text scores on average over training visuals is taken off, so that a text
    that suits every visual is no longer found by all of them (hubness; Radovanovic et al. 2010)."""
    ks: tuple[PositiveInt, ...] = (1, 5, 10)
    max_items: PositiveInt | None = None
    """Evaluate a seeded subset of at most this many samples (whole patients first)."""


class PhasePrompt(Config):
    """One phase of a procedure, in words."""

    id: str
    name: str
    description: str = ""


class PhaseTask(Config):
    """Which phase of an operation each frame shows, judged by prompts alone."""

    kind: Literal["phase"]
    name: TaskName
    where: Where = Where()
    phases: tuple[PhasePrompt, ...] = ()
    """The phases; empty: read `table`, or every phase the dataset names."""
    table: Path | None = None
    """YAML list of {id, name, description}; a relative path is relative to the dataset folder."""
    templates: tuple[str, ...] = ("{name}", "{description}")
    """A template whose field a phase lacks is left out for that phase."""
    describe: Literal["templates", "training"] = "templates"
    """`training` adds what the outlines of the training lectures say of each phase."""
    fps: PositiveFloat = 1.0
    """Frames judged per second of the lecture."""
    window_s: NonNegativeFloat = 0.0
    """A frame is judged together with the frames of this window; 0: alone."""
    causal: bool = True
    """The window ends at the frame; otherwise it is centred on it."""
    pooling: Literal["model", "mean"] = "mean"
    """Encode the window as one clip, or average the vectors of its frames."""
    max_window_frames: PositiveInt = 16
    """With pooling `model`: at most this many frames a window, evenly spread."""
    out_of_body: Literal["exclude", "class"] = "exclude"
    """Frames outside the body are not judged, or are a class of their own."""
    out_of_body_prompts: tuple[str, ...] = ("the camera is outside the body",)

    @model_validator(mode="after")
    def _distinct(self) -> PhaseTask:
        ids = [phase.id for phase in self.phases]
        if len(ids) != len(set(ids)):
            raise ValueError("phase ids must be distinct")
        return self


class GroundingTask(Config):
    """Where a finding is: the pointing game on the patch similarity map."""

    kind: Literal["grounding"]
    name: TaskName
    where: Where = Where()
    labels: Literal["auto"] | tuple[str, ...] = "auto"
    """Concept ids, or every concept that has a region in the split."""
    prompts: PromptConfig = PromptConfig()
    slices: Literal["weighted", "plain"] = "weighted"
    """Multiply the map of a slice by the slice's share in the vector, or take maps as they are."""
    contrast: Literal["negative", "normal", "none"] = "negative"
    """What is subtracted from the similarity to the claim; see zero-shot."""
    grid: PositiveInt = 64
    """Cells per axis of the mean-location baseline."""


Task = Annotated[
    ZeroShotTask | RetrievalTask | PhaseTask | GroundingTask, Field(discriminator="kind")
]


class EvalConfig(Config):
    """One evaluation: what `medvlp evaluate` reads."""

    split: Split = "test"
    seed: NonNegativeInt = 1
    bootstrap: PositiveInt = 1000
    """Resamples of patients (of lectures for phases)."""
    untrained: bool = True
    """Evaluate the same architecture with fresh weights beside it."""
    noise: bool = False
    """Evaluate on noise of the same shape: what the shape alone gives away."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the model computes; `auto`: on a GPU where there is one."""
    batch_frames: PositiveInt = 256
    """Frames encoded at once."""
    examples: NonNegativeInt = 6
    """Cases shown as pictures for each task; 0: none."""
    tasks: tuple[Task, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _distinct(self) -> EvalConfig:
        names = [task.name for task in self.tasks]
        if len(names) != len(set(names)):
            raise ValueError("task names must be distinct")
        return self
