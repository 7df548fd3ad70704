"""The whole way, small: the demo's own command in a process of its own."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

KEYS: dict[str, set[str]] = {
    "zero_shot": {"macro_auc", "low", "high"},
    "control": {"macro_auc", "low", "high"},
    "pointing": {"value", "low", "high", "mean_location", "all_ones"},
    "phase": {"accuracy", "f1_video"},
    "retrieval": {"r_at_1", "chance"},
}


def medvlp(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "medvlp.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("demo") / "out"
    done = medvlp(
        "demo", "--out", out, "--patients", "40", "--lectures", "8", "--set", "trainer.max_steps=6"
    )
    assert done.returncode == 0, done.stderr
    summary: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return out, summary


def test_the_demo_ends_with_its_summary(demo: tuple[Path, dict[str, Any]]) -> None:
    out, summary = demo
    for key, inner in KEYS.items():
        assert set(summary[key]) == inner
    assert summary["bundle_verified"] is True
    assert 0 < summary["peak_memory_mb"] < 8000
    assert json.loads((out / "summary.json").read_text()) == summary
    dataset = json.loads((out / "dataset/dataset.json").read_text())
    assert dataset["used"] + dataset["quarantined"] == dataset["found"]
    assert dataset["by_source"]["pydicom_files"]["used"] > 0


def test_no_identifier_of_the_hospital_reaches_an_output(demo: tuple[Path, Any]) -> None:
    out, _ = demo
    outputs = [out / name for name in ("dataset", "run", "report", "bundle", "mlflow.db")]
    searched = medvlp("leakcheck", "--canaries", out / "hospital/canaries.txt", *outputs)
    assert searched.returncode == 0, searched.stderr


@pytest.mark.parametrize(
    "name", ["model/model.safetensors", "MODEL_CARD.md", "reference/expected.json"]
)
def test_a_changed_byte_of_a_bundle_is_found_by_name(
    demo: tuple[Path, Any], tmp_path: Path, name: str
) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(demo[0] / "bundle", bundle)
    content = bytearray((bundle / name).read_bytes())
    content[len(content) // 2] ^= 1
    (bundle / name).write_bytes(content)
    refused = medvlp("verify", bundle)
    assert refused.returncode == 1
    assert name in refused.stderr


def test_a_second_call_does_nothing_twice_and_another_seed_is_refused(
    demo: tuple[Path, dict[str, Any]],
) -> None:
    out, summary = demo
    before = {p: p.stat().st_mtime_ns for p in (out / "bundle").rglob("*") if p.is_file()}
    size = ("--patients", "40", "--lectures", "8", "--set", "trainer.max_steps=6")
    again = medvlp("demo", "--out", out, *size)
    assert again.returncode == 0, again.stderr
    assert {p: p.stat().st_mtime_ns for p in before} == before
    assert json.loads(again.stdout.splitlines()[-1])["zero_shot"] == summary["zero_shot"]
    other = medvlp("demo", "--out", out, *size, "--seed", "2")
    assert other.returncode == 1
    assert "demo-exists" in other.stderr
