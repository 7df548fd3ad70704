"""A chest while it is rendered."""

from __future__ import annotations

from dataclasses import dataclass

from data_connectors.phantom.anatomy import Anatomy
from data_connectors.phantom.grid import Array, Grid


@dataclass(slots=True, eq=False)
class Scene:
    """What the lesions need to know of the chest they are put into."""

    anatomy: Anatomy
    grid: Grid
    axes: tuple[Array, Array, Array]
    texture: Array
    coarse: Array
    depth: dict[float, Array]
    """Side -> millimetres inside the pleural space."""
    hu: Array
