"""Every form and container that `leakcheck` claims to see, each made by another program."""

from __future__ import annotations

import base64
import bz2
import html
import io
import json
import lzma
import quopri
import re
import tarfile
import zipfile
import zlib
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, TiffImagePlugin
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian

from governance.leakcanaries import Canaries
from governance.leakcheck import leakcheck
from governance.leaklists import read_patients

NAME, NUMBER, DATE, ACCENTED = "ZYXWV^QUILLON", "MRN-007731-QX", "19420719", "Zürmûhl^Söø"
KNOWN = Canaries([NAME, NUMBER, DATE, ACCENTED, "0048151623", "Łukasiewicz^Żaneta", "山田^太郎"])


def wrapped(data: bytes, width: int = 24) -> bytes:
    text = base64.b64encode(data)
    return b"\r\n".join(text[start : start + width] for start in range(0, len(text), width))


HEX = NUMBER.encode().hex()
LONG = b"the patient of this letter is " + NUMBER.encode() + b", who came yesterday"
FORMS: dict[str, bytes] = {
    "utf-16 with mark": NUMBER.encode("utf-16"),
    "utf-32 big": NUMBER.encode("utf-32-be"),
    "utf-16 of an odd spelling": "Quillon, Zyxwv".encode("utf-16-be"),
    "wrapped base64": wrapped(LONG),
    "wrapped and indented": wrapped(LONG).replace(b"\r\n", b"\n  "),
    "mime base64": base64.encodebytes(LONG * 3),
    "base64 of utf-16": base64.b64encode(LONG.decode().encode("utf-16-le")),
    "base64 of another spelling": base64.b64encode(b"xx quillon zyxwv"),
    "base64 of base64": base64.b64encode(base64.b64encode(LONG)),
    "base64 in a word": b"key=a" + base64.urlsafe_b64encode(LONG).rstrip(b"="),
    "hex with colons": ":".join(re.findall("..", HEX)).encode(),
    "hex with spaces": " ".join(re.findall("..", HEX.upper())).encode(),
    "hex of C": b", ".join(b"0x%02x" % byte for byte in NUMBER.encode()),
    "hex escapes": b"".join(b"\\x%02x" % byte for byte in NUMBER.encode()),
    "hex of utf-16": NUMBER.encode("utf-16-le").hex().encode(),
    "hex at the odd digit": b"f" + HEX.encode(),
    "every character in percent": b"".join(b"%%%02X" % byte for byte in NUMBER.encode()),
    "some characters in percent": b"M%52N%2d007731-%51X",
    "accents in percent": quote("zürmûhl söø").lower().encode(),
    "percent of latin-1": quote("ZÜRMÛHL SÖØ", encoding="latin-1").encode(),
    "decimal entities": "".join(f"&#{ord(char)};" for char in NUMBER).encode(),
    "hex entities": "".join(f"&#x{ord(char):X};" for char in NUMBER).encode(),
    "named entities": b"Z&uuml;rm&ucirc;hl S&ouml;&oslash;",
    "escaped html": html.escape("Quillon, Zyxwv & co").encode(),
    "json escapes of everything": "".join(f"\\u{ord(char):04x}" for char in NUMBER).encode(),
    "json of accents": json.dumps("söø zürmûhl").encode(),
    "quoted printable": quopri.encodestring("an Zürmûhl, Söø und andere".encode("latin-1")),
    "soft line ends": b"the number is MRN-00773=\r\n1-QX.",
    "utf-7": "Zürmûhl Söø".encode("utf-7"),
    "iso-2022": "山田太郎".encode("iso2022_jp"),
    "shift-jis": "山田^太郎".encode("shift_jis"),
    "gb18030": "山田 太郎".encode("gb18030"),
    "latin-2": "Łukasiewicz, Żaneta".encode("iso8859-2"),
    "accents off": b"Lukasiewicz Zaneta",
    "umlauts spelt": b"Frau Soeoe Zuermuehl".replace(b"muehl", b"m\xc3\xbbhl"),
    "initial": b"seen by Q. Zyxwv today",
    "initial behind": b"Zyxwv, Q.",
    "joined": b"quillonzyxwv@example.org",
    "with dots": b"zyxwv.quillon",
    "no signs": b"mrn007731qx",
    "zeros off": b"mrn 7731 qx",
    "zeros off a number": b'"id": 48151623,',
    "spaces in a number": b"no. 0048151623.",
    "two-digit year": b"born 19.07.42.",
    "american": b"07/19/1942",
    "no leading zeros": b"7/19/1942",
    "german": b"19. Juli 1942",
    "french": b"19 juillet 1942",
    "spanish": b"19 de julio de 1942",
    "english": b"July 19th, 1942",
    "date and time": b"19420719103000.000",
    "oracle": b"19-JUL-42",
    "kerned": b"[(MRN-0) -20 (0773) 15 (1-QX)] TJ",
}


