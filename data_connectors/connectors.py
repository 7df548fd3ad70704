"""From a configured source to the module that reads it; imports that module alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol, assert_never, runtime_checkable

from data_connectors.config import AnySource
from data_connectors.dicom.source import DicomSource
from data_connectors.files import Files, files_below
from data_connectors.images.source import ImagesSource
from data_connectors.items import Item, Refused
from data_connectors.reports.source import ReportsSource
from data_connectors.source import Consulted, Spread, Unit, directly
from data_connectors.video.source import LecturesSource


@runtime_checkable
class Connector(Protocol):
    """The two steps of every connector (see `data_connectors.source`)."""

    def find(self, source: Any, spread: Spread = directly) -> Iterator[Unit | Refused | Consulted]:
        """Which inputs belong together; cheap, or spread over processes."""

    def read(self, source: Any, unit: Unit) -> Iterator[Item]:
        """Decode one unit; expensive."""


def connector_of(source: AnySource) -> Connector:
    """The connector of a source."""
    match source:
        case DicomSource():
            from data_connectors.dicom import reader as dicom

            return dicom
        case ImagesSource():
            from data_connectors.images import reader as images

            return images
        case ReportsSource():
            from data_connectors.reports import reader as reports

            return reports
        case LecturesSource():
            from data_connectors.video import reader as video

            return video
        case _:
            assert_never(source)


def files_of(source: AnySource) -> Files:
    """Every file of a source, as its connector names them."""
    return files_below(source.path, archives=not isinstance(source, LecturesSource))
