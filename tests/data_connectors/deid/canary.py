"""A DICOM object with a canary in every attribute of the dictionary that can hold text."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

import numpy as np
from pydicom import config, dcmwrite
from pydicom._dicom_dict import DicomDictionary
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence

from data_connectors.dicom.quiet import quiet

CT = "1.2.840.10008.5.1.4.1.1.2"
_SKIPPED = {"SOPClassUID", "TransferSyntaxUID", "SpecificCharacterSet", "DataSetTrailingPadding"}
_IMAGE = {
    "Rows": 4, "Columns": 4, "BitsAllocated": 16, "BitsStored": 16, "HighBit": 15,
    "PixelRepresentation": 0, "SamplesPerPixel": 1, "PhotometricInterpretation": "MONOCHROME2",
    "NumberOfFrames": "1",
}  # fmt: skip


@dataclass
class Seeded:
    """Makes canaries, no two alike, and remembers them."""

    canaries: list[str] = field(default_factory=list)
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def value(self, vr: str) -> object:
        """A canary that fits a value representation; None where it cannot hold text."""
        number = next(self.numbers)
        word = f"ZQ{number:05d}XV"
        # Long months only: a date that was moved by some days is not the last day of another one.
        day = f"18{number % 90 + 10:02d}{(1, 3, 5, 7, 8, 10, 12)[number % 7]:02d}31"
        made: dict[str, object] = {
            "AE": f"{word}AE", "CS": f"{word}CS", "SH": f"{word}-sh", "LO": f"{word} Lo Value",
            "ST": f"{word} st text", "LT": f"{word} lt text", "UT": f"{word} ut",
            "UC": f"{word} uc",
            "PN": f"{word}FAM^{word}GIV", "UR": f"http://{word}.example/a",
            "UI": f"1.2.9999.{70000000 + number}.1", "AS": f"{number % 900 + 100}Y",
            "IS": f"8{number:05d}37", "DS": f"81{number:05d}37",
            "DA": day, "DT": f"{day}{number % 24:02d}{number % 60:02d}{number % 59:02d}",
            **{kind: f"{word} bytes!".encode().ljust(24, b".")
               for kind in ("OB", "OW", "OD", "OF", "OL", "OV", "UN")},
        }  # fmt: skip
        if vr == "TM":
            return "101112"
        value = made.get(vr)
        if isinstance(value, bytes):
            self.canaries.append(word)
        elif value is not None and vr != "AS":
            self.canaries.append(str(value))
        return value


def fill(seeded: Seeded, dataset: Dataset) -> None:
    """Every attribute of the dictionary with a canary."""
    for tag, (vrs, _, _, _, keyword) in DicomDictionary.items():
        vr = vrs.split(" or ")[-1]
        if tag >> 16 < 8 or keyword in _SKIPPED or keyword in _IMAGE or keyword == "PixelData":
            continue
        if vr == "SQ":
            continue
        value = seeded.value(vr)
        if value is not None:
            dataset.add(DataElement(tag, vr, value))
    private(seeded, dataset)


def nest(seeded: Seeded, dataset: Dataset, deep: int, *, whole: bool) -> None:
    """Sequences down to a depth, each item with some attributes or (`whole`) with all."""
    if not deep:
        return
    for keyword in ("RequestAttributesSequence", "ReferencedImageSequence",
                    "AnatomicRegionSequence", "IconImageSequence", "ContentSequence",
                    "SharedFunctionalGroupsSequence"):  # fmt: skip
        item = Dataset()
        last = keyword == "SharedFunctionalGroupsSequence"
        (fill if whole and last else few)(seeded, item)
        if last:
            nest(seeded, item, deep - 1, whole=whole)
        setattr(dataset, keyword, Sequence([item]))


def few(seeded: Seeded, dataset: Dataset) -> None:
    """One attribute of every representation, and a private one."""
    for keyword in ("StudyDescription", "PatientName", "CodeMeaning", "TextValue", "Modality",
                    "UniversalEntityID", "ReferencedSOPInstanceUID", "StudyDate", "LongCodeValue",
                    "InstanceNumber", "SliceThickness", "ScheduledStationAETitle", "RetrieveURL",
                    "ContentDescription", "IndicationDescription"):  # fmt: skip
        tag = tag_for_keyword(keyword)
        vr = dictionary_VR(tag)
        dataset.add(DataElement(tag, vr, seeded.value(vr)))
    private(seeded, dataset)


def private(seeded: Seeded, dataset: Dataset) -> None:
    """Two private blocks, one of a vendor whose elements may be retained."""
    for group, creator in ((0x0019, "SIEMENS MR HEADER"), (0x0099, f"{seeded.value('LO')}")):
        block = dataset.private_block(group, creator, create=True)
        for element, vr in ((0x0C, "IS"), (0x0D, "LO"), (0x0E, "OB"), (0x27, "PN")):
            block.add_new(element, vr, seeded.value(vr))


def seeded_file(
    seeded: Seeded, *, syntax: str = "1.2.840.10008.1.2.1", whole: bool = False
) -> bytes:
    """A CT slice with canaries in attributes, nested items, overlay, meta, preamble and behind."""
    with quiet():
        config.settings.writing_validation_mode = config.IGNORE
        dataset = Dataset()
        fill(seeded, dataset)
        nest(seeded, dataset, 5, whole=whole)
        for keyword, value in _IMAGE.items():
            setattr(dataset, keyword, value)
        dataset.SOPClassUID = CT
        word = f"{seeded.value('LO')}"
        dataset.add(DataElement(0x60000010, "US", 4))
        dataset.add(DataElement(0x60000022, "LO", word))
        dataset.add(DataElement(0x60003000, "OB", str(seeded.value("SH")).encode().ljust(16)))
        dataset.add(DataElement(0x60004000, "LT", seeded.value("LT")))
        dataset.add(DataElement(0x50003000, "OB", str(seeded.value("SH")).encode().ljust(16)))
        dataset.add(DataElement(0xFFFCFFFC, "OB", str(seeded.value("SH")).encode().ljust(16)))
        pixels = np.arange(16, dtype="<u2").tobytes()
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CT, dataset.SOPInstanceUID
        meta.TransferSyntaxUID = syntax
        meta.ImplementationClassUID = "1.2.3"
        meta.ImplementationVersionName = seeded.value("SH")
        for keyword in ("Source", "Sending", "Receiving"):
            setattr(meta, f"{keyword}ApplicationEntityTitle", seeded.value("AE"))
        meta.PrivateInformationCreatorUID = seeded.value("UI")
        meta.PrivateInformation = str(seeded.value("SH")).encode().ljust(16)
        dataset.file_meta = meta
        if meta.TransferSyntaxUID.is_encapsulated:
            note = str(seeded.value("LO")).encode()
            jpeg = _jpeg(note, str(seeded.value("LO")).encode())
            dataset.PixelData = encapsulate([jpeg])
            dataset["PixelData"].VR = "OB"
            dataset["PixelData"].is_undefined_length = True
        else:
            dataset.PixelData = pixels + str(seeded.value("SH")).encode().ljust(16)
            dataset["PixelData"].VR = "OW"
        dataset.preamble = str(seeded.value("LO")).encode().ljust(128, b"\0")
        buffer = BytesIO()
        dcmwrite(buffer, dataset, enforce_file_format=True)
        config.settings.writing_validation_mode = None
    tail = str(seeded.value("SH")).encode()
    return buffer.getvalue() + (b"" if meta.TransferSyntaxUID.is_deflated else tail)


def _jpeg(comment: bytes, maker: bytes) -> bytes:
    """The segments of a JPEG; nothing here decodes it."""

    def segment(marker: int, data: bytes) -> bytes:
        return struct.pack(">BBH", 0xFF, marker, len(data) + 2) + data

    head = b"\xff\xd8" + segment(0xE0, b"JFIF\0\1\2\0\0\1\0\1\0\0") + segment(0xE1, maker)
    return head + segment(0xFE, comment) + segment(0xDA, bytes(10)) + bytes(40) + b"\xff\xd9"


def write_canaries(path: Path, seeded: Seeded) -> Path:
    """The canary file of `medvlp leakcheck`."""
    path.write_text("\n".join(dict.fromkeys(seeded.canaries)) + "\n", encoding="utf-8")
    return path
