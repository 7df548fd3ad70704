"""WiSE-FT from training to the chosen model, by the command line."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from safetensors.torch import load_file, save_file

from data_connectors.dataset.store import Dataset
from data_connectors.dataset.writer import DatasetWriter
from governance import tracking
from governance.tracking import client, read_tracking, tracking_uri
from medvlp import cli
from medvlp.errors import CheckpointError
from medvlp.models.checkpoint import load_encoder
from medvlp.models.interpolation import read_ends, write_between
from pretrain.engine import pretrain
from pretrain.module import PretrainModule

from .conftest import SMOKE, _payload, _sample

EVAL = """
bootstrap: 20
examples: 0
tasks:
  - {kind: zero_shot, name: zero_shot, labels: [nodule], truth: findings}
  - {kind: retrieval, name: retrieval, levels: [document]}
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small dataset with a validation split."""
    import numpy as np

    folder = tmp_path_factory.mktemp("with-val")
    rng = np.random.default_rng(0)
    with DatasetWriter(folder) as writer:
        samples = []
        for i in range(36):
            payload, geometry = _payload("image", bool(i % 2), rng)
            placed = writer.add(f"s{i:03d}", payload)
            sample = _sample(i, "image", bool(i % 2), placed, geometry)
            samples.append(replace(sample, split=("train", "val", "test")[i // 2 % 3]))
        writer.finish(samples)
    return folder


@pytest.fixture(scope="module")
def begun(data: Path, tmp_path_factory: pytest.TempPathFactory):
    """A short run, and the weights with which its training began."""
    from medvlp.config import load_config
    from pretrain.config import PretrainConfig

    seen: dict[str, torch.Tensor] = {}

    def remember(self: PretrainModule, *_: Any) -> None:
        if self.global_step == 0 and not seen:
            seen.update({k: v.detach().clone() for k, v in self.model.state_dict().items()})

    patch = pytest.MonkeyPatch()
    patch.setattr(PretrainModule, "on_train_batch_start", remember)
    run = tmp_path_factory.mktemp("runs") / "run"
    config = load_config(PretrainConfig, SMOKE, ["trainer.max_steps=3", "optim.lr=1e-2"])
    pretrain(config, data, run)
    patch.undo()
    return run, seen


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "eval.yaml"
    path.write_text(EVAL)
    return path


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One tracking store for the tests that do not ask where it lies: to make one takes seconds."""
    return f"sqlite:///{tmp_path_factory.mktemp('store') / 'mlflow.db'}"


@pytest.fixture(scope="module")
def question(begun, data: Path, config: Path) -> list[str | Path]:
    return ["--run", begun[0], "--base", "start", "--config", config, "--data", data,
            "--set", "split=val", "--alphas", "0,0.5,1"]  # fmt: skip


