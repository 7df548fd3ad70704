"""Side tables of a DICOM source: gold labels and regions, by series or instance UID."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from data_connectors.dicom.source import DicomSource
from data_connectors.items import Region
from medvlp.errors import ConfigError, InputError

_PNG = b"\x89PNG\r\n\x1a\n"


class RegionRow(NamedTuple):
    """One row of a region table."""

    concept: str
    side: str | None
    mask: Path


class Tables(NamedTuple):
    """What the side tables say, by UID."""

    labels: Mapping[str, tuple[str, ...]]
    regions: Mapping[str, tuple[RegionRow, ...]]

    def labels_of(self, *uids: str) -> tuple[str, ...]:
        """Labels of a series or of its instance, in the table's order."""
        found = [label for uid in uids if uid for label in self.labels.get(uid, ())]
        return tuple(dict.fromkeys(found))

    def regions_of(self, *uids: str) -> tuple[RegionRow, ...]:
        """Regions of a series or of its instance."""
        return tuple(row for uid in uids if uid for row in self.regions.get(uid, ()))


def load_tables(source: DicomSource) -> Tables:
    """Read the side tables of a source; kept in memory until they change.

    Raises:
        ConfigError: A table is missing or lacks a column.
    """
    labels, regions = table_path(source, source.labels), table_path(source, source.regions)
    return Tables(
        _labels(labels, labels.stat().st_mtime_ns) if labels else {},
        _regions(regions, regions.stat().st_mtime_ns) if regions else {},
    )


def table_files(source: DicomSource) -> set[Path]:
    """The files that the tables consist of, which are no inputs themselves."""
    files = {table_path(source, path) for path in (source.labels, source.regions)}
    masks = {row.mask for rows in load_tables(source).regions.values() for row in rows}
    return {path for path in files if path is not None} | masks


def table_path(source: DicomSource, path: Path | None) -> Path | None:
    """A side table's path; a relative one is looked for in the source's folder, then above it.

    Raises:
        ConfigError: There is no such file.
    """
    if path is None:
        return None
    folder = source.path if source.path.is_dir() else source.path.parent
    for parent in (folder, *folder.parents):
        if (parent / path).is_file():
            return parent / path
    raise ConfigError(f"source {source.name}: a side table is missing", got=path)


def read_region(row: RegionRow, shape: tuple[int, ...]) -> Region:
    """The mask of a region, checked against the stored visual.

    Args:
        row: A row of the region table.
        shape: [d, h, w] or [h, w, ...] of the stored pixels.

    Raises:
        InputError: The mask is missing or has another size.
    """
    height, width = (shape[0] * shape[1], shape[2]) if len(shape) == 3 else shape[:2]
    try:
        data = row.mask.read_bytes()
    except OSError as error:
        raise InputError(
            f"a region's mask cannot be read ({type(error).__name__})", code="region-missing"
        ) from None
    size = (int.from_bytes(data[20:24], "big"), int.from_bytes(data[16:20], "big"))
    if not data.startswith(_PNG) or size != (height, width):
        raise InputError(
            "a region's mask does not fit the stored image", code="region-mismatch",
            got=f"{size[0]} x {size[1]}", limit=f"PNG of {height} x {width}",
            next_step="make the mask in the pixels of the stored visual",
        )  # fmt: skip
    return Region(row.concept, row.side, mask_png=data)


@lru_cache(maxsize=8)
def _labels(path: Path, _changed: int) -> dict[str, tuple[str, ...]]:
    return {
        row["uid"]: tuple(part.strip() for part in row["labels"].split("|") if part.strip())
        for row in _rows(path, ("uid", "labels"))
    }


@lru_cache(maxsize=8)
def _regions(path: Path, _changed: int) -> dict[str, tuple[RegionRow, ...]]:
    found: dict[str, tuple[RegionRow, ...]] = {}
    for row in _rows(path, ("uid", "concept", "mask")):
        mask = (path.parent / row["mask"]).resolve()
        if not mask.is_relative_to(path.parent.resolve()):
            raise ConfigError("a mask lies outside the folder of its table", code="region-outside")
        entry = RegionRow(row["concept"], row.get("side") or None, mask)
        found[row["uid"]] = (*found.get(row["uid"], ()), entry)
    return found


def _rows(path: Path, columns: tuple[str, ...]) -> Iterator[dict[str, str]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, restval="", strict=True)
            missing = [name for name in columns if name not in (reader.fieldnames or ())]
            if missing:
                raise ConfigError("a side table lacks a column", got=", ".join(missing))
            yield from reader
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"a side table cannot be read ({type(error).__name__})") from error
