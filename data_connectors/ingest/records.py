"""What reading one unit leaves behind, besides the pixels in a shard or a worker's spool."""

from __future__ import annotations

from dataclasses import dataclass

from data_connectors.items import Refused, ReportItem, VisualItem


@dataclass(frozen=True, slots=True, eq=False)
class Stored:
    """A visual whose pixels have been written; `item.payload` is empty."""

    item: VisualItem
    key: str
    offset: int
    """In the spool until the engine has copied it, then in the shard."""
    size: int
    marks: tuple[tuple[str, int], ...]
    """(extension, offset) of every member, relative to the payload; empty unless a clip."""
    shard: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class UnitRecord:
    """Everything one unit gave, in the order it came."""

    visuals: tuple[Stored, ...] = ()
    reports: tuple[ReportItem, ...] = ()
    refused: tuple[Refused, ...] = ()

    @property
    def items(self) -> tuple[VisualItem | ReportItem, ...]:
        """What was used."""
        return (*(visual.item for visual in self.visuals), *self.reports)
