"""Files appear whole or not at all."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from medvlp.files import file_digest, whole, write_json, write_text


def test_the_old_file_stays_when_writing_fails(tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(b"old")

    def fail() -> None:
        with whole(path) as partial:
            partial.write_bytes(b"half")
            raise OSError("the disk is full")

    with pytest.raises(OSError, match="disk is full"):
        fail()
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.bin"]


def test_the_name_shows_the_old_bytes_until_the_new_ones_are_complete(tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(b"old")
    with whole(path) as partial:
        partial.write_bytes(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.bin"]


def test_text_keeps_its_line_ends_and_letters(tmp_path: Path) -> None:
    write_text(tmp_path / "note", "µm\r\n≥ 2\n")
    assert (tmp_path / "note").read_bytes() == "µm\r\n≥ 2\n".encode()


@pytest.mark.parametrize(("sort_keys", "order"), [(False, ["b", "a"]), (True, ["a", "b"])])
def test_json_keeps_its_order_unless_sorted(
    tmp_path: Path, sort_keys: bool, order: list[str]
) -> None:
    write_json(tmp_path / "x.json", {"b": 1, "a": [0.1, None]}, sort_keys=sort_keys)
    text = (tmp_path / "x.json").read_text("utf-8")
    assert list(json.loads(text)) == order
    assert text.endswith("}\n")


def test_a_digest_is_of_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"\x00" * 3_000_000)
    assert file_digest(tmp_path / "x") == hashlib.sha256(b"\x00" * 3_000_000).hexdigest()
