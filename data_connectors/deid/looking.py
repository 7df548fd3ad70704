"""Whole objects before the gate that judges the pixels of an ingest.

The same policy, the same review list, the same digests of pixels: a decision holds in both.
"""

from __future__ import annotations

from pydicom.dataset import Dataset

from data_connectors.deid.facts import pixel_facts
from data_connectors.deid.gate import ACCEPTED, FACE, Gate
from data_connectors.dicom.cine import read_cine
from data_connectors.dicom.decode import check_pixels
from data_connectors.dicom.header import text, whole
from data_connectors.dicom.image import read_image
from data_connectors.items import Identity, Refused, VisualItem
from medvlp.errors import InputError

_JPEG_QUALITY = 95
_MOST_FRAMES = 8_000


class Waits(InputError):
    """Pixels that a person has to look at, or has rejected."""

    def __init__(self, refused: Refused) -> None:
        super().__init__(refused.reason, code=refused.code, next_step=refused.next_step)
        self.pixels = refused.pixels


def look_at(dataset: Dataset, gate: Gate, *, max_bytes: int) -> tuple[str, ...]:
    """Judge the pixels of one object, before anything is taken out of its header.

    Args:
        dataset: As it came.
        gate: The policy.
        max_bytes: Most bytes of the decoded pixels.

    Returns:
        Flags of what is known about persons in the pixels.

    Raises:
        Waits: They may show text and nobody has looked, or somebody has and rejected them.
        InputError: They cannot be decoded, or show a face and the policy refuses faces.
    """
    facts = pixel_facts(dataset)
    flags: tuple[str, ...] = ()
    if facts.face and gate.policy.faces == "refuse":
        raise InputError(
            "a face could be made from the series", code="face-visible",
            next_step="deface it with a tool of your own, or set faces: flag",
        )  # fmt: skip
    if facts.face and gate.policy.faces == "flag":
        flags = (FACE,)
    pictures = "Rows" in dataset
    if not pictures or not (facts.text or gate.policy.burned_in == "ocr-all"):
        return flags
    if gate.policy.burned_in == "accept":
        return (*flags, ACCEPTED)
    check_pixels(dataset, max_bytes=max_bytes, max_frames=_MOST_FRAMES)
    moving = whole(dataset, "NumberOfFrames") > 1
    stored = read_cine(dataset, quality=_JPEG_QUALITY) if moving else read_image(dataset)
    item = VisualItem(
        identity=Identity(patient=""), kind="clip" if moving else "image",
        modality=text(dataset, "Modality") or "OT", payload=stored.payload,
        geometry=stored.geometry, inputs=(), digest=stored.digest, pixels=facts,
    )  # fmt: skip
    judged = gate.judge(item, "dicom", None)
    if isinstance(judged, Refused):
        raise Waits(judged)
    return (*flags, *judged.flags)
