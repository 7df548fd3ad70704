"""Differential test against dicom-anonymizer: ours keeps nothing that it takes out."""

from __future__ import annotations

import io
import logging
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset

from data_connectors.deid.objects import deidentify_object
from data_connectors.deid.options import DeidentifyConfig
from data_connectors.deid.pseudonyms import Pseudonyms
from data_connectors.dicom.quiet import quiet
from medvlp.errors import InputError

dicomanonymizer = pytest.importorskip("dicomanonymizer")

Place = tuple[object, ...]
REFERENCES = (0x00081140, 0x00082112)
"""Referenced and Source Image Sequence: X/Z/U* in the table. The peer empties them; ours keeps
the references, their UIDs replaced, so the class and the coded purpose of a reference stay."""
OF_A_REFERENCE = {"ReferencedSOPClassUID", "CodeValue", "CodingSchemeDesignator", "CodeMeaning"}


def flat(dataset: Dataset, place: Place = ()) -> Iterator[tuple[Place, DataElement]]:
    for element in dataset:
        if element.VR != "SQ":
            yield (*place, int(element.tag)), element
            continue
        for number, item in enumerate(element.value or ()):
            yield from flat(item, (*place, int(element.tag), number))


def kept_beyond(path: Path) -> list[str]:
    """Elements that ours leaves as they were and the peer does not."""
    config = DeidentifyConfig(allow_missing_patient=True)
    made = deidentify_object(path, config, Pseudonyms(bytes(range(32)))).data
    with quiet():
        source, theirs = pydicom.dcmread(path), pydicom.dcmread(path)
        logging.disable(logging.CRITICAL)
        try:
            dicomanonymizer.anonymize_dataset(theirs)
        finally:
            logging.disable(logging.NOTSET)
        before, peer = (dict(flat(dataset)) for dataset in (source, theirs))
        found = []
        for place, element in flat(pydicom.dcmread(io.BytesIO(made))):
            text = str(element.value)
            same = place in before and text == str(before[place].value) and text
            if not same or (place in peer and str(peer[place].value) == text):
                continue
            if place[0] in REFERENCES and element.keyword in OF_A_REFERENCE:
                continue
            found.append(element.keyword)
    return found


def test_nothing_is_kept_that_the_peer_removes():
    for name in ("CT_small.dcm", "MR_small.dcm", "JPEG2000.dcm", "examples_overlay.dcm",
                 "examples_palette.dcm", "693_J2KI.dcm"):  # fmt: skip
        assert kept_beyond(Path(get_testdata_file(name))) == [], name


@pytest.mark.slow
def test_nothing_is_kept_of_real_objects_that_the_peer_removes(shared_data):
    found: Counter[str] = Counter()
    compared = 0
    for path in sorted((shared_data / "dicom").rglob("*")):
        if path.is_file():
            try:
                found.update(kept_beyond(path))
            except InputError:
                continue
            compared += 1
    assert compared > 200
    assert dict(found) == {}
