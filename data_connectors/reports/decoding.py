"""From the bytes of a file to clean text, or a reason why they are none."""

from __future__ import annotations

import codecs
import re

from medvlp.errors import InputError

_MAGIC = (
    b"%PDF",
    b"PK\x03\x04",
    b"\x89PNG",
    b"\xff\xd8\xff",
    b"\x1f\x8b",
    b"{\\rtf",
    b"\xd0\xcf\x11\xe0",
)
# Control characters other than tab and line feed, terminal escapes, and the marks that reorder
# or hide text; each becomes one space, so places stay what they are.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]")


def decode_text(data: bytes, encoding: str = "") -> str:
    """Decode a report.

    Args:
        data: The bytes.
        encoding: The character set; empty: by byte order mark, else UTF-8, else Windows-1252,
            else Latin-1 (which holds every byte).

    Returns:
        The text with line feeds as line ends and without control characters.

    Raises:
        InputError: `report-not-text` for a binary file, `report-encoding` when the bytes do not
            fit the character set that they claim.
    """
    marked = _marked(data)
    if not (encoding or marked) and _is_binary(data):
        raise InputError(
            "the file is not text",
            code="report-not-text",
            next_step="export the report as text, or remove the file",
        )
    try:
        text = _decode(data, encoding or marked)
    except UnicodeError:
        raise InputError(
            "the bytes do not fit the character set",
            code="report-encoding",
            got=encoding or marked,
            next_step="set `encoding` of this source to what the exporting system writes",
        ) from None
    return clean_text(text)


def clean_text(text: str) -> str:
    """Text with line feeds as line ends and every control character as a space."""
    return _CONTROL.sub(" ", text.replace("\r\n", "\n").replace("\r", "\n"))


def _marked(data: bytes) -> str:
    if data.startswith(codecs.BOM_UTF8):
        return "utf-8-sig"
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    return ""


def _decode(data: bytes, encoding: str) -> str:
    if encoding:
        return data.decode(encoding)
    for candidate in ("utf-8", "cp1252"):
        try:
            return data.decode(candidate)
        except UnicodeDecodeError:
            continue
    return data.decode("latin-1")


def _is_binary(data: bytes) -> bool:
    head = data[:65_536]
    if head.startswith(_MAGIC) or b"\x00" in head:
        return True
    strange = sum(head.count(code) for code in range(32) if code not in (9, 10, 11, 12, 13, 27, 28))
    return strange * 50 > len(head)
