"""A few hundred damaged files through the real command; `fuzz.py` alone does thousands."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

FUZZ = Path(__file__).with_name("fuzz.py")


@pytest.mark.slow
def test_damaged_files_end_in_the_quarantine(tmp_path):
    run = subprocess.run(
        [sys.executable, FUZZ, "--files", "300", "--seed", "7", "--folder", tmp_path / "fuzz"],
        capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip
    summary = json.loads(run.stdout.splitlines()[-1])
    assert run.returncode == 0, summary
    assert summary["found"] >= 300
    assert len(summary["by_reason"]) > 15
