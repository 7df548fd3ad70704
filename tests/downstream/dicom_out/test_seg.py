"""Masks come back where they were drawn. The oracle is pydicom alone and float64 arithmetic."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from downstream.case import read_case
from downstream.dicom_out.seg import Segment, write_seg
from medvlp.errors import InputError

AXIAL = np.eye(3)
ORIENTATIONS = {
    "axial": AXIAL,
    "axial, feet first": np.array([[1, 0, 0], [0, 1, 0], [0, 0, -1.0]]),
    "sagittal": np.array([[0, 1, 0], [0, 0, -1], [1, 0, 0.0]]),
    "coronal, from the back": np.array([[1, 0, 0], [0, 0, -1], [0, -1, 0.0]]),
    "prone": np.array([[-1, 0, 0], [0, -1, 0], [0, 0, 1.0]]),
}
SHAPE = (6, 7, 5)
VALUES = np.arange(np.prod(SHAPE)).reshape(SHAPE) + 500
SPACING = (3.0, 0.8, 0.6)


def turned(axes: np.ndarray, degrees: float) -> np.ndarray:
    """The axes turned about (1, 2, 3), by Rodrigues' formula."""
    k = np.array([1.0, 2.0, 3.0]) / np.sqrt(14)
    angle = np.radians(degrees)
    cross = np.array([[0, -k[2], k[1]], [k[2], 0, -k[0]], [-k[1], k[0], 0]])
    matrix = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
    return axes @ matrix.T


def marked(path: Path) -> dict[int, list[tuple[np.ndarray, str, int, int]]]:
    """Segment -> (LPS mm, source instance, row, column) of every marked pixel, by pydicom alone."""
    seg = pydicom.dcmread(path)
    frames = seg.pixel_array.reshape(-1, seg.Rows, seg.Columns)
    shared = seg.SharedFunctionalGroupsSequence[0]
    found: dict[int, list[tuple[np.ndarray, str, int, int]]] = {}
    for frame, own in zip(frames, seg.PerFrameFunctionalGroupsSequence, strict=True):

        def macro(name: str, own=own) -> pydicom.Dataset:
            return (own if name in own else shared)[name].value[0]

        cosines = np.array(macro("PlaneOrientationSequence").ImageOrientationPatient, float)
        down, across = (float(v) for v in macro("PixelMeasuresSequence").PixelSpacing)
        origin = np.array(macro("PlanePositionSequence").ImagePositionPatient, float)
        number = int(macro("SegmentIdentificationSequence").ReferencedSegmentNumber)
        [derived] = own.DerivationImageSequence
        [source] = derived.SourceImageSequence
        for row, column in np.argwhere(frame):
            place = origin + cosines[:3] * column * across + cosines[3:] * row * down
            entry = (place, str(source.ReferencedSOPInstanceUID), int(row), int(column))
            found.setdefault(number, []).append(entry)
    return found


@settings(
    max_examples=20,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    orientation=st.sampled_from(sorted(ORIENTATIONS)),
    degrees=st.sampled_from([0.0, 4.0, 17.0, -31.0]),
    at=st.tuples(*(st.integers(0, size - 1) for size in SHAPE)),
    binary=st.booleans(),
)
def test_a_voxel_of_the_model_is_the_same_place_in_the_patient(
    tmp_path_factory, write_stack, algorithm, orientation, degrees, at, binary
):
    folder = tmp_path_factory.mktemp("stack")
    write_stack(folder / "in", VALUES, turned(ORIENTATIONS[orientation], degrees), SPACING)
    case = read_case(folder / "in")
    assert case.source is not None
    pixels = case.shown.frames
    at = tuple(min(i, size - 1) for i, size in zip(at, pixels.shape, strict=True))
    mask = np.zeros((1, *pixels.shape), np.float32)
    mask[(0, *at)] = 0.6
    write_seg(mask > 0 if binary else mask, case.source, [Segment("nodule", "a voxel")],
              folder / "seg.dcm", algorithm=algorithm)  # fmt: skip
    [(place, uid, row, column)] = marked(folder / "seg.dcm")[1]
    affine = np.array(case.sample.geometry.affine).reshape(4, 4)
    np.testing.assert_allclose(place, (affine @ [*at, 1])[:3], atol=1e-4)
    files = {pydicom.dcmread(path).SOPInstanceUID: path for path in (folder / "in").iterdir()}
    stored = pydicom.dcmread(files[uid]).pixel_array
    assert int(stored[row, column]) - 1024 == pixels[at]


