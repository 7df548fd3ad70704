from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

from data_connectors.connectors import files_under
from data_connectors.files import fetch, scan
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
    assert {*names, *refused} == set(files_under(root))


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
    assert refused == {"../c": "archive-unsafe-name"}
    assert {*names, *refused} == set(files_under(path))
    fetched = {name: handle.getvalue() for name, handle in fetch(path, ["b", "d/a"])}  # type: ignore[union-attr]
    assert fetched == {"d/a": b"1", "b": b"22"}


def test_broken_archive_is_refused_by_its_own_name(tmp_path: Path) -> None:
    path = tmp_path / "in.tar.gz"
    path.write_bytes(b"\x1f\x8b\x08\x00 no gzip at all")
    assert look(path) == ([], {"in.tar.gz": "archive-broken"})
    assert set(files_under(path)) == {"in.tar.gz"}
