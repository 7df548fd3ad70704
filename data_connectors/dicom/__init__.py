"""DICOM in; volumes, images and clips out, or a refusal that says why.

from data_connectors.dicom import load_volume

volume = load_volume("archive/ct-chest")
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from data_connectors.dicom.load import load_all as load_all
    from data_connectors.dicom.load import load_volume as load_volume


def __getattr__(name: str) -> Any:
    """The functions, loaded when they are asked for: the config loader imports this package."""
    if name in ("load_all", "load_volume"):
        from data_connectors.dicom import load

        return getattr(load, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
