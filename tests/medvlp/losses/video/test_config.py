from __future__ import annotations

import inspect
import subprocess
import sys

import pytest
from pydantic import ValidationError

from medvlp.losses.video import config
from medvlp.losses.video.correspondence import NoisyCorrespondence
from medvlp.losses.video.hierarchy import Hierarchy
from medvlp.losses.video.mil_nce import MilNCE
from medvlp.losses.video.order import ProcedureOrder

PAIRS = [
    (config.MilNCEConfig, MilNCE),
    (config.HierarchyConfig, Hierarchy),
    (config.ProcedureOrderConfig, ProcedureOrder),
    (config.NoisyCorrespondenceConfig, NoisyCorrespondence),
]


@pytest.mark.parametrize(("schema", "objective"), PAIRS)
def test_a_config_has_the_arguments_of_its_objective(schema, objective):
    fields = schema().model_dump(exclude={"kind", "weight", "name"})
    parameters = inspect.signature(objective).parameters
    assert fields == {name: parameter.default for name, parameter in parameters.items()}
    objective(**fields)


def test_the_order_has_the_papers_weight_and_unknown_variants_are_refused():
    assert config.ProcedureOrderConfig().weight == 0.01
    with pytest.raises(ValidationError):
        config.ProcedureOrderConfig(variant="article")


def test_configs_load_no_torch():
    code = "import sys, medvlp.losses.video.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
