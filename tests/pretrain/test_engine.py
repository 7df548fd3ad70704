from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from data_connectors.dataset.store import Dataset
from medvlp.errors import CheckpointError, ConfigError, MedvlpError
from medvlp.models.checkpoint import load_encoder
from pretrain.engine import precision, pretrain
from pretrain.folder import read_history
from pretrain.module import PretrainModule

from .conftest import SMOKE


def curve(folder: Path) -> list[tuple[float, ...]]:
    names = ("step", "loss", "infonce", "patch_text", "lr")
    return [tuple(line[name] for name in names) for line in read_history(folder)]


def weights_differ(a: Path, b: Path) -> float:
    first, second = (load_file(folder / "model.safetensors") for folder in (a, b))
    assert first.keys() == second.keys()
    return max(float((first[key].double() - second[key].double()).abs().max()) for key in first)


class Recorder:
    """Stands in for a Lightning logger."""

    run_id = "r1"

    def __init__(self) -> None:
        from lightning.pytorch.loggers import Logger

        outer = self

        class _Logger(Logger):
            name, version, run_id = "recorder", 0, "r1"

            def log_hyperparams(self, params, *args, **kwargs):
                outer.params = params

            def log_metrics(self, metrics, step=None):
                outer.metrics.append((step, metrics))

        self.params: dict[str, str] = {}
        self.metrics: list[tuple[int, dict[str, float]]] = []
        self.logger = _Logger()


@pytest.fixture(scope="module")
def first_run(dataset_path: Path, tmp_path_factory: pytest.TempPathFactory):
    from medvlp.config import load_config
    from pretrain.config import PretrainConfig

    out = tmp_path_factory.mktemp("runs") / "first"
    recorder = Recorder()
    config = load_config(PretrainConfig, SMOKE)
    summary = pretrain(config, dataset_path, out, logger=recorder.logger)
    return out, summary, recorder


def test_the_run_folder_holds_what_it_should(first_run, dataset):
    out, summary, _ = first_run
    names = {path.name for path in out.iterdir()}
    assert names == {
        "config.json", "model.safetensors", "model.json", "tokenizer.json", "history.jsonl",
        "run.json", "resume",
    }  # fmt: skip
    assert json.loads((out / "run.json").read_text()) == summary
    assert summary["steps"] == 6
    assert summary["dataset"] == dataset.digest
    assert summary["mlflow_run_id"] == "r1"
    assert not summary["stopped_early"]
    assert [line["step"] for line in read_history(out)] == [1, 2, 3, 4, 5, 6]
    assert {"loss", "infonce", "patch_text", "lr", "seconds"} <= read_history(out)[0].keys()
    described = json.loads((out / "model.json").read_text())
    assert described["dataset"] == dataset.digest
    assert described["train_pools"] == {"ct/volume": 8, "video/clip": 8, "xray/image": 8}


def test_the_tracker_gets_settings_and_numbers_but_nothing_of_the_data(first_run, dataset):
    _, _, recorder = first_run
    assert [step for step, _ in recorder.metrics] == [1, 2, 3, 4, 5, 6]
    assert all(isinstance(v, float) for _, m in recorder.metrics for v in m.values())
    assert recorder.params["optim.lr"] == "0.001"
    said = " ".join([*recorder.params, *recorder.params.values()])
    for sample in dataset.samples:
        assert sample.key not in said
        assert not any(text.text in said for text in sample.texts)


def test_the_model_loads_and_encodes(first_run, dataset):
    encoder = load_encoder(first_run[0])
    vectors = encoder.visuals([dataset.visual(s) for s in dataset.samples[:4]])
    assert torch.allclose(vectors.norm(dim=1), torch.ones(4), atol=1e-5)


def test_the_same_seed_gives_the_same_curve_and_weights(first_run, dataset_path, smoke, tmp_path):
    pretrain(smoke(), dataset_path, tmp_path / "second")
    assert curve(tmp_path / "second") == curve(first_run[0])
    assert weights_differ(tmp_path / "second", first_run[0]) == 0
    pretrain(smoke("trainer.seed=2"), dataset_path, tmp_path / "third")
    assert curve(tmp_path / "third") != curve(first_run[0])


def test_a_killed_run_resumes_to_the_same_weights(first_run, dataset_path, smoke, tmp_path):
    """kill -9 between two checkpoints; dropout and augmentation must come back as they were."""
    out, whole = tmp_path / "killed", tmp_path / "whole"
    extra = ["trainer.max_steps=16", "model.text.dropout=0.1", "optim.ema=0.9"]
    pretrain(smoke(*extra), dataset_path, whole)
    code = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from medvlp.config import load_config\n"
        "from pretrain.config import PretrainConfig\n"
        "from pretrain import callbacks, engine\n"
        "old = callbacks.History._write\n"
        "def slow(self, *args):\n"
        "    old(self, *args)\n"
        "    time.sleep(0.3)\n"
        "callbacks.History._write = slow\n"
        f"config = load_config(PretrainConfig, Path({str(SMOKE)!r}), {extra!r})\n"
        f"engine.pretrain(config, Path({str(dataset_path)!r}), Path({str(out)!r}))\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline and process.poll() is None:
        steps = [line["step"] for line in read_history(out)]
        if steps and steps[-1] >= 7:
            break
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert (out / "resume" / "last.ckpt").is_file()
    assert not (out / "run.json").exists()
    assert 7 <= read_history(out)[-1]["step"] < 16
    summary = pretrain(smoke(*extra), dataset_path, out, resume=True)
    assert summary["steps"] == 16
    assert weights_differ(out, whole) <= 1e-6
    assert curve(out) == curve(whole)


