from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.fernet import Fernet

from data_connectors.ingest.journal import Entry, Journal
from data_connectors.ingest.records import UnitRecord
from data_connectors.items import Refused

KEY = Fernet.generate_key()
PLAN = ["one", "two", "three", "four"]


def entry(name: str, offset: int = 0) -> Entry:
    return Entry(name, 0, offset, UnitRecord(refused=(Refused("c", f"DOE^JANE {name}", "n"),)))


@pytest.fixture
def written(tmp_path: Path) -> Path:
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "000000.tar").write_bytes(bytes(2048))
    journal = Journal(tmp_path / "journal", KEY)
    assert journal.begin(PLAN, tmp_path) == []
    for name, offset in (("one", 512), ("two", 1024), ("three", 2048)):
        journal.append(entry(name, offset))
    journal.close()
    return tmp_path


def kept(folder: Path, plan=PLAN, key=KEY) -> list[str]:
    journal = Journal(folder / "journal", key)
    names = [entry.fingerprint for entry in journal.begin(plan, folder)]
    journal.close()
    return names


def test_finished_units_are_kept(written):
    assert kept(written) == ["one", "two", "three"]
    assert kept(written) == ["one", "two", "three"]


def test_a_torn_last_line_is_cut_off(written):
    path = written / "journal"
    path.write_bytes(path.read_bytes()[:-9])
    assert kept(written) == ["one", "two"]
    assert path.read_bytes().count(b"\n") == 2


def test_a_changed_unit_and_all_after_it_are_read_again(written):
    assert kept(written, ["one", "changed", "three", "four"]) == ["one"]


def test_units_that_are_gone_are_dropped(written):
    assert kept(written, ["one"]) == ["one"]


def test_units_whose_pixels_did_not_reach_the_disk_are_read_again(written):
    (written / "shards" / "000000.tar").write_bytes(bytes(1100))
    assert kept(written) == ["one", "two"]


def test_another_key_starts_anew(written):
    assert kept(written, key=Fernet.generate_key()) == []


def test_the_journal_shows_nothing_without_the_key(written):
    assert b"DOE" not in (written / "journal").read_bytes()


def test_what_is_appended_after_a_resume_is_read_back(written):
    journal = Journal(written / "journal", KEY)
    journal.begin(PLAN, written)
    journal.append(entry("four", 2048))
    journal.close()
    assert kept(written) == PLAN
