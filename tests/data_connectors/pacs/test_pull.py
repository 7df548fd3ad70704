from __future__ import annotations

import hashlib
from pathlib import Path

import pydicom
import pytest

from data_connectors.pacs.pull import pulled
from data_connectors.pacs.pulled import Pulled
from data_connectors.pacs.store import Store
from medvlp.errors import ArchiveError
from tests.data_connectors.pacs.conftest import PASSWORD, USER, slice_of, write


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


def test_what_is_deleted_from_the_archive_is_no_longer_read(orthanc, web, tmp_path):
    orthanc.store(write(tmp_path / "in", [*series(1, 3), *series(2, 3), *series(3, 2)]))
    run(web(), tmp_path / "store")
    orthanc.delete("Series", "1.2.840.2.7")
    orthanc.delete("Instance", "1.2.840.1.7.3")
    again = run(web(), tmp_path / "store")
    assert (again.series, again.instances, again.fetched, again.refused) == (2, 4, 0, [])
    assert held(tmp_path / "store") == [
        "1.2.840.1.7.1", "1.2.840.1.7.2", "1.2.840.3.7.1", "1.2.840.3.7.2",
    ]  # fmt: skip
    assert len(held(tmp_path / "store", "aside")) == 3
    orthanc.store(write(tmp_path / "back", series(2, 3)))
    back = run(web(), tmp_path / "store")
    assert (back.series, back.instances, back.fetched) == (3, 7, 0)


def test_a_series_that_grew_between_two_runs_is_completed(orthanc, anyway, tmp_path):
    orthanc.store(write(tmp_path / "in", series(1, 3)))
    run(anyway(), tmp_path / "store")
    orthanc.store(write(tmp_path / "more", series(1, 5)))
    again = run(anyway(), tmp_path / "store")
    assert (again.instances, again.fetched) == (5, 2)
    assert len(held(tmp_path / "store")) == 5


def test_a_series_that_grows_while_it_is_pulled_is_completed(orthanc, web, tmp_path, monkeypatch):
    orthanc.store(write(tmp_path / "in", [*series(1, 2), *series(2, 2)]))
    more = write(tmp_path / "more", [*series(1, 4), *series(3, 2)])
    grown = []

    def take(self, *args, original=Store.take, **keys):
        if not grown:
            grown.append(orthanc.store(more))
        return original(self, *args, **keys)

    monkeypatch.setattr(Store, "take", take)
    made = run(web(), tmp_path / "store")
    assert (made.series, made.instances, made.refused) == (3, 8, [])
    assert len(held(tmp_path / "store")) == 8


def test_two_patients_in_one_study_stay_two(orthanc, anyway, tmp_path):
    one = [slice_of("1.2.5", "1.2.5.1", k, patient="P-A") for k in range(2)]
    two = [slice_of("1.2.5", "1.2.5.2", k, patient="P-B") for k in range(2)]
    orthanc.store(write(tmp_path / "in", one + two))
    made = run(anyway(), tmp_path / "store")
    assert (made.series, made.instances, made.refused) == (2, 4, [])


def test_by_dicomweb_the_other_patient_of_a_mixed_study_is_not_asked_for(orthanc, web, tmp_path):
    one = [slice_of("1.2.5", "1.2.5.1", k, patient="P-A") for k in range(2)]
    two = [slice_of("1.2.5", "1.2.5.2", k, patient="P-B") for k in range(2)]
    orthanc.store(write(tmp_path / "in", one + two))
    (tmp_path / "list").write_text("P-A\n")
    made = run(web(find={"patients": tmp_path / "list"}), tmp_path / "store")
    assert (made.series, made.instances, made.fetched) == (1, 2, 2)


def test_patients_with_odd_letters_are_found_and_only_they(orthanc, anyway, tmp_path):
    names = ["Doe^1", "Doe 1", "B*C", "BXC", "P-7"]
    datasets = [
        slice_of(f"1.2.{n}", f"1.2.{n}.1", 0, patient=name) for n, name in enumerate(names, 1)
    ]
    orthanc.store(write(tmp_path / "in", datasets))
    (tmp_path / "list").write_text("Doe^1\nB*C\nDoe 1\n")
    run(anyway(find={"patients": tmp_path / "list"}), tmp_path / "store")
    files = (tmp_path / "store" / "dicom").rglob("*.dcm")
    assert sorted(str(pydicom.dcmread(f).PatientID) for f in files) == ["B*C", "Doe 1", "Doe^1"]


def test_the_files_are_those_that_dicomweb_client_gets(orthanc, web, tmp_path):
    from dicomweb_client.api import DICOMwebClient
    from dicomweb_client.session_utils import create_session_from_user_pass

    orthanc.store(write(tmp_path / "in", series(1, 3)))
    run(web(), tmp_path / "store")
    theirs = DICOMwebClient(
        orthanc.url, session=create_session_from_user_pass(USER, PASSWORD)
    ).retrieve_series("1.2.840.1", "1.2.840.1.7")
    ours = [pydicom.dcmread(f) for f in (tmp_path / "store" / "dicom").rglob("*.dcm")]
    assert {d.SOPInstanceUID: d.PixelData for d in ours} == {
        d.SOPInstanceUID: d.PixelData for d in theirs
    }
    assert len(ours) == 3


def test_a_wrong_password_is_an_error_that_shows_no_password(orthanc, web, tmp_path):
    (tmp_path / "other").write_text("puller:Canary-wrong")
    (tmp_path / "other").chmod(0o600)
    with pytest.raises(ArchiveError) as caught:
        run(web(credentials={"file": tmp_path / "other"}), tmp_path / "store")
    assert caught.value.code == "pacs-unauthorised"
    assert "Canary" not in str(caught.value)


def test_the_first_error_of_a_worker_stops_the_others(orthanc, web, tmp_path, monkeypatch):
    orthanc.store(write(tmp_path / "in", [d for n in range(1, 30) for d in series(n, 1)]))

    def fail(self, free_mb):
        raise ArchiveError("full", code="pacs-disk-full")

    monkeypatch.setattr(Store, "need_room", fail)
    with pytest.raises(ArchiveError, match="pacs-disk-full"):
        run(web(), tmp_path / "store")
    monkeypatch.undo()
    assert run(web(), tmp_path / "store").instances == 29
