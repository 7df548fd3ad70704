from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from downstream.config import EvalConfig, ZeroShotTask
from downstream.embedder import Embedder
from downstream.evidence_weight import WEIGHTS
from downstream.metrics import auc
from downstream.outcome import Context
from downstream.zero_shot import run_zero_shot

from .test_zero_shot import LABELS, by_metric


def run(dataset: Any, encoder: Any, split: str = "test", **fields: Any) -> Any:
    task = {"kind": "zero_shot", "name": "zs", "where": {"kinds": ["image"]}, "labels": LABELS}
    config = EvalConfig.model_validate(
        {"tasks": [{**task, **fields}], "bootstrap": 50, "split": split}
    )
    context = Context(config, dataset, Embedder("model", encoder, dataset), {})
    return run_zero_shot(ZeroShotTask.model_validate({**task, **fields}), context)


def halves(fakes: Any, *, vector: bool, evidence: bool) -> Any:
    """A model of which the vector, the evidence, or both see something; the rest is noise."""

    class Half(fakes.Encoder):
        def __init__(self) -> None:
            super().__init__(blind=not vector)

        def compare(self, visuals: Any, texts: Any) -> Any:
            _, seen = fakes.Encoder().compare(visuals, texts)
            if not evidence:
                draw = torch.Generator().manual_seed(len(self.seen))
                seen = torch.randn(seen.shape, generator=draw)
            return self.visuals(visuals), seen

    return Half()


def chosen(outcome: Any) -> float:
    (note,) = [note for note in outcome.notes if "Weight of the evidence" in note]
    return float(note.split(": ")[1].split(" ")[0])


def test_the_part_that_sees_is_chosen(fakes: Any) -> None:
    hospital = fakes.hospital(patients=200)
    by_evidence = run(hospital, halves(fakes, vector=False, evidence=True), evidence="chosen")
    assert chosen(by_evidence) > 0.3
    assert by_metric(by_evidence)["macro_auc"]["value"] > 0.8
    by_vector = run(hospital, halves(fakes, vector=True, evidence=False), evidence="chosen")
    assert chosen(by_vector) == 0
    assert by_metric(by_vector)["macro_auc"]["value"] == 1
    assert "evidence" not in by_metric(by_vector)["macro_auc"]["card"]["score"]


def test_it_is_the_best_of_the_validation_split_and_its_scores_are_reported(fakes: Any) -> None:
    hospital, encoder = fakes.hospital(patients=200), halves(fakes, vector=False, evidence=True)
    macro = []
    for weight in WEIGHTS:
        outcome = run(hospital, encoder, "val", evidence=weight)
        values = []
        for label in LABELS:
            rows = [row for row in outcome.predictions if row.label == label]
            truth = np.array([row.truth for row in rows]) > 0.5
            values.append(auc(np.array([row.score for row in rows]), truth))
        macro.append(np.mean(values))
    outcome = run(hospital, encoder, evidence="chosen")
    assert chosen(outcome) == WEIGHTS[int(np.argmax(macro))]
    same = run(hospital, encoder, evidence=chosen(outcome))
    assert [row.score for row in outcome.predictions] == pytest.approx(
        [row.score for row in same.predictions]
    )


def test_the_evaluated_split_and_an_empty_one_choose_nothing(fakes: Any) -> None:
    hospital, encoder = fakes.hospital(patients=100), fakes.Encoder()
    on_val = run(hospital, encoder, "val", evidence="chosen")
    assert any("cannot be chosen on the evaluated split" in note for note in on_val.notes)
    hospital.rows = [row for row in hospital.rows if row.split != "val"]
    outcome = run(hospital, encoder, evidence="chosen")
    assert any("validation split cannot choose" in note for note in outcome.notes)
    plain = run(hospital, encoder)
    assert [row.score for row in outcome.predictions] == [row.score for row in plain.predictions]
