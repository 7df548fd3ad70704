"""Whole slides against the picture they were cut from, pydicom's decoding and highdicom."""

from __future__ import annotations

import copy
import io
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom import dcmread
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate, encapsulate_extended
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEGBaseline8Bit

from data_connectors.dicom import slide as slide_module
from data_connectors.dicom.slide import open_slide, read_region
from medvlp.errors import InputError

WSI = "1.2.840.10008.5.1.4.1.1.77.1.6"
TILE = (32, 40)


def item(**values: Any) -> Dataset:
    dataset = Dataset()
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    return dataset


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    """uint8 [150, 190, 3]: smooth enough for JPEG, no two places alike."""
    rows, columns = np.mgrid[:150, :190]
    wave = np.sin(rows / 9) * 60 + np.cos(columns / 13) * 60
    return np.stack([rows + 50, columns, 128 + wave], -1).clip(0, 255).astype(np.uint8)


def tiles_of(picture: np.ndarray) -> list[np.ndarray]:
    """Full tiles, rows of tiles one after the other; what lies outside is grey."""
    height, width = TILE
    down, across = -(-picture.shape[0] // height), -(-picture.shape[1] // width)
    padded = np.full((down * height, across * width, *picture.shape[2:]), 99, np.uint8)
    padded[: picture.shape[0], : picture.shape[1]] = picture
    return [
        padded[r * height : (r + 1) * height, c * width : (c + 1) * width]
        for r in range(down)
        for c in range(across)
    ]


def jpeg(tile: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(tile).save(buffer, "JPEG", quality=97, subsampling=0)
    return buffer.getvalue()


def write_level(
    path: Path,
    picture: np.ndarray,
    *,
    coded: str = "native",
    sparse: bool = False,
    microns: float = 0.5,
    flavour: str = "VOLUME",
    **change: Any,
) -> Path:
    tiles = tiles_of(picture)
    places = [
        (c * TILE[1] + 1, r * TILE[0] + 1)
        for r in range(-(-picture.shape[0] // TILE[0]))
        for c in range(-(-picture.shape[1] // TILE[1]))
    ]
    dataset = item(
        SOPClassUID=WSI, SOPInstanceUID=f"2.25.{abs(hash((path.name, coded))) % 10**9}",
        StudyInstanceUID="2.25.2", SeriesInstanceUID="2.25.3", PatientID="P-0815", Modality="SM",
        FrameOfReferenceUID="2.25.4", ImageType=["ORIGINAL", "PRIMARY", flavour, "NONE"],
        Rows=TILE[0], Columns=TILE[1], SamplesPerPixel=3, PhotometricInterpretation="RGB",
        PlanarConfiguration=0, BitsAllocated=8, BitsStored=8, HighBit=7, PixelRepresentation=0,
        TotalPixelMatrixRows=picture.shape[0], TotalPixelMatrixColumns=picture.shape[1],
        NumberOfOpticalPaths=1, TotalPixelMatrixFocalPlanes=1,
        DimensionOrganizationType="TILED_FULL", ImageOrientationSlide=[0, -1, 0, -1, 0, 0],
    )  # fmt: skip
    dataset.TotalPixelMatrixOriginSequence = Sequence(
        [item(XOffsetInSlideCoordinateSystem=20, YOffsetInSlideCoordinateSystem=40)]
    )
    dataset.OpticalPathSequence = Sequence([item(OpticalPathIdentifier="1")])
    pointers = ("RowPositionInTotalImagePixelMatrix", "ColumnPositionInTotalImagePixelMatrix")
    dataset.DimensionIndexSequence = Sequence(
        item(
            DimensionIndexPointer=tag_for_keyword(pointer),
            FunctionalGroupPointer=tag_for_keyword("PlanePositionSlideSequence"),
        )
        for pointer in pointers
    )
    dataset.SharedFunctionalGroupsSequence = Sequence(
        [
            item(
                PixelMeasuresSequence=Sequence(
                    [item(PixelSpacing=[microns / 1000] * 2, SliceThickness=0.001)]
                )
            )
        ]
    )
    if sparse:
        order = np.random.default_rng(0).permutation(len(tiles))
        tiles, places = [tiles[k] for k in order], [places[k] for k in order]
        dataset.DimensionOrganizationType = "TILED_SPARSE"
        dataset.PerFrameFunctionalGroupsSequence = Sequence(
            item(
                PlanePositionSlideSequence=Sequence(
                    [
                        item(
                            ColumnPositionInTotalImagePixelMatrix=x,
                            RowPositionInTotalImagePixelMatrix=y,
                            XOffsetInSlideCoordinateSystem=20 - (y - 1) * microns / 1000,
                            YOffsetInSlideCoordinateSystem=40 - (x - 1) * microns / 1000,
                            ZOffsetInSlideCoordinateSystem=0,
                        )
                    ]
                ),
                FrameContentSequence=Sequence(
                    [item(DimensionIndexValues=[y // TILE[0] + 1, x // TILE[1] + 1])]
                ),
            )
            for x, y in places
        )
    dataset.NumberOfFrames = len(tiles)
    for keyword, value in change.items():
        setattr(dataset, keyword, value)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = WSI, dataset.SOPInstanceUID
    meta.TransferSyntaxUID = JPEGBaseline8Bit
    if coded not in ("native", "implicit"):
        dataset.PhotometricInterpretation = "YBR_FULL_422"
    if coded in ("native", "implicit"):
        meta.TransferSyntaxUID = (
            ExplicitVRLittleEndian if coded == "native" else ImplicitVRLittleEndian
        )
        dataset.PixelData = b"".join(tile.tobytes() for tile in tiles)
    elif coded == "extended":
        streams = [jpeg(tile) for tile in tiles]
        found = encapsulate_extended(streams)
        dataset.PixelData = found[0]
        dataset.ExtendedOffsetTable, dataset.ExtendedOffsetTableLengths = found[1:]
    else:
        fragments = 3 if coded == "fragments" else 1
        dataset.PixelData = encapsulate(
            [jpeg(tile) for tile in tiles], fragments, has_bot=coded != "no-table"
        )
    dataset.file_meta = meta
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return path


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("coded", ["native", "implicit"])
@settings(deadline=None, max_examples=20)
@given(data=st.data())
def test_every_rectangle_is_that_of_the_picture(
    tmp_path_factory: Any, picture: np.ndarray, sparse: bool, coded: str, data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / f"slide-{sparse}-{coded}.dcm"
    if not path.exists():
        write_level(path, picture, coded=coded, sparse=sparse)
    x, y = data.draw(st.integers(0, 189)), data.draw(st.integers(0, 149))
    w, h = data.draw(st.integers(1, 190 - x)), data.draw(st.integers(1, 150 - y))
    np.testing.assert_array_equal(read_region(path, 0, x, y, w, h), picture[y : y + h, x : x + w])


@pytest.mark.parametrize("coded", ["table", "no-table", "fragments", "extended"])
def test_coded_tiles_are_those_of_pydicom(tmp_path: Path, picture: np.ndarray, coded: str) -> None:
    path = write_level(tmp_path / "x.dcm", picture, coded=coded)
    frames = dcmread(path).pixel_array
    whole = frames.reshape(5, 5, *TILE, 3).swapaxes(1, 2).reshape(160, 200, 3)[:150, :190]
    np.testing.assert_array_equal(read_region(path, 0, 0, 0, 190, 150), whole)
    assert np.abs(whole.astype(int) - picture).mean() < 2


@pytest.mark.parametrize("sparse", [False, True])
def test_same_matrix_as_highdicom(tmp_path: Path, picture: np.ndarray, sparse: bool) -> None:
    path = write_level(tmp_path / "x.dcm", picture, sparse=sparse)
    image = highdicom.imread(path)
    theirs = image.get_total_pixel_matrix(apply_icc_profile=False)
    np.testing.assert_array_equal(read_region(path, 0, 0, 0, 190, 150), theirs)


def test_only_the_tiles_that_are_touched_are_decoded(
    tmp_path: Path, picture: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_level(tmp_path / "x.dcm", picture, coded="table")
    seen = []
    real = slide_module.stored_frame
    monkeypatch.setattr(slide_module, "stored_frame", lambda *args: seen.append(1) or real(*args))
    read_region(path, 0, 41, 33, 30, 20)
    assert len(seen) == 1
    read_region(path, 0, 39, 31, 2, 2)
    assert len(seen) == 5


def test_levels_are_sorted_and_the_label_is_never_opened(
    tmp_path: Path, picture: np.ndarray
) -> None:
    write_level(tmp_path / "a.dcm", picture[::2, ::2], microns=1.0)
    write_level(tmp_path / "b.dcm", picture)
    write_level(tmp_path / "c.dcm", picture[:40, :40], flavour="LABEL")
    write_level(tmp_path / "d.dcm", picture[:40, :40], flavour="OVERVIEW")
    (tmp_path / "notes.txt").write_text("no slide")
    with open_slide(tmp_path) as slide:
        assert [level.shape for level in slide.levels] == [(150, 190), (75, 95)]
        assert [level.microns for level in slide.levels] == [0.5, 1.0]
        np.testing.assert_array_equal(slide.read_region(1, 3, 4, 50, 60), picture[8:128:2, 6:106:2])


def test_missing_tiles_are_white(tmp_path: Path, picture: np.ndarray) -> None:
    path = write_level(tmp_path / "x.dcm", picture, sparse=True)
    dataset = dcmread(path)
    kept = dataset.PerFrameFunctionalGroupsSequence[:1]
    place = kept[0].PlanePositionSlideSequence[0]
    x = place.ColumnPositionInTotalImagePixelMatrix - 1
    y = place.RowPositionInTotalImagePixelMatrix - 1
    dataset.PerFrameFunctionalGroupsSequence = Sequence(kept)
    dataset.NumberOfFrames = 1
    dataset.PixelData = dataset.PixelData[: TILE[0] * TILE[1] * 3]
    dataset.save_as(path)
    found = read_region(path, 0, 0, 0, 190, 150)
    expected = np.full_like(picture, 255)
    part = np.s_[y : y + TILE[0], x : x + TILE[1]]
    expected[part] = picture[part]
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"TotalPixelMatrixRows": 5000}, "slide-layout"),
        ({"NumberOfOpticalPaths": 2}, "slide-layout"),
        ({"InConcatenationNumber": 1}, "slide-layout"),
        ({"NumberOfFrames": 2**31 - 1}, "dicom-lying-geometry"),
        ({"Rows": 65535, "Columns": 65535}, "dicom-lying-geometry"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.77.1.4"}, "slide-none"),
        ({"SpecimenLabelInImage": "YES"}, "slide-none"),
    ],
)
def test_slide_that_cannot_be_is_refused(
    tmp_path: Path, picture: np.ndarray, change: dict[str, Any], code: str
) -> None:
    path = write_level(tmp_path / "x.dcm", picture, **change)
    with pytest.raises(InputError) as caught:
        read_region(path, 0, 0, 0, 10, 10)
    assert caught.value.code == code


@pytest.mark.parametrize("region", [(-1, 0, 5, 5), (0, 0, 191, 5), (0, 149, 5, 2), (0, 0, 0, 5)])
def test_region_must_lie_on_the_slide(
    tmp_path: Path, picture: np.ndarray, region: tuple[int, int, int, int]
) -> None:
    path = write_level(tmp_path / "x.dcm", picture)
    with pytest.raises(InputError, match="slide-outside"):
        read_region(path, 0, *region)


@pytest.mark.parametrize("coded", ["table", "extended", "native"])
def test_cut_files_are_refused(tmp_path: Path, picture: np.ndarray, coded: str) -> None:
    path = write_level(tmp_path / "x.dcm", picture, coded=coded)
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(InputError, match=r"dicom-truncated|dicom-lying-geometry"):
        read_region(path, 0, 0, 0, 190, 150)


@pytest.fixture
def pyramid(tmp_path: Path, picture: np.ndarray) -> Path:
    folder = tmp_path / "case"
    write_level(folder / "0.dcm", picture, coded="native")
    write_level(folder / "1.dcm", picture[::2, ::2], microns=1.0)
    write_level(folder / "2.dcm", picture[::4, ::4], microns=2.0, flavour="THUMBNAIL")
    write_level(folder / "3.dcm", picture[:40, :40], flavour="LABEL")
    return folder


@pytest.mark.parametrize(
    ("keys", "step"),
    [
        ({}, 1),
        ({"slide_max_pixels": 28_499}, 2),
        ({"slide_max_pixels": 2_000}, 4),
        ({"slide_um": 0.5}, 1),
        ({"slide_um": 0.9}, 2),
        ({"slide_um": 2.1}, 4),
    ],
)
def test_one_level_of_a_slide_is_stored(
    ingest: Any, pyramid: Path, picture: np.ndarray, keys: dict[str, Any], step: int
) -> None:
    visuals, refused = ingest(pyramid, **keys)
    assert [(one.code, one.inputs) for one in refused] == [("burned-in-risk", ("3.dcm",))]
    [visual] = visuals
    assert visual.inputs == ("0.dcm", "1.dcm", "2.dcm")
    assert (visual.kind, visual.modality, visual.geometry.unit) == ("image", "SM", "rgb")
    assert visual.geometry.spacing_mm == pytest.approx((0.0005 * step, 0.0005 * step))
    shown = np.asarray(Image.open(io.BytesIO(visual.payload.members[0][1])))
    np.testing.assert_array_equal(shown, picture[::step, ::step])


@pytest.mark.parametrize(
    ("keys", "code"),
    [({"slide_max_pixels": 100}, "slide-no-level"), ({"slide_um": 8.0}, "slide-no-level")],
)
def test_slide_without_a_fitting_level_is_refused(
    ingest: Any, pyramid: Path, keys: dict[str, Any], code: str
) -> None:
    visuals, refused = ingest(pyramid, **keys)
    assert not visuals
    assert sorted(one.code for one in refused) == ["burned-in-risk", code]


def test_label_that_only_the_specimen_attribute_tells_of_is_refused(
    ingest: Any, tmp_path: Path, picture: np.ndarray
) -> None:
    write_level(tmp_path / "a.dcm", picture, SpecimenLabelInImage="YES")
    write_level(tmp_path / "b.dcm", picture[::2, ::2], microns=1.0)
    visuals, refused = ingest(tmp_path)
    assert [one.inputs for one in visuals] == [("b.dcm",)]
    assert [(one.code, one.inputs) for one in refused] == [("burned-in-risk", ("a.dcm",))]


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("by", ["focus", "path"])
def test_the_first_focal_plane_and_optical_path_are_read(
    tmp_path: Path, picture: np.ndarray, sparse: bool, by: str
) -> None:
    """Twice as many tiles: the second half shows the same places, in other focus or light."""
    path = write_level(tmp_path / "x.dcm", picture, sparse=sparse)
    dataset = dcmread(path)
    dataset.PixelData += bytes(255 - value for value in dataset.PixelData)
    dataset.NumberOfFrames *= 2
    if not sparse:
        keyword = "TotalPixelMatrixFocalPlanes" if by == "focus" else "NumberOfOpticalPaths"
        setattr(dataset, keyword, 2)
    else:
        groups = list(dataset.PerFrameFunctionalGroupsSequence)
        for old in list(groups):
            other = copy.deepcopy(old)
            if by == "focus":
                other.PlanePositionSlideSequence[0].ZOffsetInSlideCoordinateSystem = 5
            else:
                optics = item(OpticalPathIdentifier="2")
                other.OpticalPathIdentificationSequence = Sequence([optics])
            groups.append(other)
        dataset.PerFrameFunctionalGroupsSequence = Sequence(groups)
    dataset.save_as(path)
    np.testing.assert_array_equal(read_region(path, 0, 0, 0, 190, 150), picture)
