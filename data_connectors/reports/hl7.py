"""Reports in HL7 v2 observation messages (ORU), plain or MLLP framed, one or many a file.

Chapter 2 of HL7 v2.5.1: delimiters come from MSH, segments end with a carriage return, delimiters
inside text are escaped, MSH-18 names the character set. Text comes from the OBX segments of type
TX, FT and ST, in order; a corrected message replaces the one it corrects.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from data_connectors.reports.decoding import clean_text
from data_connectors.reports.plain import Raw, identifying
from medvlp.errors import InputError

_BREAK = re.compile(r"\r\n|\r|\n")
# HL7 table 0211 -> Python codec. An absent MSH-18 means ASCII, which UTF-8 contains.
_CHARSETS = {
    "": "utf-8", "ASCII": "utf-8", "UNICODE UTF-8": "utf-8", "UTF-8": "utf-8", "UTF8": "utf-8",
    "UNICODE": "utf-16", "8859/1": "cp1252", "8859/2": "iso8859-2", "8859/5": "iso8859-5",
    "8859/7": "iso8859-7", "8859/9": "iso8859-9", "8859/15": "iso8859-15",
    "GB 18030-2000": "gb18030", "ISO IR87": "iso2022_jp", "BIG-5": "big5", "KS X 1001": "euc_kr",
}  # fmt: skip
_REMOVED = {"D", "W", "X"}
"""OBX-11 of observations that are deleted, wrong or not available."""
_TEXT_TYPES = {"TX", "FT", "ST", ""}
_SECTION = {"IMP": "IMPRESSION", "GDT": "", "ADT": "ADDENDUM", "REC": "RECOMMENDATION"}
"""OBX-3 suffixes of HL7 v2 imaging reports (59776-5&GDT, 18782-3&IMP)."""
_RANK = {"C": 3, "F": 2, "P": 1}


@dataclass(frozen=True, slots=True)
class Delimiters:
    """The five characters that structure a message."""

    field: str
    component: str
    repetition: str
    escape: str
    subcomponent: str


def read_messages(data: bytes, encoding: str = "") -> Iterator[Raw | InputError]:
    """The reports in a file of messages, in order; a broken message yields its error.

    Args:
        data: The bytes of the file.
        encoding: The character set, whatever the messages claim.
    """
    found: dict[str, tuple[int, Raw]] = {}
    loose: list[Raw | InputError] = []
    for blob in _messages(data):
        try:
            order, rank, raw = _message(blob, encoding)
        except InputError as error:
            loose.append(error)
            continue
        if not order:
            loose.append(raw)
        elif order not in found or rank >= found[order][0]:
            found[order] = (rank, raw)
    if not found and not loose:
        loose.append(_broken("there is no MSH segment"))
    yield from (raw for _, raw in found.values())
    yield from loose


def _messages(data: bytes) -> Iterator[bytes]:
    """Split at every segment MSH; MLLP frame bytes are dropped."""
    data = data.removeprefix(codecs.BOM_UTF8).replace(b"\x0b", b"\r").replace(b"\x1c", b"\r")
    starts = [match.start(1) for match in re.finditer(rb"(?:^|[\r\n])(MSH)", data)]
    for start, end in pairwise((*starts, len(data))):
        yield data[start:end]


def _message(blob: bytes, encoding: str) -> tuple[str, int, Raw]:
    """(order, rank of the result status, report) of one message."""
    header = blob[:8].decode("latin-1")
    if len(header) < 8 or header[3].isalnum() or len(set(header[3:8])) < 5:
        raise _broken("MSH does not name five delimiters")
    marks = Delimiters(*header[3:8])
    text = _decode(blob, marks, encoding)
    segments = [line.split(marks.field) for line in _BREAK.split(text) if line.strip()]
    kind = _component(segments[0], 8, 0, marks)
    if kind != "ORU":
        raise InputError(
            "the message holds no observations", code="hl7-not-oru",
            got=kind if kind in _KINDS else None,
            limit="ORU", next_step="send ORU^R01 messages to this source",
        )  # fmt: skip
    person = next((s for s in segments if s[0] == "PID"), [])
    order = next((s for s in segments if s[0] == "OBR"), [])
    common = next((s for s in segments if s[0] == "ORC"), [])
    accession = (
        _component(order, 18, 0, marks)
        or _component(order, 3, 0, marks)
        or _component(common, 3, 0, marks)
        or _component(order, 2, 0, marks)
    )
    patient = _patient(person, marks)
    study = next((_component(s, 3, 0, marks) for s in segments if s[0] == "ZDS"), "")
    phi = identifying((patient, accession, study, *_identifiers(segments, marks)))
    raw = Raw(_observations(segments, marks), patient, accession, study, phi)
    return accession, _RANK.get(_component(order, 25, 0, marks), 2), raw


_KINDS = {"ACK", "ADT", "BAR", "DFT", "MDM", "OMG", "OMI", "OML", "ORL", "ORM", "ORR", "RDE", "SIU"}
"""Kinds of messages that may be named: anything else in MSH-9 may be anything."""


def _decode(blob: bytes, marks: Delimiters, encoding: str) -> str:
    head = _BREAK.split(blob[:1000].decode("latin-1"))[0].split(marks.field)
    claimed = (head[17] if len(head) > 17 else "").split(marks.repetition)[0].strip().upper()
    codec = encoding or _CHARSETS.get(claimed, claimed)
    try:
        return blob.decode(codec)
    except (LookupError, UnicodeDecodeError):
        if not claimed and not encoding:
            return blob.decode("cp1252", errors="replace")
        raise InputError(
            "the bytes do not fit the character set of MSH-18", code="report-encoding",
            got=claimed if claimed in _CHARSETS else encoding or None,
            next_step="set `encoding` of this source",
        ) from None  # fmt: skip


def _patient(person: list[str], marks: Delimiters) -> str:
    """PID-3; the medical record number (type MR) where there are several, else PID-2."""
    repeats = [r for r in _field(person, 3).split(marks.repetition) if r]
    for wanted in ("MR", "PI", "PN", ""):
        for repeat in repeats:
            parts = repeat.split(marks.component)
            kind = parts[4] if len(parts) > 4 else ""
            if not wanted or kind == wanted:
                return unescape(parts[0], marks).strip()
    return _component(person, 2, 0, marks)


def _identifiers(segments: list[list[str]], marks: Delimiters) -> Iterator[str]:
    """Every string that names the person, the staff, the stay or the day."""
    wanted = {
        "PID": (2, 3, 4, 5, 6, 7, 9, 11, 13, 14, 18, 19, 20),
        "PV1": (7, 8, 9, 17, 19, 50),
        "ORC": (2, 3, 10, 11, 12, 19),
        "OBR": (2, 3, 7, 10, 16, 18, 19, 20, 28, 32, 34),
        "NK1": (2, 4, 5),
        "GT1": (3,),
        "IN1": (16, 36),
    }
    for segment in segments:
        for number in wanted.get(segment[0], ()):
            for repeat in _field(segment, number).split(marks.repetition):
                parts = [unescape(part, marks).strip() for part in repeat.split(marks.component)]
                if segment[0] in ("PID", "NK1", "GT1") and number in (2, 3, 5, 6, 9):
                    yield "^".join(parts[:2]) if number != 3 else parts[0]
                elif segment[0] in ("PV1", "ORC", "OBR") and len(parts) > 1 and number >= 7:
                    # XCN: id, family, given; some systems leave the id out.
                    yield from (part for part in parts[:3] if len(part) > 2)
                else:
                    yield parts[0]


def _observations(segments: list[list[str]], marks: Delimiters) -> str:
    """The text of the report: OBX-5 of the text observations, in order."""
    pieces: list[str] = []
    section = None
    for segment in segments:
        if segment[0] != "OBX" or _component(segment, 2, 0, marks).upper() not in _TEXT_TYPES:
            continue
        if _component(segment, 11, 0, marks).upper() in _REMOVED:
            continue
        repeats = _field(segment, 5).split(marks.repetition)
        value = "\n".join(unescape(repeat, marks) for repeat in repeats)
        parts = _component(segment, 3, 0, marks).upper().split(marks.subcomponent)
        heading = _SECTION.get(parts[1] if len(parts) > 1 else "")
        if heading and heading != section:
            pieces.append(f"\n{heading}:")
        section = heading
        pieces.append(value)
    # One OBX a line is usual, so a line break joins them; an empty OBX is an empty line.
    return clean_text("\n".join(pieces))


def unescape(text: str, marks: Delimiters) -> str:
    """Undo the escapes of a text field (chapter 2.7); unknown ones become a space."""
    mark = marks.escape
    if mark not in text:
        return text
    known = {
        "F": marks.field, "S": marks.component, "T": marks.subcomponent, "R": marks.repetition,
        "E": mark, ".BR": "\n", ".SP": "\n", ".FI": "", ".NF": "", "H": "", "N": "",
    }  # fmt: skip

    def replace(match: re.Match[str]) -> str:
        code = match[1].upper()
        if code in known:
            return known[code]
        if code.startswith("X") and len(code) > 1:
            try:
                return bytes.fromhex(code[1:]).decode("latin-1")
            except ValueError:
                return " "
        return "\n" * min(int(code[3:]), 5) if re.fullmatch(r"\.SP\d+", code) else " "

    quoted = re.escape(mark)
    return re.sub(rf"{quoted}([^{quoted}\r\n]{{0,40}}){quoted}", replace, text)


def _field(segment: list[str], number: int) -> str:
    # MSH-1 is the field delimiter itself, so MSH-n stands at n - 1 of a split MSH.
    return segment[number] if number < len(segment) else ""


def _component(segment: list[str], number: int, part: int, marks: Delimiters) -> str:
    parts = _field(segment, number).split(marks.repetition)[0].split(marks.component)
    return unescape(parts[part], marks).strip() if part < len(parts) else ""


def _broken(what: str) -> InputError:
    return InputError(
        f"the HL7 message is broken: {what}",
        code="hl7-broken",
        next_step="export the message again",
    )
