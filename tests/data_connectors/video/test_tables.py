from __future__ import annotations

from pathlib import Path

import pytest

from data_connectors.video.tables import KeyStep, identifier, read_abstract, read_keysteps
from medvlp.errors import InputError


def keysteps(tmp_path: Path, text: str) -> tuple[KeyStep, ...]:
    path = tmp_path / "keysteps.csv"
    path.write_text(text, encoding="utf-8")
    return read_keysteps(path)


def test_key_steps_are_read_in_order_of_time(tmp_path: Path) -> None:
    rows = keysteps(tmp_path, 'start,end,phase,step,text\n9,12,b,s2,\n0,9.5,a,s1,"First, look"\n\n')
    assert rows == (
        KeyStep(0.0, 9.5, "a", "s1", "First, look"),
        KeyStep(9.0, 12.0, "b", "s2", ""),
    )


def test_without_a_phase_column_a_row_is_a_phase(shared_data: Path) -> None:
    folder = shared_data / "surg_transcripts" / "keystep_texts"
    named = read_keysteps(folder / "vd01en1354e.csv")
    assert (named[1].phase, named[1].step) == ("First trocar and exposure", "")
    assert named[1].text.startswith("The first trocar is inserted")
    bare = read_keysteps(folder / "vd01en1382e.csv")
    assert [k.phase for k in bare][:2] == ["Trocar placement", "Colonic mobilization"]
    assert bare[-1].end_s == 649.046


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("start,text\n1,x\n", "columns missing: end"),
        ("start,end,text\n5,1,x\n", "line 2"),
        ("start,end,text\n1,2,x\n3,4,\n", "line 3"),
        ("start,end,text\n1,2,x,y\n", "line 2"),
        ('start,end,text\n1,2,"x\n', "line"),
        ("", "empty"),
    ],
)
def test_key_steps_that_cannot_be_read_are_refused(tmp_path: Path, text: str, place: str) -> None:
    with pytest.raises(InputError) as refusal:
        keysteps(tmp_path, text)
    assert refusal.value.code == "keysteps-not-parseable"
    assert place in str(refusal.value)


def test_an_abstract_is_one_paragraph(tmp_path: Path, shared_data: Path) -> None:
    (tmp_path / "abstract.txt").write_text("A  lecture\non hernia.\n", encoding="utf-8")
    assert read_abstract(tmp_path / "abstract.txt") == "A lecture on hernia."
    real = read_abstract(shared_data / "surg_transcripts/abstract_texts/vd01en1354e.csv")
    assert real.startswith("Video tag: General and digestive")
    (tmp_path / "empty.txt").write_text(" \n", encoding="utf-8")
    with pytest.raises(InputError, match="abstract-not-parseable"):
        read_abstract(tmp_path / "empty.txt")


def test_identifiers_are_stable_words() -> None:
    assert identifier("Calot's triangle — dissection ") == "calot_s_triangle_dissection"
    assert identifier("out-of-body") == "out_of_body"
