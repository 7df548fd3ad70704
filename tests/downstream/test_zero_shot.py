from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from downstream.config import EvalConfig, ZeroShotTask
from downstream.embedder import Embedder, noise
from downstream.outcome import Context, SkipTask
from downstream.zero_shot import run_zero_shot
from medvlp.errors import ConfigError
from medvlp.types import Finding

LABELS = ("nodule", "pleural_effusion")


def context(dataset: Any, encoder: Any, **config: Any) -> Context:
    task = {"kind": "zero_shot", "name": "unused"}
    options = EvalConfig.model_validate({"tasks": [task], "bootstrap": 200, **config})
    return Context(options, dataset, Embedder("model", encoder, dataset), {})


def run(dataset: Any, encoder: Any, **fields: Any) -> Any:
    task = {"kind": "zero_shot", "name": "zs", "where": {"kinds": ["image"]}, "labels": LABELS}
    return run_zero_shot(ZeroShotTask.model_validate({**task, **fields}), context(dataset, encoder))


def by_metric(outcome: Any) -> dict[str, Any]:
    return {result["metric"]: result for result in outcome.results}


def test_a_model_that_sees_findings_scores_one_and_a_blind_one_scores_chance(fakes: Any) -> None:
    hospital = fakes.hospital(patients=300)
    seeing = by_metric(run(hospital, fakes.Encoder()))["macro_auc"]
    assert seeing["value"] == 1
    assert (seeing["n"], seeing["groups"]) == (60, 60)
    assert seeing["baselines"]["chance"]["value"] == 0.5
    guessing = by_metric(run(hospital, fakes.Encoder(blind=True)))["macro_auc"]
    assert guessing["low"] < 0.5 < guessing["high"]
    assert guessing["low"] <= guessing["value"] <= guessing["high"]


def test_noise_instead_of_pictures_scores_at_chance(fakes: Any) -> None:
    hospital = fakes.hospital(patients=300)
    base = context(hospital, fakes.Encoder())
    rival = Embedder("noise", fakes.Encoder(), hospital, disturb=noise)
    task = ZeroShotTask.model_validate(
        {"kind": "zero_shot", "name": "zs", "where": {"kinds": ["image"]}, "labels": LABELS}
    )
    outcome = run_zero_shot(task, replace(base, rivals={"noise": rival}))
    macro = by_metric(outcome)["macro_auc"]["baselines"]["noise"]
    assert macro["low"] < 0.5 < macro["high"]
    assert macro["difference_low"] > 0


def test_results_are_what_scikit_learn_makes_of_the_predictions(hospital: Any, blind: Any) -> None:
    outcome = run(hospital, blind)
    results, areas = by_metric(outcome), []
    for label in LABELS:
        rows = [row for row in outcome.predictions if row.label == label]
        truth, score = [row.truth for row in rows], [row.score for row in rows]
        areas.append(roc_auc_score(truth, score))
        assert results[f"auc/{label}"]["value"] == pytest.approx(areas[-1])
        precision = results[f"average_precision/{label}"]
        assert precision["value"] == pytest.approx(average_precision_score(truth, score))
        assert precision["baselines"]["chance"]["value"] == pytest.approx(np.mean(truth))
        assert roc_auc_score(truth, [row.probability for row in rows]) == pytest.approx(areas[-1])
    assert results["macro_auc"]["value"] == pytest.approx(np.mean(areas))


def test_a_label_without_both_classes_is_left_out_and_said_so(hospital: Any, encoder: Any) -> None:
    outcome = run(hospital, encoder, labels=(*LABELS, "pneumothorax"))
    results = by_metric(outcome)
    assert results["macro_auc"]["value"] == 1
    assert results["auc/pneumothorax"]["value"] is None
    assert results["auc/pneumothorax"]["low"] is None
    assert any("pneumothorax" in note for note in outcome.notes)
    with pytest.raises(SkipTask, match="both positive and negative"):
        run(hospital, encoder, labels=["pneumothorax"])
    with pytest.raises(SkipTask, match="where"):
        run(hospital, encoder, where={"provenance": ["elsewhere"]})


