"""Names that would leave their folder: in DICOMDIR, archives, UIDs. Only `out` is written."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import makers
import pytest
from pydicom import config
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MediaStorageDirectoryStorage

pytestmark = pytest.mark.slow

NAMES = (
    "../escape", "../../../../../../../../tmp/medvlp-escape", "/tmp/medvlp-escape", "a/../../esc",
    "..\\escape", "C:\\escape", "n" * 300, "line\nbreak", "\x1b[2J", "~/escape", "$(touch escape)",
    "=cmd|' /C calc'!A0", "%2e%2e/escape", "con", ".", "..", "NAME", "name",
)  # fmt: skip


def dicomdir(files: list[list[str]]) -> bytes:
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = MediaStorageDirectoryStorage
    data.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    data.DirectoryRecordSequence = []
    for file in files:
        record = Dataset()
        record.OffsetOfTheNextDirectoryRecord = record.RecordInUseFlag = 0xFFFF
        record.DirectoryRecordType, record.ReferencedFileID = "IMAGE", file
        data.DirectoryRecordSequence.append(record)
    buffer = io.BytesIO()
    data.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def zipped(path: Path, members: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name), data)


def tarred(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE):
            info = tarfile.TarInfo(f"link {kind!r}")
            info.type, info.linkname = kind, "../../secret"
            archive.addfile(info)


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory, run_ingest: Any) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(config.settings, "writing_validation_mode", config.IGNORE)
        patch.setattr(config.settings, "reading_validation_mode", config.IGNORE)
        return _outcome(tmp_path_factory, run_ingest)


def _outcome(tmp_path_factory: pytest.TempPathFactory, run_ingest: Any) -> Any:
    folder = tmp_path_factory.mktemp("paths")
    (folder / "secret").write_bytes(makers.dicom(PatientID="SECRET"))
    (folder / "in" / "uids").mkdir(parents=True)
    for number, name in enumerate(NAMES):
        for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "PatientID",
                        "SeriesDescription", "FrameOfReferenceUID", "AccessionNumber"):  # fmt: skip
            data = makers.dicom(**{"InstanceNumber": number, keyword: name})
            (folder / "in" / "uids" / f"{number}{keyword}.dcm").write_bytes(data)
    members = {name: makers.dicom(PatientID=f"P{k}") for k, name in enumerate(NAMES)}
    zipped(folder / "in" / "names.zip", members)
    tarred(folder / "in" / "names.tar", members)
    tarred(folder / "in" / "names.tar.gz", members)
    (folder / "in" / "cd").mkdir()
    outside = [["..", "..", "secret"], ["/etc/passwd"], ["", "etc", "passwd"], ["..\\secret"]]
    (folder / "in" / "cd" / "DICOMDIR").write_bytes(dicomdir(outside))
    (folder / "in" / "linked.dcm").symlink_to(folder / "secret")
    (folder / "in" / "loop").symlink_to(folder / "in")
    return run_ingest(folder, [{"kind": "dicom", "name": "scans", "path": "in"}])


def test_everything_is_accounted_for(outcome):
    assert outcome.returncode == 0, outcome.stderr
    assert "Traceback" not in outcome.stderr
    summary = outcome.summary
    assert summary["found"] == summary["used"] + summary["quarantined"]
    assert summary["found"] == len(NAMES) * 7 + len(NAMES) * 3 + 8 + 3
    assert all(row["code"] and row["next_step"] for row in outcome.rows)


def test_nothing_is_written_outside_the_output(outcome):
    assert outcome.new == set()
    assert not Path("/tmp/medvlp-escape").exists()
    assert not Path("escape").exists()


def test_nothing_outside_the_source_is_read(outcome):
    assert outcome.codes["cd/DICOMDIR"] == {"dicomdir-unsafe-path"}
    assert outcome.codes["linked.dcm"] == {"symlink-outside"}
    assert outcome.codes["loop"] == {"symlink-folder"}


@pytest.mark.parametrize("archive", ["names.zip", "names.tar", "names.tar.gz"])
def test_names_in_archives(outcome, archive):
    unsafe = {"archive-unsafe-name"}
    found = [name for name, codes in outcome.codes.items()
             if name.startswith(f"{archive}/") and codes == unsafe]  # fmt: skip
    assert len(found) == 10, found
    links = [codes for name, codes in outcome.codes.items() if name.startswith(f"{archive}/link")]
    assert links == ([] if archive == "names.zip" else [{"archive-not-a-file"}] * 4)


def test_names_in_uids_are_only_text(outcome):
    """A UID that is no UID is no path either: the object is used, or refused for another reason."""
    codes = {code for name, found in outcome.codes.items() if name.startswith("uids/")
             for code in found}  # fmt: skip
    assert not [code for code in codes if code.startswith("reader-")], codes
    assert outcome.summary["used"] > 0
