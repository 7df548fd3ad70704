"""What the tasks need of a dataset and of a model, as protocols.

`data_connectors.dataset.store.Dataset` and `medvlp.models.encoder.Encoder` fulfil them; so does any
stand-in with these methods.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from data_connectors.items import Region
from medvlp.types import Sample, Visual


@runtime_checkable
class SampleStore(Protocol):
    """A dataset folder, read-only."""

    @property
    def samples(self) -> tuple[Sample, ...]:
        """Every sample."""

    @property
    def digest(self) -> str:
        """Names the dataset's content."""

    def visual(self, sample: Sample) -> Visual:
        """Decode what a sample shows."""

    def regions(self, key: str) -> list[Region]:
        """Where the findings of a sample are."""


@runtime_checkable
class HeatMaps(Protocol):
    """How strongly texts are seen in each patch of one visual."""

    @property
    def maps(self) -> Tensor:
        """Of each text [m, n, gh, gw]."""

    @property
    def slice_weights(self) -> Tensor:
        """How much each frame counts [n]; sums to 1."""


@runtime_checkable
class VisionTextEncoder(Protocol):
    """The inference side of a model."""

    @property
    def digest(self) -> str:
        """Names the weights and the preprocessing."""

    def visuals(self, visuals: list[Visual]) -> Tensor:
        """Unit vectors [b, e]."""

    def texts(self, texts: list[str]) -> Tensor:
        """Unit vectors [m, e]."""

    def compare(self, visuals: list[Visual], texts: Tensor) -> tuple[Tensor, Tensor]:
        """Unit vectors [b, e], and the evidence [b, m] for unit text vectors [m, e] in patches."""

    def heat(self, visual: Visual, texts: Tensor) -> Any:
        """The `HeatMaps` of one visual for unit text vectors [m, e]."""


Samples = Sequence[Sample]
