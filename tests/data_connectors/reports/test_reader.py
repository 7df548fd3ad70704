from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from data_connectors.items import Item, Refused, ReportItem
from data_connectors.reports import reader
from data_connectors.reports.source import ReportsSource

TEXT = """Patient ID: PAT-0042
Name: Jane Canary
Accession: ACC77
DOB: 1961-02-03
Exam date: 2024-05-06
Referring: Dr. Heron

FINDINGS: Small left pleural effusion.

IMPRESSION: Effusion.
"""


def collect(path: Path, **keys: Any) -> tuple[list[ReportItem], list[Refused], set[str]]:
    """Everything a source yields, and the inputs of its units and refusals."""
    source = ReportsSource(name="r", path=path, **keys)
    items: list[Item] = []
    found: set[str] = set()
    for unit in reader.find(source):
        found.update(unit.inputs)
        if isinstance(unit, Refused):
            items.append(unit)
        else:
            items.extend(reader.read(source, unit))
    reports = [item for item in items if isinstance(item, ReportItem)]
    refused = [item for item in items if isinstance(item, Refused)]
    assert {name for item in items for name in item.inputs} == found
    return reports, refused, found


def test_a_text_report_with_its_header(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "one.txt").write_text(TEXT)
    (item,), refused, found = collect(tmp_path, licence="CC0-1.0")
    assert not refused
    assert found == {"a/one.txt"}
    assert (item.identity.patient, item.identity.accession) == ("PAT-0042", "ACC77")
    assert set(item.identity.phi) == {
        "PAT-0042", "Jane Canary", "ACC77", "1961-02-03", "2024-05-06", "Dr. Heron",
    }  # fmt: skip
    assert not any(phi in item.report.text for phi in item.identity.phi)
    assert item.report.section("findings") == "Small left pleural effusion."
    assert item.report.findings[0].side == "left"
    assert item.licence == "CC0-1.0"


@pytest.mark.parametrize(
    "header",
    [
        "MRN: PAT-0042\n\n",
        "mrn = PAT-0042\n",
        "Patient ID: PAT-0042   DOB: 1961-02-03\n",
        "PATIENT NO.: PAT-0042 | Sex: F\n",
        "\n\n  Patient ID: PAT-0042\n",
    ],
)
def test_other_ways_to_write_a_header(tmp_path: Path, header: str) -> None:
    (tmp_path / "one.txt").write_text(header + "FINDINGS: Clear lungs.")
    (item,), _, _ = collect(tmp_path)
    assert item.identity.patient == "PAT-0042"
    assert item.report.text == "FINDINGS: Clear lungs."


def test_a_line_like_a_header_inside_the_report_stays(tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text(TEXT + "\nDate: see above")
    (item,), _, _ = collect(tmp_path)
    assert item.report.text.endswith("Date: see above")


def test_identifiers_may_be_in_the_path(tmp_path: Path) -> None:
    folder = tmp_path / "p10" / "p1000"
    folder.mkdir(parents=True)
    (folder / "s77.txt").write_text("FINDINGS: Clear.")
    (item,), _, _ = collect(tmp_path, path_pattern=r"p\d+/p(?P<patient>\d+)/s(?P<accession>\d+)")
    assert (item.identity.patient, item.identity.accession) == ("1000", "77")


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "report-empty"),
        (b"  \n", "report-empty"),
        (b"Patient ID: 1\n\n", "report-empty"),
        (b"Patient ID: 1\n\n...\n", "report-empty"),
        (b"FINDINGS: Clear.", "report-no-patient"),
        (b"Patient ID:\nFINDINGS: Clear.", "report-no-patient"),
        (b"\x89PNG\r\n\x1a\n....", "report-not-text"),
        (b"%PDF-1.7 text", "report-not-text"),
        (b"Patient ID: 1\n\x00\x01\x02 FINDINGS", "report-not-text"),
        (b"\xff\xfeP\x00\x00\xd8", "report-encoding"),
        (b"Patient ID: 1\n\nFINDINGS: " + b"clear " * 50_000, "report-too-large"),
    ],
)
def test_what_cannot_be_used_is_refused_with_a_code(tmp_path: Path, data: bytes, code: str) -> None:
    (tmp_path / "bad.txt").write_bytes(data)
    (tmp_path / "good.txt").write_text(TEXT)
    reports, (refused,), found = collect(tmp_path, max_bytes=100_000)
    assert refused.code == code
    assert refused.inputs == ("bad.txt",)
    assert refused.next_step
    assert len(reports) == 1
    assert found == {"bad.txt", "good.txt"}


def test_refusals_carry_no_text_of_the_report(tmp_path: Path) -> None:
    (tmp_path / "bad.txt").write_text("CANARY-name FINDINGS: CANARY words")
    _, (refused,), _ = collect(tmp_path)
    assert "CANARY" not in refused.reason + refused.next_step + refused.code