@pytest.fixture(scope="module")
def swept(question, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A whole sweep, with the tracking store in its default place."""
    out = tmp_path_factory.mktemp("work") / "sweep"
    return out, call(*question, "--out", out)


def call(*arguments: str | Path) -> dict[str, Any]:
    return cli.run(["interpolate", *map(str, arguments)])


def refused(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    assert cli.main(["interpolate", *map(str, arguments)]) == 1
    said = capsys.readouterr().err.strip().splitlines()[-1]
    return said


def test_the_start_is_exactly_where_training_began(begun):
    run, seen = begun
    ends = read_ends(run, None)
    assert ends.base.state.keys() == seen.keys()
    assert all(torch.equal(value, seen[name]) for name, value in ends.base.state.items())
    assert any(
        not torch.equal(value, ends.tuned.state[name]) for name, value in ends.base.state.items()
    )


@pytest.mark.slow
def test_a_sweep_chooses_on_the_validation_split(swept, begun):
    out, summary = swept
    names = {"alpha-0.00", "alpha-0.50", "alpha-1.00", "chosen", "sweep.json", "sweep.html",
             "tracking.json"}  # fmt: skip
    assert {path.name for path in out.iterdir()} == names
    assert [row["alpha"] for row in summary["alphas"]] == [0, 0.5, 1]
    assert summary["chosen_on"] == "val"
    scores = {row["alpha"]: row["score"] for row in summary["alphas"]}
    assert scores[summary["chosen"]] == max(scores.values())
    for row in summary["alphas"]:
        metrics = json.loads((out / row["folder"] / "report" / "metrics.json").read_text())
        (auc,) = [r for r in metrics["results"] if r["metric"] == "macro_auc"]
        assert row["results"]["zero_shot/macro_auc"]["value"] == auc["value"]
        assert row["model_digest"] == auc["card"]["model_digest"]
        assert auc["card"]["split"] == "val"
        assert row["score"] == pytest.approx(
            sum(result["value"] for result in row["results"].values()) / 2
        )
    assert summary["alphas"][-1]["model_digest"] == load_encoder(begun[0]).digest
    assert summary["done"] == 6
    page = (out / "sweep.html").read_text()
    assert "http" not in page
    assert f"{scores[summary['chosen']]:.3f}" in page


@pytest.mark.slow
def test_the_chosen_folder_is_a_run_folder_like_any_other(swept, data, config, tmp_path: Path):
    out, summary = swept
    row = next(row for row in summary["alphas"] if row["alpha"] == summary["chosen"])
    assert load_encoder(out / "chosen").digest == row["model_digest"]
    cli.run(["evaluate", "--config", str(config), "--data", str(data),
             "--run", str(out / "chosen"), "--out", str(tmp_path / "report")])  # fmt: skip
    # The curve, and what was evaluated later, are recorded together, beside the sweep.
    assert (out.parent / "mlflow.db").exists()
    assert tracking_uri(out / "chosen") == tracking_uri(out)
    mlflow, run_id = client(tracking_uri(out)), read_tracking(out)["run_id"]
    curve = mlflow.get_metric_history(run_id, "sweep/zero_shot/macro_auc")
    assert [point.step for point in curve] == [0, 50, 100]
    recorded = mlflow.get_run(run_id).data
    assert recorded.tags["medvlp.chosen"] == str(summary["chosen"])
    assert recorded.params["base"] == summary["base"]
    assert "eval/zero_shot/macro_auc" in recorded.metrics


@pytest.mark.slow
def test_a_sweep_goes_on_where_it_was_stopped(swept, question, store: str, tmp_path: Path):
    finished, first = swept
    out = tmp_path / "sweep"
    shutil.copytree(finished, out, symlinks=True)
    (out / "tracking.json").unlink()
    arguments = [*question, "--out", out, "--tracking", store]
    before = {path: path.stat().st_mtime_ns for path in out.glob("alpha-*/**/*.*")}
    # As after a kill: one alpha half written, another not evaluated.
    (out / "alpha-0.50" / "run.json").unlink()
    shutil.rmtree(out / "alpha-1.00" / "report")
    second = call(*arguments)
    assert second["done"] == 2
    for key in ("alphas", "chosen", "tuned", "base"):
        assert second[key] == first[key]
    kept = [p for p in before if "alpha-0.00" in p.parts and p.name != "tracking.json"]
    assert all(path.stat().st_mtime_ns == before[path] for path in kept)
    assert call(*arguments)["done"] == 0
    # Another question is asked anew, of the same model.
    assert call(*arguments, "--set", "bootstrap=21", "--alphas", "0.5")["done"] == 1


def test_models_alone_need_no_dataset(begun, store: str, tmp_path: Path, capsys):
    run, _ = begun
    summary = call(
        "--run", run, "--base", run, "--out", tmp_path / "s", "--alphas", "0.3", "--tracking", store
    )
    assert summary["chosen"] is None
    mixed = load_file(tmp_path / "s" / "alpha-0.30" / "model.safetensors")
    for name, value in load_file(run / "model.safetensors").items():
        assert torch.allclose(mixed[name], value, atol=1e-6), name
    said = refused(capsys, "--run", run, "--base", "start", "--out", tmp_path / "s")
    assert "[sweep-changed]" in said


@pytest.mark.parametrize(
    ("extra", "code"),
    [
        ([], "alpha-on-test"),
        (["--choose", "none", "--alphas", "0,2"], "alpha-range"),
        (["--choose", "none", "--alphas", "0.5,0.5"], "alpha-range"),
        (["--choose", "none", "--alphas", "0.123"], "alpha-range"),
        (["--choose", "none", "--metric", "speed/mean"], "sweep-metric"),
        (["--set", "tasks.0.where={split: test}", "--set", "split=val"], "alpha-on-test"),
    ],
)
def test_what_cannot_be_swept_is_refused_before_any_work(
    begun, data: Path, config: Path, tmp_path: Path, capsys, extra, code: str
):
    run, _ = begun
    out = tmp_path / "s"
    said = refused(capsys, "--run", run, "--base", "start", "--out", out, "--config", config,
                   "--data", data, *extra)  # fmt: skip
    assert f"[{code}]" in said
    assert not out.exists()


@pytest.mark.slow
def test_the_test_split_may_be_drawn_but_is_chosen_on_only_when_told(
    begun, data: Path, config: Path, store: str, tmp_path: Path
):
    run, _ = begun
    arguments = ["--run", run, "--base", "start", "--config", config, "--data", data,
                 "--alphas", "1", "--tracking", store]  # fmt: skip
    drawn = call(*arguments, "--out", tmp_path / "a", "--choose", "none")
    assert drawn["chosen"] is None
    assert not (tmp_path / "a" / "chosen").exists()
    told = call(*arguments, "--out", tmp_path / "b", "--choose", "test",
                "--metric", "zero_shot/macro_auc")  # fmt: skip
    assert told["chosen_on"] == "test"
    assert told["mean_of"] == ["zero_shot/macro_auc"]
    assert "no test results" in (tmp_path / "b" / "sweep.html").read_text()


def test_half_an_evaluation_and_a_foreign_folder_are_refused(
    begun, data: Path, config: Path, tmp_path: Path, capsys
):
    run, _ = begun
    common = ["--run", run, "--base", "start"]
    out = tmp_path / "s"
    assert "[sweep-half-evaluation]" in refused(capsys, *common, "--out", out, "--data", data)
    said = refused(capsys, *common, "--out", out, "--config", config, "--set", "split=val")
    assert "[sweep-half-evaluation]" in said
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("years of work")
    assert "[out-not-empty]" in refused(capsys, *common, "--out", tmp_path / "thesis")
    assert "[checkpoint-missing]" in refused(
        capsys, "--run", run, "--base", tmp_path / "nowhere", "--out", out
    )


def test_the_dataset_has_every_split(data: Path):
    splits = [sample.split for sample in Dataset.open(data).samples]
    assert {split: splits.count(split) for split in set(splits)} == {
        "train": 12, "val": 12, "test": 12,
    }  # fmt: skip


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """A small random model in the form of open_clip's on the hub."""
    cfg = {
        "embed_dim": 16,
        "vision_cfg": {"layers": 1, "width": 16, "head_width": 8, "patch_size": 8,
                       "image_size": 32},
        "text_cfg": {"context_length": 24, "vocab_size": 49408, "width": 8, "heads": 2,
                     "layers": 1},
    }  # fmt: skip
    torch.manual_seed(0)
    state = open_clip.CLIP(**cfg).state_dict()
    folder = tmp_path / "published"
    folder.mkdir()
    save_file({k: v.contiguous() for k, v in state.items()}, folder / "open_clip_model.safetensors")
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": cfg}))
    return folder


def test_a_run_starts_from_a_published_model_and_goes_back_to_it(
    published: Path, dataset_path: Path, tmp_path: Path, monkeypatch
):
    """Images, volumes and clips, by the command line; the run outlives the folder it began with."""
    config = tmp_path / "finetune.yaml"
    config.write_text(
        f"model: {{start: {{folder: {published}}}}}\n"
        "data: {batch_size: 6, volume_frames: 3, clip_frames: 2}\n"
        "objectives: [{kind: infonce}, {kind: patch_text}]\n"
        "trainer: {max_steps: 2, threads: 1, precision: fp32}\n"
    )
    monkeypatch.setattr(tracking, "training_logger", lambda *args, **kwargs: None)
    run = tmp_path / "run"
    cli.run(["pretrain", "--config", str(config), "--data", str(dataset_path), "--out", str(run)])
    ends = read_ends(run, None)
    donor = load_file(published / "open_clip_model.safetensors")
    assert torch.equal(ends.base.state["frames.network.conv1.weight"], donor["visual.conv1.weight"])
    assert torch.equal(ends.base.state["text_projection.weight"], donor["text_projection"].T)
    write_between(ends, 0.5, tmp_path / "half")
    shutil.rmtree(published)
    sample = Dataset.open(dataset_path).samples[0]
    visual = Dataset.open(dataset_path).visual(sample)
    half, tuned = (load_encoder(f).visuals([visual])[0] for f in (tmp_path / "half", run))
    assert torch.allclose(half.norm(), torch.ones(()))
    assert not torch.equal(half, tuned)
    with pytest.raises(CheckpointError) as lost:
        read_ends(run, None)
    assert lost.value.code == "weights-missing"
