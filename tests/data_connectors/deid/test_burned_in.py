"""The oracle is a table of objects as hospitals send them, judged by hand."""

from __future__ import annotations

import numpy as np
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from data_connectors.deid.burned_in import graphics, text_risk
from data_connectors.deid.facts import PixelJudge
from data_connectors.dicom.decode import stored_frame

CT, MR, DX, CR, MG = (f"1.2.840.10008.5.1.4.1.1.{end}" for end in ("2", "4", "1.1", "1", "1.2"))
PLAIN = {"ImagePositionPatient": [0, 0, 0]}


def obj(**attributes: object) -> Dataset:
    dataset = Dataset()
    for keyword, value in {"SamplesPerPixel": 1, **attributes}.items():
        setattr(dataset, keyword, value)
    return dataset


LOW = {
    "a CT slice": obj(
        SOPClassUID=CT, Modality="CT", ImageType=["ORIGINAL", "PRIMARY", "AXIAL"], **PLAIN
    ),
    "a derived map": obj(
        SOPClassUID=MR, Modality="MR", ImageType=["DERIVED", "PRIMARY", "ADC"], **PLAIN
    ),
    "a radiograph": obj(SOPClassUID=DX, Modality="DX", ImageType=["DERIVED", "PRIMARY"]),
    "a mammogram": obj(SOPClassUID=MG, Modality="MG", BurnedInAnnotation="NO"),
}
RISKY = {
    "ultrasound": (
        obj(SOPClassUID="1.2.840.10008.5.1.4.1.1.6.1", Modality="US"),
        "class-ultrasound",
    ),
    "ultrasound that says NO": (
        obj(SOPClassUID="1.2.840.10008.5.1.4.1.1.3.1", Modality="US", BurnedInAnnotation="NO"),
        "class-ultrasound",
    ),
    "a screen": (
        obj(SOPClassUID="1.2.840.10008.5.1.4.1.1.7", Modality="CT"),
        "class-secondary-capture",
    ),
    "CAD marks": (
        obj(SOPClassUID="1.2.840.10008.5.1.4.1.1.7", Modality="MG"),
        "class-secondary-capture",
    ),
    "angiography": (
        obj(SOPClassUID="1.2.840.10008.5.1.4.1.1.12.1", Modality="XA"),
        "class-angiography",
    ),
    "fluoroscopy": (
        obj(SOPClassUID="1.2.840.10008.5.1.4.1.1.12.2", Modality="RF"),
        "class-fluoroscopy",
    ),
    "endoscopy": (
        obj(SOPClassUID="1.2.840.10008.5.1.4.1.1.77.1.1", Modality="ES"),
        "class-endoscopy",
    ),
    "a slide's label": (
        obj(
            SOPClassUID="1.2.840.10008.5.1.4.1.1.77.1.6",
            Modality="SM",
            ImageType=["ORIGINAL", "PRIMARY", "LABEL", "NONE"],
        ),
        "image-type-label",
    ),
    "a slide's overview": (
        obj(
            SOPClassUID="1.2.840.10008.5.1.4.1.1.77.1.6",
            Modality="SM",
            ImageType=["DERIVED", "PRIMARY", "OVERVIEW", "NONE"],
        ),
        "image-type-overview",
    ),
    "a dose page among slices": (
        obj(SOPClassUID=CT, Modality="CT", ImageType=["DERIVED", "SECONDARY", "DOSE_INFO"]),
        "image-type-dose-info",
    ),
    "a saved screen": (
        obj(
            SOPClassUID=CT,
            Modality="CT",
            ImageType=["DERIVED", "SECONDARY", "SCREEN SAVE"],
            **PLAIN,
        ),
        "image-type-screen",
    ),
    "pasted slices": (
        obj(SOPClassUID=MR, Modality="MR", ImageType=["DERIVED", "PRIMARY", "PASTED"], **PLAIN),
        "image-type-pasted",
    ),
    "a film that was scanned": (
        obj(SOPClassUID=CR, Modality="CR", ConversionType="DF"),
        "conversion-type",
    ),
    "a colour CT": (
        obj(SOPClassUID=CT, Modality="CT", SamplesPerPixel=3, **PLAIN),
        "colour",
    ),
    "BurnedInAnnotation": (
        obj(SOPClassUID=DX, Modality="DX", BurnedInAnnotation="YES"),
        "burned-in-annotation",
    ),
    "other": (obj(SOPClassUID=CR, Modality="OT"), "modality-ot"),
    "a protocol page": (
        obj(SOPClassUID=CT, Modality="CT", SeriesDescription="Patient_Protocol", **PLAIN),
        "series-description",
    ),
    "a slice without a place": (obj(SOPClassUID=CT, Modality="CT"), "no-position"),
    "a class nobody knows": (obj(SOPClassUID="1.2.3.4", Modality="CT"), "class-unknown"),
    "nothing known": (Dataset(), "class-unknown"),
}


@pytest.mark.parametrize("name", LOW)
def test_plain_images_are_low(name):
    assert text_risk(LOW[name]) == ()


@pytest.mark.parametrize("name", RISKY)
def test_what_may_show_text_is_at_risk_with_the_reason(name):
    dataset, reason = RISKY[name]
    assert reason in text_risk(dataset)


@pytest.mark.parametrize("name", RISKY)
def test_no_is_never_trusted(name):
    dataset, reason = RISKY[name]
    if reason != "burned-in-annotation":
        dataset.BurnedInAnnotation = "NO"
        assert reason in text_risk(dataset)


def test_a_judge_of_a_series_sees_the_one_slice_that_differs():
    judge = PixelJudge()
    assert judge(LOW["a CT slice"]).text == ()
    assert "image-type-dose-info" in judge(RISKY["a dose page among slices"][0]).text
    assert judge(LOW["a CT slice"]).text == ()


def _grey(high: int, sign: int) -> Dataset:
    dataset = obj(SOPClassUID=CT, Modality="CT", Rows=8, Columns=8, BitsAllocated=16,
                  BitsStored=12, HighBit=11, PixelRepresentation=sign,
                  PhotometricInterpretation="MONOCHROME2")  # fmt: skip
    pixels = (np.arange(64, dtype=np.uint16) * 30).reshape(8, 8)
    pixels[2, 2:5] |= high
    dataset.PixelData = pixels.tobytes()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return dataset


@pytest.mark.parametrize("sign", [0, 1])
def test_drawings_in_unused_bits_are_seen_and_never_become_values(sign):
    drawn, plain = _grey(0x8000, sign), _grey(0, sign)
    assert graphics(drawn) == ("unused-bits",)
    assert graphics(plain) == ()
    assert np.array_equal(stored_frame(drawn, 0), stored_frame(plain, 0))


def test_overlay_planes_are_seen():
    dataset = _grey(0, 0)
    dataset.add_new(0x60020022, "LO", "a note")
    assert graphics(dataset) == ("overlay",)
