"""One DICOM object in, its de-identified bytes out; or a refusal, and nothing written.

The bytes are searched for everything that was taken out before they leave this module
(`residual.py`): only what passes carries `PatientIdentityRemoved = YES`, because nothing else is
ever given away.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any, Final

from pydicom import config as pydicom_config
from pydicom import dcmwrite
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.sr.codedict import codes
from pydicom.uid import UID, ExplicitVRLittleEndian

from data_connectors.deid.accepted import check_accepted
from data_connectors.deid.clean import Cleaner
from data_connectors.deid.elements import Engine, Person, leaves, sift
from data_connectors.deid.frames import clean_pixels
from data_connectors.deid.gate import CLEARED, REVIEWED
from data_connectors.deid.options import DeidentifyConfig, Options
from data_connectors.deid.pseudonyms import Pseudonyms
from data_connectors.deid.residual import Residual
from data_connectors.dicom.header import guarded, read_object, text
from data_connectors.dicom.identity import identity_of
from data_connectors.files import Handle
from data_connectors.ingest.reading import in_domain
from medvlp import __version__
from medvlp.errors import InputError

IMPLEMENTATION_UID: Final = UID("2.25.188316520394327512871936071297428154703")
_MARK: Final = f"medvlp {__version__}: PS3.15 Annex E"
_ROUNDS: Final = 3
"""How often an element with something left in it is removed and the rest searched again."""
Look = Callable[[Dataset], tuple[str, ...]]
_PIXELS: Final = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")


@dataclass(frozen=True, slots=True)
class Cleared:
    """A de-identified object, and names for its folders and file that hold no identifier."""

    data: bytes
    patient: str
    study: str
    series: str
    instance: str
    counts: dict[str, int] = field(default_factory=dict)
    """Elements removed and replaced."""
    flags: tuple[str, ...] = ()
    """What is known about persons in the pixels, as in `gate.py`."""


def deidentify_object(
    handle: Handle, config: DeidentifyConfig, names: Pseudonyms, *, look: Look | None = None
) -> Cleared:
    """De-identify one DICOM file.

    Args:
        handle: The file.
        config: What may stay.
        names: The project's key.
        look: Judges the pixels and says with which flags they pass; None: nobody looks.

    Raises:
        InputError: It is no DICOM file, not of an accepted kind, has no patient, or something of
            what was taken out is still in it (`deid-residual`).
    """
    dataset = read_object(handle, max_bytes=config.max_bytes)
    return guarded(lambda: _deidentify(dataset, config, names, look))


def _deidentify(
    dataset: Dataset, config: DeidentifyConfig, names: Pseudonyms, look: Look | None
) -> Cleared:
    check_accepted(dataset, config)
    flags = look(dataset) if look is not None else ()
    removed: list[tuple[str, Any]] = list(_meta_values(dataset))
    sift(dataset, removed)
    identity = in_domain(
        identity_of(dataset, allow_missing_patient=config.allow_missing_patient), config.domain
    )
    # Never the UIDs as they came, not even with retain_uids: they may be no UIDs but paths.
    study, series, instance = (
        names.uid(uid) if (uid := text(dataset, f"{level}InstanceUID")) else "none"
        for level in ("Study", "Series", "SOP")
    )
    person = Person(
        names.patient(identity.patient),
        names.shift_days(identity.patient, config.max_shift_days),
        Cleaner((*identity.phi, *_more(dataset)), config.words),
    )
    engine = Engine(config, names, person, removed)
    clean_pixels(dataset)
    engine.apply(dataset)
    _mark(dataset, config, person, looked_at=bool({REVIEWED, CLEARED} & set(flags)))
    data = _checked(dataset, engine)
    counts = dict(sorted(engine.counts.items()))
    return Cleared(data, person.pseudonym, study, series, instance, counts, flags)


def _more(dataset: Dataset) -> Iterator[str]:
    """The days that the object names, which descriptions repeat."""
    for element in dataset.iterall():
        if element.VR in ("DA", "DT"):
            for _, value in leaves(element):
                yield str(value)[:8]


def _meta_values(dataset: Dataset) -> Iterator[tuple[str, Any]]:
    """What the file meta information says beyond classes: titles, versions, private data."""
    for element in dataset.file_meta:
        if element.VR != "UI":
            yield from leaves(element)


def _mark(dataset: Dataset, options: Options, person: Person, *, looked_at: bool) -> None:
    """Say what was done (PS3.15 E.1.1; codes of CID 7050), and new file meta information."""
    dataset.PatientID = dataset.PatientName = person.pseudonym
    dataset.PatientIdentityRemoved = "YES"
    dataset.DeidentificationMethod = _MARK
    done = codes.cid7050
    concepts = [done.BasicApplicationConfidentialityProfile]
    if looked_at:
        dataset.BurnedInAnnotation = "NO"
    chosen = (
        (looked_at, done.CleanPixelDataOption),
        (options.clean_graphics, done.CleanGraphicsOption),
        (options.clean_structured_content, done.CleanStructuredContentOption),
        (options.clean_descriptors, done.CleanDescriptorsOption),
        (options.dates == "keep",
         done.RetainLongitudinalTemporalInformationFullDatesOption),
        (options.dates == "shift",
         done.RetainLongitudinalTemporalInformationModifiedDatesOption),
        (options.retain_patient_characteristics, done.RetainPatientCharacteristicsOption),
        (options.retain_device, done.RetainDeviceIdentityOption),
        (options.retain_uids, done.RetainUidsOption),
        (options.keeps_private, done.RetainSafePrivateOption),
        (options.retain_institution, done.RetainInstitutionIdentityOption),
    )  # fmt: skip
    concepts += [concept for on, concept in chosen if on]
    items = []
    for concept in concepts:
        item = Dataset()
        item.CodeValue, item.CodingSchemeDesignator = concept.value, concept.scheme_designator
        item.CodeMeaning = concept.meaning
        items.append(item)
    dataset.DeidentificationMethodCodeSequence = DicomSequence(items)
    dataset.LongitudinalTemporalInformationModified = {
        "remove": "REMOVED", "shift": "MODIFIED", "keep": "UNMODIFIED",
    }[options.dates]  # fmt: skip
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    meta.TransferSyntaxUID = dataset.file_meta.TransferSyntaxUID
    meta.ImplementationClassUID = IMPLEMENTATION_UID
    meta.ImplementationVersionName = f"MEDVLP_{__version__}"[:16]
    dataset.file_meta = meta
    dataset.preamble = bytes(128)


def _checked(dataset: Dataset, engine: Engine) -> bytes:
    """The bytes, once nothing that was taken out is found in them.

    Raises:
        InputError: Something stays, whatever is removed (`deid-residual`).
    """
    residual = Residual(engine.removed, engine.written)
    for _ in range(_ROUNDS):
        data = _bytes(dataset)
        if not _found(residual, data, dataset):
            return data
        if not _remove_offenders(residual, dataset, engine):
            break
    raise InputError(
        "something that was taken out is still in the object", code="deid-residual",
        next_step="look at it by hand; it was not written",
    )  # fmt: skip


def _bytes(dataset: Dataset) -> bytes:
    before = pydicom_config.settings.writing_validation_mode
    pydicom_config.settings.writing_validation_mode = pydicom_config.IGNORE
    try:
        buffer = BytesIO()
        dcmwrite(buffer, dataset, enforce_file_format=True)
        return buffer.getvalue()
    finally:
        pydicom_config.settings.writing_validation_mode = before


def _found(residual: Residual, data: bytes, dataset: Dataset) -> bool:
    """Search the header for every form, the pixels for the long ones."""
    if dataset.file_meta.TransferSyntaxUID.is_deflated:
        plain = FileMetaDataset()
        plain.update(dataset.file_meta)
        plain.TransferSyntaxUID = ExplicitVRLittleEndian
        packed, dataset.file_meta = dataset.file_meta, plain
        data = _bytes(dataset)
        dataset.file_meta = packed
    for keyword in _PIXELS:
        pixels = dataset[keyword].value if keyword in dataset else None
        if isinstance(pixels, bytes) and pixels:
            if residual.finds(pixels, pixels=True):
                return True
            data = data.replace(pixels, b"", 1)
    return residual.finds(data)


def _remove_offenders(residual: Residual, dataset: Dataset, engine: Engine) -> bool:
    """Remove each element with something left in it, wherever it is nested."""
    found = False
    for tag in list(dataset.keys()):
        element = dataset[tag]
        if element.VR == "SQ":
            for item in element.value or ():
                found |= _remove_offenders(residual, item, engine)
            continue
        for _, value in leaves(element):
            data = value if isinstance(value, bytes) else str(value).encode("utf-8", "replace")
            if residual.finds(data, pixels=element.keyword in _PIXELS):
                if element.keyword in _PIXELS:
                    return False
                del dataset[tag]
                engine.counts["residual"] = engine.counts.get("residual", 0) + 1
                found = True
                break
    return found
