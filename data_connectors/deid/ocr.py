"""Text recognition over every frame of a visual, with the tesseract program (extra `ocr`).

Its purpose is to clear pixels: recall counts, a false alarm only costs a person a look. Of every
frame only thin strokes are shown to the program (a white top-hat), light ones and dark ones,
enlarged, upright and turned by a quarter both ways. Without the top-hat half of the text on
radiographs was missed (docs/RESULTS.md).
"""

from __future__ import annotations

import csv
import io
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from PIL import Image
from scipy import ndimage

from data_connectors.deid.payloads import changed, frames_of
from data_connectors.items import VisualItem

CONFIDENCE: Final = 60
"""Of tesseract's 100: words below are what it reads into noise."""
LETTERS: Final = 3
"""Letters and digits that a word must have."""
_BATCH: Final = 50
_TALL: Final = 1400
"""Frames are enlarged up to about this many rows."""
_LARGEST: Final = 2
_STROKE: Final = 13
"""Pixels: wider light areas are no strokes."""
_FAINTEST: Final = 25
"""Grey levels (of 255) by which a stroke stands out at least."""
_CONTRAST: Final = 15.0
"""Fainter strokes are not stretched to the full range."""
_MARGIN: Final = 4
"""Pixels that a mask reaches beyond the box of a word."""


class OcrError(Exception):
    """Text recognition could not say anything. The message is free of patient data."""


class Box(NamedTuple):
    """A word on a frame, in the frame's pixels; what it says is not kept."""

    frame: int
    left: int
    top: int
    width: int
    height: int


def find_text(item: VisualItem, *, timeout_s: float) -> list[Box]:
    """Every word on every frame.

    Args:
        item: A visual with its payload.
        timeout_s: For every 50 frames.

    Raises:
        OcrError: The program is missing, failed or took too long.
    """
    if shutil.which("tesseract") is None:
        raise OcrError("the tesseract program is not installed")
    found: list[Box] = []
    batch: list[tuple[int, np.ndarray]] = []
    last: np.ndarray | None = None
    for number, frame in enumerate(frames_of(item)):
        if last is not None and np.array_equal(frame, last):
            continue  # says nothing new; a mask covers it with the frame before
        last = frame
        batch.append((number, frame))
        if len(batch) == _BATCH:
            found += _read(batch, timeout_s)
            batch = []
    return found + (_read(batch, timeout_s) if batch else [])


def masked(item: VisualItem, boxes: Sequence[Box]) -> VisualItem:
    """The visual with all boxes black on all of its frames: text stays where it was."""

    def black(_: int, frame: np.ndarray) -> np.ndarray:
        after = frame.copy()
        for box in boxes:
            top, left = max(0, box.top - _MARGIN), max(0, box.left - _MARGIN)
            bottom, right = box.top + box.height + _MARGIN, box.left + box.width + _MARGIN
            after[top:bottom, left:right] = frame.min()
        return after

    return changed(item, black)


def _read(batch: Sequence[tuple[int, np.ndarray]], timeout_s: float) -> list[Box]:
    """The words of some frames; all views of all of them in one run of the program."""
    views: list[tuple[int, _View]] = []
    with tempfile.TemporaryDirectory() as folder:
        for number, frame in batch:
            for view in _views(frame):
                path = Path(folder) / f"{len(views)}.png"
                Image.fromarray(view.pixels).save(path, compress_level=1)
                views.append((number, view))
        listing = Path(folder) / "list.txt"
        listing.write_text("".join(f"{folder}/{index}.png\n" for index in range(len(views))))
        table = _tesseract(listing, timeout_s)
    boxes = []
    for row in csv.DictReader(io.StringIO(table), delimiter="\t", quoting=csv.QUOTE_NONE):
        if row["level"] != "5" or not _is_word(row["text"] or "", float(row["conf"])):
            continue
        number, view = views[int(row["page_num"]) - 1]
        place = [int(row[name]) for name in ("left", "top", "width", "height")]
        boxes.append(Box(number, *view.place(place)))
    return boxes


def _tesseract(listing: Path, timeout_s: float) -> str:
    command = ["tesseract", str(listing), "-", "--psm", "11", "--oem", "1", "-l", "eng",
               "--dpi", "150", "tsv"]  # fmt: skip
    try:
        done = subprocess.run(
            command, capture_output=True, timeout=timeout_s, check=False,
            env={**os.environ, "OMP_THREAD_LIMIT": "1"},
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise OcrError(f"it took longer than {timeout_s:.0f} s") from None
    except OSError as error:
        raise OcrError(f"the program cannot be started ({type(error).__name__})") from None
    if done.returncode != 0:
        raise OcrError(f"the program failed with exit status {done.returncode}")
    return done.stdout.decode("utf-8", "replace")


def _is_word(text: str, confidence: float) -> bool:
    return confidence >= CONFIDENCE and len(re.findall(r"\w", text)) >= LETTERS


class _View(NamedTuple):
    """A frame as the program sees it."""

    pixels: np.ndarray
    scale: int
    turns: int
    """Quarter turns, counter-clockwise."""

    def place(self, box: Sequence[int]) -> tuple[int, int, int, int]:
        """(left, top, width, height) in the frame, of a box in the view."""
        left, top, width, height = box
        rows, columns = self.pixels.shape
        if self.turns == 1:  # frame column = view columns' end - view row
            left, top, width, height = rows - top - height, left, height, width
        elif self.turns == 3:
            left, top, width, height = top, columns - left - width, height, width
        s = self.scale
        return left // s, top // s, -(-width // s) + 1, -(-height // s) + 1


def _views(frame: np.ndarray) -> Iterator[_View]:
    grey = frame if frame.ndim == 2 else frame.max(axis=2)
    scale = max(1, min(_LARGEST, _TALL // max(1, *grey.shape)))
    size = (grey.shape[1] * scale, grey.shape[0] * scale)
    for strokes in (_strokes(grey), _strokes(255 - grey)):
        large = Image.fromarray(255 - strokes).resize(size, Image.Resampling.BICUBIC)
        for turns in (0, 1, 3):
            yield _View(np.ascontiguousarray(np.rot90(np.asarray(large), turns)), scale, turns)


def _strokes(grey: np.ndarray) -> np.ndarray:
    """What is light and narrower than a stroke of type, stretched; anatomy is wider."""
    thin = ndimage.white_tophat(grey, size=(_STROKE, _STROKE)).astype(np.float32) - _FAINTEST
    full = max(_CONTRAST, float(np.percentile(thin, 99.8)))
    stretched: np.ndarray = np.clip(thin * (255 / full), 0, 255).astype(np.uint8)
    return stretched
