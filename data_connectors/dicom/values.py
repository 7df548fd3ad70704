"""Stored values -> real-world values: what the grey pixels of a frame mean, said by its header.

The order is that of PS3.3: padding is found in the stored values, the modality table or rescale
is applied once (C.11.1), MONOCHROME1 is turned so that bright means more (C.7.6.3.1.2), and the
window (C.11.2) is carried along in the same values.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from pydicom.dataset import Dataset
from pydicom.pixels.processing import apply_modality_lut

from data_connectors.dicom.header import guarded, number, text, whole
from data_connectors.dicom.voi import Window, window_of
from medvlp.types import Unit

AIR_HU = -1024
"""What padding outside the field of view of a CT becomes."""
_EXACT_IN_FLOAT32 = 2**24


@dataclass(frozen=True, slots=True, eq=False)
class Meaning:
    """What the stored values of a grey frame mean."""

    unit: Unit
    slope: float
    intercept: float
    padding: tuple[float, float] | None
    """Stored values from the first to the second lie outside the picture."""
    ends: tuple[int, int] | None
    """Smallest and largest value that the stored bits can hold; None for float pixel data."""
    inverse: bool
    """Whether larger stored values are darker and are turned over: never where the values have a
    unit, because MONOCHROME1 is about how they are shown."""
    window: Window | None
    """(centre, width) in the values that `apply` gives."""
    table: Callable[[np.ndarray], np.ndarray] | None = None
    """The modality table, in place of slope and intercept."""

    def apply(self, stored: np.ndarray) -> np.ndarray:
        """Real values of a frame: rescaled, turned over, padding filled.

        Args:
            stored: Grey stored values of any depth and shape.

        Returns:
            int16 where that is exact, else float32; float64 where 32-bit or float pixel data
            would lose something in float32.
        """
        mask = _outside(stored, self.padding)
        values = self._forward(stored)
        if self.inverse:
            values = narrow(sum(self.range_of(values)) - values.astype(np.float64))
        return fill_padding(values, mask, self.unit)

    def times(self, factor: float, unit: Unit, window: Window | None) -> Meaning:
        """The same in another unit."""
        slope, intercept = self.slope * factor, self.intercept * factor
        return replace(
            self, slope=slope, intercept=intercept, unit=unit, window=window, inverse=False
        )

    def unscaled(self) -> Meaning:
        """The same picture in whole numbers, where a rescale without unit would make fractions.

        An image file holds whole numbers only: those that were stored lose nothing in it.
        """
        whole_numbers = float(self.slope).is_integer() and float(self.intercept).is_integer()
        if self.unit != "raw" or self.table is not None or self.ends is None or whole_numbers:
            return self
        step, window = abs(self.slope), self.window
        if window is not None:
            window = ((window[0] - self.intercept) / step, window[1] / step)
        return replace(self, slope=self.slope / step, intercept=0.0, window=window)

    def turned(self, window: Window | None) -> Window | None:
        """A window of the rescaled values as one of what `apply` gives."""
        if window is None or not self.inverse or self.ends is None:
            return None if self.inverse else window
        return sum(self.range_of(np.zeros(1))) - window[0], window[1]

    def _forward(self, stored: np.ndarray) -> np.ndarray:
        if self.table is not None:
            return rescale(self.table(stored), 1.0, 0.0)
        return rescale(stored, self.slope, self.intercept)

    def range_of(self, values: np.ndarray) -> tuple[float, float]:
        """The ends of what the stored bits can mean; float pixel data has only those it uses."""
        if self.ends is None:
            finite = values[np.isfinite(values)]
            return (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
        if self.table is None:
            found = [end * self.slope + self.intercept for end in self.ends]
        else:
            found = [float(value) for value in self.table(np.array(self.ends))]
        return min(found), max(found)


def meaning_of(
    dataset: Dataset, *, transform: Dataset | None = None, view: Dataset | None = None
) -> Meaning:
    """What a header says about grey values.

    Args:
        dataset: One object.
        transform: Where slope and intercept are, in an object with functional groups: the item
            of PixelValueTransformationSequence.
        view: Where the window is: the item of FrameVOILUTSequence.

    Raises:
        InputError: The modality table is broken.
    """
    own = transform is None
    place = dataset if transform is None else transform
    slope, intercept = rescale_of(place)
    hounsfield = text(dataset, "Modality").upper() == "CT" and is_hounsfield(place)
    unit: Unit = "HU" if hounsfield else "raw"
    dark = text(dataset, "PhotometricInterpretation") == "MONOCHROME1"
    # INVERSE goes with MONOCHROME1 (PS3.3 C.11.6) and says the same thing again, not the opposite.
    dark = dark or text(dataset, "PresentationLUTShape").upper() == "INVERSE"
    meaning = Meaning(
        unit=unit,
        slope=slope,
        intercept=intercept,
        padding=_padding(dataset),
        ends=_ends(dataset),
        inverse=dark and unit == "raw",
        window=None,
        table=_modality_table(dataset) if own else None,
    )
    found = (None if view is None else window_of(view)) or window_of(dataset)
    return replace(meaning, window=meaning.turned(found))


def padding_mask(stored: np.ndarray, dataset: Dataset) -> np.ndarray | None:
    """Where a grey frame holds PixelPaddingValue (or its range), or None where nowhere.

    The header's value is compared modulo the pixel depth, because writers disagree on its sign.
    """
    return _outside(stored, _padding(dataset))


def _padding(dataset: Dataset) -> tuple[float, float] | None:
    for kind in ("", "Float", "DoubleFloat"):
        low = number(dataset, f"{kind}PixelPaddingValue")
        high = number(dataset, f"{kind}PixelPaddingRangeLimit")
        if low is not None:
            return _in_range(low, dataset), _in_range(low if high is None else high, dataset)
    return None


def _in_range(value: float, dataset: Dataset) -> float:
    """A padding value as the stored bits hold it: writers disagree on sign and unused bits."""
    ends = _ends(dataset)
    if ends is None or ends[0] <= value <= ends[1]:
        return value
    return (int(value) - ends[0]) % (ends[1] - ends[0] + 1) + ends[0]


def _outside(stored: np.ndarray, padding: tuple[float, float] | None) -> np.ndarray | None:
    """Padded pixels, and those that are no finite number; None where there are none."""
    mask = ~np.isfinite(stored) if stored.dtype.kind == "f" else None
    if padding is not None:
        ends = np.array(padding)
        if stored.dtype.kind in "iu":
            ends = np.clip(ends, -(2**62), 2**62).astype(np.int64).astype(stored.dtype)
        # Python numbers: a NumPy float64 would widen the whole frame for the comparison.
        low, high = sorted(end.item() for end in ends)
        inside = (stored >= low) & (stored <= high)
        mask = inside if mask is None else mask | inside
    return None if mask is None or not mask.any() else mask


def fill_padding(values: np.ndarray, mask: np.ndarray | None, unit: Unit) -> np.ndarray:
    """Replace padded pixels: air in a CT, else the smallest value of the rest of the frame."""
    if mask is None:
        return values
    if mask.all():
        return values if np.isfinite(values).all() else np.zeros_like(values)
    values[mask] = AIR_HU if unit == "HU" else values[~mask].min()
    return values


def rescale(stored: np.ndarray, slope: float, intercept: float) -> np.ndarray:
    """Modality rescale: int16 where that is exact, else float32.

    PS3.3 C.11.1: value = slope x stored + intercept, once. float64 where pixels deeper than 16
    bits, rescaled by whole numbers, would lose something in float32.
    """
    whole_numbers = float(slope).is_integer() and float(intercept).is_integer()
    if stored.dtype.kind in "iu" and whole_numbers:
        low, high = int(stored.min()), int(stored.max())
        ends = [low * int(slope) + int(intercept), high * int(slope) + int(intercept)]
        if min(ends) >= -32768 and max(ends) <= 32767:
            # Modulo 2^16, which changes nothing where the result fits, in one pass or two.
            values: np.ndarray = stored.astype(np.uint16)
            if slope != 1:
                values *= np.uint16(int(slope) % 65_536)
            if intercept != 0:
                values += np.uint16(int(intercept) % 65_536)
            return values.view(np.int16)
    exact = stored.astype(np.float64) * slope + intercept
    single = exact.astype(np.float32)
    deep = stored.dtype.itemsize > 2 and whole_numbers
    return exact if deep and not np.array_equal(single, exact, equal_nan=True) else single


def narrow(values: np.ndarray) -> np.ndarray:
    """float64 as int16 or float32 where that changes nothing, or as float32 if it is no integer."""
    if not np.isfinite(values).all():
        return values.astype(np.float32)
    whole_numbers = bool((values == np.rint(values)).all())
    if whole_numbers and values.min() >= -32768 and values.max() <= 32767:
        return values.astype(np.int16)
    deep = whole_numbers and float(np.abs(values).max()) > _EXACT_IN_FLOAT32
    return values if deep else values.astype(np.float32)


def real_values(stored: np.ndarray, dataset: Dataset) -> np.ndarray:
    """Stored values through the modality LUT or rescale of a single-frame object.

    Returns:
        As `rescale`, of the same shape.
    """
    table = _modality_table(dataset)
    return rescale(stored, *rescale_of(dataset)) if table is None else rescale(table(stored), 1, 0)


def _modality_table(dataset: Dataset) -> Callable[[np.ndarray], np.ndarray] | None:
    if not dataset.get("ModalityLUTSequence"):
        return None
    return lambda stored: guarded(lambda: np.asarray(apply_modality_lut(stored, dataset)))


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


def _ends(dataset: Dataset) -> tuple[int, int] | None:
    bits = whole(dataset, "BitsStored") or whole(dataset, "BitsAllocated")
    if "FloatPixelData" in dataset or "DoubleFloatPixelData" in dataset or not 0 < bits <= 32:
        return None
    signed = whole(dataset, "PixelRepresentation") == 1
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
