from __future__ import annotations

from pathlib import Path

import pytest
from jaxtyping import install_import_hook

# Before anything of ours is imported: shapes and types are checked while tests run.
install_import_hook(
    ["medvlp", "data_connectors", "pretrain", "downstream", "governance"],
    "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))",
)

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The real data beside the checkout; tests that need it skip where it is absent."""
    if not SHARED.is_dir():
        pytest.skip("the real data (../shared/data) is not beside the checkout")
    return SHARED
