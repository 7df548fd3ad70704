"""What the header of a DICOM object says about persons in its pixels."""

from __future__ import annotations

from typing import Final

from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset

from data_connectors.deid import burned_in, faces
from data_connectors.items import PixelFacts

_LONG: Final = 0x00200032
"""ImagePositionPatient: whether it is there counts, not what it says."""
_TAGS: Final = tuple(
    tag
    for keyword in sorted({*burned_in.KEYWORDS, *faces.KEYWORDS})
    if (tag := tag_for_keyword(keyword)) is not None
)


class PixelJudge:
    """Judges the objects of a series; headers that say the same are judged once."""

    def __init__(self) -> None:
        self._said: tuple[object, ...] | None = None
        self._facts = PixelFacts()

    def __call__(self, dataset: Dataset) -> PixelFacts:
        """Risk of burned-in text and of a recognisable face.

        Raises:
            InputError: The header cannot be parsed.
        """
        said = tuple(_raw(dataset, tag) for tag in _TAGS)
        if said != self._said:
            self._facts = PixelFacts(burned_in.text_risk(dataset), faces.face_risk(dataset))
            self._said = said
        return self._facts


def pixel_facts(dataset: Dataset) -> PixelFacts:
    """Risk of burned-in text and of a recognisable face.

    Raises:
        InputError: The header cannot be parsed.
    """
    return PixelJudge()(dataset)


def _raw(dataset: Dataset, tag: int) -> object:
    """A value as it lies in the file, where it has not been converted yet."""
    if tag not in dataset:
        return None
    return True if tag == _LONG else dataset.get_item(tag).value
