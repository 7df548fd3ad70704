"""Pixel data -> arrays of stored values, checked before anything is allocated.

A frame is read and decoded when it is asked for, and only that frame. What comes out is what
pydicom's decoders give by default (PS3.3 C.7.6.3): sign and unused bits put right, planes put
together, YBR turned into RGB.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from pydicom import uid
from pydicom.dataset import Dataset

from data_connectors.dicom.attributes import Attributes
from data_connectors.dicom.coded import Coded
from data_connectors.dicom.colour import apply_palette, ybr_to_rgb
from data_connectors.dicom.header import guarded, text, whole
from data_connectors.dicom.pixeldata import (
    DOUBLE_PIXELS,
    FLOAT_PIXELS,
    PIXEL_DATA,
    PixelData,
    pixel_data,
)
from data_connectors.dicom.skim import UNDEFINED
from data_connectors.dicom.streams import (
    JPEG_2000,
    JPEG_LS,
    STREAMS,
    decode_runs,
    decode_stream,
    lying,
)
from medvlp.errors import InputError

_NATIVE: Final = {
    uid.ImplicitVRLittleEndian,
    uid.ExplicitVRLittleEndian,
    uid.DeflatedExplicitVRLittleEndian,
    uid.ExplicitVRBigEndian,
}
_FLOATS: Final = {FLOAT_PIXELS: "f4", DOUBLE_PIXELS: "f8"}
_PARTIAL: Final = "YBR_PARTIAL_422"
_YBR: Final = ("YBR_FULL", "YBR_FULL_422", _PARTIAL)
_HALVED: Final = ("YBR_FULL_422", _PARTIAL)
"""Two pixels share their colour differences in native data."""


@dataclass(frozen=True, slots=True)
class Form:
    """How the pixels of one object are stored (PS3.3 C.7.6.3)."""

    syntax: uid.UID
    rows: int
    columns: int
    frames: int
    samples: int
    allocated: int
    """Bits of a value as it is stored, and how many of them count."""
    stored: int
    high: int
    """Which bit of a value is its highest."""
    signed: bool
    photometric: str
    planes: bool
    """Whether the colours of native data come one after the other."""

    @property
    def size(self) -> tuple[int, int]:
        """(rows, columns)."""
        return self.rows, self.columns

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """Of a stored value."""
        return np.dtype(f"<{'i' if self.signed else 'u'}{max(1, self.allocated // 8)}")

    @property
    def values(self) -> int:
        """How many of them a native frame has in the file."""
        count = self.rows * self.columns * self.samples
        return count * 2 // 3 if self.photometric in _HALVED else count


def form_of(attributes: Attributes) -> Form:
    """What a header says of its pixels.

    Raises:
        InputError: `dicom-not-decodable` by the name of the syntax, or `dicom-malformed`.
    """
    bits = whole(attributes, "BitsAllocated")
    if bits not in (1, 8, 16, 32, 64):
        raise InputError("no such pixel depth", code="dicom-malformed", got=bits)
    stored = min(bits, whole(attributes, "BitsStored") or bits)
    high = whole(attributes, "HighBit")
    return Form(
        syntax=syntax_of(attributes),
        rows=whole(attributes, "Rows"),
        columns=whole(attributes, "Columns"),
        frames=max(1, whole(attributes, "NumberOfFrames")),
        samples=max(1, whole(attributes, "SamplesPerPixel")),
        allocated=bits,
        stored=stored,
        high=high if stored <= high + 1 <= bits else stored - 1,
        signed=whole(attributes, "PixelRepresentation") == 1,
        photometric=text(attributes, "PhotometricInterpretation"),
        planes=whole(attributes, "PlanarConfiguration") == 1,
    )


def syntax_of(attributes: Attributes) -> uid.UID:
    """The transfer syntax.

    Raises:
        InputError: It is missing, or has no permissively licensed decoder here.
    """
    meta = getattr(attributes, "file_meta", None)
    syntax = uid.UID(text(meta, "TransferSyntaxUID") if meta is not None else "")
    if syntax not in _NATIVE and syntax != uid.RLELossless and syntax not in STREAMS:
        name = syntax.name if syntax.is_transfer_syntax else "none or a private one"
        raise InputError(
            "no decoder for this transfer syntax", code="dicom-not-decodable", got=name,
            next_step="have the archive send it uncompressed or as JPEG 2000",
        )  # fmt: skip
    return syntax


def check_pixels(dataset: Dataset, *, max_bytes: int, max_frames: int) -> None:
    """Compare what the header claims with the bytes that are there.

    Raises:
        InputError: `dicom-no-pixels`, `dicom-too-large`, `dicom-truncated`,
            `dicom-lying-geometry` or `dicom-not-decodable` (by the syntax's name).
    """

    def check() -> None:
        form = form_of(dataset)
        check_form(form, pixel_data(dataset), max_bytes=max_bytes, max_frames=max_frames)

    guarded(check)


def check_form(form: Form, data: PixelData, *, max_bytes: int, max_frames: int) -> None:
    """As `check_pixels`."""
    if form.frames > max_frames:
        raise InputError(
            "too many frames", code="dicom-too-large", got=form.frames, limit=max_frames,
            next_step="raise max_frames if it is genuine",
        )  # fmt: skip
    pixels = form.rows * form.columns * form.samples * form.frames
    claimed = (pixels * form.allocated + 7) // 8
    if claimed > max_bytes:
        raise InputError(
            "the decoded pixels would be too large", code="dicom-too-large",
            got=f"{claimed} bytes", limit=max_bytes,
            next_step="raise max_bytes if it is genuine",
        )  # fmt: skip
    needed = (form.values * form.frames * form.allocated + 7) // 8
    native = form.syntax in _NATIVE
    # No more of a deflated object is inflated than its header claims.
    present = data.present(needed if native else form.frames)
    if 0 < data.length < UNDEFINED and present < min(data.length, needed if native else 1):
        raise InputError(
            "the file ends within the pixel data", code="dicom-truncated",
            got=f"{present} of {data.length} bytes",
            next_step="fetch the file again from the archive",
        )  # fmt: skip
    if native and present < needed:
        raise InputError(
            "rows, columns and frames claim more pixels than there are",
            code="dicom-lying-geometry", got=f"{present} bytes", limit=f"{needed} bytes",
            next_step="fetch the file again from the archive",
        )  # fmt: skip
    if present < form.frames:
        raise InputError("the pixel data is empty", code="dicom-no-pixels")


class Frames:
    """The frames of one object, decoded one at a time."""

    def __init__(self, form: Form, data: PixelData, dataset: Dataset | None = None) -> None:
        """Look at an object that passed `check_pixels`.

        Args:
            form: How its pixels are stored.
            data: Where they are.
            dataset: Where the palette is, if it has one.
        """
        self.form = form
        self._data = data
        self._dataset = dataset

    def __getitem__(self, index: int) -> np.ndarray:
        """One frame: grey stored values [h, w], or RGB [h, w, 3].

        Raises:
            InputError: `dicom-not-decodable`, `dicom-lying-geometry` or `dicom-truncated`.
        """
        return guarded(lambda: self._frame(index))

    @property
    def direct(self) -> bool:
        """Whether the pixels lie in a file as they are, and no palette is needed for them."""
        deflated = self.form.syntax == uid.DeflatedExplicitVRLittleEndian
        return self._dataset is None and not deflated and self._data.in_file

    @property
    def slow(self) -> bool:
        """Whether decoding takes far longer than reading, and lets other threads run."""
        return self.form.syntax in JPEG_2000

    def stream(self, index: int) -> bytes:
        """The code stream of a frame that is not native.

        Raises:
            InputError: `dicom-truncated`, `dicom-malformed` or `dicom-no-pixels`.
        """
        return self._data.coded_frame(index, self.form.frames)

    def decoded(self, stream: bytes) -> np.ndarray:
        """The frame of a code stream."""
        return guarded(lambda: self._finished(*self._coded(stream)))

    def _frame(self, index: int) -> np.ndarray:
        if self.form.syntax in _NATIVE:
            return self._finished(self._native(index), self.form.photometric)
        return self._finished(*self._coded(self.stream(index)))

    def _finished(self, array: np.ndarray, photometric: str) -> np.ndarray:
        """Palette and colours applied, and the size as the header says."""
        form = self.form
        if photometric == "PALETTE COLOR" and self._dataset is not None:
            array = apply_palette(array, self._dataset)
        elif photometric in _YBR and array.ndim == 3:
            array = ybr_to_rgb(array, form.stored, partial=photometric == _PARTIAL)
        if array.shape[:2] != form.size or array.ndim not in (2, 3):
            raise lying(array.shape[:2], form.size)
        if array.ndim == 3 and array.shape[2] != 3:
            array = array[..., :3] if array.shape[2] == 4 else array[..., 0]
        return array

    def _native(self, index: int) -> np.ndarray:
        form = self.form
        if form.allocated == 1:
            return self._bits(index)
        width = form.allocated // 8
        kind = _FLOATS.get(self._data.tag)
        array = np.empty(form.values, np.dtype(f"<{kind}") if kind else form.dtype)
        offset = index * form.values * width
        room = array.data.cast("B")
        if form.syntax == uid.ExplicitVRBigEndian:
            self._read_big(offset, room)
        elif self._data.readinto(offset, room) < len(room):
            raise _short()
        if form.photometric in _HALVED and form.samples == 3:
            array = _resampled(array)
        if self._data.tag == PIXEL_DATA:
            array = _unused(_lowered(array, form), form.allocated - form.stored)
        return _shaped(array, form)

    def _read_big(self, offset: int, room: memoryview) -> None:
        """Bytes in the order of the machine; 8-bit data lies in swapped words if it is OW."""
        width = self.form.allocated // 8
        words = width == 1 and self._data.vr == "OW"
        unit = 2 if words else width
        skip = offset % unit
        count = -(-(skip + len(room)) // unit) * unit
        data = self._data.read(offset - skip, count)
        if len(data) < skip + len(room):
            raise _short()
        data = data.ljust(count, b"\0")
        swapped = np.frombuffer(data, f">u{unit}").astype(f"<u{unit}").tobytes()
        room[:] = swapped[skip : skip + len(room)]

    def _bits(self, index: int) -> np.ndarray:
        """One bit a pixel; frames follow each other without a gap (PS3.5 8.1.1)."""
        form = self.form
        first = index * form.values
        start, end = first // 8, -(-(first + form.values) // 8)
        data = np.frombuffer(self._data.read(start, end - start), np.uint8)
        if data.size < end - start:
            raise _short()
        bits = np.unpackbits(data, bitorder="little")[first % 8 :][: form.values]
        return _shaped(bits.view(form.dtype), form)

    def _coded(self, stream: bytes) -> tuple[np.ndarray, str]:
        """(array, photometric interpretation) of a coded frame."""
        form = self.form
        if form.syntax == uid.RLELossless:
            planes = decode_runs(
                stream, size=form.size, samples=form.samples, bits=form.allocated
            ).view(form.dtype)
            array = planes[0] if form.samples == 1 else np.moveaxis(planes, 0, -1)
            array = _lowered(np.array(array), form)
            return _unused(array, form.allocated - form.stored), form.photometric
        array, coded = decode_stream(stream, form.syntax, size=form.size, samples=form.samples)
        if array.dtype.kind in "iu":
            array = _signed(array, form, coded)
        return array, _colours(form, coded)


def stored_frame(dataset: Dataset, index: int) -> np.ndarray:
    """One decoded frame: grey stored values [h, w], or uint8/uint16 RGB [h, w, 3].

    Args:
        dataset: An object that passed `check_pixels`.
        index: Frame number from 0.

    Raises:
        InputError: `dicom-not-decodable`.
    """
    return frames_of(dataset)[index]


def frames_of(dataset: Dataset) -> Frames:
    """The frames of an object, for reading several.

    Raises:
        InputError: `dicom-no-pixels` or `dicom-not-decodable`.
    """

    def find() -> Frames:
        form = form_of(dataset)
        palette = dataset if form.photometric == "PALETTE COLOR" else None
        return Frames(form, pixel_data(dataset), palette)

    return guarded(find)


def _shaped(array: np.ndarray, form: Form) -> np.ndarray:
    if form.samples == 1:
        return array.reshape(form.size)
    if form.planes:
        return np.moveaxis(array.reshape(form.samples, *form.size), 0, -1)
    return array.reshape(*form.size, form.samples)


def _resampled(array: np.ndarray) -> np.ndarray:
    """Y1 Y2 B R -> Y1 B R, Y2 B R (PS3.3 C.7.6.3.1.2)."""
    pairs = array.reshape(-1, 4)
    return np.stack([pairs[:, [0, 2, 3]], pairs[:, [1, 2, 3]]], axis=1).ravel()


def _lowered(array: np.ndarray, form: Form) -> np.ndarray:
    """Values of old files that do not end with the lowest bit (PS3.5 8.1.1), where they do."""
    shift = form.high + 1 - form.stored
    return np.right_shift(array, shift, out=array) if shift else array


def _unused(array: np.ndarray, spare: int) -> np.ndarray:
    """Bits above the stored ones mean nothing (PS3.5 8.1.1): sign or zero fills them."""
    if spare <= 0:
        return array
    if array.dtype.kind == "u":
        limit = (1 << (8 * array.dtype.itemsize - spare)) - 1
        if array.size and int(array.max()) > limit:
            array &= array.dtype.type(limit)
        return array
    np.left_shift(array, spare, out=array)
    np.right_shift(array, spare, out=array)
    return array


def _signed(array: np.ndarray, form: Form, coded: Coded | None) -> np.ndarray:
    """Decoded values in the type and with the sign that the header states.

    JPEG-LS does not say whether values are signed, and some JPEG 2000 streams say the opposite
    of the header, which is believed.
    """
    kind = "i" if form.signed else "u"
    array = array.view(f"{kind}{array.dtype.itemsize}").astype(form.dtype, copy=False)
    if not array.flags.writeable:
        array = array.copy()
    precision = coded.precision if coded else form.stored
    width = 8 * array.dtype.itemsize
    if form.syntax in JPEG_2000 and form.photometric in ("MONOCHROME1", "MONOCHROME2"):
        differs = coded is not None and coded.signed != form.signed
        return _unused(array, width - precision) if differs else array
    if form.syntax in JPEG_LS and form.signed:
        return _unused(array, width - precision)
    return _unused(array, form.allocated - form.stored)


def _colours(form: Form, coded: Coded | None) -> str:
    """The photometric interpretation of what was decoded: the stream is believed first."""
    if form.samples != 3 or coded is None:
        return form.photometric
    if form.syntax in JPEG_2000:
        return "RGB" if form.photometric in ("YBR_ICT", "YBR_RCT") else form.photometric
    if coded.colour == "rgb":
        return "RGB"
    jfif = coded.colour == "jfif" and "YBR" not in form.photometric
    return "YBR_FULL" if jfif else form.photometric


def _short() -> InputError:
    return InputError(
        "the file ends within the pixel data", code="dicom-truncated",
        next_step="fetch the file again from the archive",
    )  # fmt: skip
