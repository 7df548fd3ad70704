"""What claims a label and what it stands against."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from downstream.embedder import Embedder
from downstream.prompting import contrast_pair
from medvlp.errors import ConfigError
from medvlp.knowledge.prompts import NORMAL_NEGATIVE, NORMAL_POSITIVE, LabelPrompts, PromptSet


class _Words(Embedder):
    """Gives each list of prompts its own axis."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, ...]] = []

    def ensemble(self, texts: Sequence[str]) -> np.ndarray[Any, np.dtype[np.float64]]:
        if tuple(texts) not in self.seen:
            self.seen.append(tuple(texts))
        return np.eye(16)[self.seen.index(tuple(texts))]

    def axis(self, texts: Sequence[str]) -> int:
        return self.seen.index(tuple(texts))


SET = PromptSet(
    prompts=(
        LabelPrompts(label="nodule", positive=("a nodule",), negative=("no nodule",)),
        LabelPrompts(label="normal", positive=("healthy",), negative=("ill", "diseased")),
    )
)


def test_a_label_stands_against_its_own_denial() -> None:
    words = _Words()
    claims, against = contrast_pair(SET, words, "negative")
    assert against is not None
    assert claims.argmax(1).tolist() == [words.axis(["a nodule"]), words.axis(["healthy"])]
    denials = [words.axis(["no nodule"]), words.axis(["ill", "diseased"])]
    assert against.argmax(1).tolist() == denials


def test_against_normal_a_label_leaves_its_denial_out_but_normal_keeps_its_own() -> None:
    words = _Words()
    _, against = contrast_pair(SET, words, "normal")
    assert against is not None
    assert against[0].argmax() == words.axis(NORMAL_POSITIVE)
    assert against[1].argmax() == words.axis(["ill", "diseased"])


def test_normal_without_a_denial_gets_the_usual_one() -> None:
    words = _Words()
    alone = PromptSet(prompts=(LabelPrompts(label="normal", positive=("healthy",)),))
    _, against = contrast_pair(alone, words, "normal")
    assert against is not None
    assert against[0].argmax() == words.axis(NORMAL_NEGATIVE)


def test_a_contrast_needs_a_denial() -> None:
    alone = PromptSet(prompts=(LabelPrompts(label="nodule", positive=("a nodule",)),))
    words = _Words()
    with pytest.raises(ConfigError, match="negative prompt"):
        contrast_pair(alone, words, "negative")
    assert contrast_pair(alone, words, "none")[1] is None
