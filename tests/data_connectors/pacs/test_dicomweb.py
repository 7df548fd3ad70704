"""What archives really do, one oddity at a time, and what a hostile one may try."""

from __future__ import annotations

import json
import re
import time
from datetime import date
from pathlib import Path
from typing import Any

import pydicom
import pytest

from data_connectors.pacs.pull import pulled
from data_connectors.pacs.pulled import Pulled
from medvlp.errors import ArchiveError
from tests.data_connectors.pacs.conftest import (
    MULTIPART,
    FakeArchive,
    encoded,
    multipart,
    reply,
    slice_of,
)


def series(name: int, count: int, **changes: Any) -> list[pydicom.Dataset]:
    study, uid = f"1.2.840.{name}", f"1.2.840.{name}.7"
    return [slice_of(study, uid, k, patient=f"P-{name}", **changes) for k in range(count)]


def run(source: Any, folder: Path) -> Pulled:
    with pulled(source, folder) as made:
        return made


def held(tmp_path: Path) -> int:
    return len(list((tmp_path / "store" / "dicom").rglob("*.dcm")))


class Bent(FakeArchive):
    """An archive whose parts are replaced by functions of the test."""

    def __init__(self, datasets: list[pydicom.Dataset], folder: Path, **parts: Any) -> None:
        super().__init__(datasets, folder)
        for name, part in parts.items():
            setattr(self, name, part.__get__(self) if callable(part) else part)


@pytest.fixture
def pull(faked, tmp_path):
    """`pull(datasets, {part: replacement}, **keys)` -> (what came, the server)."""

    def make(datasets, parts=None, *, into="store", **keys):
        archive = Bent(datasets, tmp_path / "files", **(parts or {}))
        source, server = faked(archive, **keys)
        return run(source, tmp_path / into), server

    return make


def test_pages_are_asked_for_until_one_is_empty(pull):
    made, server = pull(series(1, 7), {"page_cap": 3}, page=5)
    assert (made.instances, made.refused) == (7, [])
    offsets = [int(m[1]) for p in server.paths if "/instances?" in p
               for m in [re.search(r"offset=(\d+)", p)]]  # fmt: skip
    assert offsets[:4] == [0, 3, 6, 7]


def test_an_archive_that_knows_no_offset_is_read_once_or_refused(pull):
    def all_at_once(self, handler, rows, keys):
        reply(handler, json.dumps(rows[: int(keys["limit"])]).encode())

    made, _ = pull(series(1, 3), {"listing": all_at_once}, page=50)
    assert made.instances == 3
    with pytest.raises(ArchiveError, match="pacs-paging"):
        pull(series(1, 3), {"listing": all_at_once}, page=2, into="other")


def test_rows_that_come_twice_count_once(pull, tmp_path):
    def doubled(self, handler, rows, keys):
        reply(handler, json.dumps((rows + rows) if keys.get("offset", "0") == "0" else []).encode())

    made, _ = pull(series(1, 3), {"listing": doubled})
    assert (made.instances, held(tmp_path)) == (3, 3)


def test_files_that_come_twice_are_kept_once(pull, tmp_path):
    def doubled(self, handler, uids):
        files = [self.files[uid] for uid in uids]
        reply(handler, multipart(files + files), kind=MULTIPART)

    made, _ = pull(series(1, 3), {"whole": doubled})
    assert (made.instances, held(tmp_path), made.refused) == (3, 3, [])


def test_one_uid_with_two_contents_refuses_the_series_every_time(faked, tmp_path):
    first, other = series(1, 2), series(1, 1, SeriesDescription="changed")

    def both(self, handler, uids):
        files = [self.files[uid] for uid in uids] + [encoded(other[0], tmp_path / "x")]
        reply(handler, multipart(files), kind=MULTIPART)

    source, _ = faked(Bent(first, tmp_path / "files", whole=both))
    for _ in range(2):  # by itself each instance can be had, which would hide the conflict
        made = run(source, tmp_path / "store")
        assert made.instances == 0
        assert {r.code: len(r.inputs) for r in made.refused} == {
            "pacs-uid-conflict": 1, "pacs-incomplete": 1,
        }  # fmt: skip
        assert held(tmp_path) == 0


def test_the_same_object_with_another_file_meta_is_no_conflict(pull, tmp_path):
    again = series(1, 1)[0]
    again.file_meta.ImplementationVersionName = "OTHER"

    def both(self, handler, uids):
        files = [self.files[uid] for uid in uids] + [encoded(again, tmp_path / "x")]
        reply(handler, multipart(files), kind=MULTIPART)

    made, _ = pull(series(1, 1), {"whole": both})
    assert (made.instances, made.refused) == (1, [])


