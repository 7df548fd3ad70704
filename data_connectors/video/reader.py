"""The two steps of the surgical-video connector (see `data_connectors.source`)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import assert_never

from data_connectors.items import Item, Refused
from data_connectors.source import Spread, Unit, directly
from data_connectors.video.cholect50 import find_annotated, read_annotated
from data_connectors.video.clips import find_clips, read_clip
from data_connectors.video.lectures import find_folders, find_svl, read_lecture
from data_connectors.video.source import LecturesSource
from medvlp.errors import ConfigError


def find(source: LecturesSource, spread: Spread = directly) -> Iterator[Unit | Refused]:
    """Which files form a lecture, an annotated operation or a clip; decodes nothing.

    Raises:
        ConfigError: The source's folder or table is missing, or the table lacks a column.
    """
    if not source.path.is_dir():
        raise ConfigError(
            "a lectures source must be a folder", code="path-missing",
            got=f"source {source.name}", next_step="correct `path`",
        )  # fmt: skip
    match source.format:
        case "folder":
            yield from find_folders(source)
        case "svl":
            yield from find_svl(source)
        case "cholect50":
            yield from find_annotated(source)
        case "clips":
            yield from find_clips(source)
        case _:
            assert_never(source.format)


def read(source: LecturesSource, unit: Unit) -> Iterator[Item]:
    """Decode one unit: a lecture with its clips as spans, one clip, or one picture.

    Every input of the unit is in the `inputs` of exactly one of the items.
    """
    match source.format:
        case "folder" | "svl":
            yield from read_lecture(source, unit)
        case "cholect50":
            yield from read_annotated(source, unit)
        case "clips":
            yield from read_clip(source, unit)
        case _:
            assert_never(source.format)
