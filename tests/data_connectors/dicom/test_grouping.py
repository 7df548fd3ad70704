"""What becomes of a series: one group, named parts, or the whole, to be refused."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset

from data_connectors.dicom.grouping import group_series
from data_connectors.dicom.header import Header, Plane
from data_connectors.dicom.passes import PASS_NAMES, pass_values
from data_connectors.dicom.source import DicomReading

CORONAL = {"along_row": (1.0, 0.0, 0.0), "along_column": (0.0, 0.0, -1.0)}


def slice_at(z: float, **changes: Any) -> Header:
    """An axial slice; a change that is no field of `Header` is a value that tells passes apart."""
    known = {key: value for key, value in changes.items() if key in Header.__dataclass_fields__}
    told = {key: str(value) for key, value in changes.items() if key not in known}
    assert set(told) <= set(PASS_NAMES)
    plane = Plane((0.0, 0.0, z), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.8, 0.6))
    facts: dict[str, Any] = {
        "name": "", "sop_class": "1.2.840.10008.5.1.4.1.1.4", "sop_uid": "", "series": "2.25.3",
        "study": "2.25.2", "patient": "P", "modality": "MR",
        "image_type": ("ORIGINAL", "PRIMARY"), "rows": 4, "columns": 5, "frames": 1, "samples": 1,
        "bits": 16, "plane": plane, "frame_of_reference": "2.25.4",
        "passes": tuple(told.get(name, "") for name in PASS_NAMES), **known,
    }  # fmt: skip
    return Header(**facts)


def parts_of(slices: list[Header], **reading: Any) -> list[tuple[str, list[int]]]:
    """Part and the places in the list of each group."""
    named = [
        replace(header, name=f"{k:03d}", sop_uid=header.sop_uid or f"2.25.9{k}")
        for k, header in enumerate(slices)
    ]
    return [
        (group.part, [int(header.name) for header in group.members])
        for group in group_series(named, DicomReading(**reading))
    ]


def halves(count: int, what: str) -> list[tuple[str, list[int]]]:
    """Two parts of so many slices, the first half and the second half of the list."""
    return [
        (f"{what} 1 of 2", list(range(count))),
        (f"{what} 2 of 2", list(range(count, 2 * count))),
    ]


def test_one_stack_stays_whole_whatever_varies_along_it() -> None:
    slices = [
        slice_at(2.0 * k, AcquisitionNumber=k // 4, ContentTime=100000 + k, ImageType=str(k // 6))
        for k in range(12)
    ]
    assert parts_of(slices) == [("", list(range(12)))]


@pytest.mark.parametrize(
    "name", [name for name in PASS_NAMES if name not in ("ContentTime", "AcquisitionTime")]
)
def test_passes_over_the_same_places_are_told_apart(name: str) -> None:
    slices = [slice_at(2.0 * (k % 5), **{name: 10 + 5 * (k // 5)}) for k in range(10)]
    assert parts_of(slices) == halves(5, name)


def test_two_slices_that_two_echoes_visit_are_two_volumes() -> None:
    slices = [slice_at(2.0 * (k % 2), EchoTime=10 + k // 2) for k in range(4)]
    assert parts_of(slices) == halves(2, "EchoTime")


def test_attributes_are_combined() -> None:
    """Two b-values, three directions, one repeat that only the time tells."""
    slices = [
        slice_at(
            2.0 * place,
            DiffusionBValue=1000 * b,
            DiffusionGradientOrientation=str(direction),
            AcquisitionTime=100000 + 100 * repeat + 10 * direction + place,
        )
        for b in range(2)
        for direction in range(3)
        for repeat in range(2)
        for place in range(4)
    ]
    groups = parts_of(slices)
    assert sorted(members for _, members in groups) == [
        list(range(4 * k, 4 * k + 4)) for k in range(12)
    ]
    assert groups[0][0] == (
        "DiffusionBValue 1 of 2, DiffusionGradientOrientation 1 of 3, AcquisitionTime 1 of 2"
    )


def test_cardiac_phases_are_ranks_of_the_trigger_time() -> None:
    """Cycles of different length at each slice: the times of two phases overlap."""
    slices = [
        slice_at(8.0 * place, TriggerTime=phase * (20 + 3 * place))
        for place in range(5)
        for phase in range(12)
    ]
    groups = parts_of(slices)
    assert [part for part, _ in groups] == [f"TriggerTime {k + 1} of 12" for k in range(12)]
    assert groups[3][1] == [12 * place + 3 for place in range(5)]


def test_sweeps_are_ranks_of_the_acquisition_time_unless_they_overlap() -> None:
    def sweeps(pause: int) -> list[Header]:
        return [
            slice_at(5.0 * place, AcquisitionTime=100000 + sweep * pause + place)
            for sweep in range(3)
            for place in range(6)
        ]

    assert [part for part, _ in parts_of(sweeps(10))] == [
        f"AcquisitionTime {k} of 3" for k in (1, 2, 3)
    ]
    assert parts_of(sweeps(3)) == [("", list(range(18)))]


def test_magnitude_and_phase_are_volumes_of_their_own() -> None:
    slices = [slice_at(2.0 * (k // 2), image_type=("ORIGINAL", "MP"[k % 2])) for k in range(12)]
    assert parts_of(slices) == [
        ("ImageType 1 of 2", list(range(0, 12, 2))),
        ("ImageType 2 of 2", list(range(1, 12, 2))),
    ]


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"frame_of_reference": "2.25.5"}, "FrameOfReferenceUID"),
        ({"rows": 8}, "Rows and Columns"),
        ({"image_type": ("DERIVED", "SECONDARY", "MPR")}, "ImageType"),
    ],
)
def test_what_never_shares_a_grid_is_split_if_each_part_is_a_stack(
    change: dict[str, Any], what: str
) -> None:
    def series(count: int) -> list[Header]:
        return [slice_at(2.0 * k) for k in range(count)] + [
            slice_at(2.0 * k, **change) for k in range(count)
        ]

    assert {frozenset(members) for _, members in parts_of(series(3))} == {
        frozenset(members) for _, members in halves(3, what)
    }
    assert all(part.startswith(what) for part, _ in parts_of(series(3)))
    assert parts_of(series(2)) == [("", list(range(4)))], "two slices prove nothing"
    broken = series(5)
    del broken[7]
    assert parts_of(broken) == [("", list(range(9)))], "one part has a gap"


def test_three_plane_localiser_and_scout() -> None:
    def coronal(y: float, **changes: Any) -> Header:
        return slice_at(0.0, plane=Plane((0.0, y, 0.0), spacing=(0.8, 0.6), **CORONAL), **changes)

    stacks = [slice_at(10.0 * k) for k in range(3)] + [coronal(10.0 * k) for k in range(3)]
    assert len(parts_of(stacks)) == 2
    scout = [slice_at(2.0 * k) for k in range(6)] + [coronal(0.0)]
    assert sorted(members for _, members in parts_of(scout)) == [list(range(6)), [6]]
    views = [slice_at(0.0), coronal(0.0)]
    assert sorted(members for _, members in parts_of(views)) == [[0], [1]]


@pytest.mark.parametrize(
    "odd",
    [
        {"frame_of_reference": "2.25.5"},
        {"rows": 8},
        {"plane": None},
        {"plane": Plane((0.0, 0, 12), (1.0, 0, 0), (0.0, 0.99, 0.141), (0.8, 0.6))},
        {"plane": Plane((0.0, 0, 12), (1.0, 0, 0), (0.0, 1.0, 0.0), (0.9, 0.6))},
    ],
)
def test_a_lone_odd_slice_at_the_end_is_not_split_off(odd: dict[str, Any]) -> None:
    """It may be the stack's own last slice, so the series must be refused as a whole."""
    assert parts_of([slice_at(2.0 * k) for k in range(6)] + [slice_at(12.0, **odd)]) == [
        ("", list(range(7)))
    ]


