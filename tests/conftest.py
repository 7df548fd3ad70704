from __future__ import annotations

import os
import shutil
from collections.abc import Callable
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


@pytest.fixture(scope="session")
def program() -> Callable[[str], str]:
    """`program(name)` gives the path of a program that `.ci/system` installs.

    Without it the test skips; in CI, where it must be there, it fails.
    """

    def find(name: str) -> str:
        # The environment of the tests may hold a Python script of the same name.
        path = shutil.which(name, path="/usr/bin:/usr/sbin:/usr/local/bin:/bin:/sbin")
        path = path or shutil.which(name)
        if path is None and os.environ.get("CI"):
            pytest.fail(f"{name} is missing: .ci/system installs it")
        if path is None:
            pytest.skip(f"{name} is not installed")
        return path

    return find
