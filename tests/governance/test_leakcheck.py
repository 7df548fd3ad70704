from __future__ import annotations

import base64
import gzip
import io
import json
import sqlite3
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_connectors.deid.forms import Search
from governance.leakcanaries import Canaries
from governance.leakcheck import leakcheck
from medvlp.errors import ConfigError

NAME, NUMBER, DATE, ACCENTED = "ZYXWV^QUILLON", "MRN-7731-QX", "19420719", "Zürmûhl"


@pytest.fixture
def canaries(tmp_path: Path) -> Path:
    path = tmp_path / "canaries.txt"
    path.write_text(f"# seeded\n{NAME}\n{NUMBER}\n\n{DATE}\n{ACCENTED}\nabc\n")
    return path


def check(canaries: Path, data: bytes, name: str = "out.bin") -> int:
    path = canaries.parent / "searched"
    path.mkdir(exist_ok=True)
    (path / name).write_bytes(data)
    return leakcheck(canaries, [path])["hits"]


PLAIN = {
    "as it is": NUMBER.encode(),
    "lower case": NUMBER.lower().encode(),
    "utf-16 little": NUMBER.encode("utf-16-le"),
    "utf-16 big": NUMBER.encode("utf-16-be"),
    "utf-16 lower": NUMBER.lower().encode("utf-16-le"),
    "utf-32": NUMBER.encode("utf-32-le"),
    "hex": NUMBER.encode().hex().encode(),
    "upper hex": NUMBER.encode().hex().upper().encode(),
    "base64": base64.b64encode(NUMBER.encode()),
    "base64 inside": base64.b64encode(b"the patient " + NUMBER.encode() + b" came"),
    "base64 shifted by one": base64.b64encode(b"x" + NUMBER.encode() + b"yz"),
    "base64 shifted by two": base64.b64encode(b"xy" + NUMBER.lower().encode()),
    "urlsafe base64": base64.urlsafe_b64encode(b"??" + NUMBER.encode() + b"??"),
    "the name with spaces": b"seen: Zyxwv Quillon,",
    "the name the other way": b"Quillon Zyxwv was here",
    "the name with a comma": b"Zyxwv, Quillon",
    "the name in an address": b"/find?name=ZYXWV%5EQUILLON&x=1",
    "the date as ISO": b"born 1942-07-19.",
    "the date with slashes": b"born 19/07/1942.",
    "accents in utf-8": "Frau ZÜRMÛHL".encode(),
    "accents in latin-1": "Frau zürmûhl".encode("latin-1"),
    "accents escaped in JSON": json.dumps({"n": "Zürmûhl"}).encode(),
}


@pytest.mark.parametrize("form", PLAIN)
def test_a_canary_is_found_in_every_form(canaries, form):
    assert check(canaries, b"before " + PLAIN[form] + b" after") == 1


def test_what_is_clean_is_clean(canaries):
    data = np.random.default_rng(3).integers(0, 256, 3_000_000, dtype=np.uint8).tobytes()
    assert check(canaries, data) == 0
    assert check(canaries, b"The lungs are clear. MRN-7731. Quillon. 1942. abc abc") == 0


def _tar(data: bytes, name: str = "member") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        info = tarfile.TarInfo(name)
        info.size = len(data)
        archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def _zip(data: bytes, name: str = "member") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, data)
    return buffer.getvalue()


def _parquet(value: object) -> bytes:
    buffer = io.BytesIO()
    table = pa.table({"x": [{"texts": [{"text": value}]}] * 3})
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def _sqlite(folder: Path, text: str) -> bytes:
    path = folder / "made.db"
    with sqlite3.connect(path) as base:
        base.execute("CREATE TABLE t (a TEXT)")
        # Longer than a page: the value lies in pieces on several.
        base.execute("INSERT INTO t VALUES (?)", ("x" * 4060 + text + "y" * 9000,))
    base.close()
    data = path.read_bytes()
    path.unlink()
    return data


def _png(text: bytes) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(b"\0\0"))
    note = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(b"z" * 100 + text))
    return b"\x89PNG\r\n\x1a\n" + header + note + pixels + chunk(b"IEND", b"")


def _npy(text: str) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([text, "other"]))
    return buffer.getvalue()


TEXT = f"note about {NUMBER} only"


@pytest.mark.parametrize(
    "packed",
    [
        gzip.compress(TEXT.encode()),
        gzip.compress(gzip.compress(TEXT.encode())),
        _zip(TEXT.encode()),
        _zip(b"nothing", name=f"{NUMBER}.txt"),
        _zip(gzip.compress(TEXT.encode())),
        _tar(TEXT.encode()),
        _tar(gzip.compress(TEXT.encode())),
        _tar(_parquet(TEXT)),
        gzip.compress(_tar(_zip(TEXT.encode()))),
        _parquet(TEXT),
        _parquet(TEXT.encode()),
        _zip(_parquet(TEXT)),
        _png(TEXT.encode()),
        _tar(_png(TEXT.encode())),
        _npy(TEXT),
        b"<img src=data:text/plain;base64," + base64.b64encode(TEXT.encode()) + b">",
    ],
    ids=range(16),
)
def test_a_canary_is_found_in_what_is_packed(canaries, packed):
    assert check(canaries, packed) == 1


def test_a_canary_is_found_in_a_database(canaries, tmp_path):
    assert check(canaries, _sqlite(tmp_path, TEXT)) == 1
    assert check(canaries, gzip.compress(_sqlite(tmp_path, TEXT))) == 1


