from __future__ import annotations

from pathlib import Path

import pytest

from medvlp.config import load_config
from medvlp.errors import ConfigError
from pretrain.config import PretrainConfig

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "pretrain"


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_shipped_config_loads_and_survives_json(path: Path):
    config = load_config(PretrainConfig, path)
    assert PretrainConfig.model_validate_json(config.model_dump_json()) == config


def test_two_objectives_of_one_name_are_refused():
    both = "objectives=[{kind: infonce}, {kind: infonce}]"
    with pytest.raises(ConfigError, match="different"):
        load_config(PretrainConfig, None, [both])
    named = "objectives=[{kind: infonce}, {kind: infonce, name: other}]"
    assert len(load_config(PretrainConfig, None, [named]).objectives) == 2


@pytest.mark.parametrize(
    "override", ["objectives=[]", "optim.lrr=1", "objectives=[{kind: nothing}]", "optim.ema=1.5"]
)
def test_a_wrong_value_is_refused(override: str):
    with pytest.raises(ConfigError):
        load_config(PretrainConfig, None, [override])
