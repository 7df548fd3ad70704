"""How grey values are meant to be shown: windows and VOI tables (PS3.3 C.11.2)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from pydicom.dataset import Dataset

from data_connectors.dicom.header import guarded, number, text, whole

Window = tuple[float, float]
"""(centre, width), in the values it is applied to: black below centre - width / 2, white above
centre + width / 2."""


class VoiTable(NamedTuple):
    """A VOI table, which no two numbers can stand for."""

    first: int
    """The value that the first entry is for; smaller ones take it too."""
    entries: np.ndarray
    """uint8 or uint16 [n]; larger values take the last."""
    bits: int

    def apply(self, values: np.ndarray) -> np.ndarray:
        """What values are shown as, 0 to 2^bits - 1."""
        index = np.clip(np.rint(values) - self.first, 0, len(self.entries) - 1)
        shown: np.ndarray = self.entries[index.astype(np.int64)]
        return shown

    @property
    def window(self) -> Window | None:
        """The straight line from where the table leaves its lowest entry to its highest.

        None where the table does not only rise: a window cannot show that.
        """
        steps = np.diff(self.entries.astype(np.int64))
        if len(steps) == 0 or (steps < 0).any() or not (steps > 0).any():
            return None
        rising = np.flatnonzero(steps > 0)
        low, high = self.first + int(rising[0]), self.first + int(rising[-1]) + 1
        return (low + high) / 2, float(high - low)


def window_of(dataset: Dataset) -> Window | None:
    """(centre, width) of the first window, or of the sloping part of the first table, or None.

    The numbers are those of the header. LINEAR, the default function, differs from LINEAR_EXACT
    by half a stored value at either end (C.11.2.1.2, C.11.2.1.3.2), and SIGMOID has the same
    slope at the same centre, so one meaning serves all three.
    """
    centre, width = number(dataset, "WindowCenter"), number(dataset, "WindowWidth")
    if centre is not None and width is not None and width >= _narrowest(dataset):
        return centre, width
    table = voi_table_of(dataset)
    return None if table is None else table.window


def has_window(dataset: Dataset) -> bool:
    """Whether the header names a window in two numbers."""
    width = number(dataset, "WindowWidth")
    return number(dataset, "WindowCenter") is not None and (width or 0.0) >= _narrowest(dataset)


def _narrowest(dataset: Dataset) -> float:
    return 1.0 if text(dataset, "VOILUTFunction").upper() in ("", "LINEAR") else 1e-9


def voi_table_of(dataset: Dataset) -> VoiTable | None:
    """The first item of VOILUTSequence, or None.

    Raises:
        InputError: It is broken.
    """
    return guarded(lambda: _voi_table(dataset)) if dataset.get("VOILUTSequence") else None


def _voi_table(dataset: Dataset) -> VoiTable:
    item = dataset.VOILUTSequence[0]
    count, first, bits = (int(value) for value in item.LUTDescriptor)
    if first > 32767 and whole(dataset, "PixelRepresentation") == 1:
        first -= 65536  # read as unsigned although the values it is compared with are signed
    entries = _entries(item.LUTData, count or 2**16)
    return VoiTable(first, entries, min(max(bits, 8), 16))


def _entries(data: bytes | Iterable[int] | int, count: int) -> np.ndarray:
    """The entries of a table, whichever way they came: words, bytes in words, or bytes."""
    if isinstance(data, bytes):
        words = len(data) >= 2 * count
        return np.frombuffer(data, "<u2" if words else np.uint8, count=count).astype(np.uint16)
    values = [data] if isinstance(data, int) else list(data)
    if len(values) < count:
        raise ValueError("a table is shorter than its descriptor says")
    return np.array(values[:count], np.int64).astype(np.uint16)


def show(values: np.ndarray, dataset: Dataset, ends: Window) -> np.ndarray:
    """Rescaled values as a screen shows them, uint8, by the exact function of the header.

    Args:
        values: Grey values of any shape, rescaled and not turned over.
        dataset: Names the window or the table.
        ends: Smallest and largest possible value, shown in full where the header names neither.
    """
    table = None if has_window(dataset) else voi_table_of(dataset)
    if table is not None:
        return _to_bytes(table.apply(values) / (2**table.bits - 1))
    if not has_window(dataset):
        return _to_bytes((values.astype(np.float64) - ends[0]) / max(ends[1] - ends[0], 1e-9))
    centre, width = number(dataset, "WindowCenter") or 0.0, number(dataset, "WindowWidth") or 1.0
    function = text(dataset, "VOILUTFunction").upper()
    away = values.astype(np.float64) - centre
    if function == "SIGMOID":
        return _to_bytes(1 / (1 + np.exp(np.clip(-4 * away / width, -700, 700))))
    if function == "LINEAR_EXACT":
        return _to_bytes(away / width + 0.5)
    if width == 1:
        return _to_bytes(away > -0.5)
    return _to_bytes((away + 0.5) / (width - 1) + 0.5)


def _to_bytes(shown: np.ndarray) -> np.ndarray:
    """From 0 (black) to 1 (white) as uint8."""
    scaled: np.ndarray = np.rint(np.clip(shown, 0, 1) * 255.0).astype(np.uint8)
    return scaled