@pytest.mark.parametrize("name", FORMS)
def test_every_form_is_found(name):
    assert KNOWN.find(b"before " + FORMS[name] + b" after")


@pytest.mark.parametrize("name", FORMS)
def test_every_form_is_found_among_bytes_of_chance(name):
    noise = np.random.default_rng(1).integers(0, 256, 20_000, dtype=np.uint8).tobytes()
    assert KNOWN.find(noise + b"\n" + FORMS[name] + b"\n" + noise)


def packed_dicom() -> bytes:
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = "1.2.3"
    data.ImageComments = "nothing " * 50 + NUMBER
    buffer = io.BytesIO()
    data.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def picture(kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (4, 4)).save(buffer, kind, **options)
    return buffer.getvalue()


def tiff() -> bytes:
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[270] = f"scan of {NUMBER}"
    return picture("TIFF", tiffinfo=tags)


def exif() -> bytes:
    found = Image.Exif()
    found[0x010E] = f"scan of {NUMBER}"
    return found.tobytes()


def gif() -> bytes:
    """A comment in blocks of a few bytes: the number lies on both sides of a border."""
    text = f"scan of {NUMBER}".encode()
    blocks = b"".join(bytes([len(part)]) + part for part in (text[:12], text[12:]))
    return picture("GIF")[:-1] + b"\x21\xfe" + blocks + b"\0;"


def pdf() -> bytes:
    page = zlib.compress(b"BT (born) Tj [(MRN-0077) -12 (31-QX)] TJ ET" * 3)
    return b"%PDF-1.4\n1 0 obj\n<</Filter/FlateDecode>>\nstream\n" + page + b"\nendstream\nendobj"


def feather() -> bytes:
    buffer = io.BytesIO()
    pa.feather.write_feather(pa.table({"x": ["nothing " * 9 + NUMBER] * 50}), buffer, "zstd")
    return buffer.getvalue()


def compressed(kind: str) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, kind) as stream:
        stream.write(LONG * 20)
    return bytes(sink.getvalue())


def tar(kind: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=f"w:{kind}") as archive:
        info = tarfile.TarInfo("member")
        info.size = len(LONG)
        archive.addfile(info, io.BytesIO(LONG))
    return buffer.getvalue()


def archive_in_archive() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("a.tar.xz", tar("xz"))
    return buffer.getvalue()


def npz() -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, names=np.array([f"{NUMBER}", "other"]))
    return buffer.getvalue()


CONTAINERS = {
    "bzip2": bz2.compress(LONG), "xz": lzma.compress(LONG), "zlib": zlib.compress(LONG),
    "zstd": compressed("zstd"), "lz4": compressed("lz4"),
    "tar.gz": tar("gz"), "tar.bz2": tar("bz2"), "tar.xz in zip": archive_in_archive(),
    "deflated DICOM": packed_dicom(), "deflated DICOM in bz2": bz2.compress(packed_dicom()),
    "TIFF tag": tiff(), "JPEG EXIF": picture("JPEG", exif=exif()),
    "PNG EXIF": picture("PNG", exif=exif()), "JPEG comment": picture("JPEG", comment=LONG),
    "GIF comment": gif(), "PDF": pdf(), "feather": feather(), "npz": npz(),
}  # fmt: skip


@pytest.mark.parametrize("name", CONTAINERS)
def test_every_container_is_opened(name, tmp_path):
    (tmp_path / "canaries").write_text(NUMBER)
    (tmp_path / "out").mkdir()
    (tmp_path / "out/file").write_bytes(CONTAINERS[name])
    found = leakcheck(tmp_path / "canaries", [tmp_path / "out"])
    assert (found["hits"], found["unopened"]) == (1, [])


@pytest.mark.parametrize("head", [b"7z\xbc\xaf\x27\x1c", b"Rar!\x1a\x07\x01\x00"])
def test_what_cannot_be_opened_is_named(tmp_path, head):
    (tmp_path / "canaries").write_text(NUMBER)
    (tmp_path / "packed").write_bytes(head + b"whatever")
    assert leakcheck(tmp_path / "canaries", [tmp_path / "packed"])["unopened"] == ["packed"]


