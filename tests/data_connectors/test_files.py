from __future__ import annotations

import gzip
import io
import os
import tarfile
import zipfile
from pathlib import Path

from data_connectors.files import fetch, files_below, scan
from data_connectors.items import Refused

LIMITS = {"max_files": 100, "max_bytes": 1000}


def look(root: Path, **limits: int) -> tuple[list[str], dict[str, str]]:
    names, refused = [], {}
    for entry in scan(root, **{**LIMITS, **limits}):
        if isinstance(entry, Refused):
            refused.update(dict.fromkeys(entry.inputs, entry.code))
        else:
            names.append(entry[0])
    return names, refused


def test_folder_is_walked_in_order(tmp_path: Path) -> None:
    for name in ("b/2", "a/z", "c", "B", "a/1"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    assert look(tmp_path)[0] == ["B", "c", "a/1", "a/z", "b/2"]


def test_nothing_is_skipped_silently(tmp_path: Path) -> None:
    """Every file that a plain listing shows is either handed out or refused."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("x")
    root = tmp_path / "root"
    root.mkdir()
    (root / "plain").write_text("x")
    (root / "empty").touch()
    (root / "large").write_bytes(bytes(2000))
    (root / "inside").symlink_to(root / "plain")
    (root / "file link").symlink_to(outside / "secret")
    (root / "folder link").symlink_to(outside)
    (root / "dangling").symlink_to(root / "nowhere")
    os.mkfifo(root / "pipe")
    names, refused = look(root)
    assert names == ["inside", "plain"]
    assert refused == {
        "empty": "file-empty",
        "large": "file-too-large",
        "file link": "symlink-outside",
        "folder link": "symlink-folder",
        "dangling": "file-unreadable",
        "pipe": "not-a-file",
    }
    assert {*names, *refused} == set(files_below(root))


def test_single_file_is_found_by_its_name(tmp_path: Path) -> None:
    path = tmp_path / "one"
    path.write_text("x")
    assert look(path)[0] == ["one"]
    assert [(name, handle) for name, handle in fetch(path, ["one"])] == [("one", path)]


def test_too_many_files_stop_the_walk(tmp_path: Path) -> None:
    for k in range(5):
        (tmp_path / str(k)).write_text("x")
    names, refused = look(tmp_path, max_files=3)
    assert names == ["0", "1", "2"]
    assert refused == {"3": "too-many-files"}


def test_tables_can_be_left_out(tmp_path: Path) -> None:
    for name in ("a", "table.csv"):
        (tmp_path / name).write_text("x")
    found = list(scan(tmp_path, skip=[tmp_path / "table.csv"], **LIMITS))
    assert [name for name, _ in found] == ["a"]  # type: ignore[misc]


def test_archive_members_are_read_in_memory_and_listed_alike(tmp_path: Path) -> None:
    path = tmp_path / "in.tgz"
    with tarfile.open(path, "w:gz") as tar:
        for name, data in [("d/a", b"1"), ("./b", b"22"), ("../c", b"3"), ("d/a", b"twice")]:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    names, refused = look(path)
    assert names == ["d/a", "b"]
    assert refused == {"../c": "archive-unsafe-name", "d/a (2)": "archive-duplicate-name"}
    assert {*names, *refused} == set(files_below(path))
    fetched = {name: handle.getvalue() for name, handle in fetch(path, ["b", "d/a"])}  # type: ignore[union-attr]
    assert fetched == {"d/a": b"1", "b": b"22"}


def test_broken_archive_is_refused_by_its_own_name(tmp_path: Path) -> None:
    path = tmp_path / "in.tar.gz"
    path.write_bytes(b"\x1f\x8b\x08\x00 no gzip at all")
    assert look(path) == ([], {"in.tar.gz": "archive-broken"})
    assert set(files_below(path)) == {"in.tar.gz"}


def zipped(path: Path, members: dict[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)


def test_archives_in_a_folder_are_entered_once(tmp_path: Path) -> None:
    inner = tmp_path / "inner.zip"
    zipped(inner, {"x": b"x"})
    root = tmp_path / "root"
    zipped(root / "b/study.zip", {"s/1": b"11", "s/2": b"22", "again.zip": inner.read_bytes()})
    zipped(root / "none.zip", {})
    (root / "a.txt").write_text("x")
    (root / "no.zip").write_text("no zip at all")
    (root / "link.zip").symlink_to(root / "b/study.zip")
    (root / "z").mkdir()
    (root / "z/one.dcm.gz").write_bytes(gzip.compress(b"content"))
    names, refused = look(root)
    assert names == ["a.txt", "b/study.zip/s/1", "b/study.zip/s/2", "z/one.dcm.gz"]
    assert refused == {
        "none.zip": "archive-empty",
        "no.zip": "archive-broken",
        "link.zip": "symlink-archive",
        "b/study.zip/again.zip": "archive-nested",
    }
    assert {*names, *refused} == set(files_below(root))
    fetched = {
        name: handle.read_bytes() if isinstance(handle, Path) else handle.getvalue()
        for name, handle in fetch(root, names)
    }
    assert fetched == {
        "a.txt": b"x", "b/study.zip/s/1": b"11", "b/study.zip/s/2": b"22",
        "z/one.dcm.gz": b"content",
    }  # fmt: skip


def test_an_archive_can_be_left_closed(tmp_path: Path) -> None:
    zipped(tmp_path / "study.zip", {"s/1": b"11"})
    assert set(files_below(tmp_path, archives=False)) == {"study.zip"}


def test_a_folder_named_like_an_archive_is_a_folder(tmp_path: Path) -> None:
    zipped(tmp_path / "a.zip/b.zip", {"1": b"11"})
    names, _ = look(tmp_path)
    assert names == ["a.zip/b.zip/1"] == list(files_below(tmp_path))
    ((_, handle),) = fetch(tmp_path, names)
    assert handle.getvalue() == b"11"  # type: ignore[union-attr]


def test_a_gzip_file_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.gz").write_bytes(b"\x1f\x8b\x08 no gzip")
    (tmp_path / "b.gz").write_bytes(gzip.compress(bytes(5000)))
    (tmp_path / "c.gz").write_bytes(gzip.compress(b"whole")[:-4])
    assert look(tmp_path) == (
        [], {"a.gz": "archive-broken", "b.gz": "file-too-large", "c.gz": "archive-broken"}
    )  # fmt: skip
    assert [name for name, _ in fetch(tmp_path, ["a.gz"], expand=False)] == ["a.gz"]
