from __future__ import annotations

import pytest

from data_connectors.reports.hl7 import Delimiters, read_messages, unescape
from data_connectors.reports.plain import Raw
from data_connectors.reports.sections import parse_report
from medvlp.errors import InputError

HEADER = "MSH|^~\\&|RIS|SITE|X|Y|20240506||ORU^R01|1|P|2.5.1"
PERSON = "PID|1|OLD1|77^^^SITE^PI~42^^^SITE^MR||Canary^Jane^Q||19610203|F|||Nest 1^^Town||555 1234"
ORDER = "OBR|1|PL9|ACC9^RIS|24627-2^Chest^LN|||20240506|||||||||Heron^Max|||||||||F"


def message(*observations: str, header: str = HEADER, order: str = ORDER) -> bytes:
    return "\r".join([header, PERSON, order, *observations, ""]).encode()


def one(data: bytes) -> Raw:
    (raw,) = read_messages(data)
    assert isinstance(raw, Raw)
    return raw


def error(data: bytes) -> InputError:
    (found,) = read_messages(data)
    assert isinstance(found, InputError)
    return found


def test_identity_and_text_of_a_message() -> None:
    raw = one(
        message("OBX|1|FT|24627-2^Chest^LN||FINDINGS: Clear.\\.br\\IMPRESSION: Normal.||||||F")
    )
    assert (raw.patient, raw.accession) == ("42", "ACC9")
    assert raw.text == "FINDINGS: Clear.\nIMPRESSION: Normal."
    for identifier in ("Canary^Jane", "19610203", "555 1234", "Heron", "77", "PL9", "20240506"):
        assert identifier in raw.phi


def test_one_observation_a_line_and_empty_ones_are_line_breaks() -> None:
    raw = one(
        message("OBX|1|TX|||FINDINGS:", "OBX|2|TX|||Clear.", "OBX|3|TX|||", "OBX|4|TX|||End.")
    )
    assert raw.text == "FINDINGS:\nClear.\n\nEnd."


def test_repetitions_are_lines() -> None:
    assert one(message("OBX|1|TX|||No mass.~No edema.")).text == "No mass.\nNo edema."


def test_impression_observations_get_their_heading() -> None:
    raw = one(
        message(
            "OBX|1|TX|59776-5&GDT^x||Clear lungs.",
            "OBX|2|TX|59776-5&IMP^x||Normal chest.",
            "OBX|3|TX|59776-5&IMP^x||Really.",
        )
    )
    report = parse_report(raw.text)
    assert report.section("impression") == "Normal chest.\nReally."


def test_deleted_and_non_text_observations_are_left_out() -> None:
    raw = one(
        message(
            "OBX|1|TX|||Keep.||||||F",
            "OBX|2|TX|||Wrong.||||||W",
            "OBX|3|TX|||Gone.||||||D",
            "OBX|4|NM|||7||||||F",
            "OBX|5|ED|||^application^pdf^Base64^AAAA||||||F",
        )
    )
    assert raw.text == "Keep."


def test_escapes_come_back_as_the_characters_they_stand_for() -> None:
    marks = Delimiters(*"|^~\\&")
    assert unescape(r"a\F\b\S\c\T\d\R\e\E\f", marks) == r"a|b^c&d~e\f"
    assert unescape(r"x\X0A\y\.sp2\z\H\bold\N\.", marks) == "x\ny\n\nzbold."
    assert unescape(r"50\Zunknown\ %", marks) == "50  %"
    assert unescape("C:\\folder", marks) == "C:\\folder"


def test_other_delimiters_are_honoured() -> None:
    data = message("OBX|1|TX|||5 & 6 of A#B").replace(b"^~\\&", b"@~\\#").replace(b"^", b"@")
    raw = one(data)
    assert (raw.patient, raw.accession) == ("42", "ACC9")


def test_mllp_frames_and_several_messages() -> None:
    first = message("OBX|1|TX|||One.")
    second = message("OBX|1|TX|||Two.", order=ORDER.replace("ACC9", "ACC10"))
    found = list(read_messages(b"\x0b" + first + b"\x1c\r\x0b" + second + b"\x1c\r"))
    assert [raw.text for raw in found if isinstance(raw, Raw)] == ["One.", "Two."]


@pytest.mark.parametrize("separator", [b"\r", b"\n", b"\r\n"])
def test_segment_ends_of_any_system(separator: bytes) -> None:
    data = message("OBX|1|TX|||One.", "OBX|2|TX|||Two.").replace(b"\r", separator)
    assert one(data).text == "One.\nTwo."


def test_a_correction_replaces_the_final_report_and_a_draft_does_not() -> None:
    final = message("OBX|1|TX|||Final.")
    draft = message("OBX|1|TX|||Draft.", order=ORDER[:-1] + "P")
    corrected = message("OBX|1|TX|||Corrected.", order=ORDER[:-1] + "C")
    assert one(draft + final + corrected).text == "Corrected."
    assert one(final + draft).text == "Final."
    assert one(corrected + final).text == "Corrected."


@pytest.mark.parametrize(
    ("charset", "codec"),
    [("UNICODE UTF-8", "utf-8"), ("8859/1", "latin-1"), ("8859/2", "iso8859-2"), ("", "utf-8"),
     ("", "cp1252")],
)  # fmt: skip
def test_character_sets(charset: str, codec: str) -> None:
    header = HEADER + "||||||" + charset
    data = message("OBX|1|TX|||ö é", header=header).decode().encode(codec)
    assert one(data).text == "ö é"


def test_broken_messages_are_explained_and_the_rest_is_read() -> None:
    assert error(b"no message").code == "hl7-broken"
    assert error(b"MSH|||||").code == "hl7-broken"
    assert error(message("x").replace(b"ORU^R01", b"ADT^A01")).code == "hl7-not-oru"
    wrong = message("OBX|1|TX|||\xe9", header=HEADER + "||||||UNICODE UTF-8")
    assert error(wrong.decode().encode("latin-1")).code == "report-encoding"
    good = message("OBX|1|TX|||Good.")
    found = list(read_messages(b"MSH|||||\r" + good))
    assert sorted(type(item).__name__ for item in found) == ["InputError", "Raw"]


def test_errors_carry_nothing_of_the_message() -> None:
    assert "Canary" not in str(error(message("x").replace(b"ORU^R01", b"ADT^A01")))
