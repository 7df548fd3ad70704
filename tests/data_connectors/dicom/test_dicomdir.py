from __future__ import annotations

import io
import shutil
import struct
import time
from pathlib import Path

import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MediaStorageDirectoryStorage

from data_connectors.config import IngestConfig
from data_connectors.dicom.dicomdir import check_dicomdir, read_records
from data_connectors.dicom.reader import find
from data_connectors.dicom.source import DicomSource
from data_connectors.files import files_below
from data_connectors.ingest.run import ingest
from data_connectors.items import Refused
from data_connectors.source import Consulted
from medvlp.errors import InputError


def dicomdir(files: list[list[str] | None], **more: object) -> io.BytesIO:
    """An index with an IMAGE record for each file."""
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = MediaStorageDirectoryStorage
    data.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    data.DirectoryRecordSequence = []
    for file in files:
        record = Dataset()
        record.OffsetOfTheNextDirectoryRecord = 0
        record.RecordInUseFlag = 0xFFFF
        record.OffsetOfReferencedLowerLevelDirectoryEntity = 0
        record.DirectoryRecordType = "IMAGE"
        if file is not None:
            record.ReferencedFileID = file
        for keyword, value in more.items():
            setattr(record, keyword, value)
        data.DirectoryRecordSequence.append(record)
    buffer = io.BytesIO()
    data.save_as(buffer, enforce_file_format=True)
    return buffer


def found(handle: io.BytesIO, present: list[str], name: str = "DICOMDIR") -> dict[str, str]:
    return {refused.code: refused.reason for refused in check_dicomdir(handle, name, present)}


@pytest.fixture
def media(shared_data: Path) -> Path:
    return shared_data / "dicom/pydicom/src/pydicom/data/test_files/dicomdirtests"


def test_records_are_those_that_pydicom_finds(media):
    """Implicit and big endian, without patients, without offsets, in another order, none at all."""
    indexes = sorted(media.rglob("DICOMDIR*"))
    assert len(indexes) >= 7
    for path in indexes:
        theirs = pydicom.dcmread(path).get("DirectoryRecordSequence", [])
        ours = read_records(path)
        assert [record.kind for record in ours] == [r.DirectoryRecordType for r in theirs], path
        files = [r.get("ReferencedFileID", ()) for r in theirs]
        stated = [(file,) if isinstance(file, str) else tuple(file) for file in files]
        assert [record.file for record in ours] == stated
        name = path.relative_to(media).as_posix()
        assert check_dicomdir(path, name, files_below(media)) == []


def test_a_file_that_is_gone_is_missed_and_a_further_one_is_read(media, tmp_path):
    root = tmp_path / "cd"
    for folder in ("77654033", "98892001", "98892003"):
        shutil.copytree(media / folder, root / folder)
    shutil.copy(media / "DICOMDIR", root)
    shutil.copy(media / "77654033/CR1/6154", root / "unlisted")
    (root / "77654033/CR2/6247").unlink()
    (root / "98892001/CT5N/2062").unlink()
    source = DicomSource(name="cd", path=root)
    entries = list(find(source))
    (refused,) = [entry for entry in entries if isinstance(entry, Refused)]
    assert (refused.code, refused.inputs) == ("dicomdir-missing-file", ("DICOMDIR",))
    assert "2 (records 6, " in refused.reason
    assert "6247" not in refused.reason + refused.next_step
    assert not [entry for entry in entries if isinstance(entry, Consulted)]
    assert any("unlisted" in entry.inputs for entry in entries)


def test_an_index_without_fault_counts_as_used(media, tmp_path):
    root = tmp_path / "cd"
    shutil.copytree(media / "TINY_ALPHA", root)
    config = IngestConfig.model_validate(
        {"sources": [{"kind": "dicom", "name": "cd", "path": "cd", "allow_missing_patient": True}]}
    )
    summary = ingest(config, tmp_path / "out", base=tmp_path, workers=1)
    assert summary["found"] == 52 == summary["used"] + summary["quarantined"]
    assert "dicom-dicomdir" not in summary["by_reason"]
    assert not any(code.startswith("dicomdir") for code in summary["by_reason"])


