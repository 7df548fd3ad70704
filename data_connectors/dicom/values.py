"""Stored values -> real-world values: rescale, modality table, padding, window."""

from __future__ import annotations

import numpy as np
from pydicom.dataset import Dataset
from pydicom.pixels.processing import apply_modality_lut

from data_connectors.dicom.header import guarded, number, text


def padding_mask(stored: np.ndarray, dataset: Dataset) -> np.ndarray | None:
    """Where a grey frame holds PixelPaddingValue (or its range), or None where nowhere.

    The header's value is compared modulo the pixel depth, because writers disagree on its sign.
    """
    low = number(dataset, "PixelPaddingValue")
    if low is None or stored.dtype.kind not in "iu":
        return None
    high = number(dataset, "PixelPaddingRangeLimit")
    ends = np.array([low, low if high is None else high]).astype(np.int64)
    low_end, high_end = sorted(int(end) for end in ends.astype(stored.dtype))
    mask = (stored >= low_end) & (stored <= high_end)
    return mask if mask.any() else None


def rescale(stored: np.ndarray, slope: float, intercept: float) -> np.ndarray:
    """Modality rescale: int16 where that is exact, else float32.

    PS3.3 C.11.1: value = slope x stored + intercept, once.
    """
    whole_numbers = float(slope).is_integer() and float(intercept).is_integer()
    if stored.dtype.kind in "iu" and whole_numbers:
        low, high = int(stored.min()), int(stored.max())
        ends = [low * int(slope) + int(intercept), high * int(slope) + int(intercept)]
        if min(ends) >= -32768 and max(ends) <= 32767:
            values = stored.astype(np.int32)
            values *= int(slope)
            values += int(intercept)
            return values.astype(np.int16)
    return (stored.astype(np.float64) * slope + intercept).astype(np.float32)


def real_values(stored: np.ndarray, dataset: Dataset) -> np.ndarray:
    """Stored values through the modality LUT or rescale of a single-frame object.

    Returns:
        int16 or float32 of the same shape.
    """
    if "ModalityLUTSequence" in dataset:
        return rescale(guarded(lambda: apply_modality_lut(stored, dataset)), 1.0, 0.0)
    slope, intercept = rescale_of(dataset)
    return rescale(stored, slope, intercept)


def rescale_of(dataset: Dataset) -> tuple[float, float]:
    """(slope, intercept); a missing or zero slope is 1."""
    slope, intercept = number(dataset, "RescaleSlope"), number(dataset, "RescaleIntercept")
    return slope or 1.0, intercept or 0.0


def is_hounsfield(dataset: Dataset) -> bool:
    """Whether the rescale of a CT gives Hounsfield units (PS3.3 C.8.2.1)."""
    return (
        text(dataset, "RescaleIntercept") != ""
        and text(dataset, "RescaleSlope") != ""
        and text(dataset, "RescaleType").upper() in ("", "HU")
    )


def windows(dataset: Dataset) -> tuple[float, float] | None:
    """(centre, width) of the first VOI window, in rescaled values, or None."""
    centre, width = number(dataset, "WindowCenter"), number(dataset, "WindowWidth")
    return None if centre is None or width is None or width < 1 else (centre, width)
