from __future__ import annotations

import io
from datetime import date
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import UID

from data_connectors.deid.objects import Cleared, deidentify_object
from data_connectors.deid.options import DeidentifyConfig
from data_connectors.deid.pseudonyms import Pseudonyms
from data_connectors.dicom.image import read_image
from data_connectors.dicom.quiet import quiet
from data_connectors.ingest.reading import in_domain
from data_connectors.items import Identity
from medvlp.errors import InputError

NAMES = Pseudonyms(bytes(range(32)))
EVERYTHING = {
    "dates": "shift", "retain_device": True, "retain_institution": True,
    "retain_patient_characteristics": True, "retain_safe_private": True,
    "clean_descriptors": True, "clean_structured_content": True, "clean_graphics": True,
}  # fmt: skip


def packed(dataset: Dataset) -> io.BytesIO:
    buffer = io.BytesIO()
    with quiet():
        pydicom.dcmwrite(buffer, dataset, enforce_file_format=True)
    return io.BytesIO(buffer.getvalue())


def ct(**values: object) -> Dataset:
    with quiet():
        dataset = pydicom.dcmread(get_testdata_file("CT_small.dcm"))
        for name, value in values.items():
            setattr(dataset, name, value)
    return dataset


def cleared(dataset: Dataset, names: Pseudonyms = NAMES, **options: object) -> Cleared:
    config = DeidentifyConfig.model_validate({"allow_missing_patient": True} | options)
    return deidentify_object(packed(dataset), config, names)


def clean(dataset: Dataset, names: Pseudonyms = NAMES, **options: object) -> Dataset:
    with quiet():
        return pydicom.dcmread(io.BytesIO(cleared(dataset, names, **options).data))


def test_the_object_says_what_was_done_with_the_codes_of_the_standard():
    made = clean(ct(), **EVERYTHING)
    codes = [item.CodeValue for item in made.DeidentificationMethodCodeSequence]
    assert codes == [
        "113100", "113103", "113104", "113105", "113107", "113108", "113109", "113111", "113112",
    ]  # fmt: skip
    assert made.LongitudinalTemporalInformationModified == "MODIFIED"
    assert made.PatientIdentityRemoved == "YES"
    assert clean(ct()).LongitudinalTemporalInformationModified == "REMOVED"
    assert len(clean(ct()).DeidentificationMethodCodeSequence) == 1


def test_file_meta_and_preamble_say_nothing():
    dataset = ct()
    dataset.preamble = b"SECRET".ljust(128)
    dataset.file_meta.SourceApplicationEntityTitle = "SECRET"
    dataset.file_meta.ImplementationVersionName = "SECRET"
    made = cleared(dataset).data
    assert made[:128] == bytes(128)
    meta = pydicom.dcmread(io.BytesIO(made)).file_meta
    assert {element.keyword for element in meta} == {
        "FileMetaInformationGroupLength", "FileMetaInformationVersion", "MediaStorageSOPClassUID",
        "MediaStorageSOPInstanceUID", "TransferSyntaxUID", "ImplementationClassUID",
        "ImplementationVersionName",
    }  # fmt: skip
    assert meta.ImplementationVersionName.startswith("MEDVLP_")
    assert b"SECRET" not in made


def test_the_patient_is_the_one_of_the_dataset_folder():
    made = clean(ct(PatientID="MRN-1", IssuerOfPatientID="GENERAL"), domain="north")
    identity = in_domain(Identity(patient="MRN-1@GENERAL"), "north")
    assert made.PatientID == NAMES.patient(identity.patient)
    assert clean(ct(PatientID=" mrn-1 ")).PatientID == NAMES.patient("MRN-1")
    other = clean(ct(PatientID="MRN-1"), Pseudonyms(bytes(32)))
    assert other.PatientID != clean(ct(PatientID="MRN-1")).PatientID


def test_without_the_key_nothing_made_from_an_identifier_can_be_made_again():
    """Whoever lists every record number, UID and accession number needs the key to match one."""
    dataset = ct(PatientID="4711", AccessionNumber="A-99")
    one, two = (
        clean(dataset, Pseudonyms(bytes([number]) * 32), dates="shift", max_shift_days=100_000)
        for number in (1, 2)
    )
    for keyword in ("PatientID", "PatientName", "AccessionNumber", "StudyInstanceUID",
                    "SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID",
                    "StudyDate"):  # fmt: skip
        assert one[keyword].value != two[keyword].value, keyword


