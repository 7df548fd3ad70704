"""Every recipe, tiny: trains on the phantom, is saved, loads strictly, is evaluated."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from downstream.config import EvalConfig
from downstream.evaluate import evaluate
from medvlp.config import load_config
from medvlp.errors import CheckpointError
from medvlp.models.checkpoint import load_encoder
from pretrain.config import PretrainConfig
from pretrain.engine import pretrain

ROOT = Path(__file__).resolve().parents[1]
RECIPES = sorted((ROOT / "configs/recipes").glob("*.yaml"))
SURGICAL = {"surgvlp", "hecvl", "peskavlp", "surgclip", "norton"}
RADIOLOGICAL = {
    "radclip", "medslip", "devide", "conceptclip", "keep", "m3ae", "arl", "ptunifier", "villa",
    "biomedica",
}  # fmt: skip
RUNS = [
    (path, surgical)
    for path in RECIPES
    for surgical in (False, True)
    if path.stem not in (RADIOLOGICAL if surgical else SURGICAL)
]
NAMES = [f"{path.stem}-{'lectures' if surgical else 'dicom'}" for path, surgical in RUNS]
TINY = (
    "data.batch_size=8", "data.volume_frames=3", "data.cache_mb=200",
    "model.embed_dim=16", "model.preprocess.size=32", "model.frames.kwargs={width: 4}",
    "model.frames.levels=2", "model.pooling.heads=2", "model.pooling.hidden=8",
    "model.text={layers: 1, width: 16, heads: 2, vocabulary: 600, max_tokens: 48}",
    "trainer.max_steps=4", "trainer.threads=1", "trainer.log_every=1",
    "trainer.checkpoint_every=100",
)  # fmt: skip


def test_every_published_system_has_its_recipe() -> None:
    assert {path.stem for path in RECIPES} == SURGICAL | RADIOLOGICAL | {"clip", "medvlp"}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_says_what_was_published_and_what_could_not_be_known(path: Path) -> None:
    header = path.read_text().split("data:")[0]
    if path.stem != "medvlp":
        assert all(word in header for word in ("# Published:", "# Here:", "# Not known:"))
    load_config(PretrainConfig, path)


@pytest.fixture(scope="module")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of 30 patients and 8 lectures."""
    out = tmp_path_factory.mktemp("recipes")
    hospital = str(out / "hospital")
    for arguments in (
        ("phantom", "--out", hospital, "--patients", "30", "--lectures", "8", "--seed", "3"),
        ("ingest", "--config", f"{hospital}/ingest.yaml", "--out", str(out / "dataset")),
    ):
        command = [sys.executable, "-m", "medvlp.cli", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    return out / "dataset"


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("path", "surgical"), RUNS, ids=NAMES)
def test_a_recipe_trains_reloads_strictly_and_is_evaluated(
    path: Path, surgical: bool, phantom: Path, tmp_path: Path
) -> None:
    source = "phantom_lectures" if surgical else "phantom_dicom"
    config = load_config(PretrainConfig, path, (*TINY, f"data.provenance=[{source}]"))
    run = tmp_path / "run"
    pretrain(config, phantom, run)
    history = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    named = {config.name or config.kind for config in config.objectives}
    assert all(math.isfinite(line[name]) for line in history for name in named | {"loss"})
    assert any(line[name] != 0 for line in history for name in named), "nothing was learnt from"
    load_encoder(run)
    suite = "surgery" if surgical else "phantom"
    evaluation = load_config(EvalConfig, ROOT / f"configs/eval/recipes_{suite}.yaml")
    summary = evaluate(evaluation, data=phantom, run=run, out=tmp_path / "report")
    assert summary
    _lose_a_key(run)
    with pytest.raises(CheckpointError):
        load_encoder(run)


def _lose_a_key(run: Path) -> None:
    from safetensors.torch import load_file, save_file

    from medvlp.files import file_digest

    weights = run / "model.safetensors"
    state = load_file(weights)
    state.pop(next(iter(state)))
    save_file(state, weights)
    description = json.loads((run / "model.json").read_text())
    description["sha256"]["model.safetensors"] = file_digest(weights)
    (run / "model.json").write_text(json.dumps(description))
    torch.manual_seed(0)
