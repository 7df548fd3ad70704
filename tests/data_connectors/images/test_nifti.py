from __future__ import annotations

import gzip
import io
import resource
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from data_connectors.images.nifti import read_nifti
from data_connectors.images.reader import find, read
from data_connectors.images.source import ImagesSource
from data_connectors.items import Refused, VisualItem
from data_connectors.source import Unit
from medvlp.errors import InputError
from medvlp.types import Volume

LIMIT = 2_000_000_000


def voxels(kind: type = np.int16, shape: tuple[int, ...] = (7, 6, 5)) -> np.ndarray:
    rng = np.random.default_rng(0)
    high = 200 if np.dtype(kind).itemsize == 1 else 3000
    return rng.integers(0 if np.dtype(kind).kind == "u" else -100, high, shape).astype(kind)


def image(array: np.ndarray, affine: np.ndarray | None = None, kind: type = nibabel.Nifti1Image):
    affine = np.diag([-0.7, -0.8, 2.5, 1]) if affine is None else affine
    made = kind(array, affine)
    made.set_sform(affine, 1)
    made.set_qform(affine, 1)
    return made


def save(path: Path, made) -> Path:
    nibabel.save(made, path)
    return path


def load(path: Path, **keys) -> Volume:
    return read_nifti(path, path.name, max_bytes=LIMIT, **keys)


def code(data: bytes, name: str = "x.nii", max_bytes: int = LIMIT) -> str:
    with pytest.raises(InputError) as caught:
        read_nifti(io.BytesIO(data), name, max_bytes=max_bytes)
    assert caught.value.next_step
    return caught.value.code


def assert_same_as_simpleitk(volume: Volume, path: Path) -> None:
    """Every voxel at its place in the patient: SimpleITK's value at the same LPS point."""
    theirs = SimpleITK.ReadImage(str(path))
    array = SimpleITK.GetArrayFromImage(theirs)
    assert sorted(volume.array.shape) == sorted(array.shape)
    rng = np.random.default_rng(1)
    for index in rng.integers(0, volume.array.shape, (50, 3)):
        point = volume.affine @ [*index, 1]
        i, j, k = theirs.TransformPhysicalPointToIndex(tuple(point[:3]))
        assert volume.array[tuple(index)] == pytest.approx(array[k, j, i], rel=1e-6)
        there = theirs.TransformIndexToPhysicalPoint((i, j, k))
        assert np.allclose(there, point[:3], atol=1e-3)


def assert_canonical(volume: Volume) -> None:
    """d towards the head, h towards the back, w towards the left: positive on the diagonal."""
    direction = volume.affine[:3, :3] / np.linalg.norm(volume.affine[:3, :3], axis=0)
    assert (direction[[2, 1, 0], [0, 1, 2]] > 0.5).all()


@settings(max_examples=40, deadline=None, suppress_health_check=[*HealthCheck])
@given(
    turn=st.tuples(*[st.integers(-20, 20)] * 3), flips=st.tuples(*[st.sampled_from([-1, 1])] * 3),
    order=st.permutations([0, 1, 2]), version=st.sampled_from([1, 2]),
    packed=st.booleans(),
)  # fmt: skip
def test_voxels_lie_where_simpleitk_has_them(tmp_path, turn, flips, order, version, packed):
    affine = np.eye(4)
    turned = Rotation.from_euler("xyz", turn, degrees=True).as_matrix() @ np.diag(flips)
    affine[:3, :3] = turned[:, order] * [0.7, 0.9, 2.5]
    affine[:3, 3] = [11, -22, 33]
    kind = nibabel.Nifti1Image if version == 1 else nibabel.Nifti2Image
    path = save(tmp_path / ("a.nii.gz" if packed else "a.nii"), image(voxels(), affine, kind))
    volume = load(path)
    assert volume.array.dtype == np.int16
    assert volume.unit == "raw"
    first = save(tmp_path / "first.nii", image(voxels(), affine))  # it reads no NIfTI-2
    assert_same_as_simpleitk(volume, first)
    assert_canonical(volume)


@pytest.mark.parametrize("kind", [np.uint8, np.int8, np.int16, np.uint16, np.int32, np.uint32,
                                  np.float32, np.float64, np.dtype(">i2")])  # fmt: skip
@pytest.mark.parametrize("scale", [(1, 0), (1, -1024), (0.25, 3.5), (0, 7), (np.nan, 0)])
def test_the_scaling_is_applied_once(tmp_path, kind, scale):
    made = image(voxels(kind))
    path = tmp_path / "a.nii"
    data = bytearray(made.to_bytes())
    order = "<" if data[:4] == (348).to_bytes(4, "little") else ">"
    data[112:120] = np.array(scale, f"{order}f4").tobytes()
    path.write_bytes(data)
    volume = load(path, unit="HU")
    slope, intercept = (1, 0) if not scale[0] or scale[0] != scale[0] else scale
    expected = voxels(kind).astype(float) * slope + intercept
    assert sorted(volume.array.ravel().tolist()) == pytest.approx(sorted(expected.ravel()))
    exact = (expected == np.rint(expected)).all()
    assert volume.array.dtype == (np.int16 if exact else np.float32)
    assert volume.unit == "HU"
    if scale[0]:  # with a slope of zero, which says that there is none, ITK adds the intercept
        assert_same_as_simpleitk(volume, path)


