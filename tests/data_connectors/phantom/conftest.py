from __future__ import annotations

from pathlib import Path

import pytest

from data_connectors.phantom.hospital import write_hospital


@pytest.fixture(scope="session")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six patients and one lecture, written by one process."""
    out = tmp_path_factory.mktemp("phantom") / "hospital"
    write_hospital(out, patients=6, lectures=1, seed=5, workers=1)
    return out
