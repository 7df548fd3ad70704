from __future__ import annotations

import zlib
from io import BytesIO
from pathlib import Path

import pydicom
import pytest

from data_connectors.deid.objects import deidentify_object
from data_connectors.deid.options import DeidentifyConfig
from data_connectors.deid.pseudonyms import Pseudonyms
from data_connectors.dicom.quiet import quiet
from governance.leakcheck import leakcheck

from .canary import Seeded, seeded_file, write_canaries

NAMES = Pseudonyms(bytes(range(32)))
CLEANING = {
    "dates": "shift", "max_shift_days": 30, "clean_descriptors": True,
    "clean_structured_content": True, "clean_graphics": True, "retain_safe_private": True,
}  # fmt: skip
SYNTAXES = {
    "implicit": "1.2.840.10008.1.2", "explicit": "1.2.840.10008.1.2.1",
    "deflated": "1.2.840.10008.1.2.1.99", "big endian": "1.2.840.10008.1.2.2",
    "JPEG": "1.2.840.10008.1.2.4.50",
}  # fmt: skip


@pytest.mark.parametrize("options", [{}, CLEANING], ids=["basic", "cleaning"])
@pytest.mark.parametrize(
    "syntax", [name if name == "explicit" else pytest.param(name, marks=pytest.mark.slow)
               for name in SYNTAXES],
)  # fmt: skip
def test_no_canary_of_any_attribute_is_in_the_object_written(tmp_path, syntax, options):
    check(tmp_path, SYNTAXES[syntax], options)


@pytest.mark.slow
def test_no_canary_of_any_attribute_five_items_deep_is_in_the_object_written(tmp_path):
    assert check(tmp_path, SYNTAXES["explicit"], {}, whole=True) > 10_000


def check(folder: Path, syntax: str, options: dict[str, object], *, whole: bool = False) -> int:
    """Seed, de-identify, search what was written; returns the number of canaries."""
    seeded = Seeded()
    data = seeded_file(seeded, syntax=syntax, whole=whole)
    canaries = write_canaries(folder / "canaries.txt", seeded)
    before, after = folder / "before", folder / "after"
    for one in (before, after):
        one.mkdir()
    cleared = deidentify_object(BytesIO(data), DeidentifyConfig(**options), NAMES)
    (before / "x.dcm").write_bytes(unpacked(data))
    (after / "x.dcm").write_bytes(unpacked(cleared.data))
    known = set(seeded.canaries)
    seen = leakcheck(canaries, [before])
    assert seen["hits"] > 0.99 * len(known)
    plain = (after / "x.dcm").read_bytes()
    assert [one for one in known if one.encode() in plain] == []
    assert leakcheck(canaries, [after])["hits"] == 0
    written = pydicom.dcmread(BytesIO(cleared.data))
    assert written.PatientIdentityRemoved == "YES"
    assert len(written.PixelData) >= 32
    return len(known)


def unpacked(data: bytes) -> bytes:
    """A deflated object as its plain bytes follow the file meta information."""
    with quiet():
        meta = pydicom.dcmread(BytesIO(data), specific_tags=[]).file_meta
        if not meta.TransferSyntaxUID.is_deflated:
            return data
    start = 144 + meta.FileMetaInformationGroupLength
    return data[:start] + zlib.decompress(data[start:], -zlib.MAX_WBITS)
