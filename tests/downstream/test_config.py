from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from downstream.config import EvalConfig
from medvlp.config import load_config
from medvlp.errors import ConfigError

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "eval"


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda p: p.stem)
def test_shipped_config_loads(path: Path) -> None:
    assert load_config(EvalConfig, path).tasks


def test_the_demo_asks_the_control_the_same_question() -> None:
    first = load_config(EvalConfig, CONFIGS / "demo.yaml").tasks[0]
    assert load_config(EvalConfig, CONFIGS / "demo_control.yaml").tasks == (first,)


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ("tasks: []", "tasks"),
        ("tasks: [{kind: zero_shot, name: a}, {kind: retrieval, name: a}]", "distinct"),
        ("tasks: [{kind: guess, name: a}]", "guess|kind"),
        ("tasks: [{kind: zero_shot, name: a, lables: []}]", "lables"),
        ("tasks: [{kind: phase, name: a, window_s: -1}]", "window_s"),
        (
            "tasks: [{kind: phase, name: a, phases: [{id: x, name: y}, {id: x, name: z}]}]",
            "distinct",
        ),
        ("tasks: [{kind: zero_shot, name: 'A b'}]", "name"),
    ],
)
def test_wrong_configs_are_refused_by_key(tree: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "eval.yaml"
    path.write_text(tree, encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        load_config(EvalConfig, path)


def test_the_config_imports_no_torch() -> None:
    code = "import sys, downstream.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
