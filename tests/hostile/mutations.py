"""Damage: bits, lengths, tags, code streams, values that lie; the same for the same seed."""

from __future__ import annotations

import io
import random
import re
import struct
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import pydicom
from pydicom import config
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

config.settings.reading_validation_mode = config.IGNORE
config.settings.writing_validation_mode = config.IGNORE

LENGTHS = (0, 1, 2, 3, 7, 0xFF, 0xFFFE, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE,
           0xFFFFFFFF)  # fmt: skip
VRS = b"AE AS AT CS DA DS DT FD FL IS LO LT OB OD OF OL OV OW PN SH SL SQ SS ST SV TM UC UI UL UN UR US UT UV ?? \0\0".split()  # noqa: E501
SPECIAL = (b"\0", b"\xff", b"\\", b"^", b"\x1b$B", b"../", b"/etc/passwd", b"1e999", b"nan", b"-1",
           b"99999999999", b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0", b"\xff\x4f\xff\x51",
           b"\xff\xd8\xff\xc0", b"\x7f\xe0\x00\x10", b"\xe0\x7f\x10\x00")  # fmt: skip


class Element(NamedTuple):
    """Where an element of the top level lies."""

    tag: int
    vr: int
    length: int
    width: int
    """Bytes of the length field."""
    value: int
    size: int


def mutate(data: bytes, kind: str, number: int, rng: random.Random) -> bytes:
    """A damaged copy.

    Args:
        data: The seed.
        kind: Of the seed.
        number: Makes the identifiers of most DICOM objects differ, so that each stands alone.
        rng: Decides everything.
    """
    if kind in ("dicom", "gz") and rng.random() < 0.9:
        data = _own_identity(data, number)
    if kind == "dicom" and rng.random() < 0.35:
        data = _lie(data, rng) or data
        if rng.random() < 0.7:
            return data
    if kind == "dicom" and rng.random() < 0.4:  # the header stays whole, so that it is decoded
        changed = bytearray(data)
        _pixels(changed, rng)
        return bytes(changed)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        ways: tuple[Callable[[bytearray, random.Random], None], ...]
        ways = (_bits, _bytes, _cut, _splice, _number, _special, _repeat)
        if kind in ("dicom", "dicomdir"):
            ways = (*ways, _length, _length, _vr, _tag, _value, _pixels, _pixels)
        changed = bytearray(data)
        rng.choice(ways)(changed, rng)
        data = bytes(changed) or b"\0"
    return data


def _own_identity(data: bytes, number: int) -> bytes:
    for uid in set(
        re.findall(rb"[12](?:\.\d+){5,20}|[0-9a-f]{8}(?:-[0-9a-f]{4,12}){4}", data[:8192])
    ):
        if not uid.startswith(b"1.2.840.10008") and len(uid) > 16:
            data = data.replace(uid, uid[:-7] + b"%07d" % (1_000_000 + number))
    return data


def _bits(data: bytearray, rng: random.Random) -> None:
    head = min(len(data), 2000)
    for _ in range(rng.choice((1, 2, 5, 30))):
        at = rng.randrange(head) if rng.random() < 0.6 else rng.randrange(len(data))
        data[at] ^= 1 << rng.randrange(8)


def _bytes(data: bytearray, rng: random.Random) -> None:
    at, count = rng.randrange(len(data)), rng.choice((1, 4, 16, 200))
    data[at : at + count] = rng.randbytes(min(count, len(data) - at))


def _cut(data: bytearray, rng: random.Random) -> None:
    del data[rng.randrange(len(data)) :]


def _splice(data: bytearray, rng: random.Random) -> None:
    """Move, copy or remove a stretch."""
    a, b = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    part = bytes(data[a : min(b, a + 5000)])
    if rng.random() < 0.5:
        del data[a : a + len(part)]
    at = rng.randrange(len(data) + 1)
    data[at:at] = part


def _number(data: bytearray, rng: random.Random) -> None:
    """An extreme number at an even place."""
    if len(data) < 8:
        return
    at = rng.randrange(min(len(data) - 4, 4000)) // 2 * 2
    form = rng.choice(("<H", ">H", "<I", ">I"))
    value = rng.choice(LENGTHS) & (0xFFFF if "H" in form else 0xFFFFFFFF)
    struct.pack_into(form, data, at, value)


def _special(data: bytearray, rng: random.Random) -> None:
    part = rng.choice(SPECIAL)
    at = rng.randrange(len(data) + 1)
    data[at : at + rng.choice((0, len(part)))] = part


def _repeat(data: bytearray, rng: random.Random) -> None:
    a = rng.randrange(len(data))
    part = bytes(data[a : a + rng.choice((2, 8, 40))])
    data[a:a] = part * rng.choice((2, 50, 2000))