@settings(max_examples=15, deadline=None)
@given(st.lists(st.dates(date(1995, 1, 1), date(2030, 12, 31)), min_size=3, max_size=3))
def test_intervals_stay_to_the_day_over_leap_years(days):
    keywords = ("StudyDate", "SeriesDate", "AcquisitionDate")
    dataset = ct(**{k: f"{day:%Y%m%d}" for k, day in zip(keywords, days, strict=True)})
    dataset.AcquisitionDateTime = f"{days[0]:%Y%m%d}235959.123456-0500"
    made = clean(dataset, dates="shift")
    after = [date.fromisoformat(made[k].value) for k in keywords]
    assert [b - after[0] for b in after] == [a - days[0] for a in days]
    assert 1 <= (days[0] - after[0]).days <= 3650
    assert made.AcquisitionDateTime == f"{after[0]:%Y%m%d}235959.123456-0500"
    assert made.PatientBirthDate == ""


def test_dates_move_alike_for_a_patient_and_stay_apart_between_patients():
    moved = [
        clean(ct(PatientID=patient, StudyDate="20200229"), dates="shift").StudyDate
        for patient in ("1", "1", "2", "3")
    ]
    assert moved[0] == moved[1]
    assert len(set(moved)) == 3


@pytest.mark.parametrize(
    ("age", "kept"), [("045Y", "045Y"), ("089Y", "089Y"), ("090Y", "090Y"), ("103Y", "090Y"),
                      ("003M", "003M"), ("?", "000Y")],
)  # fmt: skip
def test_ages_over_89_are_one(age, kept):
    assert clean(ct(PatientAge=age), retain_patient_characteristics=True).PatientAge == kept
    assert "PatientAge" not in clean(ct(PatientAge=age))


@settings(max_examples=10, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 6), st.lists(st.integers(0, 6), max_size=4)),
        min_size=2, max_size=5, unique_by=lambda pair: pair[0],
    )
)  # fmt: skip
def test_references_between_objects_stay_references(graph):
    uid = "1.2.840.113619.2.55.1.{}".format
    made = {}
    for node, targets in graph:
        items = []
        for target in targets:
            item = Dataset()
            item.ReferencedSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
            item.ReferencedSOPInstanceUID = uid(target)
            items.append(item)
        made[node] = clean(
            ct(SOPInstanceUID=uid(node), ReferencedImageSequence=Sequence(items), PatientID="1")
        )
    names = {node: dataset.SOPInstanceUID for node, dataset in made.items()}
    assert len(set(names.values())) == len(names)
    for node, targets in graph:
        found = [i.ReferencedSOPInstanceUID for i in made[node].ReferencedImageSequence]
        assert found == [NAMES.uid(uid(target)) for target in targets]
        assert [i.ReferencedSOPClassUID for i in made[node].ReferencedImageSequence] == [
            "1.2.840.10008.5.1.4.1.1.2"
        ] * len(targets)
        assert names[node] == NAMES.uid(uid(node))
        assert all(UID(one).is_valid and one.startswith("2.25.") for one in found)


def test_what_the_lesson_of_midi_b_names_goes():
    """Dates in descriptions, UIDs in texts, names in private elements, ids in odd places."""
    dataset = ct(
        PatientName="Quillon^Zyra", PatientID="MRN0077123", StudyDate="20240131",
        StudyDescription="CT CHEST zyra quillon 31.01.2024 MRN 0077123 1.2.840.113619.2.5.77",
        SeriesDescription="QUILLON LUNG 3.0 mm B30f", Manufacturer="QUILLON",
        ImageComments="call Dr. Ferrum 555-123-4567",
    )  # fmt: skip
    block = dataset.private_block(0x0019, "SIEMENS MR HEADER", create=True)
    block.add_new(0x0C, "IS", "1000")
    block.add_new(0x0D, "CS", "QUILLON")
    block.add_new(0x99, "LO", "Zyra Quillon")
    made = clean(dataset, dates="keep", clean_descriptors=True, retain_safe_private=True)
    assert made.StudyDescription == "CT CHEST the person a date a number"
    assert made.SeriesDescription == "the person LUNG 3.0 mm B30f"
    assert made.Manufacturer == "Removed"
    assert made[block.get_tag(0x0C)].value == 1000
    assert made[block.get_tag(0x0D)].value == "OTHER"
    assert block.get_tag(0x99) not in made
    text = str(made).lower()
    for word in ("quillon", "zyra", "0077123", "ferrum", "4567", "113619.2.5.77"):
        assert word not in text


