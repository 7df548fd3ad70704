"""The places of a series: one slice each, whose copies in the archive share it. Headers only."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from pydicom.dataset import Dataset

from data_connectors.deid.facts import PixelJudge
from data_connectors.dicom.decode import Frames, check_pixels, frames_of
from data_connectors.dicom.header import Header, guarded, number, parse_header, read_dataset
from data_connectors.dicom.identity import patient_of
from data_connectors.dicom.quiet import quiet
from data_connectors.dicom.source import DicomSource
from data_connectors.dicom.suv import SUV_WINDOW, PetFacts, pet_facts, suv_factors
from data_connectors.dicom.values import Meaning, meaning_of
from data_connectors.files import fetch, refuse
from data_connectors.items import PixelFacts, Refused
from medvlp.errors import InputError

DEFAULT_THICKNESS_MM = 1.0
"""Depth of a lone slice whose header gives none."""


@dataclass(slots=True)
class Slot:
    """One place in the series: usually one file, more if the archive sent copies."""

    header: Header
    meaning: Meaning
    thickness: float
    pixels: PixelFacts
    pet: PetFacts | None = None
    """What a PET slice says about uptake."""
    suv_factor: float | None = None
    """What its rescaled values are multiplied with, where they become uptake values."""
    names: list[str] = field(default_factory=list)
    frames: dict[str, tuple[Frames, Meaning]] = field(default_factory=dict)
    """Where the pixels of a name are, and what they mean, if they can be reached without opening
    the object again."""

    @property
    def label(self) -> str:
        """What viewers call it."""
        number = self.header.number
        return "no instance number" if number is None else f"instance {number}"


class Slots(NamedTuple):
    """What the files of a series stand for."""

    slots: list[Slot]
    """One a place, in a stable order."""
    refused: list[Refused]
    places: int
    """How many places the files stand for, broken ones included."""


def read_slots(source: DicomSource, names: tuple[str, ...]) -> Slots:
    """The places of a series; files that cannot be used are refused."""
    slots: dict[object, Slot] = {}
    places: set[object] = set()
    refused = []
    judge = PixelJudge()
    with quiet():
        for name, handle in fetch(source.path, names):
            place: object = name
            try:
                dataset = read_dataset(handle)
                header = guarded(partial(parse_header, dataset, name))
                if header.sop_uid and header.plane:
                    place = (header.sop_uid, header.plane)
                slot = _slot(dataset, header, source, judge(dataset))
                frames = frames_of(dataset)
                kept = slots.setdefault(place, slot)
                kept.names.append(name)
                if frames.direct and isinstance(handle, Path):
                    kept.frames[name] = (frames, slot.meaning)
            except InputError as error:
                refused.append(refuse(error, (name,)))
            places.add(place)
    for slot in slots.values():
        slot.names.sort()
    return Slots(sorted(slots.values(), key=lambda slot: slot.names), refused, len(places))


def in_order(slots: list[Slot]) -> list[Slot]:
    """Slots along the normal of most of them, as far as they have a place; the rest last.

    This is how refusals number the slices, and the order in which a refusal lists its files.
    """
    planes = [slot.header.plane for slot in slots if slot.header.plane is not None]
    ways = Counter((plane.along_row, plane.along_column) for plane in planes)
    if not ways:
        return slots
    row, column = min(ways, key=lambda way: (-ways[way], way))
    normal = np.cross(row, column)

    def place(slot: Slot) -> tuple[bool, float, list[str]]:
        plane = slot.header.plane
        along = 0.0 if plane is None else float(normal @ np.array(plane.origin))
        return plane is None, along, slot.names

    return sorted(slots, key=place)


def _slot(dataset: Dataset, header: Header, source: DicomSource, pixels: PixelFacts) -> Slot:
    check_pixels(dataset, max_bytes=source.max_bytes, max_frames=source.max_frames)
    patient_of(dataset, allow_missing_patient=source.allow_missing_patient)
    return Slot(
        header=header,
        meaning=meaning_of(dataset),
        pet=pet_facts(dataset) if header.modality == "PT" and source.pet != "stored" else None,
        thickness=abs(number(dataset, "SliceThickness") or DEFAULT_THICKNESS_MM),
        pixels=pixels,
    )


def convert_uptake(source: DicomSource, slots: list[Slot]) -> None:
    """Let the slices of a PET series mean standardised uptake values, if its header allows it.

    Raises:
        InputError: It does not, and the source wants nothing else (`pet-no-suv`).
    """
    facts = [slot.pet for slot in slots if slot.pet is not None]
    if not facts or len(facts) < len(slots):
        return
    try:
        factors = suv_factors(facts)
    except InputError:
        if source.pet == "suv-only":
            raise
        return
    for slot, factor in zip(slots, factors, strict=True):
        slot.suv_factor = factor
        slot.meaning = in_uptake(slot.meaning, factor)


def in_uptake(meaning: Meaning, factor: float | None) -> Meaning:
    """The same slice in standardised uptake values."""
    return meaning if factor is None else meaning.times(factor, "SUV", SUV_WINDOW)
