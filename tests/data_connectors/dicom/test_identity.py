from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from data_connectors.dicom.identity import identity_of
from medvlp.errors import InputError


def person(**values: Any) -> Dataset:
    dataset = Dataset()
    dataset.PatientID = "P-0815"
    dataset.PatientName = "Doe-Smith^Jane Ann^^Dr"
    dataset.StudyInstanceUID = "2.25.2"
    dataset.AccessionNumber = "ACC-4711"
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    return dataset


def test_patient_study_and_accession() -> None:
    identity = identity_of(person())
    assert (identity.patient, identity.study, identity.accession) == (
        "P-0815",
        "2.25.2",
        "ACC-4711",
    )


def test_same_number_from_two_issuers_is_two_patients() -> None:
    one, other = (identity_of(person(IssuerOfPatientID=who)).patient for who in ("A", "B"))
    assert one != other


@pytest.mark.parametrize("missing", ["", None])
def test_missing_patient_is_refused_unless_allowed(missing: str | None) -> None:
    dataset = person(PatientID=missing)
    with pytest.raises(InputError, match="patient-id-missing"):
        identity_of(dataset)
    assert identity_of(dataset, allow_missing_patient=True).patient == "2.25.2"


def test_names_come_in_the_forms_that_reports_use() -> None:
    phi = identity_of(person()).phi
    assert {"Jane Ann Doe-Smith", "Doe-Smith, Jane Ann", "Doe-Smith", "Jane", "Ann"} <= set(phi)


def test_identifiers_in_nested_sequences_are_found() -> None:
    inner = Dataset()
    inner.RequestedProcedureID = "REQ-999"
    inner.NameOfPhysiciansReadingStudy = "House^Gregory"
    outer = Dataset()
    outer.RequestAttributesSequence = Sequence([inner])
    phi = identity_of(
        person(
            PatientBirthDate="19500131",
            PatientTelephoneNumbers="+49 171 1234567",
            InstitutionName="Saint Elsewhere",
            OtherPatientIDs=["ALT-1", "ALT-2"],
            ReferencedStudySequence=Sequence([outer]),
        )
    ).phi
    expected = {
        "REQ-999", "Gregory House", "19500131", "1950-01-31", "+49 171 1234567",
        "Saint Elsewhere", "ALT-1", "ALT-2", "P-0815", "ACC-4711",
    }  # fmt: skip
    assert expected <= set(phi)


def test_other_scripts_are_kept_with_all_their_groups() -> None:
    phi = identity_of(person(PatientName="Yamada^Tarou=山田^太郎")).phi
    assert {"Tarou Yamada", "山田", "太郎"} <= set(phi)


def test_words_that_would_blank_out_a_report_are_left_alone() -> None:
    phi = identity_of(person(PatientName="Li^X", StudyID="12", InstitutionName="Unknown")).phi
    assert not {"Li", "X", "12", "Unknown"} & set(phi)


def test_no_header_value_reaches_logs_or_warnings(
    ingest: Any,
    tmp_path: Path,
    write_dicom: Any,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """pydicom quotes values that break the standard in its warnings and its log."""
    canary = "CANARY-7c1f"
    path = write_dicom(
        tmp_path / f"{canary}.dcm",
        np.zeros((4, 4), np.int16),
        PatientID=canary,
        PatientName=f"{canary}^{canary}",
    )
    data = path.read_bytes()
    # An age of the wrong form, a date that is none, and a UID with letters.
    path.write_bytes(data.replace(b"2.25.2", b"CANARY").replace(b"ORIGINAL", b"CANARY-7"))
    (tmp_path / "text.dcm").write_text(canary)
    caplog.set_level(logging.DEBUG)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        _, refused = ingest(tmp_path)
    written = caplog.text + "".join(capfd.readouterr()) + "".join(str(w.message) for w in caught)
    written += "".join(item.reason + item.next_step for item in refused)
    assert "CANARY" not in written