def test_numbers_of_chance_are_no_hits():
    known = Canaries(["12345", "0012399", "20011231"])
    rng = np.random.default_rng(2)
    floats = json.dumps(rng.random(20_000).tolist()).encode()
    digests = b"\n".join(rng.bytes(16).hex().encode() for _ in range(20_000))
    assert not known.find(floats + digests)
    assert not known.find(b"x = 9123450; 0.12345 and 0.1234567; v1.2 20012311")
    assert known.find(b"id 12345.") == {0}
    assert known.find(b"1.2.840.12345.7") == {0}
    assert known.find(b'"n":12399}') == {1}


def test_real_reports_and_images_are_clean(shared_data, tmp_path):
    """Their patients are not ours: whatever is found is a false alarm."""
    words = [NAME, NUMBER, DATE, ACCENTED, "PAT0099812", "48151", "Hartmann^Lea", "Moore^Ann^B"]
    (tmp_path / "canaries").write_text("\n".join(words))
    paths = [shared_data / "reports_openi/ecgen.tar.gz", shared_data / "cxr_nih64"]
    found = leakcheck(tmp_path / "canaries", [path for path in paths if path.exists()])
    assert found["searched"] > 1
    assert (found["hits"], found["unopened"]) == (0, [])


@settings(max_examples=80, deadline=None)
@given(
    st.text(st.characters(codec="latin-1", categories=["L"]), min_size=6, max_size=12),
    st.sampled_from(["utf-8", "utf-16-le", "utf-16-be", "utf-32-le", "latin-1"]),
    st.sampled_from(["plain", "base64", "hex", "percent", "json", "entities"]),
    st.binary(max_size=30),
)
def test_any_name_is_found_in_any_case_encoding_and_escape(name, coding, escape, before):
    known = Canaries([name])
    data = before + b"\n" + name.encode(coding) + b"\n"
    text = {
        "plain": lambda: data,
        "base64": lambda: base64.b64encode(data),
        "hex": lambda: data.hex().encode(),
        "percent": lambda: "".join(f"%{byte:02x}" for byte in data).encode(),
        "json": lambda: "".join(f"\\u{ord(char):04x}" for char in name).encode(),
        "entities": lambda: "".join(f"&#{ord(char)};" for char in name).encode(),
    }[escape]()
    assert known.find(text) == {0}


def test_a_patient_list_gives_names_numbers_and_dates(tmp_path):
    path = tmp_path / "patients.csv"
    path.write_text(
        "Patient ID;Last Name;First Name;Birth Date;Sex;Ward\n"
        "PX-0012345;Quillon;Zyxwv;1942-07-19;F;Intensive care\n"
        "PX-0099999;Heart;Clear;1950-01-02;M;Surgery\n"
    )
    assert read_patients(path) == [
        "Quillon^Zyxwv", "PX-0012345", "1942-07-19", "Heart^Clear", "PX-0099999", "1950-01-02",
    ]  # fmt: skip
    known = Canaries(read_patients(path))
    assert known.find(b"ZYXWV QUILLON was here, born 19.07.1942, no. px12345") == {0, 1, 2}
    assert not known.find(b"The heart is clear. Intensive care. Surgery.")
    path.write_text("PX-0012345\nQuillon, Zyxwv\n")
    assert read_patients(path) == ["PX-0012345", "Quillon, Zyxwv"]


def test_the_command_prints_one_line_and_says_by_its_status(tmp_path, capsys):
    from medvlp.cli import main

    (tmp_path / "patients.csv").write_text("name,mrn\nQuillon^Zyxwv,PX-0012345\n")
    out = tmp_path / "out"
    out.mkdir()
    (out / "clean.txt").write_text("nothing")
    line = ["leakcheck", "--patients", str(tmp_path / "patients.csv"), str(out)]
    assert main(line) == 0
    assert json.loads(capsys.readouterr().out)["hits"] == 0
    (out / "of Zyxwv Quillon.txt").write_text("px0012345")
    assert main(line) == 1
    shown = capsys.readouterr()
    assert json.loads(shown.out)["hits"] == 2
    assert "leak-found" in shown.err
    assert "zyxwv" not in (shown.out + shown.err).lower()
    assert main(["leakcheck", str(out)]) == 1


def test_values_in_dicom_files_are_found_in_every_syntax(tmp_path):
    from pydicom.data import get_testdata_file

    (tmp_path / "canaries").write_text(NUMBER)
    for syntax in (ExplicitVRLittleEndian, DeflatedExplicitVRLittleEndian):
        data = pydicom.dcmread(get_testdata_file("CT_small.dcm"))
        data.file_meta.TransferSyntaxUID = syntax
        data.PatientID = NUMBER
        path = Path(tmp_path / "file.dcm")
        data.save_as(path)
        assert leakcheck(tmp_path / "canaries", [path])["hits"] == 1
