from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from downstream.config import ZeroShotTask
from downstream.embedder import Embedder
from downstream.prompting import label_prompts
from downstream.scoring import describe_score, score_labels, weights
from medvlp.models.config import AnswerConfig

LABELS = ("nodule", "pleural_effusion")


def scores(hospital: Any, encoder: Any, answers: AnswerConfig, **fields: Any) -> np.ndarray:
    task = ZeroShotTask.model_validate({"kind": "zero_shot", "name": "t", **fields})
    labels = ("normal", *LABELS) if task.mode == "multiclass" else LABELS
    prompts = label_prompts(task.prompts, labels, exclusive=task.mode == "multiclass")
    embedder = Embedder("model", encoder, hospital)
    embedder.answers = answers
    samples = [s for s in hospital.samples if s.kind == "image"][:12]
    return score_labels(task, embedder, [[s] for s in samples], prompts)


@pytest.mark.parametrize(
    ("asked", "answers", "exclusive", "expected"),
    [
        (None, AnswerConfig(), False, (1, 0)),
        (None, AnswerConfig(evidence=0.7), False, (1, 0.7)),
        (0.2, AnswerConfig(evidence=0.7), False, (1, 0.2)),
        (None, AnswerConfig(evidence=0.7), True, (1, 0)),
        (None, AnswerConfig(vector=0, evidence=0.7), True, (0, 0.7)),
        (0.2, AnswerConfig(), True, (1, 0.2)),
    ],
)
def test_a_model_is_asked_as_it_says_unless_the_task_says_otherwise(
    asked: float | None, answers: AnswerConfig, exclusive: bool, expected: tuple[float, float]
) -> None:
    assert weights(asked, answers, exclusive=exclusive) == expected


def test_vector_and_evidence_are_weighed(hospital: Any, encoder: Any) -> None:
    whole = scores(hospital, encoder, AnswerConfig())
    local = scores(hospital, encoder, AnswerConfig(vector=0, evidence=1))
    both = scores(hospital, encoder, AnswerConfig(vector=1, evidence=0.5))
    np.testing.assert_allclose(both, whole + 0.5 * local)
    assert not np.allclose(whole, local)


def test_a_query_is_not_contrasted_with_its_denial(hospital: Any, encoder: Any) -> None:
    asked = AnswerConfig(vector=0, evidence=1, source="queries")
    plain = scores(hospital, encoder, AnswerConfig(vector=0, evidence=1), contrast="none")
    np.testing.assert_allclose(scores(hospital, encoder, asked), plain)


def test_normal_is_what_no_finding_is_seen_in(hospital: Any, encoder: Any) -> None:
    asked = AnswerConfig(vector=0, evidence=1)
    logits = scores(hospital, encoder, asked, mode="multiclass", evidence=1.0)
    seen = scores(hospital, encoder, asked, contrast="none").max(axis=1)
    scale = Embedder("model", encoder, hospital).scale
    np.testing.assert_allclose(logits[:, 0] - logits[:, 1:].max(axis=1), -2 * scale * seen)
    np.testing.assert_allclose(np.exp(logits).sum(axis=1), 1)


def test_a_weight_that_is_still_to_be_chosen_is_no_weight() -> None:
    with pytest.raises(ValueError, match="not been chosen"):
        weights("chosen", AnswerConfig())


def test_the_card_says_how_it_was_asked() -> None:
    task = ZeroShotTask.model_validate({"kind": "zero_shot", "name": "t"})
    assert "evidence" not in describe_score(task, AnswerConfig())
    assert "evidence(queries" in describe_score(task, AnswerConfig(evidence=1, source="queries"))
