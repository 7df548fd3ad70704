from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_connectors.images.source import ImagesSource
from data_connectors.images.table import cell, fill, match_rows, read_table
from medvlp.errors import ConfigError


def source(path: Path, **keys: Any) -> ImagesSource:
    return ImagesSource(**{"name": "x", "path": path, "patient_per_image": True, **keys})


def test_csv_and_json_say_the_same(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text('\ufefffile,age,note\na.png,7,"two\nlines"\n', "utf-8")
    rows = [{"file": "a.png", "age": 7, "note": "two\nlines"}]
    (tmp_path / "t.json").write_text(json.dumps(rows))
    expected = ({"file": "a.png", "age": "7", "note": "two\nlines"},)
    for name in ("t.csv", "t.json"):
        assert read_table(source(tmp_path, table=Path(name))) == expected


def test_changed_table_is_read_again(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text("file\na\n")
    keys = source(tmp_path, table=Path("t.csv"))
    assert len(read_table(keys)) == 1
    table.write_text("file\na\nb\n")
    assert len(read_table(keys)) == 2


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("other\na\n", "table-column"),
        (None, "table-unreadable"),
        ('{"file": "a"}', "table-unreadable"),
        ("[1, 2", "table-unreadable"),
        ('file,note\na,"open\nb,closed\n', "table-unreadable"),
    ],
)
def test_bad_table_is_a_config_error(tmp_path: Path, text: str | None, code: str) -> None:
    name = "t.json" if text and text[0] in "[{" else "t.csv"
    if text:
        (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_table(source(tmp_path, table=Path(name)))
    assert caught.value.code == code


@pytest.mark.parametrize("value", ["", " ", "NULL", "nan", "NaN"])
def test_missing_values(value: str) -> None:
    assert cell({"a": value}, "a") == ""
    assert fill("{a} {b}", {"a": value, "b": "x"}) == ""


def test_template_keeps_braces_of_values() -> None:
    assert fill("{q}  {a}", {"q": "what {is} it?", "a": " {q} "}) == "what {is} it? {q}"


def test_rows_find_their_images_by_path_name_or_stem(tmp_path: Path) -> None:
    names = ["a/one.png", "a/two.png", "b/two.png", "three.v1.jpg", "never.png"]
    wanted = ["a/one.png", "one.png", "a/two.png", "two.png", "three.v1", "four", ""]
    rows = [{"file": name} for name in wanted]
    matched = match_rows(source(tmp_path), rows, names)
    assert matched.rows == {"a/one.png": [0, 1], "a/two.png": [2], "three.v1.jpg": [4]}
    assert (matched.ambiguous, matched.missing, matched.nameless) == ([3], [5], [6])


@settings(deadline=None)
@given(st.lists(st.sampled_from(["a", "b.png", "x/b.png", "c.jpg", "", "d"])))
def test_every_row_is_accounted_for_once(wanted: list[str]) -> None:
    matched = match_rows(
        source(Path()), [{"file": name} for name in wanted], ["x/b.png", "y/b.png", "c.jpg"]
    )
    numbers = [n for rows in matched.rows.values() for n in rows]
    numbers += matched.missing + matched.ambiguous + matched.nameless
    assert sorted(numbers) == list(range(len(wanted)))


@pytest.mark.parametrize(
    "keys",
    [
        {"patient_per_image": False},
        {"patient_pattern": "no group"},
        {"label_column": "label"},
        {"table": "t.csv", "captions": ["{labels}"]},
    ],
)
def test_inconsistent_keys_are_refused(tmp_path: Path, keys: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="validation error"):
        source(tmp_path, **keys)