def test_what_stays_somewhere_is_found_in_the_bytes_and_removed(monkeypatch):
    dataset = ct(PatientName="Zyxwvut^Quillon", StationName="QUILLON1", InstitutionName="Zyxwvut H")
    made = cleared(dataset, retain_device=True, retain_institution=True)
    assert b"zyxwvut" not in made.data.lower()
    assert made.counts["residual"] == 2
    # Out of pixels nothing can be taken: the object is not written.
    pixels = bytearray(dataset.PixelData)
    pixels[100:114] = b"Zyxwvut Quillo"
    dataset.PixelData = bytes(pixels)
    with pytest.raises(InputError) as caught:
        cleared(ct(PatientName="Zyxwvut^Quillo", PixelData=bytes(pixels)))
    assert caught.value.code == "deid-residual"
    assert "Zyxwvut" not in str(caught.value)


def test_an_object_of_ours_is_not_done_twice():
    with pytest.raises(InputError) as caught:
        cleared(clean(ct()))
    assert caught.value.code == "deid-already"


@pytest.mark.parametrize(
    ("kind", "word"),
    [("1.2.840.10008.5.1.4.1.1.104.1", "Encapsulated PDF"), ("1.2.840.10008.5.1.4.1.1.66", "Raw"),
     ("1.2.840.10008.5.1.4.1.1.481.3", "RT Structure"), ("1.2.3.4", "unknown"),
     ("1.2.840.10008.5.1.4.1.1.9.1.1", "ECG"), ("1.2.840.10008.5.1.4.1.1.88.11", "report")],
)  # fmt: skip
def test_what_no_rule_looks_into_is_refused_by_name(kind, word):
    with pytest.raises(InputError) as caught:
        cleared(ct(SOPClassUID=kind))
    assert caught.value.code == "deid-unsupported"
    assert word in str(caught.value)


def test_overlays_icons_and_curves_go_and_embedded_planes_are_cleared():
    dataset = pydicom.dcmread(get_testdata_file("MR_small.dcm"))
    dataset.PixelRepresentation = 0
    dataset.add_new(0x60000022, "LO", "drawn by Jane Doe")
    stored = np.frombuffer(dataset.PixelData, "<u2") & 0x0FFF
    dataset.BitsStored, dataset.HighBit = 12, 11
    dataset.add_new(0x60000102, "US", 15)
    dataset.PixelData = (stored | 0x8000).tobytes()
    dataset.IconImageSequence = Sequence([Dataset()])
    dataset.add_new(0x50003000, "OW", b"12")
    made = clean(dataset)
    assert not [tag for tag in made.keys() if tag >> 24 in (0x50, 0x60)]  # noqa: SIM118
    assert "IconImageSequence" not in made
    assert np.array_equal(np.frombuffer(made.PixelData, "<u2"), stored)


SYNTAXES = sorted(
    ["CT_small.dcm", "MR_small.dcm", "MR_small_RLE.dcm", "JPEG2000.dcm", "JPGExtended.dcm",
     "SC_rgb_jpeg_gdcm.dcm", "MR_small_bigendian.dcm", "image_dfl.dcm", "MR_small_implicit.dcm",
     "693_J2KI.dcm", "examples_palette.dcm", "MR_small_jpeg_ls_lossless.dcm"]
)  # fmt: skip