def test_gold_labels_win_over_findings_unless_asked(hospital: Any, encoder: Any) -> None:
    """Findings that contradict the gold labels tell which of the two was used."""
    wrong = {"present": "absent", "absent": "present"}
    hospital.rows = [
        replace(
            row,
            findings=tuple(replace(f, polarity=wrong[f.polarity]) for f in row.findings),
        )
        for row in hospital.rows
    ]
    gold = run(hospital, encoder)
    assert by_metric(gold)["macro_auc"]["value"] == 1
    said = run(hospital, encoder, truth="findings")
    assert by_metric(said)["macro_auc"]["value"] == 0
    assert "findings" in by_metric(said)["macro_auc"]["card"]["truth"]
    hospital.rows = [replace(row, labels=()) for row in hospital.rows]
    assert by_metric(run(hospital, encoder))["macro_auc"]["value"] == 0


def test_uncertain_findings_take_no_part_and_unmentioned_ones_only_if_asked(
    hospital: Any, encoder: Any
) -> None:
    rows = []
    for number, row in enumerate(hospital.rows):
        polarity = ("present", "absent", "uncertain")[number % 3]
        found = () if number % 4 == 0 else (Finding("nodule", "nodule", polarity),)
        rows.append(replace(row, findings=found, labels=()))
    hospital.rows = rows
    test = [r for r in rows if r.split == "test" and r.kind == "image"]
    counted = {
        rule: by_metric(
            run(hospital, encoder, labels=["nodule"], truth="findings", unmentioned=rule)
        )["auc/nodule"]["n"]
        for rule in ("absent", "ignore")
    }
    certain = sum(bool(r.findings) and r.findings[0].polarity != "uncertain" for r in test)
    unmentioned = sum(not r.findings for r in test)
    assert counted == {"ignore": certain, "absent": certain + unmentioned}


def test_automatic_labels_are_those_with_enough_positives(hospital: Any, encoder: Any) -> None:
    test = [r for r in hospital.rows if r.split == "test" and r.kind == "image"]
    counts = {x: sum(x in r.labels for r in test) for x in ("nodule", "pleural_effusion", "normal")}
    few = min(counts.values())
    all_of_them = run(hospital, encoder, labels="auto", min_positives=few)
    assert by_metric(all_of_them)["macro_auc"]["card"]["labels"] == sorted(counts)
    most = run(hospital, encoder, labels="auto", min_positives=few + 1)
    assert by_metric(most)["macro_auc"]["card"]["labels"] == sorted(
        label for label, count in counts.items() if count > few
    )


def test_multiclass_takes_samples_of_exactly_one_class(hospital: Any, encoder: Any) -> None:
    outcome = run(hospital, encoder, mode="multiclass", labels=["pleural_effusion", "nodule"])
    single = [
        r for r in hospital.rows
        if r.split == "test" and r.kind == "image" and len(set(r.labels) & set(LABELS)) == 1
    ]  # fmt: skip
    results = by_metric(outcome)
    assert results["accuracy"]["value"] == 1
    assert results["accuracy"]["n"] == len(single)
    assert results["macro_auc"]["value"] == 1
    assert outcome.view.confusion.sum() == len(single)
    probabilities = [row.probability for row in outcome.predictions if row.key == single[0].key]
    assert sum(probabilities) == pytest.approx(1)


def test_thresholds_come_from_validation_and_the_oracle_stands_apart(fakes: Any) -> None:
    hospital = fakes.hospital(patients=200)
    before = run(hospital, fakes.Encoder(blind=True))
    view = before.view.labels[0]
    card = by_metric(before)[f"sensitivity/{view.label}"]["card"]
    assert "validation" in card["selection"]

    def youden(point: Any) -> float:
        return float(point.sensitivity + point.specificity)

    assert youden(view.oracle) >= youden(view.operating)
    # Other truth in the test split moves the oracle, never the threshold.
    hospital.rows = [
        replace(row, labels=("nodule",) if number % 2 else ("normal",))
        if row.split == "test" and row.kind == "image" else row
        for number, row in enumerate(hospital.rows)
    ]  # fmt: skip
    after = run(hospital, fakes.Encoder(blind=True), labels=["nodule"]).view.labels[0]
    assert after.operating.threshold == view.operating.threshold
    assert after.oracle != view.oracle


def test_no_validation_split_no_threshold(hospital: Any, encoder: Any) -> None:
    hospital.rows = [row for row in hospital.rows if row.split != "val"]
    outcome = run(hospital, encoder)
    assert np.isnan(outcome.view.labels[0].operating.sensitivity)
    assert not any(metric.startswith("sensitivity") for metric in by_metric(outcome))


