"""Small files that unpack to something huge, nest without end, or state what is not there."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from typing import Any

import imagecodecs
import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    EnhancedCTImageStorage,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLossless,
    JPEGLSLossless,
    RLELossless,
    generate_uid,
)

MIB = 1024 * 1024


def header(**values: Any) -> Dataset:
    """A CT slice of 8 x 8 pixels, without pixels."""
    data = Dataset()
    data.SOPClassUID, data.SOPInstanceUID = CTImageStorage, generate_uid()
    data.StudyInstanceUID, data.SeriesInstanceUID = generate_uid(), generate_uid()
    data.PatientID, data.Modality = "P1", "CT"
    data.ImageOrientationPatient, data.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [0, 0, 0]
    data.PixelSpacing, data.SliceThickness = [1, 1], 1
    data.Rows = data.Columns = 8
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated = data.BitsStored = 16
    data.HighBit, data.PixelRepresentation = 15, 0
    data.RescaleSlope, data.RescaleIntercept = 1, 0
    for keyword, value in values.items():
        setattr(data, keyword, value)
    return data


def dicom(syntax: str = ExplicitVRLittleEndian, pixels: bytes = bytes(128), **values: Any) -> bytes:
    """A whole object; `pixels` are encoded already."""
    data = header(**values)
    data.PixelData = pixels
    if syntax not in (ExplicitVRLittleEndian, DeflatedExplicitVRLittleEndian):
        data["PixelData"].VR = "OB"
        data["PixelData"].is_undefined_length = True
    return written(data, syntax)


def written(data: Dataset, syntax: str = ExplicitVRLittleEndian) -> bytes:
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = syntax
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
    buffer = io.BytesIO()
    data.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def zeros(mebibytes: int, wbits: int = -15) -> bytes:
    """Deflated zeros, in a thousandth of the time that deflating them takes."""
    packer = zlib.compressobj(9, zlib.DEFLATED, wbits)
    start = packer.compress(bytes(MIB)) + packer.flush(zlib.Z_FULL_FLUSH)
    block = packer.compress(bytes(16 * MIB)) + packer.flush(zlib.Z_FULL_FLUSH)
    again = packer.compress(bytes(16 * MIB)) + packer.flush(zlib.Z_FULL_FLUSH)
    return start + block + again * (mebibytes // 16 - 1) + packer.flush()


def gzipped(mebibytes: int, first: bytes = b"") -> bytes:
    """A gzip stream of zeros behind a real beginning (its checksum at the end is wrong)."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    start = packer.compress(first + bytes(MIB)) + packer.flush(zlib.Z_FULL_FLUSH)
    block = packer.compress(bytes(16 * MIB)) + packer.flush(zlib.Z_FULL_FLUSH)
    return start + block * (mebibytes // 16)


def deflate_bomb(mebibytes: int = 1100, *, private: bool = False) -> bytes:
    """About 1 MB of deflated data set that inflates to a gibibyte of pixels, or before them."""
    whole = dicom()
    meta_end = 144 + int.from_bytes(whole[140:144], "little")
    body = whole[meta_end:]
    at = body.index(b"\xe0\x7f\x10\x00")
    size = mebibytes * MIB
    element = b"\x09\x00\x10\x10OB\0\0" if private else b"\xe0\x7f\x10\x00OW\0\0"
    start = (b"" if private else body[:at]) + element + struct.pack("<I", size)
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = packer.compress(start) + packer.flush(zlib.Z_FULL_FLUSH)
    block = packer.compress(bytes(16 * MIB)) + packer.flush(zlib.Z_FULL_FLUSH)
    syntax = whole[:meta_end]
    old = syntax.index(ExplicitVRLittleEndian.encode() + b"\0")
    new = DeflatedExplicitVRLittleEndian.encode()
    grown = len(new) - len(ExplicitVRLittleEndian) - 1
    meta = syntax[: old - 2] + struct.pack("<H", len(new)) + new + syntax[old + 20 :]
    length = int.from_bytes(meta[140:144], "little") + grown
    meta = meta[:140] + struct.pack("<I", length) + meta[144:]
    stop = mebibytes // 16 * 16
    rest = packer.compress(bytes((mebibytes - stop) * MIB) + (body if private else b""))
    return meta + packed + block * (mebibytes // 16) + rest + packer.flush()


def rle_bomb(rows: int = 22_000, columns: int = 20_000) -> bytes:
    """Runs of 128 equal bytes in two: 14 MB that are 880 MB of 16-bit pixels."""
    runs = b"\x81\0" * (-(-rows * columns // 128))
    frame = struct.pack("<16I", 2, 64, 64 + len(runs), *[0] * 13) + runs * 2
    return dicom(RLELossless, encapsulate([frame]), Rows=rows, Columns=columns)


def code_streams() -> dict[str, tuple[str, bytes]]:
    """A small picture in every coding that states its own size: name -> (syntax, stream)."""
    grey8 = np.arange(64, dtype=np.uint8).reshape(8, 8)
    grey16 = np.arange(64, dtype=np.uint16).reshape(8, 8) * 100
    return {
        "jpeg": (JPEGBaseline8Bit, imagecodecs.jpeg8_encode(grey8)),
        "ljpeg": (JPEGLossless, imagecodecs.ljpeg_encode(grey16)),
        "jls": (JPEGLSLossless, imagecodecs.jpegls_encode(grey16)),
        "j2k": (JPEG2000Lossless, imagecodecs.jpeg2k_encode(grey16, codecformat="j2k")),
        "htj2k": (HTJ2KLossless, imagecodecs.htj2k_encode(grey16)),
    }


def resized(stream: bytes, rows: int, columns: int) -> bytes:
    """A code stream whose own header states another size."""
    if stream.startswith(b"\xff\x4f"):
        at = stream.index(b"\xff\x51") + 6
        return stream[:at] + struct.pack(">II", columns, rows) + stream[at + 8 :]
    for marker in (b"\xff\xc0", b"\xff\xc1", b"\xff\xc3", b"\xff\xf7"):
        at = stream.find(marker)
        if at >= 0:
            return stream[: at + 5] + struct.pack(">HH", rows, columns) + stream[at + 9 :]
    raise AssertionError("no frame header")


def coded_bomb(name: str, rows: int, columns: int, *, honest: bool) -> bytes:
    """A frame that claims a size which it does not hold; `honest`: the header says so too."""
    syntax, stream = code_streams()[name]
    bits = 8 if name == "jpeg" else 16
    values = {"BitsAllocated": bits, "BitsStored": bits, "HighBit": bits - 1}
    if honest:
        values |= {"Rows": rows, "Columns": columns}
    return dicom(syntax, encapsulate([resized(stream, rows, columns)]), **values)


def nested(depth: int, *, vr: bytes = b"SQ", tag: bytes = b"\x09\x00\x00\x10") -> bytes:
    """Sequences within sequences, before everything else."""
    whole = dicom()
    at = 144 + int.from_bytes(whole[140:144], "little")
    start = tag + vr + b"\0\0\xff\xff\xff\xff" + b"\xfe\xff\x00\xe0\xff\xff\xff\xff"
    end = b"\xfe\xff\x0d\xe0\0\0\0\0" + b"\xfe\xff\xdd\xe0\0\0\0\0"
    return whole[:at] + start * depth + end * depth + whole[at:]


def nested_by_length(depth: int) -> bytes:
    """Likewise with stated lengths, in private elements that stand before the pixels."""
    inner = b""
    for _ in range(depth):
        item = b"\xfe\xff\x00\xe0" + struct.pack("<I", len(inner)) + inner
        inner = b"\x09\x00\x01\x10SQ\0\0" + struct.pack("<I", len(item)) + item
    whole = dicom()
    at = 144 + int.from_bytes(whole[140:144], "little")
    return whole[:at] + inner + whole[at:]


def many_items(count: int) -> bytes:
    """An enhanced CT whose frames have so many functional groups, all empty."""
    data = header(SOPClassUID=EnhancedCTImageStorage, NumberOfFrames=str(count))
    data.PixelData = bytes(128)
    whole = written(data)
    at = whole.index(b"\xe0\x7f\x10\x00")
    items = b"\xfe\xff\x00\xe0\0\0\0\0" * count
    groups = b"\x00\x52\x30\x92SQ\0\0\xff\xff\xff\xff" + items + b"\xfe\xff\xdd\xe0\0\0\0\0"
    return whole[:at] + groups + whole[at:]


def many_elements(count: int) -> bytes:
    """So many empty private elements."""
    whole = dicom()
    at = 144 + int.from_bytes(whole[140:144], "little")
    tags = np.zeros((count, 4), "<u2")
    tags[:, 0] = 9 + 2 * (np.arange(count) >> 16)
    tags[:, 1] = np.arange(count) & 0xFFFF
    tags[:, 2] = int.from_bytes(b"LO", "little")
    return whole[:at] + tags.tobytes() + whole[at:]


def overlapping_zip(members: int = 200) -> bytes:
    """Fifield's bomb in its simplest form: every entry of the directory is the same megabytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("0000", bytes(16 * MIB))
    data = buffer.getvalue()
    start, end = data.index(b"PK\x01\x02"), data.index(b"PK\x05\x06")
    entry = data[start:end]
    entries = b"".join(entry.replace(b"0000", b"%04d" % k) for k in range(members))
    tail = struct.pack("<IHHHHIIH", 0x06054B50, 0, 0, members, members, len(entries), start, 0)
    return data[:start] + entries + tail


def deflated_zip(name: str, mebibytes: int) -> bytes:
    """A zip with one member of zeros, made of a stream that was never inflated."""
    packed = zeros(mebibytes)
    size = zlib.crc32(b"")
    for _ in range(mebibytes):
        size = zlib.crc32(bytes(MIB), size)
    fixed = struct.pack("<HHHHHIIIHH", 20, 0, 8, 0, 33, size, len(packed), mebibytes * MIB,
                        len(name), 0)  # fmt: skip
    local = b"PK\x03\x04" + fixed + name.encode() + packed
    entry = b"PK\x01\x02\x14\x03" + fixed + struct.pack("<HHHII", 0, 0, 0, 0, 0) + name.encode()
    tail = struct.pack("<IHHHHIIH", 0x06054B50, 0, 0, 1, 1, len(entry), len(local), 0)
    return local + entry + tail


def zips_in_zips(levels: int = 4, width: int = 16) -> bytes:
    """42.zip: archives of archives of archives."""
    data = deflated_zip("0.dll", 256)
    for _ in range(levels):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
            for number in range(width if len(data) < MIB else 2):
                archive.writestr(f"lib {number:x}.zip", data)
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("book.zip", buffer.getvalue())
        data = packed.getvalue()
    return buffer.getvalue()


def tar_bomb(mebibytes: int) -> bytes:
    """A tar.gz whose one member is zeros."""
    import tarfile

    info = tarfile.TarInfo("zeros.dcm")
    info.size = mebibytes * MIB
    return gzipped(mebibytes + 16, info.tobuf())


def png_bomb(width: int, height: int) -> bytes:
    """A PNG that states a size and holds a few rows."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)

    size = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    packed = zlib.compress(bytes(10 * MIB))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")
    )
