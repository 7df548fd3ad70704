"""Fill a canonical volume slice by slice: one copy of the pixels, never two."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass

import numpy as np

from data_connectors.dicom.geometry import Canonical
from data_connectors.items import Payload
from medvlp.types import Geometry, Unit, Volume


class VolumeBuilder:
    """A volume that grows slice by slice, in the patient's axes from the start."""

    def __init__(self, frame: Canonical, shape: tuple[int, int, int]) -> None:
        """Make room for a stack.

        Args:
            frame: How the stack becomes the volume.
            shape: (slices, rows, columns) of the stack.
        """
        self.frame = frame
        self._array = np.zeros(frame.shape(shape), np.int16)

    def put(self, index: int, values: np.ndarray) -> None:
        """Place a slice (int16 or a float type, [rows, columns]) at its place along the normal."""
        wide = np.promote_types(values.dtype, self._array.dtype)
        if wide != self._array.dtype:
            self._array = self._array.astype(wide)
        self.frame.view(self._array)[index] = values

    def get(self, index: int) -> np.ndarray:
        """The slice that was put there."""
        values: np.ndarray = self.frame.view(self._array)[index]
        return values

    def finish(self, unit: Unit, window: tuple[float, float] | None) -> Volume:
        """The volume."""
        return Volume(self._array, self.frame.affine, unit, window, self.frame.positions_mm)


@dataclass(frozen=True, slots=True, eq=False)
class Stored:
    """A visual as it goes into the dataset."""

    payload: Payload
    geometry: Geometry
    digest: str


def store_volume(volume: Volume, *, part: str = "") -> Stored:
    """A volume as an npy member with its geometry; `part` as in `Geometry`."""
    array = np.ascontiguousarray(volume.array)
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, allow_pickle=False)
    geometry = Geometry(
        shape=array.shape,
        spacing_mm=volume.spacing_mm,
        affine=tuple(float(value) for value in volume.affine.ravel()),
        unit=volume.unit,
        window=volume.window,
        positions_mm=(
            None
            if volume.positions_mm is None
            else tuple(float(value) for value in volume.positions_mm)
        ),
        part=part or None,
    )
    return Stored(Payload((("npy", buffer.getvalue()),)), geometry, pixel_digest(array))


def pixel_digest(*arrays: np.ndarray) -> str:
    """SHA-256 over type, shape and values of the stored pixels."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
