from __future__ import annotations

import os
import signal
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest

from data_connectors.dicom import index as index_module
from data_connectors.dicom.header import Header, read_header
from data_connectors.dicom.index import CHUNK_FILES, index, look
from data_connectors.dicom.source import DicomSource
from data_connectors.ingest.processes import LocalEngine, Lost
from data_connectors.items import Refused
from data_connectors.source import Chunk

REAL = read_header


@pytest.fixture
def folder(tmp_path, write_dicom) -> Path:
    """A hundred and fifty slices of three series, and a text file."""
    (tmp_path / "dicom" / "a").mkdir(parents=True)
    for number in range(150):
        write_dicom(
            tmp_path / "dicom" / "a" / f"{number:03d}.dcm", np.full((4, 4), number, np.int16),
            SOPInstanceUID=f"2.25.{number + 100}", SeriesInstanceUID=f"2.25.9{number % 3}",
            ImagePositionPatient=[0.0, -0.0, number / 7],
        )  # fmt: skip
    (tmp_path / "dicom" / "notes.txt").write_text("no DICOM")
    return tmp_path / "dicom"


def test_every_file_is_a_header_or_a_refusal_whatever_looks(folder):
    source = DicomSource(name="x", path=folder)
    here = list(index(source))
    engine = LocalEngine(2, timeout_s=60)

    def spread(function, chunks):
        assert all(len(chunk.names) <= CHUNK_FILES for chunk in chunks)
        for answer in engine.map(function, chunks):
            assert not isinstance(answer, Lost)
            yield answer

    assert list(index(source, spread)) == here
    headers = [entry for entry in here if isinstance(entry, Header)]
    assert [header.name for header in headers] == [f"a/{n:03d}.dcm" for n in range(150)]
    assert headers == [REAL(folder / header.name, header.name) for header in headers]
    assert [e.code for e in here if isinstance(e, Refused)] == ["not-dicom"]


def test_members_of_an_archive_are_looked_at_like_files(folder, tmp_path):
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        for path in sorted(folder.rglob("*.dcm")):
            archive.write(path, path.relative_to(folder).as_posix())
    packed = list(index(DicomSource(name="x", path=tmp_path / "all.zip")))
    plain = [e for e in index(DicomSource(name="x", path=folder)) if isinstance(e, Header)]
    assert packed == plain


def test_values_that_headers_share_are_kept_once(folder):
    first, *_, last = [
        e for e in index(DicomSource(name="x", path=folder)) if isinstance(e, Header)
    ]
    assert first.study is last.study
    assert first.plane is not None
    assert last.plane is not None
    assert first.plane.along_row is last.plane.along_row


def _hostile(handle, name):
    if name == "a/007.dcm":
        os.kill(os.getpid(), signal.SIGKILL)
    if name == "a/100.dcm":
        time.sleep(60)
    return REAL(handle, name)


def _look_at_hostile(chunk: Chunk) -> str:
    index_module.read_header = _hostile
    return look(chunk)


@pytest.mark.slow
def test_a_header_that_kills_or_hangs_its_process_is_refused_by_name(folder):
    engine = LocalEngine(2, timeout_s=10, preload=["data_connectors.dicom.reader"])

    def spread(function, chunks):
        assert function is look
        for answer in engine.map(_look_at_hostile, chunks):
            yield None if isinstance(answer, Lost) else answer

    found = list(index(DicomSource(name="x", path=folder), spread))
    refused = {e.inputs: e.code for e in found if isinstance(e, Refused)}
    assert refused == {
        ("notes.txt",): "not-dicom", ("a/007.dcm",): "header-unreadable",
        ("a/100.dcm",): "header-unreadable",
    }  # fmt: skip
    assert len([e for e in found if isinstance(e, Header)]) == 148
