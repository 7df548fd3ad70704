from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from downstream.card import compare
from downstream.config import EvalConfig
from downstream.evaluate import evaluate, evaluate_encoder
from medvlp.errors import ConfigError, DatasetError, MedvlpError

CONFIG = EvalConfig.model_validate(
    {
        "bootstrap": 100,
        "examples": 2,
        "tasks": [
            {"kind": "zero_shot", "name": "zero_shot", "where": {"kinds": ["image", "volume"]},
             "labels": ["nodule", "pleural_effusion"]},
            {"kind": "retrieval", "name": "retrieval", "where": {"kinds": ["image"]}},
            {"kind": "phase", "name": "phase", "window_s": 2},
            {"kind": "grounding", "name": "grounding"},
            {"kind": "zero_shot", "name": "elsewhere", "where": {"provenance": ["other"]}},
        ],
    }
)  # fmt: skip


class Written:
    """One evaluation, made once for the tests of this file."""

    def __init__(self, out: Path, fakes: Any) -> None:
        self.out = out
        self.fakes = fakes
        self.summary = self.run(out)
        self.metrics = json.loads((out / "metrics.json").read_text())
        self.html = (out / "report.html").read_text()

    def run(self, out: Path, config: EvalConfig = CONFIG, **encoder: Any) -> dict[str, Any]:
        return evaluate_encoder(
            config,
            dataset=self.fakes.hospital(),
            encoder=self.fakes.Encoder(**encoder),
            untrained=self.fakes.Encoder(digest="b" * 64, blind=True),
            out=out,
        )


_CACHE: dict[str, Written] = {}


@pytest.fixture
def written(tmp_path_factory: pytest.TempPathFactory, fakes: Any) -> Written:
    if not _CACHE:
        _CACHE["one"] = Written(tmp_path_factory.mktemp("evaluate") / "report", fakes)
    return _CACHE["one"]


def find(metrics: dict[str, Any], task: str, metric: str) -> dict[str, Any]:
    (result,) = [r for r in metrics["results"] if (r["task"], r["metric"]) == (task, metric)]
    return result


def test_the_folder_holds_three_files_and_nothing_is_left_beside_it(written: Written) -> None:
    names = {"metrics.json", "predictions.parquet", "report.html"}
    assert {path.name for path in written.out.iterdir()} == names
    assert [path.name for path in written.out.parent.iterdir()] == ["report"]


def test_every_result_has_its_definition_and_its_baselines(written: Written) -> None:
    for result in written.metrics["results"]:
        wanted = {"task", "metric", "value", "low", "high", "n", "card", "baselines"}
        assert wanted <= set(result)
        assert result["card"]["model_digest"] == "f" * 64
        assert result["card"]["dataset_digest"] == "d" * 64
        assert result["card"]["metric"] == result["metric"]
        for baseline in result["baselines"].values():
            assert {"value", "low", "high"} <= set(baseline)
    for task, metric, beside in (
        ("zero_shot", "macro_auc", {"chance", "untrained"}),
        ("retrieval", "image_to_text_r_at_1", {"chance", "untrained"}),
        ("phase", "accuracy", {"chance", "untrained", "majority"}),
        ("grounding", "pointing", {"mean_location", "centre", "all_ones", "untrained"}),
    ):
        result = find(written.metrics, task, metric)
        assert set(result["baselines"]) == beside
        assert result["low"] <= result["value"] <= result["high"]


def test_metrics_are_plain_json_without_nan(written: Written) -> None:
    text = (written.out / "metrics.json").read_text()
    read = json.loads(text, parse_constant=lambda name: pytest.fail(name))
    assert read == written.metrics
    assert json.loads(json.dumps(read, allow_nan=False)) == read


def test_the_summary_has_the_headline_of_every_task(written: Written) -> None:
    tasks = written.summary["tasks"]
    assert tasks["zero_shot"]["macro_auc"] == 1
    assert {"low", "high", "chance", "untrained"} <= set(tasks["zero_shot"])
    assert {"value", "low", "high", "mean_location", "all_ones"} <= set(tasks["grounding"])
    assert {"accuracy", "f1_video"} <= set(tasks["phase"])
    assert {"r_at_1", "chance"} <= set(tasks["retrieval"])
    json.dumps(written.summary, allow_nan=False)


def test_what_was_not_evaluated_is_said(written: Written) -> None:
    assert written.summary["skipped"] == written.metrics["skipped"]
    assert [entry["task"] for entry in written.summary["skipped"]] == ["elsewhere"]
    assert "Not evaluated" in written.html


def test_predictions_hold_score_and_truth_of_every_label(written: Written) -> None:
    table = pd.read_parquet(written.out / "predictions.parquet")
    assert list(table.columns) == ["key", "task", "label", "score", "probability", "truth"]
    rows = table[table.task == "zero_shot"]
    assert len(rows) == 2 * find(written.metrics, "zero_shot", "macro_auc")["n"]
    assert set(rows.truth) == {0.0, 1.0}
    assert set(table.task) == {"zero_shot", "retrieval", "phase", "grounding"}