def elements(data: bytes) -> list[Element]:
    """Top-level elements of an explicit little endian object, as far as they make sense."""
    found: list[Element] = []
    at = 132 if data[128:132] == b"DICM" else 0
    while at + 8 <= len(data):
        vr = bytes(data[at + 4 : at + 6])
        if vr in (b"OB", b"OW", b"SQ", b"UN", b"UT", b"OF", b"OD", b"UC", b"UR", b"OL", b"OV"):
            if at + 12 > len(data):
                break
            width, place = 4, at + 8
        elif vr.isalpha() and vr.isupper():
            width, place = 2, at + 6
        else:
            width, place = 4, at + 4  # implicit
        size = int.from_bytes(data[place : place + width], "little")
        found.append(Element(at, at + 4, place, width, place + width, size))
        if size == 0xFFFFFFFF or place + width + size > len(data):
            break
        at = place + width + size
    return found


def _length(data: bytearray, rng: random.Random) -> None:
    if found := elements(bytes(data)):
        one = rng.choice(found)
        near = one.size + rng.choice((-2, -1, 1, 2, 8))
        value = rng.choice((*LENGTHS, near, near, near, one.size * 2))
        field = (value % (1 << 8 * one.width)).to_bytes(one.width, "little")
        data[one.length : one.length + one.width] = field


def _vr(data: bytearray, rng: random.Random) -> None:
    if found := elements(bytes(data)):
        one = rng.choice(found)
        data[one.vr : one.vr + 2] = rng.choice(VRS)[:2].ljust(2, b"\0")


def _tag(data: bytearray, rng: random.Random) -> None:
    if found := elements(bytes(data)):
        one, other = rng.choice(found), rng.choice(found)
        copied = bytes(data[other.tag : other.tag + 4])
        known = (b"\xfe\xff\x00\xe0", b"\xe0\x7f\x10\x00", b"\x00\x52\x30\x92")
        tag = rng.choice((copied, rng.randbytes(4), *known))
        data[one.tag : one.tag + 4] = tag


def _value(data: bytearray, rng: random.Random) -> None:
    if found := [one for one in elements(bytes(data)) if one.size]:
        one = rng.choice(found)
        count = min(one.size, 64, len(data) - one.value)
        part = rng.choice(SPECIAL) if rng.random() < 0.5 else rng.randbytes(count)
        data[one.value : one.value + count] = (part * count)[:count]


def _pixels(data: bytearray, rng: random.Random) -> None:
    """Within the pixel data: fragment lengths, headers of code streams, entropy-coded bytes."""
    start = data.rfind(b"\xe0\x7f\x10\x00")
    if start < 0 or start + 40 >= len(data):
        return
    end = min(len(data), start + rng.choice((60, 200, 1000, len(data))))
    for _ in range(rng.choice((1, 3, 20))):
        at = rng.randrange(start + 8, end)
        if rng.random() < 0.3 and at + 4 <= len(data):
            struct.pack_into(rng.choice(("<I", ">I")), data, at, rng.choice(LENGTHS))
        else:
            data[at] = rng.choice((0, 1, 0x7F, 0xFF, rng.randrange(256)))


def _sequence(*items: dict[str, Any]) -> Sequence:
    made = []
    for values in items:
        item = Dataset()
        for keyword, value in values.items():
            setattr(item, keyword, value)
        made.append(item)
    return Sequence(made)