@pytest.mark.parametrize("name", SYNTAXES)
def test_pixels_are_byte_for_byte_the_same(name):
    path = get_testdata_file(name)
    with quiet():
        before = pydicom.dcmread(path)
    after = clean(before)
    assert after.PixelData == before.PixelData
    if int(before.get("NumberOfFrames", 1) or 1) == 1:
        assert read_image(after).digest == read_image(before).digest


def errors_of(validator: str, path: Path) -> dict[str, int] | None:
    """Error lines of dciodvfy as a multiset, without values and UIDs; None if it crashed."""
    import re
    import subprocess
    from collections import Counter

    done = subprocess.run([validator, str(path)], capture_output=True, timeout=60)
    if done.returncode < 0:
        return None
    lines = (done.stdout + done.stderr).decode("latin-1").splitlines()
    plain = (re.sub(r"\d+(\.\d+){2,}", "UID", line) for line in lines if line.startswith("Error"))
    value = re.compile(r"<[^<>]*> ?(?=for value|is longer|in value)|(?<=InstanceUID )\S+")
    return Counter(value.sub("<v>", line).strip() for line in plain)


def check_valid(folder: Path, validator: str, work: Path, **options: object) -> int:
    config = DeidentifyConfig.model_validate({"allow_missing_patient": True} | options)
    made = work / "made.dcm"
    checked = 0
    for path in sorted(folder.rglob("*")):
        try:
            made.write_bytes(deidentify_object(path, config, NAMES).data)
        except (InputError, OSError):
            continue
        before, after = errors_of(validator, path), errors_of(validator, made)
        assert after is not None, path.name
        assert after - (before or after) == {}, path.name
        checked += 1
    return checked


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, EVERYTHING], ids=["basic", "everything"])
@pytest.mark.parametrize("folder", ["pydicom", "vendors", "syntaxes_ct"])
def test_no_real_object_becomes_less_valid(folder, options, shared_data, tmp_path, program):
    root = shared_data / "dicom" / folder
    assert check_valid(root, program("dciodvfy"), tmp_path, **options) > 15


def test_an_object_does_not_become_less_valid(tmp_path, program):
    source = tmp_path / "in"
    source.mkdir()
    for name in ("CT_small.dcm", "MR_small.dcm", "examples_palette.dcm", "examples_overlay.dcm"):
        (source / name).write_bytes(Path(get_testdata_file(name)).read_bytes())
    assert check_valid(source, program("dciodvfy"), tmp_path) == 4


def test_reports_keep_known_words_and_coded_concepts_when_asked():
    dataset = pydicom.dcmread(get_testdata_file("reportsi.dcm"))
    with pytest.raises(InputError):
        cleared(dataset)
    item = Dataset()
    item.ValueType, item.RelationshipType = "TEXT", "CONTAINS"
    item.TextValue = "Dr. Quillon: nodule in the left lung of Zyra Ferrum, seen 12.04.2019."
    dataset.PatientName = "Ferrum^Zyra"
    dataset.ContentSequence.append(item)
    made = clean(dataset, clean_structured_content=True)
    text = made.ContentSequence[-1].TextValue
    assert "nodule" in text
    assert "left lung" in text
    for word in ("Quillon", "Ferrum", "Zyra", "2019"):
        assert word not in str(made)
    assert made.ContentSequence[-1].ValueType == "TEXT"


def test_an_offset_table_that_is_text_is_emptied_and_a_true_one_stays():
    from pydicom.encaps import encapsulate

    frame = pydicom.dcmread(get_testdata_file("JPEG2000.dcm"))
    stream = next(pydicom.encaps.generate_frames(frame.PixelData, number_of_frames=1))
    frame.PixelData = encapsulate([stream])
    assert clean(frame).PixelData == frame.PixelData
    frame.PixelData = b"\xfe\xff\x00\xe0\x08\0\0\0Quillon " + frame.PixelData[12:]
    made = clean(frame)
    assert b"Quillon" not in made.PixelData
    assert read_image(made).digest == read_image(frame).digest


def test_an_index_is_refused_as_one():
    path = Path(get_testdata_file("DICOMDIR"))
    with pytest.raises(InputError) as caught:
        deidentify_object(path, DeidentifyConfig(), NAMES)
    assert caught.value.code == "dicom-dicomdir"
