"""Encoded pixel data -> arrays of stored values, checked before anything is allocated.

Each transfer syntax has one decoder of choice. GDCM is used only where no other permissively
licensed one decodes: JPEG Lossless and 12-bit JPEG.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
from pydicom import uid
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.encaps import get_frame
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.processing import apply_color_lut

from data_connectors.dicom.coded import coded_size
from data_connectors.dicom.header import guarded, text, whole
from data_connectors.dicom.jpeg12 import decode_jpeg12
from medvlp.errors import InputError

_PIXEL_TAGS: Final = (0x7FE00010, 0x7FE00008, 0x7FE00009)

_PLUGINS: Final[Mapping[str, str]] = {
    uid.JPEGBaseline8Bit: "pillow",
    uid.JPEGExtended12Bit: "pillow",
    uid.JPEGLossless: "gdcm",
    uid.JPEGLosslessSV1: "gdcm",
    uid.JPEGLSLossless: "pyjpegls",
    uid.JPEGLSNearLossless: "pyjpegls",
    uid.JPEG2000Lossless: "pylibjpeg",
    uid.JPEG2000: "pylibjpeg",
    uid.HTJ2KLossless: "pylibjpeg",
    uid.HTJ2KLosslessRPCL: "pylibjpeg",
    uid.HTJ2K: "pylibjpeg",
    uid.RLELossless: "pylibjpeg",
}
_JPEG12: Final = {
    uid.JPEGExtended12Bit,
    "1.2.840.10008.1.2.4.53",  # spectral selection, retired
    "1.2.840.10008.1.2.4.55",  # full progression, retired
}
_NATIVE: Final = {
    uid.ImplicitVRLittleEndian,
    uid.ExplicitVRLittleEndian,
    uid.DeflatedExplicitVRLittleEndian,
    uid.ExplicitVRBigEndian,
}


def check_pixels(dataset: Dataset, *, max_bytes: int, max_frames: int) -> None:
    """Compare what the header claims with the bytes that are there.

    Raises:
        InputError: `dicom-no-pixels`, `dicom-too-large`, `dicom-truncated`,
            `dicom-lying-geometry` or `dicom-not-decodable` (by the syntax's name).
    """
    guarded(lambda: _check_pixels(dataset, max_bytes, max_frames))


def _check_pixels(dataset: Dataset, max_bytes: int, max_frames: int) -> None:
    syntax = syntax_of(dataset)
    frames = max(1, whole(dataset, "NumberOfFrames"))
    samples = max(1, whole(dataset, "SamplesPerPixel"))
    bits = whole(dataset, "BitsAllocated")
    rows, columns = whole(dataset, "Rows"), whole(dataset, "Columns")
    if bits not in (1, 8, 16, 32, 64):
        raise InputError("no such pixel depth", code="dicom-malformed", got=bits)
    claimed = (rows * columns * samples * frames * bits + 7) // 8
    if frames > max_frames:
        raise InputError(
            "too many frames", code="dicom-too-large", got=frames, limit=max_frames,
            next_step="raise max_frames if it is genuine",
        )  # fmt: skip
    if claimed > max_bytes:
        raise InputError(
            "the decoded pixels would be too large", code="dicom-too-large",
            got=f"{claimed} bytes", limit=max_bytes,
            next_step="raise max_bytes if it is genuine",
        )  # fmt: skip
    declared, present = _pixel_bytes(dataset)
    if 0 < declared < 0xFFFFFFFF and present < declared:
        raise InputError(
            "the file ends within the pixel data", code="dicom-truncated",
            got=f"{present} of {declared} bytes",
            next_step="fetch the file again from the archive",
        )  # fmt: skip
    if syntax in _NATIVE:
        if text(dataset, "PhotometricInterpretation") == "YBR_FULL_422":
            claimed = claimed * 2 // 3
        if present < claimed:
            raise InputError(
                "rows, columns and frames claim more pixels than there are",
                code="dicom-lying-geometry", got=f"{present} bytes", limit=f"{claimed} bytes",
                next_step="fetch the file again from the archive",
            )  # fmt: skip
    elif present < frames:
        raise InputError("the pixel data is empty", code="dicom-no-pixels")


def syntax_of(dataset: Dataset) -> uid.UID:
    """The transfer syntax.

    Raises:
        InputError: It is missing, or has no permissively licensed decoder here.
    """
    meta = getattr(dataset, "file_meta", None)
    syntax = uid.UID(text(meta, "TransferSyntaxUID") if meta is not None else "")
    if syntax not in _PLUGINS and syntax not in _NATIVE and syntax not in _JPEG12:
        name = syntax.name if syntax.is_transfer_syntax else "none or a private one"
        raise InputError(
            "no decoder for this transfer syntax", code="dicom-not-decodable", got=name,
            next_step="have the archive send it uncompressed or as JPEG 2000",
        )  # fmt: skip
    return syntax


def _pixel_bytes(dataset: Dataset) -> tuple[int, int]:
    """(length that the element claims, bytes that are there)."""
    for tag in _PIXEL_TAGS:
        if tag not in dataset:
            continue
        element = dataset.get_item(tag)
        value = element.value or b""
        declared = element.length if isinstance(element, RawDataElement) else len(value)
        return declared, len(value)
    raise InputError("there is no pixel data", code="dicom-no-pixels", next_step="nothing")


def stored_frame(dataset: Dataset, index: int) -> np.ndarray:
    """One decoded frame: grey stored values [h, w], or uint8/uint16 RGB [h, w, 3].

    Args:
        dataset: An object that passed `check_pixels`.
        index: Frame number from 0.

    Raises:
        InputError: `dicom-not-decodable`.
    """

    def decode() -> np.ndarray:
        syntax = syntax_of(dataset)
        _check_coded_size(dataset, syntax, index)
        try:
            if syntax in _JPEG12 and whole(dataset, "BitsStored") > 8:
                return decode_jpeg12(dataset, index)
            array, meta = get_decoder(syntax).as_array(
                dataset, index=index, decoding_plugin=_PLUGINS.get(syntax, "")
            )
        except (MemoryError, InputError):
            raise
        except Exception as error:  # decoders raise nearly every built-in type on broken input
            raise InputError(
                "the pixel data cannot be decoded", code="dicom-not-decodable",
                got=f"{syntax.name}, {type(error).__name__}",
                next_step="fetch the file again from the archive",
            ) from None  # fmt: skip
        if str(meta["photometric_interpretation"]) == "PALETTE COLOR":
            array = apply_color_lut(array, dataset)
        return array

    frame = guarded(decode)
    size = (whole(dataset, "Rows"), whole(dataset, "Columns"))
    if frame.shape[:2] != size or frame.ndim not in (2, 3):
        raise _lying(frame.shape[:2], size)
    if frame.ndim == 3 and frame.shape[2] != 3:
        frame = frame[..., :3] if frame.shape[2] == 4 else frame[..., 0]
    return frame


def _check_coded_size(dataset: Dataset, syntax: uid.UID, index: int) -> None:
    """Refuse a code stream of another size than the header's, before a decoder allocates it."""
    if syntax in _NATIVE or syntax == uid.RLELossless:
        return
    frames = max(1, whole(dataset, "NumberOfFrames"))
    coded = coded_size(get_frame(dataset.PixelData, index, number_of_frames=frames))
    size = (whole(dataset, "Rows"), whole(dataset, "Columns"))
    if coded is not None and coded != size:
        raise _lying(coded, size)


def _lying(found: tuple[int, ...], stated: tuple[int, ...]) -> InputError:
    return InputError(
        "the encoded image has another size than the header says",
        code="dicom-lying-geometry",
        got=f"{found[0]} x {found[1]}",
        limit=f"{stated[0]} x {stated[1]}",
        next_step="fetch the file again from the archive",
    )
