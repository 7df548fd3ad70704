"""Which volumes may show a face."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from pydicom.dataset import Dataset

from data_connectors.dicom.header import guarded, text

_DESCRIBED: Final = (
    "SeriesDescription", "StudyDescription", "ProtocolName", "PerformedProcedureStepDescription",
    "RequestedProcedureDescription",
)  # fmt: skip
KEYWORDS: Final = (
    "Modality", "RecognizableVisualFeatures", "BodyPartExamined", "AnatomicRegionSequence",
    *_DESCRIBED,
)  # fmt: skip
"""Every attribute that `face_risk` looks at."""
_MODALITIES: Final = {"CT", "MR", "PT"}
_HEAD: Final = re.compile(
    r"(?<![A-Z])(?:HEAD|BRAIN|SKULL|FACE|FACIAL|ORBITS?|SINUS(?:ES)?|NASAL|MAXILLA|MANDIBLE|JAW|IAC"
    r"|INTERNAL AUDITORY|PITUITARY|SELLA|TEMPORAL BONE|PETROUS|CRANI(?:UM|AL)|CEREBR\w*|NEURO"
    r"|KOPF|SCHAEDEL|SCHADEL|HIRN|GEHIRN|CCT|NNH|TETE|CERVEAU|CABEZA|CEREBRO|TESTA|CRANIO"
    r"|MPRAGE|MP2RAGE|BRAVO|SPGR BRAIN|WHOLE ?BODY|WB|PET ?CT)(?![A-Z])"
)
"""Words of body parts (PS3.16, CID 4030) and of protocols that have the face in their field."""


def face_risk(dataset: Dataset) -> tuple[str, ...]:
    """Why a face may be made from the slices of an object; empty where nothing says so.

    Args:
        dataset: The whole header (pixels are not looked at).

    Returns:
        Names of reasons, sorted; free of patient data.

    Raises:
        InputError: The header cannot be parsed.
    """
    return guarded(lambda: tuple(sorted(set(_reasons(dataset)))))


def _reasons(dataset: Dataset) -> Iterator[str]:
    if text(dataset, "RecognizableVisualFeatures").upper() == "YES":
        yield "recognizable-visual-features"
    if text(dataset, "Modality").upper() not in _MODALITIES:
        return
    if _names_head(dataset, "BodyPartExamined"):
        yield "body-part"
    region = dataset.get("AnatomicRegionSequence") or ()
    if any(_names_head(item, "CodeMeaning") for item in region):
        yield "body-part"
    if any(_names_head(dataset, keyword) for keyword in _DESCRIBED):
        yield "description"


def _names_head(dataset: Dataset, keyword: str) -> bool:
    return _HEAD.search(re.sub(r"[\s_\-/]+", " ", text(dataset, keyword).upper())) is not None