def test_a_projection_in_the_series_stands_alone() -> None:
    slices = [slice_at(2.0 * k) for k in range(6)]
    mip = slice_at(12.0, image_type=("DERIVED", "SECONDARY", "MIP"))
    assert sorted(members for _, members in parts_of([*slices, mip])) == [list(range(6)), [6]]


class TestGapsAreNeverSplitAway:
    def test_between_two_acquisitions(self) -> None:
        slices = [slice_at(2.0 * k, AcquisitionNumber=k // 5) for k in range(10)]
        for lost in range(1, 9):
            left = slices[:lost] + slices[lost + 1 :]
            assert parts_of(left) == [("", list(range(9)))]

    def test_within_interleaved_acquisitions(self) -> None:
        slices = [slice_at(2.0 * k, AcquisitionNumber=k % 2) for k in range(10)]
        for lost in range(1, 9):
            left = slices[:lost] + slices[lost + 1 :]
            assert parts_of(left) == [("", list(range(9)))]

    def test_between_a_thin_and_a_thick_stack(self) -> None:
        heights = [4.0 * k for k in range(6)] + [26.0 + 8 * k for k in range(6)]  # contiguous
        slices = [slice_at(z, SliceThickness=4 if z < 21 else 8) for z in heights]
        assert [part for part, _ in parts_of(slices)] == [
            "SliceThickness 1 of 2", "SliceThickness 2 of 2",
        ]  # fmt: skip
        for lost in range(1, 11):
            left = slices[:lost] + slices[lost + 1 :]
            assert parts_of(left) == [("", list(range(11)))]
        assert parts_of(slices, irregular="keep") == [("", list(range(12)))]


def test_echoes_at_interleaved_places_do_not_become_one_uneven_stack() -> None:
    slices = [slice_at(4.0 * (k // 2) + 1.6 * (k % 2), EchoTime=10 + k % 2) for k in range(12)]
    for irregular in ("refuse", "keep"):
        assert [part for part, _ in parts_of(slices, irregular=irregular)] == [
            "EchoTime 1 of 2", "EchoTime 2 of 2",
        ]  # fmt: skip


def test_copies_stay_with_their_instance_and_conflicts_stop_any_split() -> None:
    echoes = [slice_at(2.0 * (k % 3), EchoTime=1 + k // 3, sop_uid=f"2.25.{k}") for k in range(6)]
    assert parts_of([*echoes, echoes[4]])[1] == ("EchoTime 2 of 2", [3, 4, 5, 6])
    other = replace(echoes[4], plane=slice_at(9.0).plane)
    assert parts_of([*echoes, other]) == [("", list(range(7)))]


@pytest.mark.parametrize("fact", ["patient", "study"])
def test_series_of_several_patients_or_studies_is_never_split(fact: str) -> None:
    slices = [slice_at(2.0 * (k % 3), EchoTime=1 + k // 3) for k in range(6)]
    slices[3:] = [replace(header, **{fact: "another"}) for header in slices[3:]]
    assert parts_of(slices) == [("", list(range(6)))]


def test_series_and_classes_are_apart_and_slices_without_series_alone() -> None:
    slices = [
        slice_at(0.0),
        slice_at(2.0),
        slice_at(4.0, sop_class="1.2"),
        slice_at(6.0, series=""),
    ]
    assert sorted(members for _, members in parts_of(slices)) == [[0, 1], [2], [3]]


@pytest.mark.slow
def test_series_that_nothing_explains_are_given_up_in_bounded_time() -> None:
    """Thousands of views, or every attribute at odds with the positions."""
    angles = np.arange(600) * 0.02
    radial = [
        slice_at(0.0, plane=Plane((0.0, 0, 0), (float(np.cos(a)), float(np.sin(a)), 0.0),
                                  (0.0, 0.0, 1.0), (0.8, 0.6)))
        for a in angles
    ]  # fmt: skip
    rng = np.random.default_rng(0)
    odd = [
        slice_at(float(rng.integers(50)), **{name: rng.integers(4) for name in PASS_NAMES})
        for _ in range(200)
    ]
    started = time.process_time()
    assert len(parts_of(radial)) == len(parts_of(odd)) == 1
    assert time.process_time() - started < 20


@settings(deadline=None, max_examples=40)
@given(order=st.permutations(range(24)))
def test_order_and_names_decide_nothing(order: list[int]) -> None:
    slices = [
        slice_at(2.0 * (k % 4), EchoTime=k // 12, TriggerTime=k // 4 % 3 * 30) for k in range(24)
    ]
    found = {
        (part, frozenset(order[k] for k in members))
        for part, members in parts_of([slices[k] for k in order])
    }
    assert found == {(part, frozenset(members)) for part, members in parts_of(slices)}


class TestPassValues:
    @staticmethod
    def value(name: str, fill: Callable[[Dataset], None]) -> str:
        dataset = Dataset()
        fill(dataset)
        return pass_values(dataset)[PASS_NAMES.index(name)]

    def test_numbers_are_compared_as_numbers(self) -> None:
        for written in ("80", "80.0", "80.0000012", " 80 "):
            assert self.value("EchoTime", lambda d, w=written: setattr(d, "EchoTime", w)) == "80"

    def test_times_keep_their_figures(self) -> None:
        def fill(dataset: Dataset) -> None:
            dataset.ContentTime = "101112.345"

        assert self.value("ContentTime", fill) == "101112.345"

    @pytest.mark.parametrize(
        ("name", "tag", "vr", "given", "expected"),
        [
            ("b-value (GE)", 0x00431039, "IS", [1000000800, 6, 0, 0], "800"),
            ("b-value (Siemens)", 0x0019100C, "IS", 1000, "1000"),
            ("b-value (Siemens)", 0x0019100C, "UN", b"1000 ", "1000"),
            ("b-value (Philips)", 0x20011003, "FL", 600.0, "600"),
            ("b-value (Philips)", 0x20011003, "UN", b"\x00\x00\x16\x44", "600"),
        ],
    )
    def test_b_values_of_the_vendors(
        self, name: str, tag: int, vr: str, given: Any, expected: str
    ) -> None:
        assert self.value(name, lambda d: d.add_new(tag, vr, given)) == expected
