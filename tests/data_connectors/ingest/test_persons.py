from __future__ import annotations

from data_connectors.ingest.persons import only_forms, qualify
from data_connectors.ingest.records import UnitRecord
from data_connectors.items import Identity, ReportItem
from medvlp.types import Report


def record(*patients: str) -> UnitRecord:
    return UnitRecord(
        reports=tuple(ReportItem(Identity(p), Report("x", {}, ()), ("r",)) for p in patients)
    )


def patients(records) -> list[str]:
    return [item.identity.patient for one in records for item in one.items]


def test_a_bare_identifier_stands_for_its_only_qualified_form():
    records = qualify([record("0042@Hospital", "0042"), record(" 0042 ", "7")])
    assert patients(records) == ["0042@Hospital", "0042@HOSPITAL", "0042@HOSPITAL", "7"]
    assert "0042" in records[0].items[1].identity.phi


def test_with_two_issuers_a_bare_identifier_stays_alone():
    assert only_forms(["1@a", "1@b", "1", "2@a", "2@A "]) == {"2": "2@A"}


def test_nothing_changes_where_nobody_names_an_issuer():
    records = [record("1", "a@"), record("@b")]
    assert patients(qualify(records)) == ["1", "a@", "@b"]
