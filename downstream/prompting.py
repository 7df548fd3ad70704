"""From the labels of a task to prompts, and on to vectors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from downstream.config import PromptConfig
from downstream.embedder import Embedder
from medvlp.errors import ConfigError
from medvlp.knowledge.concepts import NORMAL, load_concepts
from medvlp.knowledge.prompts import (
    NEGATIVE,
    NORMAL_NEGATIVE,
    NORMAL_POSITIVE,
    POSITIVE,
    LabelPrompts,
    PromptSet,
)

Floats = npt.NDArray[np.float64]


def label_prompts(
    config: PromptConfig, labels: Sequence[str], *, exclusive: bool = False
) -> PromptSet:
    """The prompts of a task, linted.

    Args:
        config: Templates, names, and whole prompts that win over them.
        labels: In the order of the columns.
        exclusive: The labels are classes of which one is true: no negative prompts.

    Raises:
        ConfigError: `prompt-lint`: a prompt is empty, unfilled, doubly negated, or stands for two
            labels.
    """
    negative = () if exclusive else config.negative or NEGATIVE
    made = PromptSet.from_labels(
        labels,
        positive=config.positive or POSITIVE,
        negative=negative,
        synonyms=config.synonyms,
        names=config.names,
    )
    prompts = PromptSet(prompts=tuple(_own(config, row, exclusive) for row in made.prompts))
    problems = [p for p in prompts.lint() if not p.startswith("unbalanced")]
    if problems:
        raise ConfigError(
            "the prompts are unsound", code="prompt-lint", got="; ".join(problems[:3]),
            next_step="give these labels other names or texts under `prompts`",
        )  # fmt: skip
    return prompts


def _own(config: PromptConfig, row: LabelPrompts, exclusive: bool) -> LabelPrompts:
    own = config.texts.get(row.label)
    if own is None:
        return row
    negative = () if exclusive else own.negative or row.negative
    return LabelPrompts(label=row.label, positive=own.positive, negative=negative)


def prompt_vectors(prompts: PromptSet, embedder: Embedder) -> tuple[Floats, Floats | None]:
    """Unit vectors [k, e] of the positive and of the negative prompts, each label's ensembled.

    Returns:
        None for the negative ones if a label has none.
    """
    positive = np.stack([embedder.ensemble(row.positive) for row in prompts.prompts])
    if not all(row.negative for row in prompts.prompts):
        return positive, None
    return positive, np.stack([embedder.ensemble(row.negative) for row in prompts.prompts])


CONTRASTS = {
    "negative": " - cos({}, negative prompts)",
    "normal": " - cos({}, prompts of a normal examination)",
    "none": "",
}
"""How each contrast reads on a metric card; `{}` is what is compared."""


def contrast_pair(
    prompts: PromptSet, embedder: Embedder, contrast: str
) -> tuple[Floats, Floats | None]:
    """What claims each label and what it stands against, unit vectors [k, e] each.

    Args:
        prompts: Of k labels.
        embedder: The model.
        contrast: A key of `CONTRASTS`; with `none` there is nothing to stand against.

    Raises:
        ConfigError: A label has no negative prompt and needs one.
    """
    positive, negative = prompt_vectors(prompts, embedder)
    if contrast == "none":
        return positive, None
    if contrast == "normal":
        normal = embedder.ensemble(NORMAL_POSITIVE)
        against: Floats = np.tile(normal, (len(positive), 1))
        # The label `normal` itself would stand against itself: it keeps its own denial.
        for i, row in enumerate(prompts.prompts):
            if row.label == NORMAL:
                against[i] = embedder.ensemble(row.negative or NORMAL_NEGATIVE)
        negative = against
    if negative is None:
        raise ConfigError("every label needs a negative prompt", code="prompt-missing")
    return positive, negative


def template_count(prompts: PromptSet) -> int:
    """The most prompts that a label has."""
    return max(len(row.positive) for row in prompts.prompts)


def single_template(prompts: PromptSet, index: int) -> PromptSet:
    """One template alone: the index-th text of every label, or the last one it has."""
    return PromptSet(
        prompts=tuple(
            LabelPrompts(
                label=row.label,
                positive=row.positive[: index + 1][-1:],
                negative=row.negative[: index + 1][-1:],
            )
            for row in prompts.prompts
        )
    )


def concept_name(label: str) -> str:
    """The book's name of a concept; an unknown id in words."""
    concept = load_concepts().get(label)
    return concept.name if concept is not None else label.replace("_", " ")
