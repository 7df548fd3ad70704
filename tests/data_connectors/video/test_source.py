from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from data_connectors.video.source import LecturesSource


def source(**keys: object) -> LecturesSource:
    return LecturesSource.model_validate({"name": "s", "path": Path("p"), **keys})


def test_the_config_loads_no_decoder_and_no_torch() -> None:
    code = (
        "import sys, data_connectors.video.source;"
        "print([m for m in ('torch', 'av', 'decord', 'PIL') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "keys",
    [
        {"format": "youtube"},
        {"fps": 0},
        {"table": "t.csv"},
        {"format": "clips"},
        {"patient_pattern": "("},
        {"min_clip_s": 9, "max_clip_s": 3},
        {"frame_rate": 2},
    ],
)
def test_a_wrong_key_is_refused(keys: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        source(**keys)


def test_the_patient_key_is_the_first_group_or_the_match_or_the_name() -> None:
    assert source().patient_of("op 1") == "op 1"
    assert source(patient_pattern=r"pat\d+").patient_of("Reg_pat1Image_9") == "pat1"
    assert source(patient_pattern=r"^(?:x(\d+)|y(\d+))").patient_of("y12_b") == "12"
    assert source(patient_pattern=r"pat\d+").patient_of("other") == "other"


def test_the_modality_follows_the_format() -> None:
    assert source().modality_code == "ES"
    assert source(format="clips", table="t.csv").modality_code == "US"
    assert source(modality="XC").modality_code == "XC"
