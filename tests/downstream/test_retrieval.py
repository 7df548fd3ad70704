from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from downstream.config import EvalConfig, RetrievalTask
from downstream.embedder import Embedder
from downstream.outcome import Context, SkipTask
from downstream.retrieval import run_retrieval
from medvlp.types import Text


def run(dataset: Any, encoder: Any, **fields: Any) -> Any:
    task = {"kind": "retrieval", "name": "find", "where": {"kinds": ["image"]}, **fields}
    config = EvalConfig.model_validate({"tasks": [task], "bootstrap": 100})
    context = Context(config, dataset, Embedder("model", encoder, dataset), {})
    return run_retrieval(RetrievalTask.model_validate(task), context)


def by_metric(outcome: Any) -> dict[str, Any]:
    return {result["metric"]: result for result in outcome.results}


def test_recall_is_what_a_loop_over_all_pairs_gives(hospital: Any, blind: Any) -> None:
    outcome = run(hospital, blind)
    samples = [r for r in hospital.rows if r.split == "test" and r.kind == "image"]
    visual = blind.visuals([hospital.pixels[s.key] for s in samples]).double().numpy()
    text = np.stack(
        [
            np.mean(blind.texts([t.text for t in s.texts if t.level == "sentence"]).numpy(), axis=0)
            for s in samples
        ]
    )
    scores = visual @ (text / np.linalg.norm(text, axis=1, keepdims=True)).T
    own = [s.texts[0].text for s in samples]
    for direction, table in (("image_to_text", scores), ("text_to_image", scores.T)):
        ranks = []
        for q, row in enumerate(table):
            hits = [i for i in range(len(own)) if own[i] == own[q]]
            best = max(row[i] for i in hits)
            ranks.append(1 + sum(row[i] >= best - 1e-9 for i in range(len(own)) if i not in hits))
        for k in (1, 5, 10):
            assert by_metric(outcome)[f"{direction}_r_at_{k}"]["value"] == pytest.approx(
                np.mean(np.array(ranks) <= k)
            )
        median = by_metric(outcome)[f"{direction}_median_rank"]
        assert median["value"] == sorted(ranks)[(len(ranks) - 1) // 2]


def test_chance_knows_how_many_texts_are_identical(hospital: Any, encoder: Any) -> None:
    outcome = run(hospital, encoder)
    samples = [r for r in hospital.rows if r.split == "test" and r.kind == "image"]
    own = [s.texts[0].text for s in samples]
    expected = np.mean([own.count(text) / len(own) for text in own])
    chance = by_metric(outcome)["image_to_text_r_at_1"]["baselines"]["chance"]["value"]
    assert chance == pytest.approx(expected)
    assert outcome.view.distinct == len(set(own)) < len(own)


def test_case_and_white_space_do_not_make_another_text(hospital: Any, encoder: Any) -> None:
    before = run(hospital, encoder).view.distinct
    hospital.rows = [
        replace(
            row,
            texts=tuple(replace(t, text=f" {t.text.upper()}\n") for t in row.texts)
            if number % 2
            else row.texts,
        )
        for number, row in enumerate(hospital.rows)
    ]
    assert run(hospital, encoder).view.distinct == before


def test_the_first_level_that_a_sample_has_is_its_text(hospital: Any, encoder: Any) -> None:
    hospital.rows = [
        replace(row, texts=(*row.texts, Text("document", "report", f"Document {row.key}.")))
        for row in hospital.rows
    ]
    assert run(hospital, encoder, levels=["impression", "document"]).view.distinct == 4
    documents = run(hospital, encoder, levels=["document", "impression"])
    assert documents.view.distinct == documents.view.items == 12
    with pytest.raises(SkipTask):
        run(hospital, encoder, levels=["caption"])


def test_whole_texts_and_sentence_means_are_different_definitions(
    hospital: Any, encoder: Any
) -> None:
    whole = by_metric(run(hospital, encoder, encode="whole"))["image_to_text_r_at_1"]
    mean = by_metric(run(hospital, encoder))["image_to_text_r_at_1"]
    assert whole["card"]["digest"] != mean["card"]["digest"]


def test_a_subset_keeps_whole_patients_and_is_the_same_for_a_seed(fakes: Any) -> None:
    hospital = fakes.hospital(patients=100)
    first = run(hospital, fakes.Encoder(), where={"kinds": ["image", "volume"]}, max_items=10)
    again = run(hospital, fakes.Encoder(), where={"kinds": ["image", "volume"]}, max_items=10)
    assert first.view.items == 10
    assert first.results == again.results


def test_examples_show_the_rank_and_mark_hits(hospital: Any, encoder: Any) -> None:
    view = run(hospital, encoder).view
    assert [e.rank for e in view.examples] == sorted(e.rank for e in view.examples)
    for example in view.examples:
        hits = [hit for _, _, hit in example.found]
        assert hits[0] == (example.rank == 1)
        assert all((text == example.own) == hit for text, _, hit in example.found)


@pytest.mark.parametrize(
    ("evidence", "typical"), [(0.0, "removed"), (0.7, "kept"), (0.7, "removed")]
)
def test_evidence_and_what_is_typical_change_the_score_as_the_formula_says(
    hospital: Any, blind: Any, evidence: float, typical: str
) -> None:
    more = Text("sentence", "report", "Compared with last year.")
    hospital.rows = [  # reports of different lengths
        replace(row, texts=(replace(row.texts[0], text=f"{row.texts[0].text} {more.text}"),
                            *row.texts[1:], more)) if number % 2 else row
        for number, row in enumerate(hospital.rows)
    ]  # fmt: skip
    outcome = run(hospital, blind, evidence=evidence, typical=typical)
    rows = {split: [r for r in hospital.rows if r.split == split and r.kind == "image"]
            for split in ("train", "test")}  # fmt: skip
    sentences = [[t.text for t in s.texts if t.level == "sentence"] for s in rows["test"]]

    def score(sample: Any, texts: list[str]) -> float:
        parts = blind.texts(texts)
        vectors, seen = blind.compare([hospital.pixels[sample.key]], parts)
        whole = parts.double().mean(0)
        cosine = float(vectors[0].double() @ (whole / whole.norm()))
        return cosine + evidence * float(seen[0].double().mean())

    scores = np.array([[score(s, texts) for texts in sentences] for s in rows["test"]])
    if typical == "removed":
        scores -= np.mean([[score(s, texts) for texts in sentences] for s in rows["train"]], axis=0)
    own = [s.texts[0].text for s in rows["test"]]
    ranks = []
    for q, row in enumerate(scores):
        best = max(row[i] for i in range(len(own)) if own[i] == own[q])
        ranks.append(1 + sum(row[i] >= best - 1e-9 for i in range(len(own)) if own[i] != own[q]))
    for k in (1, 5, 10):
        value = by_metric(outcome)[f"image_to_text_r_at_{k}"]["value"]
        assert value == pytest.approx(np.mean(np.array(ranks) <= k))
    shown = 0
    for example in outcome.view.examples:
        row = scores[[s.key for s in rows["test"]].index(example.sample.key)]
        for text, value, _ in example.found:
            assert value == pytest.approx(max(row[i] for i in range(len(own)) if own[i] == text))
            shown += 1
    assert shown > 3
    told = by_metric(outcome)["image_to_text_r_at_1"]["card"]["score"]
    assert ("evidence(patches, sentences)" in told) == bool(evidence)
    assert ("training visuals" in told) == (typical == "removed")


def test_what_is_typical_needs_training_visuals(hospital: Any, blind: Any) -> None:
    hospital.rows = [row for row in hospital.rows if row.split != "train"]
    with pytest.raises(SkipTask, match="training visual"):
        run(hospital, blind, typical="removed")