def test_the_index_given_as_the_path_stands_for_its_folder(media, tmp_path):
    root = tmp_path / "cd"
    shutil.copytree(media / "TINY_ALPHA", root)
    config = IngestConfig.model_validate({"sources": [
        {"kind": "dicom", "name": "cd", "path": "cd/DICOMDIR", "allow_missing_patient": True}
    ]})  # fmt: skip
    assert ingest(config, tmp_path / "out", base=tmp_path, workers=1)["found"] == 52


@pytest.mark.filterwarnings("ignore")
def test_names_are_found_as_media_write_them():
    handle = dicomdir([["A", "IM1"], ["A", "IM2"], ["A", "IM3."], ["A", "im4"], ["A", "IM5"]])
    present = ["a/im1", "A/IM2.;1", "A/IM3", "A/IM4;1", "A/im5."]
    assert found(handle, present) == {}
    below = [f"cd.zip/x/{name}" for name in present]
    assert found(handle, below, "cd.zip/x/DICOMDIR") == {}
    assert list(found(handle, present, "cd.zip/x/DICOMDIR")) == ["dicomdir-missing-file"]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("file", [
    ["..", "secret"], ["A", "..", "..", "x"], ["", "etc", "passwd"], ["/etc/passwd"],
    ["A", "../../x"], [".", "x"], ["C:", "x"],
])  # fmt: skip
def test_a_file_outside_the_folder_is_refused_even_if_it_is_there(file, monkeypatch):
    monkeypatch.setattr(Path, "open", lambda *_: pytest.fail("a file was opened"))
    handle = dicomdir([["A", "IM1"], file])
    present = ["cd/A/IM1", "secret", "x", "etc/passwd"]
    reasons = found(handle, present, "cd/DICOMDIR")
    assert list(reasons) == ["dicomdir-unsafe-path"]
    assert "1 (records 2) of 2" in reasons["dicomdir-unsafe-path"]


def test_offsets_are_not_followed():
    """Circles and places beyond the file."""
    for offset in (0, 1, 400, 0xFFFFFFFF):
        more = {
            "OffsetOfTheNextDirectoryRecord": offset,
            "OffsetOfReferencedLowerLevelDirectoryEntity": offset,
        }
        assert len(read_records(dicomdir([["A"], ["B"]], **more))) == 2


def test_records_not_in_use_miss_nothing():
    assert found(dicomdir([["GONE"]], RecordInUseFlag=0), []) == {}


def test_items_within_a_record_are_no_records():
    icon = Dataset()
    icon.Rows = icon.Columns = 1
    icon.BitsAllocated, icon.PixelRepresentation, icon.PixelData = 8, 0, b"\0\0"
    for sequence in ([icon], [icon, icon]):
        handle = dicomdir([["A"], ["B"]], IconImageSequence=sequence)
        assert [record.file for record in read_records(handle)] == [("A",), ("B",)]


def test_a_large_index_takes_linear_time():
    handle = dicomdir([["A", f"IM{k}"] for k in range(20_000)])
    start = time.process_time()
    reasons = found(handle, ["A/IM7"])
    assert time.process_time() - start < 6
    assert (
        "19999 (records 1, 2, 3, 4, 5, 6, 7, 9, 10, 11 and 19989 more) of 20000"
        in (reasons["dicomdir-missing-file"])
    )


def test_damage_ends_in_a_refusal_or_in_fewer_records():
    whole = dicomdir([["A", "IM1"]] * 3).getvalue()
    refused: set[str] = set()
    for at in range(132, len(whole)):
        for data in (whole[:at], whole[:at] + b"\xff" + whole[at + 1 :]):
            try:
                count = len(read_records(io.BytesIO(data)))
            except InputError as error:
                refused.add(error.code)
            else:
                assert count <= 3
    assert refused == {"dicomdir-malformed"}
    deep = whole + struct.pack("<HH2sHI", 0x0009, 0x1000, b"SQ", 0, 0xFFFFFFFF) * 200_000
    assert len(read_records(io.BytesIO(deep))) == 3
    assert check_dicomdir(io.BytesIO(b"no"), "DICOMDIR", [])[0].code == "dicomdir-malformed"