def test_a_finished_run_is_refused(first_run, dataset_path, smoke):
    with pytest.raises(CheckpointError) as refused:
        pretrain(smoke(), dataset_path, first_run[0])
    assert refused.value.code == "run-exists"


def test_resume_without_a_checkpoint_starts_anew(dataset_path, smoke, tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        summary = pretrain(
            smoke("trainer.max_steps=1"), dataset_path, tmp_path / "new", resume=True
        )
    assert "starting anew" in caplog.text
    assert summary["steps"] == 1


def test_the_time_limit_stops_a_run(dataset_path, smoke, tmp_path):
    summary = pretrain(
        smoke("trainer.max_steps=500", "trainer.max_seconds=0.01"), dataset_path, tmp_path / "t"
    )
    assert summary["stopped_early"]
    assert summary["steps"] < 5
    assert load_encoder(tmp_path / "t").dim == 16


def test_nothing_to_train_on_is_refused(dataset_path, smoke, tmp_path):
    with pytest.raises(ConfigError) as refused:
        pretrain(smoke("data.provenance=[nowhere]"), dataset_path, tmp_path / "n")
    assert refused.value.code == "train-empty"


def test_a_loss_that_is_not_finite_stops_the_run(dataset_path, smoke, tmp_path, monkeypatch):
    monkeypatch.setattr(
        PretrainModule, "last_losses", property(lambda self: {"loss": torch.tensor(torch.nan)},
                                                lambda self, value: None), raising=False,
    )  # fmt: skip
    with pytest.raises(MedvlpError) as refused:
        pretrain(smoke(), dataset_path, tmp_path / "nan")
    assert refused.value.code == "loss-not-finite"
    assert not (tmp_path / "nan" / "run.json").exists()


def test_ctrl_c_reaches_the_command_line(dataset_path, smoke, tmp_path, monkeypatch):
    def interrupt(self, batch, index):
        raise KeyboardInterrupt

    monkeypatch.setattr(PretrainModule, "training_step", interrupt)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        pretrain(smoke(), dataset_path, tmp_path / "stopped")
    assert signal.getsignal(signal.SIGINT) is before


def test_stdout_stays_free_for_data(dataset_path, smoke, tmp_path, capfd):
    pretrain(smoke("trainer.max_steps=1"), dataset_path, tmp_path / "quiet")
    out, err = capfd.readouterr()
    assert out == ""
    assert "💡" not in err
    assert "GPU available" not in err


def test_precision_follows_the_config(smoke):
    assert precision(smoke("trainer.precision=fp32").trainer) == "32-true"
    assert precision(smoke("trainer.precision=bf16").trainer) == "bf16-mixed"
    assert precision(smoke().trainer) in ("32-true", "bf16-mixed")


@pytest.mark.slow
def test_a_model_learns_the_square_from_the_texts(dataset_path, dataset, smoke, tmp_path):
    config = smoke("trainer.max_steps=150", "data.batch_size=12", "optim.lr=3e-3")
    pretrain(config, dataset_path, tmp_path / "learns")
    encoder = load_encoder(tmp_path / "learns")
    test = dataset.select(split="test")
    scores = encoder.visuals([dataset.visual(sample) for sample in test])
    positive, negative = encoder.texts(["There is a nodule.", "No nodule."])
    margin = scores @ (positive - negative)
    sick = torch.tensor([bool(sample.labels) for sample in test])
    assert (margin[sick][:, None] > margin[~sick]).float().mean() > 0.95


def test_training_gives_the_processor_s_denormals_back(dataset_path, smoke, tmp_path):
    pretrain(smoke("trainer.max_steps=1"), dataset_path, tmp_path / "d")
    assert torch.tensor([1e-310], dtype=torch.float64).mul(1.0).item() != 0


def test_doubted_pairs_are_named_and_counted(dataset_path, smoke, tmp_path):
    config = smoke("doubt.refit_every=2", "doubt.kinds=[image,volume,clip]")
    summary = pretrain(config, dataset_path, tmp_path / "run")
    doubted = json.loads((tmp_path / "run/doubted.json").read_text())
    samples = {sample.key for sample in Dataset.open(dataset_path).select(split="train")}
    assert set(doubted) <= samples
    assert summary["doubted"] == len(doubted)
    assert all(p > 0.5 for p in doubted.values())
    shares = [line["doubted"] for line in read_history(tmp_path / "run")]
    assert shares[0] == 0
    assert shares[-1] == pytest.approx(len(doubted) / len(samples))
