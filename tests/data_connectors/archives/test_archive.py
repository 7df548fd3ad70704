"""Archives against the standard library's readers, which are slower and less careful."""

from __future__ import annotations

import io
import os
import stat
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_connectors.archives.archive import Archive, open_archive
from data_connectors.archives.expanded import Expanded
from data_connectors.archives.index import ARCHIVE_SUFFIXES
from medvlp.errors import InputError

NAMES = st.text(
    st.characters(blacklist_categories=("Cs", "Cc"), blacklist_characters="\\:"), min_size=1,
    max_size=120,
).filter(lambda name: not name.startswith("/") and ".." not in name.split("/"))  # fmt: skip


def tarred(path: Path, members: list[tuple[str, bytes]], mode: str = "w", form: int = 2) -> Path:
    with tarfile.open(path, mode, format=form) as archive:  # type: ignore[call-overload]
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def contents(path: Path) -> dict[str, bytes]:
    archive = Archive(path)
    assert archive.index.error is None
    members = archive.index.members.values()
    return {m.name: archive.read(m).getvalue() for m in members if m.refused is None}


def codes(path: Path) -> dict[str, str]:
    index = Archive(path).index
    found = {m.name: m.refused.code for m in index.members.values() if m.refused is not None}
    return found | ({"*": index.error.code} if index.error is not None else {})


@pytest.mark.parametrize("suffix", ["tar", "tar.gz", "tgz", "tar.bz2", "tar.xz"])
@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_kind_of_tar_is_read_as_the_standard_library_reads_it(tmp_path, suffix, form):
    kind = {"tar": "w", "tgz": "w:gz"}.get(suffix, "w:" + suffix.rpartition(".")[2])
    deep = "folder/" * 14 + "name"
    long = [] if form == tarfile.USTAR_FORMAT else [("ü" * 90 + "/" + "n" * 200, b"long")]
    members = [("a", b""), ("b/c", os.urandom(1500)), (deep, b"x" * 512), *long, ("z é", b"end")]
    path = tarred(tmp_path / f"in.{suffix}", members, kind, form)
    assert contents(path) == dict(members)


@settings(max_examples=60, deadline=None, suppress_health_check=[*HealthCheck])
@given(
    members=st.dictionaries(NAMES, st.binary(max_size=2000), min_size=1, max_size=6),
    form=st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
    ending=st.sampled_from(["tar", "zip"]),
)
def test_what_was_packed_comes_out(tmp_path, members, form, ending):
    names = {str(Path(name)) for name in members}
    if len(names) < len(members) or "." in names or any(n.endswith("/") for n in members):
        return
    if any(name.lower().endswith(ARCHIVE_SUFFIXES) for name in members):  # not entered
        return
    path = tmp_path / f"in.{ending}"
    if ending == "tar":
        tarred(path, list(members.items()), form=form)
    else:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in members.items():
                archive.writestr(name, data)
    assert contents(path) == {str(Path(name)): data for name, data in members.items()}


def test_a_compressed_stream_is_read_anywhere_without_starting_over(tmp_path, monkeypatch):
    data = np.random.default_rng(0).integers(0, 40, 40_000_000, np.uint8).tobytes()
    path = tmp_path / "in.tar.gz"
    import gzip

    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(data[:25_000_000])
    with gzip.open(path, "ab", compresslevel=1) as file:  # two gzip members in one file
        file.write(data[25_000_000:])
    stream = Expanded(path)
    assert stream.read_at(len(data) - 5, 100) == data[-5:]
    read = 0
    real = os.pread

    def counted(*arguments):
        nonlocal read
        found = real(*arguments)
        read += len(found)
        return found

    monkeypatch.setattr(os, "pread", counted)
    rng = np.random.default_rng(1)
    for start in rng.integers(0, len(data) - 2000, 60):
        assert stream.read_at(int(start), 1500) == data[start : start + 1500]
    assert read < 60 * 1_500_000  # a megabyte each, not the 12 MB before the middle
    with pytest.raises(EOFError):
        stream.read_at(len(data) + 1, 1)