class Page(HTMLParser):
    """Collects what a page refers to, and checks that tags close in order."""

    VOID = frozenset({"meta", "img", "br", "link", "input", "hr"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.images = 0
        self.references: list[str] = []
        self.ids: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.images += tag == "img"
        self.references += [v for k, v in attrs if k in ("src", "href") and v]
        if values.get("id"):
            self.ids.add(str(values["id"]))
        assert tag not in ("script", "link", "iframe")
        if tag == "img":
            assert values.get("alt")
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_report_is_one_self_contained_page(written: Written) -> None:
    page = Page()
    page.feed(written.html)
    assert page.open == []
    assert page.images >= 10
    assert "http://" not in written.html
    assert "https://" not in written.html
    assert "url(" not in written.html
    for reference in page.references:
        assert reference.startswith("data:image/") or reference[1:] in page.ids


def test_the_report_shows_value_interval_baseline_and_definition(written: Written) -> None:
    result = find(written.metrics, "grounding", "pointing")
    assert f"{result['value']:.3f}" in written.html
    assert f"{result['low']:.3f} to {result['high']:.3f}" in written.html
    assert f"{result['baselines']['all_ones']['value']:.3f}" in written.html
    assert result["card"]["digest"] in written.html
    assert "several maximal pixels" in written.html


def test_pseudonyms_are_shortened_and_texts_are_escaped(tmp_path: Path, fakes: Any) -> None:
    hospital = fakes.hospital()
    evil = "<script>alert(1)</script>"
    for number, row in enumerate(hospital.rows):
        text = type(row.texts[0])("impression", "report", f"There is a nodule. {evil} {number}")
        key = f"pseudonym-{row.key}"
        hospital.rows[number] = type(row)(
            **{name: getattr(row, name) for name in row.__slots__} | {"texts": (text,), "key": key}
        )
        hospital.pixels[key] = hospital.pixels.pop(row.key)
    config = EvalConfig.model_validate(
        {"tasks": [{"kind": "retrieval", "name": "r", "where": {"kinds": ["image"]}}],
         "bootstrap": 10}
    )  # fmt: skip
    evaluate_encoder(
        config, dataset=hospital, encoder=fakes.Encoder(), untrained=None, out=tmp_path / "r"
    )
    html = (tmp_path / "r" / "report.html").read_text()
    assert evil not in html
    assert "&lt;script&gt;" in html
    assert "pseudonym-image" not in html


def test_an_earlier_report_is_replaced_by_the_same_numbers_and_anything_else_is_not(
    tmp_path: Path, written: Written
) -> None:
    out = tmp_path / "report"
    out.mkdir()
    (out / "thesis.txt").write_text("years of work")
    with pytest.raises(ConfigError) as caught:
        written.run(out)
    assert caught.value.code == "out-not-empty"
    assert (out / "thesis.txt").exists()
    (out / "thesis.txt").rename(out / "metrics.json")
    written.run(out)
    assert {p.name for p in out.iterdir()} == {p.name for p in written.out.iterdir()}
    assert json.loads((out / "metrics.json").read_text()) == written.metrics
    assert [p.name for p in tmp_path.iterdir()] == ["report"]


def test_two_models_compare_only_on_the_same_question(tmp_path: Path, written: Written) -> None:
    light = CONFIG.model_copy(update={"tasks": CONFIG.tasks[:1]})
    written.run(tmp_path / "other", light, digest="e" * 64, blind=True)
    other = json.loads((tmp_path / "other" / "metrics.json").read_text())
    ours = find(written.metrics, "zero_shot", "macro_auc")
    comparison = compare(ours, find(other, "zero_shot", "macro_auc"))
    assert comparison.difference > 0.2
    assert comparison.intervals_apart
    with pytest.raises(MedvlpError) as caught:
        compare(ours, find(other, "zero_shot", "macro_average_precision"))
    assert caught.value.code == "card-mismatch"


def test_nothing_to_evaluate_is_an_error(tmp_path: Path, fakes: Any) -> None:
    with pytest.raises(DatasetError) as caught:
        evaluate_encoder(
            CONFIG, dataset=fakes.Dataset(), encoder=fakes.Encoder(), untrained=None,
            out=tmp_path / "r",
        )  # fmt: skip
    assert caught.value.code == "nothing-to-evaluate"
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    ("asked", "there", "used"),
    [("auto", False, "cpu"), ("auto", True, "cuda"), ("cpu", True, "cpu"), ("cuda", True, "cuda")],
)
def test_a_gpu_is_used_where_there_is_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, asked: str, there: bool, used: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    monkeypatch.setattr("data_connectors.dataset.store.Dataset.open", lambda _: None)
    devices = []

    def load(run: Path, *, device: str, untrained: int | None = None) -> None:
        devices.append(device)

    monkeypatch.setattr("medvlp.models.checkpoint.load_encoder", load)
    monkeypatch.setattr("downstream.evaluate.evaluate_encoder", lambda *_, **__: {})
    config = CONFIG.model_copy(update={"device": asked, "untrained": True})
    evaluate(config, data=tmp_path, run=tmp_path, out=tmp_path / "report")
    assert devices == [used, used]


def test_a_gpu_that_is_not_there_is_an_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("data_connectors.dataset.store.Dataset.open", lambda _: None)
    config = CONFIG.model_copy(update={"device": "cuda"})
    with pytest.raises(ConfigError) as caught:
        evaluate(config, data=tmp_path, run=tmp_path, out=tmp_path / "report")
    assert caught.value.code == "device-missing"