def test_forms_that_disagree_are_refused_and_equal_ones_are_not():
    made = image(voxels())
    assert read_nifti(io.BytesIO(made.to_bytes()), "a.nii", max_bytes=LIMIT)
    mirrored = np.diag([0.7, -0.8, 2.5, 1])
    made.set_qform(mirrored, 1)
    assert code(made.to_bytes()) == "nifti-forms-disagree"
    made.set_qform(None, 0)
    alone = read_nifti(io.BytesIO(made.to_bytes()), "a.nii", max_bytes=LIMIT)
    assert alone.spacing_mm == pytest.approx((2.5, 0.8, 0.7))
    made.set_sform(None, 0)
    assert code(made.to_bytes()) == "nifti-no-orientation"
    made.set_sform(np.diag([0, 1, 1, 1]), 1)
    assert code(made.to_bytes()) == "nifti-bad-orientation"
    lost = bytearray(made.to_bytes())
    lost[280:284] = np.array([np.nan], "<f4").tobytes()
    assert code(bytes(lost)) == "nifti-bad-orientation"


@pytest.mark.parametrize(("unit", "factor"), [("meter", 1000), ("mm", 1), ("micron", 0.001)])
def test_units_of_length(unit, factor):
    made = image(voxels())
    made.header.set_xyzt_units(unit)
    volume = read_nifti(io.BytesIO(made.to_bytes()), "a.nii", max_bytes=LIMIT)
    assert volume.spacing_mm == pytest.approx((2.5 * factor, 0.8 * factor, 0.7 * factor))


def test_what_is_no_single_grey_volume_is_refused_by_name():
    assert code(image(voxels(shape=(3, 3, 3, 2))).to_bytes()) == "nifti-4d"
    one = image(voxels(shape=(3, 4, 5, 1))).to_bytes()
    assert read_nifti(io.BytesIO(one), "a.nii", max_bytes=LIMIT).array.shape == (5, 4, 3)
    colour = np.zeros((3, 3, 3), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    assert code(image(colour).to_bytes()) == "nifti-unsupported"
    assert code(image(np.ones((3, 3, 3), np.complex64)).to_bytes()) == "nifti-unsupported"
    deep = np.array([[[0, 2**24 + 1]]], np.int32)
    assert code(image(deep).to_bytes()) == "nifti-unsupported"
    hole = np.ones((3, 3, 3), np.float32)
    hole[1, 1, 1] = np.nan
    assert code(image(hole).to_bytes()) == "nifti-not-finite"
    assert code(b"no header at all") == "nifti-malformed"
    pair = bytearray(image(voxels()).to_bytes())
    pair[344:348] = b"ni1\0"
    assert code(bytes(pair)) == "nifti-unsupported"


def test_sizes_that_lie_are_refused_before_anything_is_allocated():
    whole = image(voxels()).to_bytes()
    assert code(whole[:-1]) == "nifti-truncated"
    assert code(whole + b"\0") == "nifti-lying-size"
    huge = bytearray(whole)
    huge[40:48] = np.array([3, 32767, 32767, 32767], "<i2").tobytes()
    assert code(bytes(huge)) == "nifti-too-large"
    huge[42:44] = b"\0\0"
    assert code(bytes(huge)) == "nifti-malformed"
    assert code(whole, max_bytes=100) == "nifti-too-large"
    many = bytearray(whole)
    many[40:42] = b"\x09\x00"
    assert code(bytes(many)) == "nifti-malformed"


def test_a_gzip_bomb_is_inflated_no_further_than_the_header_says(tmp_path):
    whole = image(voxels()).to_bytes()
    path = tmp_path / "bomb.nii.gz"
    with gzip.open(path, "wb") as file:
        file.write(whole)
        for _ in range(600):
            file.write(bytes(1_000_000))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputError, match="nifti-lying-size"):
        load(path)
    with pytest.raises(InputError, match="nifti-lying-size"):
        read_nifti(io.BytesIO(path.read_bytes()), "a.nii.gz", max_bytes=LIMIT)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000
    packed = gzip.compress(whole)
    assert code(packed[:-5], "a.nii.gz") == "archive-broken"
    assert code(b"\x1f\x8b no gzip", "a.nii.gz") == "archive-broken"


def test_volumes_come_with_the_rows_of_their_table(tmp_path):
    save(tmp_path / "one.nii.gz", image(voxels()))
    save(tmp_path / "two.nii", image(voxels(shape=(4, 4, 4))))
    save(tmp_path / "three.nii", image(voxels()))
    (tmp_path / "t.csv").write_text(
        "file,who,unit,what\none,p1,HU,cyst\ntwo.nii,p2,,mass\nthree,p3,metres,mass\n"
    )
    source = ImagesSource(
        name="volumes", path=tmp_path, table=Path("t.csv"), patient_column="who", modality="CT",
        unit_column="unit", label_column="what",
    )  # fmt: skip
    units = [unit for unit in find(source) if isinstance(unit, Unit)]
    items = {unit.inputs[0]: next(read(source, unit)) for unit in units}
    one, two, three = (items[name] for name in ("one.nii.gz", "two.nii", "three.nii"))
    assert isinstance(one, VisualItem)
    assert isinstance(two, VisualItem)
    assert (one.kind, one.identity.patient, one.labels) == ("volume", "p1", ("cyst",))
    assert (one.geometry.unit, two.geometry.unit) == ("HU", "raw")
    assert one.geometry.shape == (5, 6, 7)
    assert [extension for extension, _ in one.payload.members] == ["npy"]
    assert isinstance(three, Refused)
    assert three.code == "unit-unknown"
