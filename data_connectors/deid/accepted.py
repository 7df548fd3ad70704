"""Which kinds of object can be de-identified here: images; the rest is refused by name.

Documents, raw data, waveforms, audio, video streams, RT objects, measurements and what is not
known carry identity in places that no rule for images looks at.
"""

from __future__ import annotations

from typing import Final

from pydicom.dataset import Dataset
from pydicom.uid import UID

from data_connectors.deid.options import Options
from data_connectors.dicom.header import text, texts
from medvlp.errors import InputError

_STORAGE: Final = "1.2.840.10008.5.1.4.1.1."
_IMAGES: Final = frozenset(
    _STORAGE + end
    for end in (
        # radiography, mammography, intra-oral
        "1", "1.1", "1.1.1", "1.2", "1.2.1", "1.3", "1.3.1",
        "2", "2.1", "2.2", "4", "4.1", "4.3", "4.4", "128", "128.1", "130",  # CT, MR, PET
        "3", "3.1", "6", "6.1", "6.2", "6.3",  # ultrasound
        "5", "20",  # nuclear medicine
        "7", "7.1", "7.2", "7.3", "7.4",  # secondary capture
        # angiography, fluoroscopy, tomosynthesis
        "12.1", "12.1.1", "12.2", "12.2.1", "12.3", "13.1.1", "13.1.2", "13.1.3", "13.1.4",
        "13.1.5", "14.1", "14.2",  # intravascular OCT
        "30", "66.4", "66.7",  # parametric maps, segmentations
        # visible light, ophthalmology, slides
        "77.1.1", "77.1.2", "77.1.3", "77.1.4", "77.1.5.1", "77.1.5.2", "77.1.5.4", "77.1.5.5",
        "77.1.5.6", "77.1.5.7", "77.1.6", "77.1.7", "77.1.8", "77.1.9",
    )
)  # fmt: skip
_REPORTS: Final = frozenset(
    _STORAGE + f"88.{end}" for end in (11, 22, 33, 34, 35, 50, 59, 65, 67, 68, 69, 71, 72, 73, 76)
)
_PRESENTATIONS: Final = frozenset(_STORAGE + f"11.{end}" for end in (1, 2, 3, 4, 5, 8))
_DICOMDIR: Final = "1.2.840.10008.1.3.10"
_VIDEO: Final = "1.2.840.10008.1.2.4.10"
"""MPEG-2, MPEG-4 and HEVC streams: .100 to .108."""


def check_accepted(dataset: Dataset, options: Options) -> None:
    """Refuse what cannot be de-identified by these rules.

    Raises:
        InputError: `deid-unsupported` with the kind of object, `dicom-dicomdir` for an index,
            `deid-already` for an object of ours, `dicom-malformed` for one without class or
            instance.
    """
    kind = text(dataset, "SOPClassUID")
    if _DICOMDIR in (kind, str(dataset.file_meta.get("MediaStorageSOPClassUID", ""))):
        raise InputError("a DICOMDIR is an index", code="dicom-dicomdir",
                         next_step="nothing; its files are found without it")  # fmt: skip
    if not kind or not text(dataset, "SOPInstanceUID"):
        raise InputError("it has no SOP class or instance UID", code="dicom-malformed")
    if any("medvlp" in method for method in texts(dataset, "DeidentificationMethod")):
        raise InputError("it has been de-identified here before", code="deid-already",
                         next_step="nothing; give the original objects")  # fmt: skip
    if kind in _REPORTS and not options.clean_structured_content:
        raise _unsupported("a structured report", "set clean_structured_content to clean its texts")
    if kind in _PRESENTATIONS and not options.clean_graphics:
        raise _unsupported("a presentation state", "set clean_graphics to clean its annotations")
    if kind not in _IMAGES | _REPORTS | _PRESENTATIONS:
        raise _unsupported(_name(kind), "only images are de-identified, reports on request")
    syntax = str(getattr(dataset.file_meta, "TransferSyntaxUID", ""))
    if syntax.startswith(_VIDEO):
        raise _unsupported("an MPEG video stream", "its container may hold anything")
    if not UID(syntax).is_transfer_syntax or UID(syntax).is_private:
        raise _unsupported("a private transfer syntax", "convert it first")


def _unsupported(what: str, next_step: str) -> InputError:
    return InputError(f"{what} is not de-identified", code="deid-unsupported", next_step=next_step)


def _name(kind: str) -> str:
    uid = UID(kind)
    registered = uid.name != str(uid)
    return f"{uid.name} (SOP class)" if registered else "an object of unknown SOP class"
