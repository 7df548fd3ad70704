"""Code streams -> arrays, by one decoder a kind of stream; what DICOM says is applied afterwards.

libjpeg-turbo decodes every JPEG (8 and 12 bit, lossless with any predictor), CharLS JPEG-LS,
OpenJPEG both kinds of JPEG 2000, libjxl JPEG XL, the decoder of pylibjpeg run lengths. They were
chosen by speed among those that no mutated stream made crash or hang (docs/LOG.md): GDCM, dicomsdl,
lj92 and OpenJPH are not used because one did.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import imagecodecs
import numpy as np
from pydicom import uid
from rle.rle import decode_frame

from data_connectors.dicom.coded import Coded, read_coded
from medvlp.errors import InputError

_YCC: Final = 3
"""JCS_YCbCr of libjpeg: in and out the same means that colours stay as they are coded."""

Decode = Callable[[bytes, Coded | None], np.ndarray]


def _jpeg(stream: bytes, coded: Coded | None) -> np.ndarray:
    """Colours are converted only where an Adobe marker names them, as Pillow does."""
    plain = coded is None or coded.samples != 3 or coded.lossless or coded.colour == "adobe"
    if plain:
        return imagecodecs.jpeg8_decode(stream)
    return imagecodecs.jpeg8_decode(stream, colorspace=_YCC, outcolorspace=_YCC)


def _jpeg_ls(stream: bytes, coded: Coded | None) -> np.ndarray:
    return imagecodecs.jpegls_decode(stream)


def _jpeg_2000(stream: bytes, coded: Coded | None) -> np.ndarray:
    return imagecodecs.jpeg2k_decode(stream)


def _jpeg_xl(stream: bytes, coded: Coded | None) -> np.ndarray:
    return imagecodecs.jpegxl_decode(stream, numthreads=1)


_FAMILIES: Final[Mapping[str, Decode]] = {
    **dict.fromkeys(
        (
            uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit, uid.JPEGLossless, uid.JPEGLosslessSV1,
            "1.2.840.10008.1.2.4.52",  # extended, process 3 and 5, retired
            "1.2.840.10008.1.2.4.53",  # spectral selection, retired
            "1.2.840.10008.1.2.4.54",
            "1.2.840.10008.1.2.4.55",  # full progression, retired
            "1.2.840.10008.1.2.4.56",
            "1.2.840.10008.1.2.4.58",  # lossless, process 15, retired
        ),
        _jpeg,
    ),
    **dict.fromkeys((uid.JPEGLSLossless, uid.JPEGLSNearLossless), _jpeg_ls),
    **dict.fromkeys(
        (
            uid.JPEG2000Lossless, uid.JPEG2000, uid.HTJ2KLossless, uid.HTJ2KLosslessRPCL, uid.HTJ2K,
        ),
        _jpeg_2000,
    ),
    **dict.fromkeys(
        (
            "1.2.840.10008.1.2.4.110",  # JPEG XL Lossless
            "1.2.840.10008.1.2.4.111",  # JPEG XL JPEG Recompression
            "1.2.840.10008.1.2.4.112",  # JPEG XL
        ),
        _jpeg_xl,
    ),
}  # fmt: skip
STREAMS: Final = frozenset(str(syntax) for syntax in _FAMILIES)
"""Transfer syntaxes of code streams that state their own size."""
JPEG_LS: Final = frozenset({str(uid.JPEGLSLossless), str(uid.JPEGLSNearLossless)})
_ENDED: Final = frozenset(str(s) for s, decode in _FAMILIES.items() if decode in (_jpeg, _jpeg_ls))
"""Those that end with a marker, without which they were cut."""
_PADDING: Final = 256
JPEG_2000: Final = frozenset(
    str(syntax)
    for syntax, decode in _FAMILIES.items()
    if decode is _jpeg_2000
)  # fmt: skip


def decode_stream(
    stream: bytes, syntax: str, *, size: tuple[int, int], samples: int
) -> tuple[np.ndarray, Coded | None]:
    """Decode one code stream.

    Args:
        stream: All of it.
        syntax: Transfer syntax, one of `STREAMS`.
        size: (rows, columns) that the header states; compared before anything is allocated.
        samples: Values a pixel that the header states.

    Returns:
        [h, w] or [h, w, samples] as coded, and what the stream says of itself.

    Raises:
        InputError: `dicom-lying-geometry`, or `dicom-not-decodable`.
    """
    coded = read_coded(stream)
    if coded is not None:
        if coded.rows and (coded.rows, coded.columns) != size:
            raise lying((coded.rows, coded.columns), size)
        if coded.samples > max(4, samples) or coded.precision > 32:
            raise _broken(syntax, "more samples or bits than an image has")
    elif syntax in JPEG_2000:
        raise _broken(syntax, "no image size")
    if syntax in _ENDED and b"\xff\xd9" not in stream[-_PADDING:]:
        # libjpeg would fill the rest with grey, CharLS would look for it for seconds.
        raise _broken(syntax, "it ends early")
    try:
        array = _FAMILIES[syntax](stream, coded)
    except MemoryError:
        raise
    except Exception as error:  # decoders raise many types on broken input
        raise _broken(syntax, type(error).__name__) from None
    if array.shape[:2] != size or array.ndim not in (2, 3):
        raise lying(array.shape[:2], size)
    return array, coded


def decode_runs(stream: bytes, *, size: tuple[int, int], samples: int, bits: int) -> np.ndarray:
    """Decode run lengths (PS3.5 annex G).

    Args:
        stream: One frame.
        size: (rows, columns).
        samples: Values a pixel.
        bits: Bits allocated to a value: 1, 8, 16, 32 or 64.

    Returns:
        uint [samples, h, w].

    Raises:
        InputError: `dicom-not-decodable`.
    """
    _check_segments(stream, samples * max(1, bits // 8))
    try:
        data = decode_frame(stream, size[0] * size[1], bits, "<")
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as error:  # a panic of the decoder is no `Exception`
        raise _broken(uid.RLELossless, type(error).__name__) from None
    values = np.frombuffer(data, f"<u{max(1, bits // 8)}")
    if values.size != samples * size[0] * size[1]:
        raise _broken(uid.RLELossless, "too few values")
    return values.reshape(samples, *size)


def _check_segments(stream: bytes, expected: int) -> None:
    """The header: how many segments, and where each begins, in order and within the stream."""
    header = np.frombuffer(stream[:64].ljust(64, b"\0"), "<u4")
    count = int(header[0])
    starts = [int(start) for start in header[1 : 1 + min(count, 15)]]
    ordered = all(a < b for a, b in zip(starts, [*starts[1:], len(stream)], strict=True))
    if count != expected or not starts or starts[0] != 64 or not ordered:
        raise _broken(uid.RLELossless, "segment table")


def lying(found: tuple[int, ...], stated: tuple[int, ...]) -> InputError:
    """An encoded image of another size than the header's."""
    return InputError(
        "the encoded image has another size than the header says",
        code="dicom-lying-geometry",
        got=f"{found[0]} x {found[1]}",
        limit=f"{stated[0]} x {stated[1]}",
        next_step="fetch the file again from the archive",
    )


def _broken(syntax: str, why: str) -> InputError:
    return InputError(
        "the pixel data cannot be decoded", code="dicom-not-decodable",
        got=f"{uid.UID(syntax).name}, {why}", next_step="fetch the file again from the archive",
    )  # fmt: skip
