"""Whole-slide images: a pyramid of levels, each a file of tiles, read tile by tile (PS3.3 C.8.12).

with open_slide("slides/case-7") as slide:
    slide.levels[0].shape            # rows, columns of the largest level
    slide.read_region(0, x, y, w, h) # decodes the tiles it touches and no others
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate

from data_connectors.dicom.decode import check_pixels, stored_frame
from data_connectors.dicom.header import WHOLE_SLIDE, guarded, number, numbers, text, texts, whole
from data_connectors.dicom.image import to_8_bit
from data_connectors.dicom.tiles import Tiles, read_tiles
from medvlp.errors import InputError

_PAPER: Final = 255
"""What was not scanned, beside a slide in colour; 0 beside a grey (fluorescence) one."""
_PIXEL: Final = (
    "Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration",
    "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation",
)  # fmt: skip
_MOST_BYTES: Final = 2_000_000_000


@dataclass(frozen=True, slots=True, eq=False)
class Level:
    """One resolution of a slide."""

    shape: tuple[int, int]
    """(rows, columns) of the whole picture."""
    spacing_mm: tuple[float, float] | None
    """(between rows, between columns), on the slide."""
    left: np.ndarray
    """int64 [n]: the first column of each tile that is read: one focal plane, one optical path."""
    top: np.ndarray
    """int64 [n]: its first row."""
    frame: np.ndarray
    """int64 [n]: its number in the file."""
    header: Dataset
    """All of the object but its pixels."""
    tiles: Tiles
    """Where the coded tiles are in the file."""

    @property
    def microns(self) -> float | None:
        """Microns from pixel to pixel."""
        return None if self.spacing_mm is None else 1000 * max(self.spacing_mm)

    def read_region(
        self, file: BinaryIO, x: int, y: int, w: int, h: int, *, max_bytes: int = _MOST_BYTES
    ) -> np.ndarray:
        """Pixels of this level; see `Slide.read_region`."""
        rows, columns = self.shape
        if not (0 <= x < x + w <= columns and 0 <= y < y + h <= rows):
            raise InputError(
                "the region is not on the slide", code="slide-outside",
                got=f"{w} x {h} at {x}, {y}", limit=f"{columns} x {rows}",
            )  # fmt: skip
        colour = whole(self.header, "SamplesPerPixel") == 3
        if w * h * (3 if colour else 2) > max_bytes:
            raise InputError(
                "the region is too large", code="dicom-too-large", got=f"{w} x {h}",
                limit=f"{max_bytes} bytes", next_step="read it in parts, or at a lower level",
            )  # fmt: skip
        height, width = whole(self.header, "Rows"), whole(self.header, "Columns")
        grey = np.uint8 if whole(self.header, "BitsAllocated") == 8 else np.uint16
        empty: np.ndarray = (
            np.full((h, w, 3), _PAPER, np.uint8) if colour else np.zeros((h, w), grey)
        )
        touched = (self.left < x + w) & (self.left + width > x)
        touched &= (self.top < y + h) & (self.top + height > y)
        for index in np.flatnonzero(touched):
            tile = self._tile(file, int(self.frame[index]), max_bytes)
            left, top = int(self.left[index]) - x, int(self.top[index]) - y
            part = tile[max(0, -top) : h - top, max(0, -left) : w - left]
            empty[max(0, top) : top + height, max(0, left) : left + width] = part
        return empty

    def _tile(self, file: BinaryIO, frame: int, max_bytes: int) -> np.ndarray:
        """One decoded tile: an object of one frame, through the decoders of all others."""
        alone = Dataset()
        for keyword in _PIXEL:
            if keyword in self.header:
                alone[keyword] = self.header[keyword]
        alone.file_meta = self.header.file_meta
        coded = self.tiles.read(file, frame)
        alone.PixelData = encapsulate([coded], has_bot=False) if self.tiles.encapsulated else coded
        alone["PixelData"].VR = "OB" if whole(self.header, "BitsAllocated") == 8 else "OW"
        check_pixels(alone, max_bytes=max_bytes, max_frames=1)
        pixels = stored_frame(alone, 0)
        return to_8_bit(pixels, alone) if pixels.ndim == 3 else pixels


@dataclass(frozen=True, slots=True, eq=False)
class Slide:
    """An open slide."""

    levels: tuple[Level, ...]
    """Largest first."""
    _files: tuple[BinaryIO, ...]

    def read_region(self, level: int, x: int, y: int, w: int, h: int) -> np.ndarray:
        """Decode a rectangle.

        Args:
            level: Index of a level; 0 is the largest.
            x: First column, in pixels of that level.
            y: First row.
            w: Columns.
            h: Rows.

        Returns:
            uint8 [h, w, 3], or grey [h, w]; white (grey: 0) where nothing was scanned.

        Raises:
            InputError: There is no such level or rectangle, or a tile cannot be decoded.
        """
        if not 0 <= level < len(self.levels):
            raise InputError(
                "there is no such level", code="slide-outside", got=level, limit=len(self.levels)
            )
        return self.levels[level].read_region(self._files[level], x, y, w, h)


@contextmanager
def open_slide(path: str | Path | Sequence[str | Path]) -> Iterator[Slide]:
    """Open the levels of one slide.

    Args:
        path: The folder of one slide, one file, or its files; what is no level is passed over.

    Raises:
        InputError: There is none, or a file cannot be used.
    """
    paths = [Path(path)] if isinstance(path, str | Path) else [Path(part) for part in path]
    files = [file for one in paths for file in (sorted(one.iterdir()) if one.is_dir() else [one])]
    found: list[tuple[Level, BinaryIO]] = []
    with ExitStack() as stack:
        for file in files:
            handle = stack.enter_context(file.open("rb"))
            try:
                found.append((read_level(handle), handle))
            except InputError as error:
                if error.code not in ("not-dicom", "burned-in-risk", "slide-other"):
                    raise
        if not found:
            raise InputError("there is no level of a slide", code="slide-none")
        found.sort(key=lambda entry: -entry[0].shape[0] * entry[0].shape[1])
        yield Slide(tuple(level for level, _ in found), tuple(handle for _, handle in found))


def read_region(
    path: str | Path | Sequence[str | Path], level: int, x: int, y: int, w: int, h: int
) -> np.ndarray:
    """A rectangle of one slide; see `open_slide` and `Slide.read_region`."""
    with open_slide(path) as slide:
        return slide.read_region(level, x, y, w, h)


def read_level(file: BinaryIO) -> Level:
    """The layout of one level, from its header and the lengths of its coded tiles.

    Raises:
        InputError: It is no level (`slide-other`), shows a label (`burned-in-risk`), or does not
            say where its tiles are (`slide-layout`).
    """
    header, tiles = read_tiles(file)
    if text(header, "SOPClassUID") != WHOLE_SLIDE:
        raise InputError("it is no whole-slide image", code="slide-other")
    check_label(texts(header, "ImageType"), text(header, "SpecimenLabelInImage"))
    return guarded(lambda: _level(header, tiles))


def check_label(image_type: tuple[str, ...], label: str) -> None:
    """Refuse pictures of the slide's label: patients' names are written on it.

    Raises:
        InputError: `burned-in-risk`.
    """
    flavour = (*(part.upper() for part in image_type), "", "", "")[2]
    if flavour in ("LABEL", "OVERVIEW", "LOCALIZER") or label.upper() == "YES":
        raise InputError(
            "it shows the label of the slide, on which patients are named",
            code="burned-in-risk", got=flavour or None, next_step="nothing; the levels are read",
        )  # fmt: skip


def _level(header: Dataset, tiles: Tiles) -> Level:
    rows = whole(header, "TotalPixelMatrixRows")
    columns = whole(header, "TotalPixelMatrixColumns")
    height, width = whole(header, "Rows"), whole(header, "Columns")
    frames = max(1, whole(header, "NumberOfFrames"))
    if min(rows, columns, height, width) < 1 or "InConcatenationNumber" in header:
        raise _layout("its size is missing, or it is one part of several")
    per_frame = list(header.get("PerFrameFunctionalGroupsSequence") or [])
    if text(header, "DimensionOrganizationType") == "TILED_FULL" or not per_frame:
        across, down = -(-columns // width), -(-rows // height)
        stacks = max(1, whole(header, "TotalPixelMatrixFocalPlanes"))
        stacks *= max(1, whole(header, "NumberOfOpticalPaths"))
        if frames != across * down * stacks:
            raise _layout(f"{frames} tiles do not fill {down} x {across} x {stacks}")
        # The column changes fastest, then the row, then the focal plane, then the optical path.
        frame = np.arange(across * down, dtype=np.int64)
        left, top = frame % across * width, frame // across * height
    else:
        frame, left, top = _sparse(per_frame, frames)
    return Level((rows, columns), _spacing(header), left, top, frame, header, tiles)


def _sparse(per_frame: list[Dataset], frames: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Numbers and places of the tiles that share focal plane and optical path with the first."""
    if len(per_frame) != frames:
        raise _layout("the functional groups do not match the number of tiles")
    places = [_place(groups) for groups in per_frame]
    chosen = [index for index, place in enumerate(places) if place[2:] == places[0][2:]]
    left = np.array([places[index][0] for index in chosen], np.int64)
    top = np.array([places[index][1] for index in chosen], np.int64)
    return np.array(chosen, np.int64), left, top


