"""Training objectives, one idea a file; the closed union of their configs and `build_loss`.

Importing this package loads no torch: `build_loss` does on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from medvlp.losses.config import (
    ExistenceConfig,
    InfoNCEConfig,
    LossConfig,
    PatchTextConfig,
    objective_name,
)

if TYPE_CHECKING:
    from medvlp.losses.build import Objectives as Objectives
    from medvlp.losses.build import build_loss as build_loss

__all__ = [
    "ExistenceConfig",
    "InfoNCEConfig",
    "LossConfig",
    "Objectives",
    "PatchTextConfig",
    "build_loss",
    "objective_name",
]


def __getattr__(name: str) -> Any:
    if name in ("build_loss", "Objectives"):
        from medvlp.losses import build

        return getattr(build, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