def test_a_tar_cut_off_or_damaged_in_the_middle_is_not_taken_for_a_short_one(tmp_path):
    members = [(f"{k}", bytes([k]) * 1000) for k in range(9)]
    whole = tarred(tmp_path / "whole.tar", members).read_bytes()
    damaged = bytearray(whole)
    damaged[3 * 1536 + 10] ^= 255
    for data, count in [(whole[: 4 * 1536 + 200], 4), (whole[: 4 * 1536 + 700], 5), (damaged, 3)]:
        path = tmp_path / "cut.tar"
        path.write_bytes(data)
        index = Archive(path).index
        assert len(index.members) == count
        assert index.error is not None
        assert index.error.code == "archive-broken"
    path.write_bytes(whole + whole)  # what stands behind the end mark would be lost
    assert codes(path) == {"*": "archive-broken"}
    path.write_bytes(whole[: 9 * 1536])  # no end mark: allowed
    assert codes(path) == {}
    assert len(contents(path)) == 9


def test_hostile_names_are_refused_and_harmless_ones_are_not(tmp_path):
    bad = ["/etc/passwd", "../up", "a/../../up", "C:/x", "c:x", "..\\up", "\\\\host\\x", "n" * 300,
           "line\nend", "esc\x1b[2J"]  # fmt: skip
    good = ["a..b", "x/..y", "ü", "a\\b", "=cmd|x", "Name", "name", "x y"]
    tar = tarred(tmp_path / "in.tar", [(name, b"1") for name in bad + good], form=1)
    assert set(codes(tar).values()) == {"archive-unsafe-name"}
    assert len(codes(tar)) == len(bad)
    assert set(contents(tar)) == set(good)
    with zipfile.ZipFile(tmp_path / "in.zip", "w") as archive:
        for name in [*bad, *good]:
            archive.writestr(zipfile.ZipInfo(name), b"1")
    assert len(codes(tmp_path / "in.zip")) == len(bad)
    assert set(contents(tmp_path / "in.zip")) == set(good)
    assert not any("\n" in name or "\x1b" in name for name in codes(tar))


def test_a_name_with_nul_is_refused(tmp_path):
    path = tmp_path / "in.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("abcXdef", b"1")
    path.write_bytes(path.read_bytes().replace(b"abcXdef", b"abc\0def"))
    assert list(codes(path).values()) == ["archive-unsafe-name"]


def test_links_devices_and_sparse_members_are_refused(tmp_path):
    path = tmp_path / "in.tar"
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as archive:
        kinds = [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE]
        for number, kind in enumerate(kinds):
            info = tarfile.TarInfo(f"m{number}")
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
        info = tarfile.TarInfo("folder")
        info.type = tarfile.DIRTYPE
        archive.addfile(info)
        info = tarfile.TarInfo("sparse")
        info.type, info.size = tarfile.GNUTYPE_SPARSE, 512
        archive.addfile(info, io.BytesIO(bytes(512)))
        info = tarfile.TarInfo("last")
        info.size = 3
        archive.addfile(info, io.BytesIO(b"end"))
    assert codes(path) == dict.fromkeys(["m0", "m1", "m2", "m3", "sparse"], "archive-not-a-file")
    assert contents(path) == {"last": b"end"}
    link = zipfile.ZipInfo("link")
    link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "in.zip", "w") as packed:
        packed.writestr(link, "/etc/passwd")
        packed.writestr("folder/", b"")
    assert codes(tmp_path / "in.zip") == {"link": "archive-not-a-file"}


def test_encrypted_and_unknown_compression_are_refused_by_name(tmp_path):
    path = tmp_path / "in.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a", b"1")
        archive.writestr("b", b"1")
        archive.writestr("c", b"1")
    data = bytearray(path.read_bytes())
    first = data.index(b"PK\x01\x02")
    second = data.index(b"PK\x01\x02", first + 4)
    data[first + 8] |= 1
    data[second + 10] = 9  # deflate64
    path.write_bytes(data)
    assert codes(path) == {"a": "archive-encrypted", "b": "archive-method"}
    assert contents(path) == {"c": b"1"}