LIES: dict[str, tuple[Any, ...]] = {
    "Rows": (0, 1, 3, 65535), "Columns": (0, 1, 3, 65535),
    "NumberOfFrames": ("0", "-1", "2", "1000000", "99999999999", "x", "1\\2"),
    "BitsAllocated": (0, 1, 2, 8, 12, 16, 24, 32, 64, 65535), "BitsStored": (0, 1, 8, 17, 255),
    "HighBit": (0, 31, 65535), "PixelRepresentation": (0, 1, 7, 65535),
    "SamplesPerPixel": (0, 1, 2, 3, 4, 65535), "PlanarConfiguration": (0, 1, 2),
    "PhotometricInterpretation": ("", "MONOCHROME1", "PALETTE COLOR", "RGB", "YBR_FULL",
                                  "YBR_FULL_422", "YBR_RCT", "YBR_ICT", "CMYK", "\x1b[2J"),
    "PixelSpacing": ("", "0\\0", "-1\\1", "nan\\nan", "1e308\\1e308", "1", "1\\2\\3", "x\\y"),
    "ImagePositionPatient": ("", "0\\0", "nan\\0\\0", "1e300\\0\\0", "x\\y\\z"),
    "ImageOrientationPatient": ("1\\0\\0\\1\\0\\0", "0\\0\\0\\0\\0\\0", "nan\\0\\0\\0\\1\\0", "1"),
    "RescaleSlope": ("0", "nan", "inf", "1e308", "-1", "x"),
    "RescaleIntercept": ("nan", "-1e308", "x", "0.5"),
    "WindowCenter": ("nan", "1e308", "x", "1\\2\\3"), "WindowWidth": ("0", "-1", "nan", "1e-300"),
    "PixelPaddingValue": (0, 65535), "SliceThickness": ("0", "-1", "nan"),
    "SmallestImagePixelValue": (1,), "LossyImageCompression": ("02",),
    "SpecificCharacterSet": ("", "ISO 2022 IR 87", "GB18030", "nonsense", ["", "ISO 2022 IR 149"]),
    "PatientID": ("", "\0", "../../../etc/passwd", "x" * 5000, "=cmd|' /C calc'!A0", "\x1b[2J"),
    "PatientName": ("^" * 500, "=" * 500, "\x1b$B\x1b$B"),
    "StudyInstanceUID": ("", "../../../../tmp/escape", "/etc/passwd", "1.2.3" * 100, "a\\b"),
    "SeriesInstanceUID": ("", "../../../../tmp/escape", "/etc/passwd", "\0", "n" * 300),
    "SOPInstanceUID": ("", "../escape", "C:\\escape"),
    "SOPClassUID": ("", "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.2.1",
                    "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.4.1",
                    "1.2.840.10008.5.1.4.1.1.128", "1.2.840.10008.5.1.4.1.1.3.1",
                    "1.2.840.10008.5.1.4.1.1.77.1.6", "1.2.840.10008.1.3.10"),
    "Modality": ("", "CT", "MR", "PT", "US", "SM", "SEG"),
    "ImageType": ("", "ORIGINAL\\PRIMARY\\MOSAIC", "LOCALIZER", "\\\\\\"),
    "Units": ("BQML", "CNTS"), "SUVType": ("BW", "x"), "PatientWeight": ("0", "nan"),
    "LargestImagePixelValue": (0,), "TotalPixelMatrixRows": (0, 4_000_000_000),
    "ModalityLUTSequence": (_sequence(), _sequence({}), _sequence({"LUTDescriptor": [0, 0, 16]}),
                            _sequence({"LUTDescriptor": [65535, 0, 16], "LUTData": b"\0\0"})),
    "VOILUTSequence": (_sequence({}), _sequence({"LUTDescriptor": [4, 0, 64], "LUTData": b"\0"})),
    "SharedFunctionalGroupsSequence": (_sequence(), _sequence({}), _sequence({}, {})),
    "PerFrameFunctionalGroupsSequence": (_sequence(), _sequence({}), _sequence(*[{}] * 500)),
    "RedPaletteColorLookupTableDescriptor": ([0, 0, 16], [65535, 65535, 8], [1]),
    "RedPaletteColorLookupTableData": (b"", b"\0"),
    "SegmentedRedPaletteColorLookupTableData": (b"\x01\0\xff\xff\0\0", b"\x02\0" * 40),
    "FloatPixelData": (b"\0\0\0\0",), "PixelData": (b"", b"\0", b"\xfe\xff\x00\xe0" * 9),
    "NumericValue": ("1",), "FrameIncrementPointer": (0x00181063, 0x7FE00010),
    "FrameTimeVector": ("x", "nan\\1"), "FrameTime": ("0", "-1", "1e308"),
    "LossyImageCompressionRatio": ("x",), "BurnedInAnnotation": ("YES", "NO"),
    "ExtendedOffsetTable": (b"\xff" * 8, b"\0" * 16),
    "ExtendedOffsetTableLengths": (b"\xff" * 8,),
}  # fmt: skip
SYNTAXES = (
    "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2",
    "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51", "1.2.840.10008.1.2.4.57",
    "1.2.840.10008.1.2.4.70", "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81",
    "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91", "1.2.840.10008.1.2.4.201",
    "1.2.840.10008.1.2.4.203", "1.2.840.10008.1.2.4.100", "1.2.840.10008.1.2.4.110",
    "1.2.840.10008.1.2.5", "1.2.3.4.5", "", "../../x",
)  # fmt: skip


def _lie(data: bytes, rng: random.Random) -> bytes | None:
    """A well-formed object whose values are wrong; None where pydicom cannot write it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = pydicom.dcmread(io.BytesIO(data), force=True)
            for keyword in rng.sample(sorted(LIES), rng.choice((1, 1, 2, 4))):
                if rng.random() < 0.2:
                    if keyword in found:
                        delattr(found, keyword)
                else:
                    setattr(found, keyword, rng.choice(LIES[keyword]))
            if rng.random() < 0.1:
                found.file_meta.MediaStorageSOPClassUID = found.get("SOPClassUID", "")
            buffer = io.BytesIO()
            pydicom.dcmwrite(buffer, found, enforce_file_format=False)
    except Exception:
        return None
    written = buffer.getvalue()
    if rng.random() < 0.15:
        old = str(getattr(found.file_meta, "TransferSyntaxUID", "")).encode()
        new = rng.choice(SYNTAXES).encode()
        if old and len(new) <= len(old):
            written = written.replace(old, new.ljust(len(old), b"\0"), 1)
    return written
