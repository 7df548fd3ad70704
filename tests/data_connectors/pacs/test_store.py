from __future__ import annotations

import sqlite3
import stat
from pathlib import Path

import pytest

from data_connectors.pacs.archive import Series
from data_connectors.pacs.identify import identify
from data_connectors.pacs.ledger import STORED, Ledger
from data_connectors.pacs.pulled import remove_store
from data_connectors.pacs.store import Store
from medvlp.errors import ArchiveError, ConfigError, DatasetError, InputError
from tests.data_connectors.pacs.conftest import encoded, slice_of

SERIES = Series("1.2", "1.2.7", ("P-1",), None)


@pytest.fixture
def store(tmp_path):
    opened = Store(tmp_path / "store", "https://a")
    yield opened
    opened.close()


def arrive(store: Store, number: int, **keys: object) -> Path:
    """A file in `incoming`."""
    dataset = slice_of(str(keys.pop("study", "1.2")), str(keys.pop("series", "1.2.7")), number,
                       **keys)  # fmt: skip
    path = store.incoming / f"{number}.tmp"
    path.write_bytes(encoded(dataset, store.folder.parent / "x"))
    return path


def test_everything_in_the_folder_is_private(store):
    store.take(SERIES, arrive(store, 0), listed=False)
    assert stat.S_IMODE(store.folder.stat().st_mode) == 0o700
    for path in store.folder.rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


def test_names_are_digests_whatever_the_uid(store):
    key = ("../../x", "/etc/\0passwd")
    name = store.name_of(key, "..")
    assert set(name) <= set("0123456789abcdef/.dcm")
    assert name.count("/") == 1
    assert ".." not in name
    assert store.name_of(key, "a") != store.name_of(key, "b")
    assert store.name_of(("a", "bc"), "x") != store.name_of(("ab", "c"), "x")


def test_a_series_moves_between_its_places_as_a_whole(store):
    for number in range(3):
        assert store.take(SERIES, arrive(store, number), listed=False)
    store.place(SERIES.key, "dicom")
    assert len(list(store.readable.rglob("*.dcm"))) == 3
    store.place(SERIES.key, "aside")
    store.place(SERIES.key, "aside")
    assert len(list((store.folder / "aside").rglob("*.dcm"))) == 3
    assert not list(store.readable.iterdir())


def reopen(store: Store) -> Store:
    folder = store.folder
    store.close()
    return Store(folder, "https://a")


def test_after_a_kill_files_and_ledger_agree_again(store):
    store.ledger.expect(SERIES, {f"1.2.7.{n}": "" for n in (1, 2, 3)}, anew=True)
    for number in range(3):
        store.take(SERIES, arrive(store, number), listed=True)
    store.path_of(SERIES.key, "1.2.7.1").write_bytes(b"short")
    store.path_of(SERIES.key, "1.2.7.2").unlink()
    stray = store.path_of(SERIES.key, "1.2.7.3").with_name("f" * 40 + ".dcm")
    stray.write_bytes(b"between the rename and its row")
    (store.incoming / "half").write_bytes(b"half a file")
    (store.readable / "unknown").mkdir()
    again = reopen(store)
    entry = again.ledger.entry(SERIES.key)
    assert [i.uid for i in entry.stored] == ["1.2.7.3"]
    assert set(entry.wanted) == {"1.2.7.1", "1.2.7.2"}
    assert not stray.exists()
    assert [p.name for p in again.folder.rglob("*") if p.is_file() and p.suffix == ".dcm"] == [
        again.path_of(SERIES.key, "1.2.7.3").name
    ]
    again.close()


def test_a_series_in_both_places_becomes_one(store):
    store.ledger.expect(SERIES, {"1.2.7.1": "", "1.2.7.2": ""}, anew=True)
    store.take(SERIES, arrive(store, 0), listed=True)
    store.take(SERIES, arrive(store, 1), listed=True)
    folder = store.path_of(SERIES.key, "1.2.7.1").parent
    other = store.readable / folder.name
    other.mkdir()
    file = store.path_of(SERIES.key, "1.2.7.2").name
    (folder / file).rename(other / file)
    again = reopen(store)
    assert len(again.ledger.entry(SERIES.key).stored) == 2
    assert not other.exists()
    again.close()


def test_one_pull_at_a_time(store):
    with pytest.raises(DatasetError, match="pacs-store-busy"):
        Store(store.folder, "https://a")


def test_a_store_belongs_to_one_archive(store):
    store.close()
    with pytest.raises(ConfigError, match="pacs-store-other"):
        Store(store.folder, "https://b")


def test_a_folder_with_other_things_is_not_taken(tmp_path):
    (tmp_path / "thesis.txt").write_text("x")
    with pytest.raises(ConfigError, match="pacs-store-other"):
        Store(tmp_path, "https://a")
    remove_store(tmp_path)
    assert (tmp_path / "thesis.txt").exists()


def test_a_broken_ledger_is_said_so(tmp_path):
    (tmp_path / "ledger.sqlite").write_bytes(b"no database at all" * 100)
    with pytest.raises(ConfigError, match="pacs-ledger-broken"):
        Store(tmp_path, "https://a")


def test_a_full_disk_stops_the_pull(store):
    with pytest.raises(ArchiveError, match="pacs-disk-full"):
        store.need_room(10**12)


def test_what_the_ledger_holds_survives_without_being_closed(tmp_path):
    ledger = Ledger(tmp_path / "l.sqlite", "o")
    ledger.put(("a", "b"), "c", STORED, "d", 5)
    other = sqlite3.connect(tmp_path / "l.sqlite")  # as another process sees it
    assert other.execute("SELECT uid, state, size FROM instances").fetchall() == [("c", STORED, 5)]
    assert stat.S_IMODE((tmp_path / "l.sqlite").stat().st_mode) == 0o600


def test_a_deflated_bomb_is_not_inflated_to_tell_whose_it_is(tmp_path):
    import resource
    import zlib

    from pydicom.uid import DeflatedExplicitVRLittleEndian

    dataset = slice_of("1.2", "1.2.7", 0)
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    small = encoded(dataset, tmp_path / "x")
    path = tmp_path / "a"
    path.write_bytes(small)
    assert identify(path).series == "1.2.7"
    meta = 144 + int.from_bytes(small[140:144], "little")
    packer = zlib.compressobj(9, wbits=-15)
    element = b"\x08\x00\x05\x00UN\0\0" + (300_000_000).to_bytes(4, "little")
    bomb = packer.compress(element) + b"".join(
        packer.compress(bytes(1_000_000)) for _ in range(300)
    )
    path.write_bytes(small[:meta] + bomb + packer.flush())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputError):
        identify(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 150_000  # KiB


@pytest.mark.parametrize("data", [b"", b"x" * 50, b"\0" * 128 + b"DICM", b"\0" * 200])
def test_what_is_no_dicom_file_names_nobody(tmp_path, data):
    path = tmp_path / "a"
    path.write_bytes(data)
    with pytest.raises(InputError):
        identify(path)
