"""From a configured source to the module that reads it; imports that module alone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol, assert_never, runtime_checkable

from data_connectors.config import AnySource
from data_connectors.dicom.source import DicomSource
from data_connectors.files import is_archive, members_of
from data_connectors.images.source import ImagesSource
from data_connectors.items import Item, Refused
from data_connectors.reports.source import ReportsSource
from data_connectors.source import Unit
from data_connectors.video.source import LecturesSource


@runtime_checkable
class Connector(Protocol):
    """The two steps of every connector (see `data_connectors.source`)."""

    def find(self, source: Any) -> Iterator[Unit | Refused]:
        """Which inputs belong together; cheap."""

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


def files_under(path: Path) -> dict[str, tuple[int, int]]:
    """Every file of a source: relative POSIX path -> (bytes, modification time in ns).

    A source that is one file holds that file, by its name; one that is an archive holds its
    members. Links are listed, not followed into folders.
    """
    if is_archive(path):
        return members_of(path)
    if not path.is_dir():
        status = path.stat()
        return {path.name: (status.st_size, status.st_mtime_ns)}
    found: dict[str, tuple[int, int]] = {}
    folders = [path]
    while folders:
        folder = folders.pop()
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    folders.append(Path(entry.path))
                    continue
                status = entry.stat(follow_symlinks=False)
                name = Path(entry.path).relative_to(path).as_posix()
                found[name] = (status.st_size, status.st_mtime_ns)
    return found
