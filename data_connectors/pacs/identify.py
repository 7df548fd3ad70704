"""Whose file this is: five attributes, read from the beginning of untrusted bytes."""

from __future__ import annotations

import hashlib
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple

from pydicom.dataset import Dataset
from pydicom.filereader import _read_file_meta_info as read_meta
from pydicom.filereader import read_dataset, read_preamble
from pydicom.tag import BaseTag, Tag
from pydicom.uid import DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian

from data_connectors.dicom.header import guarded, text
from medvlp.errors import InputError

_KEYWORDS: Final = [
    "SOPClassUID", "SOPInstanceUID", "PatientID", "StudyInstanceUID", "SeriesInstanceUID",
]  # fmt: skip
_LAST: Final = Tag("SeriesInstanceUID")
_INFLATED: Final = 16_000_000
"""A deflated header is looked for in so many bytes, whatever its ratio."""
_BIG_ENDIAN: Final = "1.2.840.10008.1.2.2"


class Told(NamedTuple):
    """What a file says it is."""

    sop_class: str
    sop_uid: str
    patient: str
    study: str
    series: str


def identify(path: Path) -> Told:
    """Read the identity of a DICOM file.

    Raises:
        InputError: It is no DICOM file, or names no instance.
    """
    told = guarded(lambda: _identify(path))
    if not (told.sop_uid and told.study and told.series):
        raise InputError("the file names no instance", code="pacs-nameless")
    return told


def body_digest(path: Path) -> str:
    """SHA-256 of a file without its file meta information, which says only who wrote it."""

    def digest() -> str:
        with path.open("rb") as file:
            _meta(file)
            return hashlib.file_digest(file, "sha256").hexdigest()

    return guarded(digest)


def _identify(path: Path) -> Told:
    with path.open("rb") as file:
        syntax = text(_meta(file), "TransferSyntaxUID")
        stream: Any = file
        if syntax == DeflatedExplicitVRLittleEndian:
            inflate = zlib.decompressobj(-zlib.MAX_WBITS)
            stream = BytesIO(inflate.decompress(file.read(_INFLATED), _INFLATED))
        dataset = read_dataset(
            stream,
            is_implicit_VR=syntax == ImplicitVRLittleEndian,
            is_little_endian=syntax != _BIG_ENDIAN,
            stop_when=_beyond,
            specific_tags=[Tag(keyword) for keyword in ("SpecificCharacterSet", *_KEYWORDS)],
        )
        return Told(*(text(dataset, keyword) for keyword in _KEYWORDS))


def _meta(file: BinaryIO) -> Dataset:
    read_preamble(file, force=False)
    return read_meta(file)


def _beyond(tag: BaseTag, vr: str | None, length: int) -> bool:
    return bool(tag > _LAST)
