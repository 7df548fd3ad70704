"""One person, one identifier: DICOM says `0042@HOSPITAL` where a report says `0042`.

DICOM qualifies a PatientID by its issuer (PS3.3 C.2.3); most reports do not. A bare identifier
that has exactly one qualified form among everything that was read stands for it; with two issuers
it stays alone, because it may be either person.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace

from data_connectors.ingest.records import UnitRecord
from data_connectors.items import Identity


def qualify(records: Sequence[UnitRecord]) -> list[UnitRecord]:
    """The records with bare identifiers replaced by their only qualified form."""
    full = only_forms(item.identity.patient for record in records for item in record.items)
    if not full:
        return list(records)
    return [_with(record, full) for record in records]


def only_forms(patients: Iterable[str]) -> dict[str, str]:
    """Bare identifier (upper case) -> its qualified form, where there is exactly one."""
    forms: dict[str, set[str]] = defaultdict(set)
    for patient in {patient.strip().upper() for patient in patients}:
        bare, mark, issuer = patient.partition("@")
        if mark and bare and issuer:
            forms[bare].add(patient)
    return {bare: next(iter(some)) for bare, some in forms.items() if len(some) == 1}


def _with(record: UnitRecord, full: dict[str, str]) -> UnitRecord:
    def named(identity: Identity) -> Identity:
        patient = full.get(identity.patient.strip().upper())
        if patient is None:
            return identity
        return replace(identity, patient=patient, phi=(*identity.phi, identity.patient))

    return replace(
        record,
        visuals=tuple(
            replace(v, item=replace(v.item, identity=named(v.item.identity)))
            for v in record.visuals
        ),
        reports=tuple(replace(r, identity=named(r.identity)) for r in record.reports),
    )
