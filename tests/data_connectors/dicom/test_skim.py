from __future__ import annotations

import io
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from data_connectors.dicom import header as headers
from data_connectors.dicom import sources
from data_connectors.dicom.header import Header, guarded, parse_header, read_dataset, read_header
from data_connectors.dicom.quiet import quiet
from data_connectors.dicom.skim import Unusual, read_meta, walk
from data_connectors.dicom.sources import open_bytes
from medvlp.errors import InputError

PIXELS = 0x7FE00010
SYNTAXES = {
    ExplicitVRLittleEndian: (False, True),
    ImplicitVRLittleEndian: (True, True),
    ExplicitVRBigEndian: (False, False),
    DeflatedExplicitVRLittleEndian: (False, True),
}


def by_pydicom(handle: Any) -> Header | str:
    def read() -> Header:
        found = pydicom.dcmread(
            handle, stop_before_pixels=True, specific_tags=headers._TAGS, force=False
        )
        return parse_header(found, "x")

    try:
        return guarded(read)
    except InputError as error:
        return error.code


def by_walk(handle: Any) -> Header | str:
    try:
        return read_header(handle, "x")
    except InputError as error:
        return error.code


def agree(ours: Header | str, theirs: Header | str) -> bool:
    """The same header, or both refuse (a file that is no DICOM has a code of its own)."""
    return ours == theirs or (isinstance(ours, str) and isinstance(theirs, str))


def real_files(shared_data: Path) -> list[Path]:
    bundled = (Path(pydicom.__file__).parent / "data").rglob("*")
    vendors = [path for path in (shared_data / "dicom").rglob("*") if path.suffix != ".gz"]
    return [path for path in [*bundled, *vendors] if path.is_file()]


def test_real_headers_are_what_pydicom_reads(shared_data: Path) -> None:
    paths = real_files(shared_data)
    assert len(paths) > 300
    walked = 0
    for path in paths:
        assert agree(by_walk(path), by_pydicom(path)), path.name
        try:
            with open_bytes(path) as source:
                walk(source)
            walked += 1
        except (Unusual, InputError):
            continue
    assert walked > 280, "nearly all must be walked, not left to pydicom"


def test_whole_datasets_are_what_pydicom_reads(shared_data: Path) -> None:
    for path in real_files(shared_data)[::3]:
        try:
            theirs = dcmread(path)
        except Exception:
            continue
        ours = read_dataset(path)
        with quiet():
            for element in theirs:
                if element.tag <= PIXELS:
                    assert ours[element.tag].value == element.value, (path.name, element.tag)


text = st.text(st.characters(codec="latin-1", exclude_characters="\\\0\x1b"), max_size=12)
elements = st.fixed_dictionaries(
    {},
    optional={
        "PatientID": text,
        "SpecificCharacterSet": st.sampled_from(["", "ISO_IR 100", "ISO_IR 13", "ISO 2022 IR 87"]),
        "Modality": st.sampled_from(["CT", "MR", "ct", ""]),
        "ImageType": st.lists(st.sampled_from(["ORIGINAL", "PRIMARY", "AXIAL"]), max_size=3),
        "Rows": st.integers(0, 65_535),
        "Columns": st.integers(0, 65_535),
        "NumberOfFrames": st.integers(-3, 9),
        "ImagePositionPatient": st.lists(st.floats(-1e4, 1e4, width=16), min_size=2, max_size=4),
        "PixelSpacing": st.lists(st.floats(0, 9, width=16), max_size=3),
        "InstanceNumber": st.integers(-5, 10**6),
        "EchoTime": st.floats(0, 99, width=16),
        "DiffusionGradientOrientation": st.lists(st.floats(-1, 1), min_size=3, max_size=3),
    },
)


def nested(depth: int, undefined: bool) -> Sequence:
    item = Dataset()
    item.CodeValue = "T-1"
    item.is_undefined_length_sequence_item = undefined
    if depth:
        item.add_new(0x0040A730, "SQ", nested(depth - 1, undefined))
        item[0x0040A730].is_undefined_length = undefined
    return Sequence([item, Dataset()])


def written(values: dict[str, Any], syntax: str, depth: int, undefined: bool) -> bytes:
    dataset = Dataset()
    with quiet():
        for keyword, value in values.items():
            setattr(dataset, keyword, value)
        dataset.add_new(0x00081140, "SQ", nested(depth, undefined))
        dataset[0x00081140].is_undefined_length = undefined
        dataset.add_new(0x00091010, "UN", b"odd")
        dataset.add_new(PIXELS, "OW", bytes(64))
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = syntax
        buffer = io.BytesIO()
        implicit, little = SYNTAXES[syntax]
        dataset.save_as(
            buffer, implicit_vr=implicit, little_endian=little, enforce_file_format=False
        )
    body = buffer.getvalue()
    return body if body[128:132] == b"DICM" else bytes(128) + b"DICM" + body