def test_zip64_and_self_extracting_zips_are_read(tmp_path):
    path = tmp_path / "in.zip"
    with zipfile.ZipFile(path, "w") as archive, archive.open("a", "w", force_zip64=True) as file:
        file.write(b"content")
    assert contents(path) == {"a": b"content"}
    path.write_bytes(b"#!/bin/sh\n" * 9 + path.read_bytes())
    assert contents(path) == {"a": b"content"}
    many = tmp_path / "many.zip"
    with zipfile.ZipFile(many, "w") as archive:
        for number in range(66_000):  # more than fit the old end record
            archive.writestr(zipfile.ZipInfo(f"{number}"), b"")
    assert len(Archive(many).index.members) == 66_000


def test_a_member_whose_bytes_are_not_those_stated_is_refused(tmp_path):
    path = tmp_path / "in.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a", b"content" * 9)
    whole = path.read_bytes()
    entry = whole.index(b"PK\x01\x02")
    for at, value in [(entry + 16, 99), (entry + 24, 62), (entry + 24, 64), (entry + 42, 3)]:
        data = bytearray(whole)
        data[at] = value
        path.write_bytes(data)
        archive = Archive(path)
        if archive.index.error is not None:
            continue
        with pytest.raises(InputError, match="archive-broken"):
            archive.read(archive.index.members["a"])


def test_the_index_is_made_again_when_the_file_changes(tmp_path):
    path = tarred(tmp_path / "in.tar", [("a", b"1")])
    assert set(open_archive(path).index.members) == {"a"}
    assert open_archive(path) is open_archive(path)
    tarred(path, [("b", b"1"), ("c", b"2")])
    os.utime(path, ns=(1, 1))
    assert set(open_archive(path).index.members) == {"b", "c"}
    with pytest.raises(InputError, match="input-gone"):
        list(open_archive(path).fetch(["a"]))


def test_an_unreadable_directory_size_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "in.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a", b"1")
    data = bytearray(path.read_bytes())
    struct.pack_into("<I", data, len(data) - 10, 1 << 30)
    path.write_bytes(data)
    assert codes(path) == {"*": "archive-too-many-members"}


def test_members_that_overlap_are_refused(tmp_path):
    path = tmp_path / "in.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a", bytes(5000))
    data = path.read_bytes()
    start, end = data.index(b"PK\x01\x02"), data.index(b"PK\x05\x06")
    entries = data[start:end] * 2
    tail = struct.pack("<IHHHHIIH", 0x06054B50, 0, 0, 2, 2, len(entries), start, 0)
    path.write_bytes(data[:start] + entries + tail)
    assert codes(path) == {"*": "archive-overlap"}


@pytest.mark.parametrize("name", ["in.zip", "in.tar.gz"])
def test_what_expands_beyond_reason_is_refused_unread(tmp_path, monkeypatch, name):
    from data_connectors.archives import expanded, index, zips

    path = tmp_path / name
    if name == "in.zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for number in range(3):
                archive.writestr(f"{number}", bytes(3_000_000))
    else:
        tarred(path, [(f"{k}", bytes(3_000_000)) for k in range(3)], "w:gz")
    assert codes(path) == {}  # a thousandth of a small archive may be zeros
    monkeypatch.setattr(index, "FREE_BYTES", 1_000_000)
    alone = {"0", "1", "2"} if name == "in.zip" else set()
    assert set(codes(path)) == alone
    for module in (expanded, zips):
        monkeypatch.setattr(module, "FREE_TOTAL", 1_000_000)
    assert codes(path)["*"] == "archive-bomb"


@pytest.mark.parametrize("kept", [0, 30_000, 1 << 27])
@pytest.mark.parametrize("ending", ["bz2", "xz"])
def test_streams_that_go_forward_only_are_read_anywhere(tmp_path, monkeypatch, ending, kept):
    import bz2
    import lzma

    monkeypatch.setattr("data_connectors.archives.expanded._KEPT", kept)
    data = np.random.default_rng(0).integers(0, 256, 900_000, np.uint8).tobytes()
    path = tmp_path / f"in.{ending}"
    compress = bz2.compress if ending == "bz2" else lzma.compress
    path.write_bytes(compress(data[:500_000]) + compress(data[500_000:]))
    stream = Expanded(path)
    rng = np.random.default_rng(1)
    for start in rng.integers(0, len(data), 12):
        assert stream.read_at(int(start), 4000) == data[start : start + 4000]
    assert stream.read_at(len(data) - 5, 100) == data[-5:]
