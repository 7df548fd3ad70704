"""Reports in Open-I XML (Indiana University chest X-ray collection)."""

from __future__ import annotations

import xml.etree.ElementTree as ET

from data_connectors.reports.decoding import clean_text
from data_connectors.reports.plain import Raw, identifying
from medvlp.errors import InputError


def read_openi(data: bytes) -> Raw:
    """One report. The collection names no patients: its report number stands for one.

    Raises:
        InputError: `openi-broken`: no XML, or not of this collection.
    """
    # Entities are how an XML file of a few bytes fills the memory; these files need none.
    if b"<!DOCTYPE" in data[:4096] or b"<!ENTITY" in data:
        raise _broken("it declares entities")
    try:
        root = ET.fromstring(data)
    except ET.ParseError:
        raise _broken("it is not XML") from None
    name = root.find("uId")
    key = name.get("id", "") if name is not None else ""
    pieces = []
    for part in root.iter("AbstractText"):
        text = " ".join((part.text or "").split())
        if text:
            pieces.append(f"{part.get('Label', '')}: {text}")
    if not key:
        raise _broken("there is no uId")
    return Raw(clean_text("\n\n".join(pieces)), key, key, key, identifying((key,)))


def _broken(what: str) -> InputError:
    return InputError(
        f"the file is no Open-I report: {what}", code="openi-broken", next_step="download it again"
    )