def test_a_canary_is_found_between_two_pieces(canaries, monkeypatch):
    monkeypatch.setattr("governance.leakmeta.PIECE", 64)
    for shift in range(64):
        assert check(canaries, b"." * shift + NUMBER.encode() + b"." * 99) == 1


@pytest.mark.parametrize(
    "data",
    [b"PK\x03\x04 broken", b"\x1f\x8b broken", b"PAR1 broken", b"SQLite format 3\0 broken",
     b"\x89PNG\r\n\x1a\n\xff\xff\xff\xffzTXt", gzip.compress(bytes(9000), mtime=0)[:-9], b""],
    ids=range(7),
)  # fmt: skip
def test_damaged_files_are_searched_as_far_as_they_go(canaries, data):
    assert check(canaries, data) == 0
    assert check(canaries, data + NUMBER.encode()) == 1


def _zip_of_two(flag: int = 0, method: int | None = None) -> bytes:
    """A clean member whose header claims encryption or another compression, then a leaking one."""
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("first", b"clean" * 50)
        archive.writestr("second", f"seen: {NUMBER}" * 50)
    data = bytearray(memory.getvalue())
    central = data.index(b"PK\x01\x02")
    for start in (6, central + 8):
        data[start] |= flag
    if method is not None:
        for start in (8, central + 10):
            data[start] = method
    return bytes(data)


@pytest.mark.parametrize(
    "data", [_zip_of_two(flag=1), _zip_of_two(method=9), _zip_of_two(method=14)],
    ids=["encrypted", "Deflate64", "damaged LZMA"],
)  # fmt: skip
def test_a_member_that_cannot_be_opened_does_not_hide_the_next(canaries, tmp_path, data):
    assert NUMBER.encode() not in data
    out = tmp_path / "out"
    out.mkdir()
    (out / "x.zip").write_bytes(data)
    result = leakcheck(canaries, [out])
    assert result["hits"] == 1
    assert result["unopened"] == ["out/x.zip"]


def test_files_with_parts_that_stay_closed_are_named(canaries, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    deep = b"clean"
    for _ in range(6):
        deep = gzip.compress(deep)
    closed = {
        "deep.gz": deep, "cut.gz": gzip.compress(bytes(9000))[:-9],
        "broken.zip": b"PK\x03\x04 broken",
        "broken.parquet": b"PAR1 broken", "broken.db": b"SQLite format 3\0 broken",
        f"{NUMBER}.gz": b"\x1f\x8b broken",
    }  # fmt: skip
    opened = {
        "a.txt": b"clean", "a.gz": gzip.compress(b"clean"), "a.tar": _tar(b"clean"),
        "a.zip": _zip(b"clean"), "a.parquet": _parquet("clean"), "a.png": _png(b"clean"),
        "a.db": _sqlite(tmp_path, "clean"), "empty": b"",
    }  # fmt: skip
    for name, data in (closed | opened).items():
        (out / name).write_bytes(data)
    result = leakcheck(canaries, [out])
    assert result["hits"] == 1
    assert sorted(result["unopened"]) == sorted(
        f"out/{name.replace(NUMBER, '***')}" for name in closed
    )


def test_names_of_files_and_folders_are_searched_and_masked(canaries, tmp_path):
    folder = tmp_path / "out" / f"of {NUMBER.lower()}"
    folder.mkdir(parents=True)
    (folder / "Quillon Zyxwv.txt").write_text("clean")
    result = leakcheck(canaries, [tmp_path / "out"])
    assert result["hits"] == 3
    assert result["searched"] == 1
    shown = json.dumps(result).lower()
    assert "7731" not in shown
    assert "zyxwv" not in shown
    assert "out/of ***/***.txt" in result["files"]


def test_the_answer_counts_and_shows_no_canary(canaries, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "a.txt").write_text(f"{NUMBER} {NUMBER} {DATE}")
    (out / "b.txt").write_text("clean")
    result = leakcheck(canaries, [out])
    assert result["hits"] == 2
    assert result["files"] == ["out/a.txt"]
    assert result["searched"] == 2
    assert result["canaries"] == 4
    assert result["too_short"] == 1
    assert not any(word in json.dumps(result) for word in (NUMBER, DATE, NAME))


def test_the_canary_file_itself_is_not_searched(canaries, tmp_path):
    assert leakcheck(canaries, [tmp_path]) | {"bytes": 0} == {
        "hits": 0, "files": [], "searched": 0, "unopened": [], "bytes": 0, "canaries": 4,
        "too_short": 1,
    }  # fmt: skip


def test_nothing_to_search_for_and_nothing_to_search_are_refused(canaries, tmp_path):
    with pytest.raises(ConfigError) as caught:
        leakcheck(canaries, [tmp_path / "nowhere"])
    assert caught.value.code == "path-missing"
    canaries.write_text("# nothing\nabc\n")
    with pytest.raises(ConfigError) as caught:
        leakcheck(canaries, [tmp_path])
    assert caught.value.code == "canaries-empty"


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=300), st.lists(st.binary(min_size=4, max_size=9), max_size=8))
def test_the_search_agrees_with_plain_search(data, forms):
    search = Search({form: {number} for number, form in enumerate(forms)})
    expected = {number for number, form in enumerate(forms) if form in data}
    # Equal forms share one entry: the last number stands for all.
    last = {form: number for number, form in enumerate(forms)}
    assert search.find(data) == {last[forms[number]] for number in expected}


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=40), st.binary(max_size=40))
def test_base64_is_found_at_every_alignment(before, after):
    known = Canaries([NUMBER])
    coded = base64.b64encode(before + NUMBER.encode() + after)
    assert known.find(coded) == {0}
