from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import f1_score

from downstream.config import EvalConfig, PhaseTask
from downstream.embedder import Embedder
from downstream.outcome import Context, SkipTask
from downstream.phase import run_phase, window_vectors
from downstream.timeline import judged_instants
from medvlp.errors import ConfigError
from medvlp.types import Visual


def run(dataset: Any, encoder: Any, **fields: Any) -> Any:
    task = {"kind": "phase", "name": "phases", **fields}
    config = EvalConfig.model_validate({"tasks": [task], "bootstrap": 100})
    context = Context(config, dataset, Embedder("model", encoder, dataset), {})
    return run_phase(PhaseTask.model_validate(task), context)


def by_metric(outcome: Any) -> dict[str, Any]:
    return {result["metric"]: result for result in outcome.results}


def test_colours_are_recognised_as_phases(hospital: Any, encoder: Any) -> None:
    outcome = run(hospital, encoder)
    results = by_metric(outcome)
    assert results["accuracy"]["value"] == 1
    assert results["f1_video"]["value"] == 1
    assert results["accuracy"]["groups"] == 3
    assert results["accuracy"]["baselines"]["chance"]["value"] == pytest.approx(1 / 3)
    # 30 s at 1 fps, 2 s out of the body; red and blue last 10 of the 28 s
    assert results["accuracy"]["n"] == 3 * 28
    assert results["accuracy"]["baselines"]["majority"]["value"] == pytest.approx(10 / 28)
    assert outcome.view.prompts.phases == ("red_phase", "green_phase", "blue_phase")


def test_metrics_are_what_scikit_learn_makes_of_the_predictions(hospital: Any, blind: Any) -> None:
    outcome = run(hospital, blind)
    accuracies, scores = [], []
    for lecture in outcome.view.lectures:
        truth, said = lecture.judged
        accuracies.append(np.mean(truth == said))
        scores.append(f1_score(truth, said, average="macro"))
    results = by_metric(outcome)
    assert results["accuracy"]["value"] == pytest.approx(np.mean(accuracies))
    assert results["f1_video"]["value"] == pytest.approx(np.mean(scores))
    rows = [r for r in outcome.predictions if r.key.startswith("lecture00@") and r.truth == 1]
    assert len(rows) == 28


def test_out_of_body_is_left_out_or_a_class(hospital: Any, encoder: Any) -> None:
    outcome = run(
        hospital, encoder, out_of_body="class", out_of_body_prompts=["nothing to see here"]
    )
    assert outcome.view.prompts.phases[-1] == "out_of_body"
    accuracy = by_metric(outcome)["accuracy"]
    assert accuracy["n"] == 3 * 30
    assert "class of its own" in accuracy["card"]["truth"]
    assert (
        by_metric(run(hospital, encoder))["accuracy"]["card"]["digest"]
        != (accuracy["card"]["digest"])
    )


@pytest.mark.parametrize("pooling", ["mean", "model"])
@pytest.mark.parametrize("causal", [True, False])
def test_only_a_causal_score_is_blind_to_the_future(
    hospital: Any, encoder: Any, pooling: str, causal: bool
) -> None:
    task = PhaseTask.model_validate(
        {"kind": "phase", "name": "p", "window_s": 4, "causal": causal, "pooling": pooling}
    )
    embedder = Embedder("model", encoder, hospital)
    visual = hospital.pixels["lecture00"]
    times, shown = judged_instants(visual.positions, task.fps)
    before = window_vectors(task, embedder, visual, times, shown)
    now = 15.0
    frames = visual.frames.copy()
    frames[visual.positions > now] = 255 - frames[visual.positions > now]
    other = Visual(frames, visual.positions, "clip", "rgb")
    after = window_vectors(task, embedder, other, times, shown)
    past = times <= now
    assert np.array_equal(before[past], after[past]) == causal
    assert not np.array_equal(before[~past], after[~past])


def test_a_window_smooths_over_a_flash(hospital: Any, encoder: Any) -> None:
    key = "lecture00"
    frames = hospital.pixels[key].frames.copy()
    frames[12] = frames[50]  # one blue frame at 6 s, in the red phase
    hospital.pixels[key] = replace(hospital.pixels[key], frames=frames)
    alone = run(hospital, encoder).view.lectures[0]
    windowed = run(hospital, encoder, window_s=3.0).view.lectures[0]
    assert alone.predicted[6] != alone.truth[6]
    assert windowed.predicted[6] == windowed.truth[6]


def test_the_model_never_gets_more_frames_than_the_window_may_hold(
    hospital: Any, encoder: Any
) -> None:
    run(hospital, encoder, window_s=10, pooling="model", max_window_frames=5)
    assert max(encoder.seen) == 5


def test_the_card_says_which_frames_are_seen(hospital: Any, encoder: Any) -> None:
    seen = {
        by_metric(run(hospital, encoder, **options))["accuracy"]["card"]["frames_seen"]
        for options in ({}, {"window_s": 2}, {"window_s": 2, "causal": False})
    }
    assert len(seen) == 3
    assert sum(text.startswith("causal") for text in seen) == 2
    assert sum(text.startswith("NOT causal") for text in seen) == 1


def test_a_table_names_and_describes_the_phases(
    hospital: Any, encoder: Any, tmp_path: Path
) -> None:
    table = tmp_path / "phases.yaml"
    table.write_text(
        "- {id: red_phase, name: first, description: all is red}\n"
        "- {id: blue_phase, name: last blue}\n",
        encoding="utf-8",
    )
    outcome = run(hospital, encoder, table=str(table))
    assert outcome.view.prompts.texts == (("first", "all is red"), ("last blue",))
    # the green phase is not in the table, so nothing says that its frames are judged
    assert by_metric(outcome)["accuracy"]["n"] == 3 * 20
    table.write_text("- {id: red_phase}\n", encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        run(hospital, encoder, table=str(table))
    assert caught.value.code == "phase-table"


def test_training_outlines_can_describe_the_phases(hospital: Any, encoder: Any) -> None:
    phases = [{"id": f"{c}_phase", "name": "unknown"} for c in ("red", "green", "blue")]
    nameless = run(hospital, encoder, phases=phases)
    assert by_metric(nameless)["accuracy"]["value"] < 0.5
    described = run(hospital, encoder, phases=phases, describe="training", templates=[])
    assert described.view.prompts.texts == (("red phase",), ("green phase",), ("blue phase",))
    assert by_metric(described)["accuracy"]["value"] == 1


def test_without_lectures_the_task_is_skipped(hospital: Any, encoder: Any) -> None:
    with pytest.raises(SkipTask):
        run(hospital, encoder, where={"split": "val"})
