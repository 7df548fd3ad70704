"""Which slices of a series can never share a grid, whatever their positions are."""

from __future__ import annotations

import itertools

import numpy as np

from data_connectors.dicom.header import Header, Plane
from data_connectors.dicom.regularity import ORIENTATION_TOLERANCE, SPACING_TOLERANCE

_MOST_CLUSTERS = 1000
"""Beyond this nobody splits any more; the rest counts as one."""
_OTHER_WAY = 0.17
"""Difference of direction cosines (10 degrees) above which a lone slice is another view."""
_CONTENTS = frozenset({
    "DERIVED", "M", "P", "R", "I", "MAGNITUDE", "PHASE", "PHASE MAP", "REAL", "IMAGINARY", "ADC",
    "FA", "MIP", "MINIP", "MPR", "MAX_IP", "MIN_IP", "PROJECTION IMAGE", "CSA MIP", "CSA MPR",
    "SUBTRACT", "SUBTRACTION", "WATER", "FAT", "IN_PHASE", "OPP_PHASE", "OUT_PHASE", "LOCALIZER",
    "TRACEW", "CALC_BVALUE", "CBF", "CBV", "MTT", "TTP",
})  # fmt: skip
"""Values of ImageType with which the pixels mean something else."""


Parts = list[tuple[str, list[Header]]]
"""Label and members of each part of a partition."""


def content(header: Header) -> frozenset[str]:
    """What ImageType says about the meaning of the pixels."""
    return _CONTENTS & frozenset(header.image_type)


def by_kind(members: list[Header]) -> Parts:
    """Slices by what can never share a grid."""
    ways = _clusters([_cosines(member.plane) for member in members], ORIENTATION_TOLERANCE)
    sizes = _clusters([_log_spacing(member.plane) for member in members], SPACING_TOLERANCE)
    facts = [
        {
            "FrameOfReferenceUID": member.frame_of_reference,
            "ImageOrientationPatient": way,
            "PixelSpacing": size,
            "Rows and Columns": (member.rows, member.columns),
            "ImageType": sorted(content(member)),
        }
        for member, way, size in zip(members, ways, sizes, strict=True)
    ]
    varied = [name for name in facts[0] if len({str(fact[name]) for fact in facts}) > 1]
    groups: dict[str, list[Header]] = {}
    for member, fact in zip(members, facts, strict=True):
        groups.setdefault(repr([fact[name] for name in varied]), []).append(member)
    return labelled(" and ".join(varied), groups)


def _clusters(values: list[tuple[float, ...] | None], tolerance: float) -> list[int]:
    """A number for each value: equal for values within a tolerance; -1 for None."""
    distinct = sorted({value for value in values if value is not None})
    points = np.array(distinct)
    found: dict[tuple[float, ...], int] = {}
    rest = np.arange(len(distinct))
    for number in itertools.count():
        if not len(rest):
            break
        if number == _MOST_CLUSTERS:
            found.update((distinct[index], number) for index in rest)
            break
        near = np.abs(points[rest] - points[rest[0]]).max(axis=1) <= tolerance
        found.update((distinct[index], number) for index in rest[near])
        rest = rest[~near]
    return [-1 if value is None else found[value] for value in values]


def _cosines(plane: Plane | None) -> tuple[float, ...] | None:
    return None if plane is None else (*plane.along_row, *plane.along_column)


def _log_spacing(plane: Plane | None) -> tuple[float, ...] | None:
    return None if plane is None else tuple(float(np.log(value)) for value in plane.spacing)


def another_view(one: Header, other: Header) -> bool:
    """Whether two slices could never have been neighbours: another view, or other pixels."""
    if content(one) != content(other):
        return True
    a, b = _cosines(one.plane), _cosines(other.plane)
    if a is None or b is None:
        return False
    return bool(np.abs(np.subtract(a, b)).max() > _OTHER_WAY)


def labelled(name: str, groups: dict[str, list[Header]]) -> Parts:
    """Parts in the order of their values."""

    def rank(value: str) -> tuple[float, str]:
        try:
            return float(value), value
        except ValueError:
            return float("inf"), value

    ordered = sorted(groups, key=rank)
    label = name if len(groups) > 1 else ""
    return [
        (f"{label} {place + 1} of {len(ordered)}" if label else "", groups[value])
        for place, value in enumerate(ordered)
    ]