def _place(groups: Dataset) -> tuple[int, int, float, str]:
    """(first column, first row, height above the slide, optical path) of one tile."""
    position = (list(groups.get("PlanePositionSlideSequence") or []) or [Dataset()])[0]
    optics = (list(groups.get("OpticalPathIdentificationSequence") or []) or [Dataset()])[0]
    column = number(position, "ColumnPositionInTotalImagePixelMatrix")
    row = number(position, "RowPositionInTotalImagePixelMatrix")
    if column is None or row is None:
        raise _layout("a tile has no position")
    height = number(position, "ZOffsetInSlideCoordinateSystem") or 0.0
    return int(column) - 1, int(row) - 1, height, text(optics, "OpticalPathIdentifier")


def _spacing(header: Dataset) -> tuple[float, float] | None:
    for groups in (header, *list(header.get("SharedFunctionalGroupsSequence") or [])):
        for measures in list(groups.get("PixelMeasuresSequence") or []):
            found = numbers(measures, "PixelSpacing", 2)
            if found is not None and min(found) > 0:
                return found[0], found[1]
    return None


def _layout(why: str) -> InputError:
    return InputError(
        f"the tiles of a slide have no known layout: {why}", code="slide-layout",
        next_step="export it from the scanner as TILED_FULL",
    )  # fmt: skip