@settings(deadline=None, max_examples=150)
@given(
    values=elements,
    syntax=st.sampled_from(list(SYNTAXES)),
    depth=st.integers(0, 4),
    undefined=st.booleans(),
)
def test_made_up_objects_are_what_pydicom_reads(
    values: dict[str, Any], syntax: str, depth: int, undefined: bool
) -> None:
    data = written(values, syntax, depth, undefined)
    assert agree(by_walk(io.BytesIO(data)), by_pydicom(io.BytesIO(data)))
    with open_bytes(io.BytesIO(data)) as source:
        assert walk(source).pixels is not None  # walked, not left to pydicom
    with quiet():
        ours, theirs = read_dataset(io.BytesIO(data)), dcmread(io.BytesIO(data))
        assert [(e.tag, e.VR, e.value) for e in ours] == [(e.tag, e.VR, e.value) for e in theirs]


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_an_object_cut_anywhere_is_read_as_pydicom_does_or_refused(syntax: str) -> None:
    values = {"PatientID": "P", "Modality": "CT", "Rows": 4, "Columns": 4, "ImageType": ["A", "B"]}
    data = written(values, syntax, 2, True)
    for end in range(0, len(data), 3):
        cut = data[:end]
        assert agree(by_walk(io.BytesIO(cut)), by_pydicom(io.BytesIO(cut))), end


def test_what_is_not_wanted_is_not_read(
    tmp_path: Path, write_dicom: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = dcmread(write_dicom(tmp_path / "x", np.zeros((512, 512), np.int16)))
    dataset.private_block(0x0009, "ACME", create=True).add_new(0x10, "OB", bytes(5_000_000))
    dataset.save_as(tmp_path / "x")
    asked = []
    real = sources.os.pread

    def pread(file: int, count: int, at: int) -> bytes:
        asked.append(count)
        return real(file, count, at)

    monkeypatch.setattr(sources.os, "pread", pread)
    assert read_header(tmp_path / "x", "x").rows == 512
    assert sum(asked) < 100_000


def test_sequences_nested_too_deeply_are_refused_without_recursion(
    tmp_path: Path, write_dicom: Any
) -> None:
    path = write_dicom(tmp_path / "x", np.zeros((4, 4), np.int16))
    data = path.read_bytes()
    start = b"\x08\x00\x40\x11SQ\x00\x00\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"
    at = data.index(b"\x10\x00\x20\x00LO")  # before PatientID
    path.write_bytes(data[:at] + start * 20_000 + data[at:])
    for read in (lambda: read_header(path, "x"), lambda: read_dataset(path)):
        with pytest.raises(InputError, match=r"dicom-malformed.*deeply or have too many"):
            read()


def test_a_deflate_bomb_is_refused_before_it_fills_memory(tmp_path: Path, write_dicom: Any) -> None:
    path = write_dicom(tmp_path / "x", np.zeros((4, 4), np.int16))
    dataset = dcmread(path)
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    dataset.save_as(path, implicit_vr=False, little_endian=True, enforce_file_format=True)
    data = path.read_bytes()
    bomb = b"\x09\x00\x01\x10OB\x00\x00" + (900_000_000).to_bytes(4, "little")
    packer = zlib.compressobj(9, wbits=-15)
    packed = packer.compress(bomb)
    for _ in range(300):
        packed += packer.compress(bytes(1_000_000))
    packed += packer.flush()
    with open_bytes(path) as source:
        _, start = read_meta(source)
    path.write_bytes(data[:start] + packed)
    tracemalloc.start()
    with pytest.raises(InputError, match="dicom-too-large"):
        read_header(path, "x")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 300_000_000


def test_no_value_of_an_unusual_header_reaches_a_warning(
    recwarn: pytest.WarningsRecorder, tmp_path: Path, write_dicom: Any
) -> None:
    path = write_dicom(tmp_path / "x", np.zeros((4, 4), np.int16), PatientID="CANARY")
    data = path.read_bytes().replace(b"2.25.3", b"CAN^RY")
    path.write_bytes(data[:-40])
    by_walk(path)
    assert not [w for w in recwarn if "CAN" in str(w.message)]


def test_slices_that_say_the_same_are_told_apart_where_they_differ(
    tmp_path: Path, write_series: Any
) -> None:
    """The second slice of a series is not parsed again; every change must be seen all the same."""
    changes: list[dict[str, Any]] = [
        {}, {"SOPInstanceUID": "2.25.99"}, {"InstanceNumber": 77}, {"ContentTime": "101112"},
        {"ImagePositionPatient": [1, 2, 3]}, {"ImagePositionPatient": None},
        {"PixelSpacing": [1, 1]},
        {"PatientID": "other"}, {"EchoTime": 3.5}, {"ImageOrientationPatient": [0, 1, 0, 0, 0, 1]},
        {"AcquisitionTime": "101113", "TriggerTime": 2}, {"Modality": "SR"}, {},
    ]  # fmt: skip
    paths = write_series(tmp_path, np.zeros((len(changes), 4, 4), np.int16), each=changes)
    expected = [by_pydicom(path) for path in paths]
    for _ in range(2):
        assert [by_walk(path) for path in paths] == expected
    assert len(set(map(repr, expected))) == len(changes)
