"""Enhanced multi-frame objects: one file, many planes, one or several volumes (PS3.3 C.7.6.16).

Frames are grouped by stack, then split like the slices of a series: by what can never share a
grid, and by what tells passes apart.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from pydicom.dataset import Dataset

from data_connectors.deid.facts import pixel_facts
from data_connectors.dicom.decode import stored_frame
from data_connectors.dicom.functional_groups import Frame, dimension_names, frames_of
from data_connectors.dicom.geometry import Grid, canonical, single
from data_connectors.dicom.header import guarded, parse_header
from data_connectors.dicom.identity import identity_of
from data_connectors.dicom.passes import PASS_NAMES
from data_connectors.dicom.series import LoadedSeries, assembled
from data_connectors.dicom.source import DicomSource
from data_connectors.dicom.splitting import Leaf, split_series
from data_connectors.dicom.stacking import begin, check_size, finish, grid_of
from data_connectors.dicom.volume import Stored
from data_connectors.files import refuse
from data_connectors.items import Refused
from medvlp.errors import GeometryError, InputError
from medvlp.types import Kind


def load_enhanced(
    source: DicomSource, dataset: Dataset, name: str
) -> Iterator[LoadedSeries | Refused]:
    """The volumes of one object; a single frame that is no axial CT is an image.

    Args:
        source: The limits and tolerances that hold.
        dataset: A whole object that passed `check_pixels`.
        name: Its file, relative to the source's path.

    Yields:
        One series a pass and stack; a stack that forms no grid is refused by its frame numbers.

    Raises:
        InputError: Nothing can be known about the frames.
    """
    frames = guarded(lambda: frames_of(dataset, name))
    by_number = {frame.header.name: frame for frame in frames}
    names = (*PASS_NAMES, *guarded(lambda: dimension_names(dataset)))
    check_size(source, len(frames), frames[0].header.rows, frames[0].header.columns)
    for label, stack in _stacks(frames):
        leaves = split_series(
            [frame.header for frame in stack],
            tolerance_mm=source.spacing_tolerance_mm,
            keep_irregular=source.irregular == "keep",
            names=names,
        ) or [Leaf(tuple(frame.header for frame in stack))]
        for leaf in leaves:
            part = ", ".join(word for word in (label, leaf.part) if word)
            members = [by_number[header.name] for header in leaf.members]
            try:
                yield _load(source, dataset, members, part, name)
            except InputError as error:
                found = refuse(error, (name,))
                yield replace(found, reason=f"{part}: {found.reason}") if part else found


def read_enhanced(source: DicomSource, dataset: Dataset) -> Iterator[tuple[Kind, Stored] | Refused]:
    """What `load_enhanced` gives, as it goes into the dataset; refusals name no file."""
    for loaded in load_enhanced(source, dataset, ""):
        if isinstance(loaded, Refused):
            yield loaded
        else:
            visual = assembled(loaded)
            yield visual.kind, visual.stored


def _stacks(frames: list[Frame]) -> list[tuple[str, list[Frame]]]:
    """Frames by StackID, which says itself what belongs together; ignored where it numbers them."""
    stacks: dict[str, list[Frame]] = {}
    for frame in frames:
        stacks.setdefault(frame.stack, []).append(frame)
    if len(stacks) == 1 or min(len(stack) for stack in stacks.values()) == 1:
        return [("", frames)]
    return [
        (f"StackID {place + 1} of {len(stacks)}", stack)
        for place, (_, stack) in enumerate(sorted(stacks.items()))
    ]


def _load(
    source: DicomSource, dataset: Dataset, members: list[Frame], part: str, name: str
) -> LoadedSeries:
    """The volume of the frames of one pass.

    Raises:
        InputError: They form no grid, or cannot be decoded.
    """
    units = {frame.meaning.unit for frame in members}
    if len(units) > 1:
        raise GeometryError("the frames have several units", code="series-mixed-unit")
    unit = units.pop()
    grid, kind = _grid(source, members)
    ordered = [members[index] for index in grid.order]
    first = ordered[0].header
    shape = (len(ordered), first.rows, first.columns)
    builder = begin(source, grid, shape, image=kind == "image")
    for place, frame in enumerate(ordered):
        builder.put(place, _values(dataset, frame))
    window = ordered[len(ordered) // 2].meaning.window
    stacked = finish(source, builder, grid, unit, window)
    return LoadedSeries(
        volume=stacked.volume,
        kind=kind,
        header=replace(parse_header(dataset, name), plane=first.plane),
        identity=identity_of(dataset, allow_missing_patient=source.allow_missing_patient),
        names=(name,) * len(ordered),
        frames=tuple(int(frame.header.name) - 1 for frame in ordered),
        frame=stacked.frame,
        resampled=stacked.resampled,
        part=part,
        pixels=pixel_facts(dataset),
    )


def _grid(source: DicomSource, members: list[Frame]) -> tuple[Grid, Kind]:
    planes = [frame.header.plane for frame in members]
    if len(members) > 1:
        return grid_of(source, planes, [f"frame {f.header.name}" for f in members]), "volume"
    [frame], [plane] = members, planes
    if plane is None:
        return Grid((0,), np.eye(4)), "image"
    grid = single(plane, frame.thickness)
    axial = canonical(grid.affine, (1, frame.header.rows, frame.header.columns)).axes[0] == 0
    return grid, "volume" if axial and frame.meaning.unit == "HU" else "image"


def _values(dataset: Dataset, frame: Frame) -> np.ndarray:
    stored = stored_frame(dataset, int(frame.header.name) - 1)
    if stored.ndim != 2:
        raise InputError("a slice is in colour", code="series-mixed-colour")
    return frame.meaning.apply(stored)
