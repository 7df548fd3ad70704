"""Who a DICOM object belongs to, and every string in its header that could name them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence as DicomSequence

from data_connectors.dicom.header import guarded, text
from data_connectors.items import Identity
from medvlp.errors import InputError

_KEYWORDS: Final = {
    "AccessionNumber", "PatientID", "OtherPatientIDs", "PatientBirthDate", "PatientAddress",
    "PatientTelephoneNumbers", "PatientTelecomInformation", "IssuerOfPatientID", "StudyID",
    "MilitaryRank", "MedicalRecordLocator", "AdmissionID", "ServiceEpisodeID", "InstitutionName",
    "InstitutionAddress", "InstitutionalDepartmentName", "StationName",
    "InsurancePlanIdentification",
    "ReferringPhysicianAddress", "ReferringPhysicianTelephoneNumbers", "PersonAddress",
    "PersonTelephoneNumbers", "PersonTelecomInformation", "RequestingService",
    "FillerOrderNumberImagingServiceRequest", "PlacerOrderNumberImagingServiceRequest",
    "RequestedProcedureID", "ScheduledProcedureStepID", "CurrentPatientLocation",
    "CountryOfResidence", "RegionOfResidence",
}  # fmt: skip
_SHORTEST: Final = 3
"""Shorter strings would be found everywhere in a text."""
_NOBODY: Final = {"anonymous", "anonymized", "anonymised", "anonym", "unknown", "none", "null"}
_MAX_ELEMENTS: Final = 20_000


def identity_of(dataset: Dataset, *, allow_missing_patient: bool = False) -> Identity:
    """The identity in a header.

    Args:
        dataset: One object; the first slice stands for its series.
        allow_missing_patient: Let the study stand in for the patient.

    Raises:
        InputError: There is no PatientID (`patient-id-missing`).
    """
    return guarded(lambda: _identity(dataset, allow_missing_patient))


def patient_of(dataset: Dataset, *, allow_missing_patient: bool = False) -> str:
    """The patient's identifier with its issuer.

    Raises:
        InputError: There is none (`patient-id-missing`).
    """
    patient = text(dataset, "PatientID")
    issuer = text(dataset, "IssuerOfPatientID")
    if patient and issuer:
        patient = f"{patient}@{issuer}"
    if not patient and allow_missing_patient:
        patient = text(dataset, "StudyInstanceUID") or text(dataset, "SOPInstanceUID")
    if not patient:
        raise InputError(
            "there is no PatientID, so it cannot be kept out of other splits",
            code="patient-id-missing",
            next_step="ask the archive, or set allow_missing_patient for public test files",
        )
    return patient


def _identity(dataset: Dataset, allow_missing_patient: bool) -> Identity:
    return Identity(
        patient=patient_of(dataset, allow_missing_patient=allow_missing_patient),
        study=text(dataset, "StudyInstanceUID"),
        accession=text(dataset, "AccessionNumber"),
        phi=tuple(sorted(set(_identifying(dataset)))),
    )


def _identifying(dataset: Dataset) -> Iterator[str]:
    """Strings worth scrubbing from a text, from the dataset and its sequences."""
    for number, element in enumerate(dataset.iterall()):
        if number > _MAX_ELEMENTS:
            return
        if isinstance(element.value, DicomSequence) or not element.value:
            continue
        if element.VR != "PN" and element.keyword not in _KEYWORDS:
            continue
        value = element.value
        for part in value if isinstance(value, MultiValue | list) else [value]:
            string = str(part).strip(" \0")
            if element.VR == "PN":
                yield from _name_forms(string)
            elif element.VR == "DA" and re.fullmatch(r"\d{8}", string):
                yield string
                yield f"{string[:4]}-{string[4:6]}-{string[6:]}"
            elif _telling(string):
                yield string


def _name_forms(name: str) -> Iterator[str]:
    """A person name as written, its parts, and given and family name in both orders."""
    for group in name.split("="):  # alphabetic, ideographic and phonetic group
        parts = [part.strip() for part in group.split("^")]
        forms = [group.strip(), *parts, *(word for part in parts for word in part.split())]
        if len(parts) > 1 and parts[0] and parts[1]:
            forms += [f"{parts[1]} {parts[0]}", f"{parts[0]} {parts[1]}", f"{parts[0]}, {parts[1]}"]
        yield from (form for form in forms if _telling(form))


def _telling(string: str) -> bool:
    if string.isdigit() and len(string) <= _SHORTEST:
        return False
    wide = any(ord(letter) > 0x2E80 for letter in string)  # CJK names are two letters long
    return (len(string) >= _SHORTEST or (wide and len(string) >= 2)) and (
        string.lower() not in _NOBODY
    )