@pytest.fixture
def written(tmp_path, write_stack, algorithm):
    write_stack(tmp_path / "in", VALUES, turned(AXIAL, 10), SPACING)
    case = read_case(tmp_path / "in")
    masks = np.zeros((2, *case.shown.frames.shape), np.float32)
    masks[0, 1:3, 2:5, 1:4] = np.linspace(0.1, 1, 18).reshape(2, 3, 3)
    masks[1, 4, 3, 2] = 0.25
    segments = [Segment("pleural_effusion", "heat"), Segment("a thing of no book", "heat")]
    write_seg(masks, case.source, segments, tmp_path / "seg.dcm", algorithm=algorithm)
    return tmp_path, case, masks


def test_fractions_come_back_in_steps_of_a_255th(written):
    import highdicom as hd

    folder, case, masks = written
    seg = hd.seg.segread(folder / "seg.dcm")
    uids = [header.SOPInstanceUID for header in case.source.headers]
    back = seg.get_pixels_by_source_instance(uids)
    for k in range(2):
        frames = case.source.as_acquired(masks[k])
        np.testing.assert_allclose(back[..., k], frames, atol=0.5 / 255 + 1e-6)


def test_it_is_filed_under_the_patient_and_names_model_and_scheme(written):
    folder, case, _ = written
    seg = pydicom.dcmread(folder / "seg.dcm")
    assert (seg.PatientID, seg.AccessionNumber, seg.StudyInstanceUID) == (
        "P-0815", "ACC-4711", "2.25.7",
    )  # fmt: skip
    assert seg.SeriesInstanceUID != "2.25.8"
    first, second = seg.SegmentSequence
    [kind] = first.SegmentedPropertyTypeCodeSequence
    assert (kind.CodeValue, kind.CodingSchemeDesignator, kind.CodeMeaning) == (
        "pleural_effusion", "99MEDVLP", "pleural effusion",
    )  # fmt: skip
    assert second.SegmentLabel == "a thing of no book"
    [algorithm] = first.SegmentationAlgorithmIdentificationSequence
    assert "a" * 64 in algorithm.AlgorithmParameters
    assert (folder / "seg.dcm").stat().st_mode & 0o777 == 0o600
    assert seg.SegmentationType == "FRACTIONAL"
    assert len(case.source.headers) == 6


def test_dciodvfy_finds_no_error(written, program):
    assert errors(program("dciodvfy"), written[0] / "seg.dcm") == []


def test_a_radiograph_has_no_place_and_keeps_its_pixels(tmp_path, write_film, algorithm, program):
    pixels = np.arange(24 * 18).reshape(24, 18)
    case = read_case(write_film(tmp_path / "film.dcm", pixels))
    mask = np.zeros((1, 1, 24, 18), bool)
    mask[0, 0, 3, 11] = True
    write_seg(mask, case.source, [Segment("nodule", "a pixel")], tmp_path / "seg.dcm",
              algorithm=algorithm)  # fmt: skip
    seg = pydicom.dcmread(tmp_path / "seg.dcm")
    assert np.argwhere(seg.pixel_array.reshape(24, 18)).tolist() == [[3, 11]]
    [frame] = seg.PerFrameFunctionalGroupsSequence
    [source] = frame.DerivationImageSequence[0].SourceImageSequence
    assert source.ReferencedSOPInstanceUID == "2.25.99"
    assert errors(program("dciodvfy"), tmp_path / "seg.dcm") == []


def test_masks_that_do_not_fit_are_refused(tmp_path, write_film, algorithm):
    case = read_case(write_film(tmp_path / "film.dcm", np.ones((4, 5))))
    for mask, code in (
        (np.ones((1, 1, 5, 4), bool), "mask-shape"),
        (np.zeros((1, 1, 4, 5), bool), "mask-empty"),
        (np.full((1, 1, 4, 5), 1.5, np.float32), "mask-range"),
    ):
        with pytest.raises(InputError) as caught:
            write_seg(mask, case.source, [Segment("nodule", "")], tmp_path / "seg.dcm",
                      algorithm=algorithm)  # fmt: skip
        assert caught.value.code == code
    assert not (tmp_path / "seg.dcm").exists()


def errors(dciodvfy: str, path: Path) -> list[str]:
    said = subprocess.run([dciodvfy, path], capture_output=True, text=True, timeout=60)
    return [line for line in said.stderr.splitlines() if line.startswith("Error")]
