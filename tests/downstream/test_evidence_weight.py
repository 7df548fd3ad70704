from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from downstream.config import EvalConfig, ZeroShotTask
from downstream.embedder import Embedder
from downstream.evidence_weight import WEIGHTS
from downstream.outcome import Context
from downstream.zero_shot import run_zero_shot
from medvlp.models.config import AnswerConfig

from .test_zero_shot import LABELS, by_metric


def run(dataset: Any, encoder: Any, split: str = "test", **fields: Any) -> Any:
    task = {"kind": "zero_shot", "name": "zs", "where": {"kinds": ["image"]}, "labels": LABELS}
    config = EvalConfig.model_validate(
        {"tasks": [{**task, **fields}], "bootstrap": 50, "split": split}
    )
    context = Context(config, dataset, Embedder("model", encoder, dataset), {})
    return run_zero_shot(ZeroShotTask.model_validate({**task, **fields}), context)


def halves(fakes: Any, *, vector: bool, evidence: bool, loud: float = 1) -> Any:
    """A model of which the vector, the evidence, or both see something; the rest is noise."""

    class Half(fakes.Encoder):
        def __init__(self) -> None:
            super().__init__(blind=not vector)

        def compare(self, visuals: Any, texts: Any) -> Any:
            _, seen = fakes.Encoder().compare(visuals, texts)
            if not evidence:
                draw = torch.Generator().manual_seed(1)
                seen = torch.randn(seen.shape, generator=draw)
            return self.visuals(visuals), loud * seen

    return Half()


def chosen(outcome: Any) -> float:
    (note,) = [note for note in outcome.notes if "Weight of the evidence" in note]
    return float(note.split(": ")[1].split(",")[0])


def test_the_part_that_sees_is_chosen(fakes: Any) -> None:
    hospital = fakes.hospital(patients=200)
    by_evidence = run(hospital, halves(fakes, vector=False, evidence=True), evidence="chosen")
    assert chosen(by_evidence) > 0.3
    assert by_metric(by_evidence)["macro_auc"]["value"] > 0.8
    by_vector = run(hospital, halves(fakes, vector=True, evidence=False), evidence="chosen")
    assert chosen(by_vector) == 0
    assert by_metric(by_vector)["macro_auc"]["value"] == 1
    assert "evidence" not in by_metric(by_vector)["macro_auc"]["card"]["score"]


def macro_draws(rows: Any, patients: dict[str, str], n: int) -> np.ndarray:
    """The macro AUC of everybody, then of each resample of patients, one by one."""
    rng = np.random.default_rng(0)
    names = sorted(set(patients.values()))
    values = []
    for draw in range(n + 1):
        count = dict.fromkeys(names, 1)
        if draw:
            drawn = rng.multinomial(len(names), np.full(len(names), 1 / len(names)))
            count = dict(zip(names, drawn, strict=True))
        of = [count[patients[row.key]] for row in rows]
        parts = []
        for label in LABELS:
            own = [(r, c) for r, c in zip(rows, of, strict=True) if r.label == label and c]
            truth = np.array([row.truth for row, c in own for _ in range(c)]) > 0.5
            score = np.array([row.score for row, c in own for _ in range(c)])
            if 0 < truth.sum() < len(truth):
                parts.append(roc_auc_score(truth, score))
        values.append(np.mean(parts))
    return np.array(values)


@pytest.mark.parametrize(
    ("seen", "loud", "patients", "best", "right"),
    [(True, 1, 200, 3, 3), (True, 5, 60, 3, 1), (False, 1, 200, 3, 0)],
    ids=["clear", "as good", "by chance"],
)  # fmt: skip
def test_it_is_the_smallest_that_is_not_clearly_worse_than_the_best(
    fakes: Any, seen: bool, loud: float, patients: int, best: float, right: float
) -> None:
    hospital = fakes.hospital(patients=patients)
    encoder = halves(fakes, vector=False, evidence=seen, loud=loud)
    owners = {row.key: row.patient for row in hospital.rows}
    macro = np.stack([
        macro_draws(run(hospital, encoder, "val", evidence=w).predictions, owners, 100)
        for w in WEIGHTS
    ])  # fmt: skip
    gaps = macro[macro[:, 0].argmax()] - macro
    near = gaps[:, 0] <= gaps[:, 1:].std(axis=1)
    assert (WEIGHTS[macro[:, 0].argmax()], WEIGHTS[near.argmax()]) == (best, right)
    outcome = run(hospital, encoder, evidence="chosen")
    assert chosen(outcome) == right
    same = run(hospital, encoder, evidence=right)
    assert [row.score for row in outcome.predictions] == pytest.approx(
        [row.score for row in same.predictions]
    )


def test_a_model_without_a_vector_is_asked_by_its_evidence(fakes: Any) -> None:
    """Of blind evidence the smallest weight would be 0, and then every score is the same."""
    hospital, encoder = fakes.hospital(patients=200), halves(fakes, vector=False, evidence=False)
    encoder.answers = AnswerConfig(vector=0.0, evidence=1.0)
    outcome = run(hospital, encoder, evidence="chosen")
    assert any("evidence alone" in note for note in outcome.notes)
    assert len({row.score for row in outcome.predictions}) > 2


def test_the_evaluated_split_and_an_empty_one_choose_nothing(fakes: Any) -> None:
    hospital, encoder = fakes.hospital(patients=100), fakes.Encoder()
    on_val = run(hospital, encoder, "val", evidence="chosen")
    assert any("cannot be chosen on the evaluated split" in note for note in on_val.notes)
    hospital.rows = [row for row in hospital.rows if row.split != "val"]
    outcome = run(hospital, encoder, evidence="chosen")
    assert any("validation split cannot choose" in note for note in outcome.notes)
    plain = run(hospital, encoder)
    assert [row.score for row in outcome.predictions] == [row.score for row in plain.predictions]