def test_a_connection_that_breaks_in_a_multipart_costs_only_what_had_not_come(pull):
    def broken(self, handler, uids):
        body = multipart([self.files[uid] for uid in uids])
        reply(handler, body[: len(body) // 2], kind=MULTIPART, length=len(body))
        handler.close_connection = True

    made, server = pull(series(1, 6), {"whole": broken})
    assert (made.instances, made.refused) == (6, [])
    alone = [path for path in server.paths if re.search(r"/instances/[\d.]+$", path)]
    assert 0 < len(alone) < 6
    assert len(set(alone)) == len(alone)


@pytest.mark.parametrize("status", [429, 500, 503])
def test_an_archive_that_is_busy_now_and_then_is_asked_again(pull, status):
    turns = []

    def busy(self, handler, uids):
        turns.append(1)
        if len(turns) < 2:
            reply(handler, status=status, Retry_After="0")
        else:
            FakeArchive.whole(self, handler, uids)

    made, _ = pull(series(1, 2), {"whole": busy})
    assert (made.instances, len(turns)) == (2, 2)


def test_a_partial_answer_is_completed(pull):
    def partial(self, handler, uids):
        reply(handler, multipart([self.files[uids[0]]]), status=206, kind=MULTIPART)

    made, _ = pull(series(1, 3), {"whole": partial})
    assert made.instances == 3


@pytest.mark.parametrize("only", ["type=application/dicom", '"application/dicom"', "*/*"])
def test_the_way_of_asking_that_an_archive_wants_is_found(pull, only):
    def picky(self, handler, uids):
        accept = handler.headers["Accept"]
        if "transfer-syntax" in accept or not accept.endswith(only):
            reply(handler, status=406)
        else:
            FakeArchive.whole(self, handler, uids)

    made, _ = pull([*series(1, 2), *series(2, 2)], {"whole": picky})
    assert made.instances == 4


def test_single_files_without_multipart_are_accepted_when_their_end_is_known(pull):
    def plain(self, handler, uid):
        reply(handler, self.files[uid], kind="application/dicom")

    refuse = {"whole": lambda self, handler, uids: reply(handler, status=404)}
    made, _ = pull(series(1, 2), {**refuse, "one": plain})
    assert made.instances == 2


def test_a_single_file_that_may_be_cut_is_not_trusted(pull):
    def open_end(self, handler, uid):
        handler.send_response(200)
        handler.send_header("Content-Type", "application/dicom")
        handler.end_headers()
        handler.wfile.write(self.files[uid][:-50])
        handler.close_connection = True

    made, _ = pull(series(1, 2), {
        "whole": lambda self, handler, uids: reply(handler, status=404), "one": open_end,
    })  # fmt: skip
    assert made.instances == 0
    assert [r.code for r in made.refused] == ["pacs-incomplete"]


def test_an_instance_that_never_comes_refuses_its_series_with_counts(pull, tmp_path):
    def lacking(self, handler, uids):
        FakeArchive.whole(self, handler, [uid for uid in uids if not uid.endswith(".2")])

    def one(self, handler, uid):
        reply(handler, status=404 if uid.endswith(".2") else 500)

    made, _ = pull([*series(1, 4), *series(2, 1)], {"whole": lacking, "one": one})
    assert (made.series, made.instances, held(tmp_path)) == (2, 1, 1)
    (refused,) = made.refused
    assert refused.code == "pacs-incomplete"
    assert "lists 4" in refused.reason
    assert "3 came" in refused.reason
    assert set(refused.inputs) == set(made.missing)
    assert len(made.missing) == 4


@pytest.mark.parametrize(("counted", "trust", "used"), [(3, True, 3), (4, True, 0), (4, False, 3)])
def test_the_count_of_the_archive_must_agree_unless_told_otherwise(pull, counted, trust, used):
    made, _ = pull(series(1, 3), {"listing": counting(counted)}, trust_counts=trust)
    assert made.instances == used
    assert [r.code for r in made.refused] == ([] if used else ["pacs-incomplete"])


def test_an_archive_that_lists_no_instances_is_held_to_its_count(pull):
    def listing(self, handler, rows, keys):
        if "/instances" in handler.path:
            reply(handler, status=400)
            return
        rows = [{**row, "00201209": {"vr": "IS", "Value": ["3"]}} for row in rows]
        FakeArchive.listing(self, handler, rows, keys)

    made, _ = pull(series(1, 3), {"listing": listing})
    assert (made.instances, made.refused) == (3, [])
    made, _ = pull(series(2, 2), {"listing": listing}, into="other")
    assert made.instances == 0
    assert (len(made.missing), made.refused[0].code) == (3, "pacs-incomplete")


def test_an_archive_that_tells_no_number_at_all_is_not_trusted(pull):
    def listing(self, handler, rows, keys):
        if "/instances" in handler.path:
            reply(handler, status=400)
        else:
            FakeArchive.listing(self, handler, rows, keys)

    made, _ = pull(series(1, 3), {"listing": listing})
    assert [r.code for r in made.refused] == ["pacs-uncounted"]


@pytest.mark.parametrize(("what", "code"), [
    ({"series": "1.2.840.1.8"}, "pacs-wrong-series"), ({"study": "1.2.3"}, "pacs-wrong-series"),
    ({"patient": "P-2"}, "pacs-wrong-patient"),
])  # fmt: skip
def test_files_of_another_series_or_patient_are_refused(pull, tmp_path, what, code):
    true = {"study": "1.2.840.1", "series": "1.2.840.1.7", "patient": "P-1"}
    keys = {**true, **what}
    foreign = slice_of(keys["study"], keys["series"], 1, patient=keys["patient"],
                       uid="1.2.840.1.7.2")  # fmt: skip

    def one(self, handler, uid):
        file = encoded(foreign, tmp_path / "x") if uid == "1.2.840.1.7.2" else self.files[uid]
        reply(handler, multipart([file]), kind=MULTIPART)

    def whole(self, handler, uids):
        files = [encoded(foreign, tmp_path / "x")] + [self.files[uid] for uid in uids[:1]]
        reply(handler, multipart(files), kind=MULTIPART)

    made, _ = pull(series(1, 2), {"one": one, "whole": whole})
    assert made.instances == 0
    assert {r.code: len(r.inputs) for r in made.refused} == {code: 1, "pacs-incomplete": 1}


def counting(number: int) -> Any:
    """A listing with NumberOfSeriesRelatedInstances."""

    def listing(self, handler, rows, keys):
        rows = [{**row, "00201209": {"vr": "IS", "Value": [number]}} for row in rows]
        FakeArchive.listing(self, handler, rows, keys)

    return listing


def test_files_that_the_archive_does_not_list_are_left_out(pull, tmp_path):
    extra = slice_of("1.2.840.1", "1.2.840.1.7", 9, patient="P-1")

    def whole(self, handler, uids):
        files = [self.files[uid] for uid in uids] + [encoded(extra, tmp_path / "x"), b"no DICOM"]
        reply(handler, multipart(files), kind=MULTIPART)

    made, _ = pull(series(1, 2), {"whole": whole, "listing": counting(2)})
    assert (made.instances, made.refused, held(tmp_path)) == (2, [], 2)


def test_urls_in_answers_are_never_asked(pull, fake):
    other = fake()

    def listing(self, handler, rows, keys):
        bait = {
            "00081190": {"vr": "UR", "Value": [other.url + "/studies"]},
            "7FE00010": {"vr": "OW", "BulkDataURI": other.url + "/bulk"},
            "00080018": {"vr": "UI", "BulkDataURI": other.url + "/uid"},
        }
        FakeArchive.listing(self, handler, [{**bait, **row} for row in rows], keys)

    def whole(self, handler, uids):
        head = f"\r\nContent-Location: {other.url}/part\r\n\r\n".encode()
        body = b"".join(b"--b" + head + self.files[uid] + b"\r\n" for uid in uids) + b"--b--"
        reply(handler, body, kind='multipart/related; boundary="b"', Content_Location=other.url)

    made, server = pull(series(1, 3), {"listing": listing, "whole": whole})
    assert made.instances == 3
    assert other.seen == []
    assert all("authorization" in headers for _, headers in server.seen)


@pytest.mark.parametrize("uid", ["../../etc/passwd", "1.2/../3", "", "1.2?x=y", "a" * 300, "%2e"])
def test_uids_that_are_paths_are_never_asked_for_nor_written(pull, tmp_path, uid):
    bad = slice_of("1.2.840.1", "1.2.840.1.7", 0, patient="P-1")
    bad.SeriesInstanceUID = uid

    def listing(self, handler, rows, keys):
        row = {"0020000E": {"vr": "UI", "Value": [uid]}}
        FakeArchive.listing(self, handler, [{**r, **row} for r in rows], keys)

    made, server = pull(series(1, 1), {"listing": listing})
    assert made.instances == 0
    assert not [path for path in server.paths if "passwd" in path or "/series/" in path]
    assert {p.name for p in (tmp_path / "store").iterdir()} >= {"dicom", "aside"}
    assert not list((tmp_path / "store" / "dicom").iterdir())


@pytest.mark.parametrize("body", [
    b"<xml/>", b"{}", b"[1]", b"[" * 100_000, b'[{"0020000D": 5}]' + b"x",
])  # fmt: skip
def test_a_list_that_is_no_list_ends_the_pull(pull, body):
    with pytest.raises(ArchiveError):
        pull(series(1, 1), {"listing": lambda self, handler, rows, keys: reply(handler, body)})


@pytest.mark.parametrize("row", [
    {"0020000D": 5}, {"0020000D": {"Value": "1.2"}}, {"0020000D": {"Value": [{"a": 1}]}}, {},
    {"0020000D": {"Value": [None]}}, {"0020000D": {"Value": [True]}},
])  # fmt: skip
def test_rows_of_odd_shapes_are_nothing_to_ask_for(pull, row):
    made, _ = pull(series(1, 1), {
        "listing": lambda self, handler, rows, keys: reply(handler, json.dumps([row]).encode())
    })  # fmt: skip
    assert made.instances == 0


def test_a_file_beyond_the_limit_is_not_stored(pull, tmp_path):
    made, _ = pull(series(1, 2), max_bytes=500)
    assert [r.code for r in made.refused] == ["pacs-incomplete"]
    assert held(tmp_path) == 0
    assert not list((tmp_path / "store" / "incoming").iterdir())


def test_a_multipart_of_garbage_refuses_the_series_alone(pull):
    def whole(self, handler, uids):
        if uids[0].startswith("1.2.840.1."):
            reply(handler, b"\0\1garbage" * 2000, kind=MULTIPART)
        else:
            FakeArchive.whole(self, handler, uids)

    def one(self, handler, uid):
        reply(handler, b"garbage", kind=MULTIPART)

    made, _ = pull([*series(1, 2), *series(2, 2)], {"whole": whole, "one": one})
    assert made.instances == 2
    assert [r.code for r in made.refused] == ["pacs-incomplete"]


def test_an_archive_that_dies_meanwhile_is_an_error_not_a_refusal(faked, tmp_path):
    archive = FakeArchive(series(1, 3), tmp_path / "files")
    alive = [True]

    def answer(handler):
        if "/series/" in handler.path and handler.path.endswith(".7"):
            alive[0] = False
        if alive[0]:
            archive(handler)
        else:
            handler.close_connection = True

    source, _ = faked(answer)
    with pytest.raises(ArchiveError) as caught:
        run(source, tmp_path / "store")
    assert caught.value.code == "pacs-unreachable"
    alive[0] = True
    source, _ = faked(archive, url=source.url)


def test_a_retrieval_that_trickles_is_ended_and_the_rest_goes_on(pull):
    def whole(self, handler, uids):
        if not uids[0].startswith("1.2.840.1."):
            FakeArchive.whole(self, handler, uids)
            return
        handler.send_response(200)
        handler.send_header("Content-Type", MULTIPART)
        handler.end_headers()
        handler.wfile.write(multipart([self.files[uids[0]]], end=False))
        for _ in range(100):
            handler.wfile.write(b"\0")
            time.sleep(0.1)

    began = time.monotonic()
    made, _ = pull([*series(1, 3), *series(2, 2)], {"whole": whole},
                   pace={"request_timeout_s": 0.7})  # fmt: skip
    assert (made.instances, made.refused) == (5, [])
    assert time.monotonic() - began < 8


def test_what_the_archive_does_with_the_filter_is_checked_again(pull, tmp_path):
    lists = tmp_path / "patients.txt"
    lists.write_text("P-1\nP-2\nP-3\nP-4\nP-5\n")
    datasets = [
        *series(1, 1), *series(2, 1, Modality="MR"), *series(3, 1, StudyDate="20230101"),
        *series(4, 1, SeriesDescription="Scout"), *series(5, 1, StudyDescription="Head"),
        *series(6, 1),
    ]  # fmt: skip
    made, server = pull(datasets, find={
        "modalities": ["CT"], "studied_from": date(2024, 1, 1), "patients": lists,
        "series_description": "axial*", "study_description": "*CHEST*",
    })  # fmt: skip
    assert (made.series, made.instances) == (1, 1)
    asked = [path for path in server.paths if path.startswith("/dicom-web/studies?Study")]
    assert "StudyDate=20240101-&ModalitiesInStudy=CT&PatientID=P-1" in asked[0]
    assert not any("escription=" in path for path in asked)


def test_at_most_so_many_series_and_always_the_same(pull, tmp_path):
    datasets = [d for n in range(1, 7) for d in series(n, 1)]
    made, _ = pull(datasets, find={"max_series": 2})
    first = sorted((tmp_path / "store/dicom").rglob("*.dcm"))
    pull(datasets[::-1], find={"max_series": 2}, into="other")
    again = sorted((tmp_path / "other/dicom").rglob("*.dcm"))
    assert made.series == 2
    assert [p.parts[-2:] for p in again] == [p.parts[-2:] for p in first]