def test_patients_are_the_unit_of_the_interval(fakes: Any) -> None:
    """Every picture ten times says nothing new: the interval must not shrink."""
    hospital = fakes.hospital(patients=150)
    once = by_metric(run(hospital, fakes.Encoder(blind=True)))["macro_auc"]
    for row in [r for r in hospital.rows if r.kind == "image"]:
        for copy in range(9):
            again = replace(row, key=f"{row.key}_{copy}")
            hospital.add(again, hospital.pixels[row.key])
    often = by_metric(run(hospital, fakes.Encoder(blind=True)))["macro_auc"]
    assert often["n"] == 10 * once["n"]
    assert often["value"] == pytest.approx(once["value"])
    assert often["high"] - often["low"] == pytest.approx(once["high"] - once["low"])


def test_unsound_prompts_are_refused(hospital: Any, encoder: Any) -> None:
    with pytest.raises(ConfigError, match="double-negation") as caught:
        run(hospital, encoder, prompts={"names": {"nodule": "no nodule"}})
    assert caught.value.code == "prompt-lint"
    with pytest.raises(ConfigError, match="unfilled"):
        run(hospital, encoder, prompts={"positive": ["{nam}"]})


def test_other_prompts_give_another_card(hospital: Any, encoder: Any) -> None:
    first = by_metric(run(hospital, encoder))["macro_auc"]["card"]
    same = by_metric(run(hospital, encoder))["macro_auc"]["card"]
    other = by_metric(run(hospital, encoder, prompts={"names": {"nodule": "small nodule"}}))
    assert same == first
    assert other["macro_auc"]["card"]["prompt_digest"] != first["prompt_digest"]
    assert other["macro_auc"]["card"]["digest"] != first["digest"]


def test_each_sample_is_encoded_once_for_all_tasks(hospital: Any, encoder: Any) -> None:
    shared = context(hospital, encoder)
    task = {"kind": "zero_shot", "name": "zs", "where": {"kinds": ["image"]}, "labels": LABELS}
    run_zero_shot(ZeroShotTask.model_validate(task), shared)
    encoded = len(encoder.seen)
    assert encoded == sum(r.kind == "image" and r.split != "train" for r in hospital.rows)
    run_zero_shot(ZeroShotTask.model_validate({**task, "name": "again"}), shared)
    assert len(encoder.seen) == encoded


def test_a_busy_picture_is_no_evidence_for_everything(fakes: Any) -> None:
    # A model that knows nothing, but whose peaks rise with how much there is in a picture.
    hospital = fakes.hospital(patients=300)
    claim_alone = by_metric(
        run(hospital, fakes.Encoder(blind=True), evidence=100.0, contrast="none")
    )["macro_auc"]
    contrasted = by_metric(run(hospital, fakes.Encoder(blind=True), evidence=100.0))["macro_auc"]
    assert claim_alone["low"] > 0.5  # pictures with findings are busier
    assert contrasted["low"] < 0.5 < contrasted["high"]
    assert "evidence(patches, negative prompts)" in contrasted["card"]["score"]


def test_evidence_is_added_with_its_weight(fakes: Any) -> None:
    hospital, encoder = fakes.hospital(patients=60), fakes.Encoder()
    plain, weighted = run(hospital, encoder), run(hospital, encoder, evidence=2.0)
    sample = next(s for s in hospital.samples if s.key == plain.predictions[0].key)
    label = plain.predictions[0].label
    embedder = Embedder("model", encoder, hospital)
    prompts = next(row for row in plain.view.prompts.prompts if row.label == label)
    pair = np.stack([embedder.ensemble(prompts.positive), embedder.ensemble(prompts.negative)])
    claim, denial = embedder.evidence([sample], pair)[0]
    scores = [outcome.predictions[0].score for outcome in (plain, weighted)]
    assert scores[1] - scores[0] == pytest.approx(2 * (claim - denial), abs=1e-5)


def test_a_study_has_the_mean_score_of_its_samples(fakes: Any) -> None:
    hospital = fakes.hospital(patients=60)
    single = run(hospital, fakes.Encoder())
    rows = [s for s in hospital.samples if s.split == "test" and s.kind == "image"]
    first, second = rows[:2]
    hospital.rows = [replace(s, study="one") if s in (first, second) else s for s in hospital.rows]
    joined = run(hospital, fakes.Encoder(), unit="study")
    score = {(row.key, row.label): row.score for row in single.predictions}
    study = {(row.key, row.label): row.score for row in joined.predictions}
    for label in LABELS:
        mean = (score[first.key, label] + score[second.key, label]) / 2
        assert study[first.key, label] == pytest.approx(mean)
        assert (second.key, label) not in study
