from __future__ import annotations

import hashlib
from pathlib import Path

import pydicom

from data_connectors.pacs.pull import pulled
from data_connectors.pacs.pulled import Pulled
from tests.data_connectors.pacs.conftest import slice_of, write


def series(name: int, count: int, **changes):
    study, uid = f"1.2.840.{name}", f"1.2.840.{name}.7"
    return [slice_of(study, uid, k, patient=f"P-{name}", **changes) for k in range(count)]


def run(source, folder: Path) -> Pulled:
    with pulled(source, folder) as made:
        return made


def held(folder: Path, place: str = "dicom") -> list[str]:
    """SOP instance UIDs of the files in a place of a store, sorted, copies included."""
    files = sorted((folder / place).rglob("*.dcm"))
    return sorted(str(pydicom.dcmread(file).SOPInstanceUID) for file in files)


def test_everything_comes_once_and_nothing_is_fetched_again(orthanc, anyway, tmp_path):
    wanted = [*series(1, 5), *series(2, 3), *series(3, 1)]
    orthanc.store(write(tmp_path / "in", wanted))
    first = run(anyway(), tmp_path / "store")
    assert (first.series, first.instances, first.fetched) == (3, 9, 9)
    assert (first.missing, first.refused) == ({}, [])
    assert held(tmp_path / "store") == sorted(d.SOPInstanceUID for d in wanted)
    again = run(anyway(), tmp_path / "store")
    assert (again.series, again.instances, again.fetched) == (3, 9, 0)


def test_all_ways_give_the_same_files_under_the_same_names(orthanc, web, dimse, tmp_path):
    orthanc.store(write(tmp_path / "in", series(1, 4)))
    seen = []
    for number, source in enumerate([web(), dimse(retrieve="get"), dimse(retrieve="move")]):
        run(source, tmp_path / str(number))
        root = tmp_path / str(number) / "dicom"
        seen.append({
            file.relative_to(root): hashlib.sha256(pydicom.dcmread(file).PixelData).digest()
            for file in root.rglob("*.dcm")
        })  # fmt: skip
    assert len(seen[0]) == 4
    assert seen[0] == seen[1] == seen[2]