@pytest.mark.parametrize(
    ("data", "keys"),
    [
        ("Patient ID: 1\n\nFINDINGS: Épanchement.".encode(), {}),
        ("Patient ID: 1\n\nFINDINGS: Épanchement.".encode("cp1252"), {}),
        ("Patient ID: 1\n\nFINDINGS: Épanchement.".encode("utf-16"), {}),
        ("Patient ID: 1\n\nFINDINGS: Épanchement.".encode("utf-8-sig"), {}),
        ("Patient ID: 1\n\nFINDINGS: Épanchement.".encode("mac-roman"), {"encoding": "mac-roman"}),
    ],
)
def test_character_sets(tmp_path: Path, data: bytes, keys: dict[str, str]) -> None:
    (tmp_path / "one.txt").write_bytes(data)
    (item,), _, _ = collect(tmp_path, **keys)
    assert item.report.text == "FINDINGS: Épanchement."


def test_a_wrong_encoding_is_refused_not_guessed(tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_bytes("Patient ID: 1\n\nÉ".encode("cp1252"))
    _, (refused,), _ = collect(tmp_path, encoding="utf-8")
    assert refused.code == "report-encoding"


def test_control_characters_become_spaces_and_line_ends_one(tmp_path: Path) -> None:
    hostile = "Patient ID: 1\r\n\r\nFINDINGS: No \x1b[31mmass\u202e.\r\nClear\x07 lungs."
    (tmp_path / "one.txt").write_text(hostile, newline="")
    (item,), _, _ = collect(tmp_path)
    assert item.report.text == "FINDINGS: No  [31mmass .\nClear  lungs."


def test_a_table_has_one_report_a_row(tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_text(
        "subject,acc,findings,impression,who\n"
        '7,A7,"No effusion,\nno mass.",Normal.,Jane Canary\n'
        ",A8,Clear.,Normal.,x\n"
        "9,A9,,,y\n"
        "10,A10,Left pneumothorax.,,z\n"
    )
    reports, refused, found = collect(
        tmp_path,
        format="csv",
        text_columns=("findings", "impression"),
        patient_column="subject",
        accession_column="acc",
        phi_columns=("who",),
    )
    assert [item.identity.patient for item in reports] == ["7", "10"]
    first = reports[0]
    assert first.report.section("findings") == "No effusion,\nno mass."
    assert first.report.section("impression") == "Normal."
    assert first.identity.phi == ("7", "A7", "Jane Canary")
    assert [(item.code, item.reason[:5]) for item in refused] == [
        ("report-no-patient", "row 2"),
        ("report-empty", "row 3"),
    ]
    assert found == {"r.csv"}


def test_a_long_table_is_read_in_pieces_without_loss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "ROWS_A_UNIT", 3)
    rows = "".join(f"{number},Report {number} is clear.\n" for number in range(8))
    (tmp_path / "r.csv").write_text("patient,text\n" + rows)
    source = ReportsSource(name="r", path=tmp_path, format="csv")
    units = list(reader.find(source))
    assert len(units) == 3
    assert len({unit.id for unit in units if not isinstance(unit, Refused)}) == 3
    reports, _, _ = collect(tmp_path, format="csv")
    assert [item.identity.patient for item in reports] == [str(number) for number in range(8)]


def test_an_unclosed_quote_refuses_the_table_instead_of_swallowing_rows(tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_text('patient,text\n1,"No mass.\n2,Clear.\n3,Effusion.\n')
    reports, (refused,), _ = collect(tmp_path, format="csv")
    assert reports == []
    assert refused.code == "table-unreadable"


def test_a_table_without_the_columns_is_refused(tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_text("a,b\n1,2\n")
    _, (refused,), _ = collect(tmp_path, format="csv")
    assert refused.code == "table-columns"
    assert "patient, text" in refused.reason


def test_a_windows_table_is_decoded(tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_bytes("patient,text\n1,Épanchement\n".encode("cp1252"))
    (item,), _, _ = collect(tmp_path, format="csv")
    assert item.report.text == "Épanchement"


def test_other_files_are_left_to_others(tmp_path: Path) -> None:
    (tmp_path / "notes.md").write_text("x")
    (tmp_path / "one.txt").write_text(TEXT)
    _, _, found = collect(tmp_path)
    assert found == {"one.txt"}


def test_reports_in_an_archive(tmp_path: Path) -> None:
    path = tmp_path / "reports.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for number in range(3):
            data = f"Patient ID: {number}\n\nFINDINGS: Clear.".encode()
            info = tarfile.TarInfo(f"x/{number}.txt")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    reports, _, found = collect(path)
    assert [item.identity.patient for item in reports] == ["0", "1", "2"]
    assert found == {"x/0.txt", "x/1.txt", "x/2.txt"}


def test_a_single_file_is_a_source_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "one.report").write_text(TEXT)
    reports, _, found = collect(tmp_path / "one.report")
    assert len(reports) == 1
    assert found == {"one.report"}


@pytest.mark.parametrize(
    "keys",
    [
        {"format": "word"},
        {"path_pattern": "("},
        {"path_pattern": "(?P<who>x)"},
        {"header_patterns": {"patient": "["}},
        {"encoding": "klingon"},
        {"text_columns": ()},
        {"kolumns": 1},
    ],
)
def test_a_wrong_config_is_refused(keys: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ReportsSource(name="r", path=Path("."), **keys)
