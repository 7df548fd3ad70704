from __future__ import annotations

import pytest
from cryptography.fernet import Fernet
from hypothesis import given
from hypothesis import strategies as st

from data_connectors.ingest.notes import Notes

KEY = Fernet.generate_key()


def key(number: int) -> str:
    return f"{number:064x}"


@pytest.fixture
def written(tmp_path):
    notes = Notes(tmp_path / "notes", KEY)
    for number in range(5):
        notes.put(key(number), f"DOE^JANE {number}" * 50)
    notes.close()
    return tmp_path / "notes"


def test_a_later_run_finds_what_was_put(written):
    notes = Notes(written, KEY)
    assert [notes.get(key(n)) for n in range(5)] == [f"DOE^JANE {n}" * 50 for n in range(5)]
    assert notes.get(key(9)) is None
    notes.put(key(9), "more")
    notes.close()
    assert Notes(written, KEY).get(key(9)) == "more"


def test_nothing_is_readable_without_the_key(written):
    assert b"DOE" not in written.read_bytes()
    assert Notes(written, Fernet.generate_key()).get(key(0)) is None


@given(st.data())
def test_a_file_torn_anywhere_gives_only_what_is_whole(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("torn") / "notes"
    notes = Notes(path, KEY)
    ends = [0]
    for number in range(4):
        notes.put(key(number), f"text {number}")
        ends.append(path.stat().st_size)
    notes.close()
    cut = data.draw(st.integers(0, ends[-1]))
    path.write_bytes(path.read_bytes()[:cut])
    whole = sum(end <= cut for end in ends) - 1
    notes = Notes(path, KEY)
    expected = [f"text {n}" if n < whole else None for n in range(4)]
    assert [notes.get(key(n)) for n in range(4)] == expected
    notes.put(key(7), "after the tear")
    notes.close()
    assert Notes(path, KEY).get(key(7)) == "after the tear"
