from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from medvlp.models.config import ModelConfig, PoolingConfig, WeightsRef


def test_configs_load_without_torch():
    code = "import sys, pretrain.config, medvlp.losses; sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=False, timeout=120)
    assert done.returncode == 0


def test_a_branch_name_is_no_pinned_revision():
    with pytest.raises(ValidationError, match="40-digit commit"):
        WeightsRef(hub="owner/name", revision="main")
    assert WeightsRef(hub="owner/name", revision="a" * 40).revision == "a" * 40


def test_weights_come_from_one_place():
    with pytest.raises(ValidationError, match="either"):
        WeightsRef()
    with pytest.raises(ValidationError, match="either"):
        WeightsRef(folder=Path("x"), hub="owner/name", revision="a" * 40)


def test_pooling_needs_a_statistic():
    with pytest.raises(ValidationError):
        PoolingConfig(statistics=())
    with pytest.raises(ValidationError):
        PoolingConfig(statistics=("mean", "mean"))


def test_a_model_config_survives_json():
    config = ModelConfig()
    assert ModelConfig.model_validate_json(config.model_dump_json()) == config
