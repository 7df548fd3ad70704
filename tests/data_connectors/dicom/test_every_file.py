"""Every real file at hand, each alone: the pixels that pydicom gives, or a refusal that fits."""

from __future__ import annotations

import gzip
import hashlib
import io
import warnings
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pydicom.data
import pytest
from PIL import Image
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.pixels.processing import apply_color_lut, apply_modality_lut

from data_connectors.dicom.reader import find, read
from data_connectors.dicom.source import DicomSource
from data_connectors.items import Refused, VisualItem
from data_connectors.source import Consulted

SHARED = Path(__file__).resolve().parents[4] / "shared" / "data" / "dicom"
ROOTS = {"bundled": Path(pydicom.data.__file__).parent, "shared": SHARED}

OUTCOMES = """
bundled/*.py                                                  not-dicom
bundled/*.json                                                not-dicom
bundled/*.md                                                  not-dicom
bundled/*.txt                                                 not-dicom
bundled/test_files/*.dump                                     not-dicom
bundled/test_files/crayons.icc                                not-dicom
bundled/test_files/*NoMeta.dcm                                not-dicom
bundled/test_files/no_meta.dcm                                not-dicom
bundled/test_files/rtstruct.dcm                               not-dicom
bundled/test_files/dicomdirtests/TINY_ALPHA/README            not-dicom
shared/*LICENSE                                               not-dicom
shared/*.md                                                   not-dicom
shared/*.txt                                                  not-dicom

bundled/palettes/*.dcm                                        dicom-no-image
bundled/charset_files/chrSQEncoding*.dcm                      dicom-no-image
bundled/test_files/UN_sequence.dcm                            dicom-no-image
bundled/test_files/badVR.dcm                                  dicom-no-image
bundled/test_files/liver_*1frame.dcm                          dicom-no-image
bundled/test_files/meta_missing_tsyntax.dcm                   dicom-no-image
bundled/test_files/*priv_SQ.dcm                               dicom-no-image
bundled/test_files/no_meta_group_length.dcm                   dicom-no-image
bundled/test_files/reportsi*.dcm                              dicom-no-image
bundled/test_files/rtdose*.dcm                                dicom-no-image
bundled/test_files/rtplan*.dcm                                dicom-no-image
bundled/test_files/test-SR.dcm                                dicom-no-image
bundled/test_files/waveform_ecg.dcm                           dicom-no-image
bundled/test_files/dicomdirtests/TINY_ALPHA/PT*               dicom-no-image
bundled/test_files/empty_charset_LEI.dcm                      dicom-no-image
shared/pydicom_data/liver*.dcm                                dicom-no-image
shared/syntaxes_ct/testImages/no-pixel-data.dcm               dicom-no-image

bundled/charset_files/chrJapMulti*.dcm                        dicom-no-pixels
bundled/charset_files/chrKoreanMulti.dcm                      dicom-no-pixels
bundled/test_files/MR_truncated.dcm                           dicom-truncated
bundled/test_files/dicomdirtests/DICOMDIR-empty.dcm           index
bundled/test_files/dicomdirtests/*DICOMDIR*                   dicomdir-missing-file
bundled/test_files/JPEG2000-embedded-sequence-delimiter.dcm   dicom-not-decodable
shared/pydicom_data/OBXXXX1A_rle_2frame.dcm                   dicom-no-frame-time
shared/pydicom_data/emri_small*.dcm                           series-missing-position

bundled/charset_files/chr*.dcm                                image
bundled/test_files/SC_rgb_rle*2frame.dcm                      image image
bundled/test_files/examples_ybr_color.dcm                     clip
bundled/test_files/693_J2KI.dcm                               volume
bundled/test_files/CT_small.dcm                               volume
bundled/test_files/J2K_pixelrep_mismatch.dcm                  volume
bundled/test_files/dicomdirtests/77654033/CT2/*               volume
bundled/test_files/dicomdirtests/98892001/CT5N/*              volume
bundled/test_files/dicomdirtests/98892001/CT2N/*              image
bundled/test_files/dicomdirtests/77654033/CR?/*               image
bundled/test_files/dicomdirtests/98892003/MR*/*               image
bundled/test_files/JPEG-lossy.dcm                             image unlike
bundled/test_files/JPGExtended.dcm                            image unlike
bundled/test_files/*                                          image

shared/ct_chest_cap002/*                                      volume
shared/pydicom/*/SC_rgb_small_odd*.dcm                        image
shared/pydicom_data/693_*.dcm                                 volume
shared/pydicom_data/bad_sequence.dcm                          volume
shared/pydicom_data/eCT_Supplemental.dcm                      volume
shared/pydicom_data/explicit_VR-UN.dcm                        volume
shared/pydicom_data/*                                         image
shared/syntaxes_ct/testImages/US-YBR_FULL_422-EVRLE.dcm       image
shared/syntaxes_ct/testImages/no-pixel-spacing.dcm            image
shared/syntaxes_ct/testImages/*JPEGProcess10_12*              volume unlike
shared/syntaxes_ct/testImages/*JPEGProcess6_8*                volume unlike
shared/syntaxes_ct/testImages/*JPEGProcess2_4*                volume unlike
shared/syntaxes_ct/testImages/CT0012*                         volume unlike
shared/syntaxes_ct/testImages/CT*                             volume
shared/vendors/failing/sliceorientation/*                     image
shared/vendors/failing/*                                      volume
shared/vendors/hyperfine/*                                    volume
shared/vendors/philips_enhanced/*                             volume
shared/vendors/siemens_multiframe/*                           volume
shared/vendors/*                                              image
"""
"""Pattern -> what each file gives alone; the first that fits counts. `unlike`: 12-bit lossy JPEG,
which no decoder of pydicom's reads here (its values are checked in test_decode.py)."""


def rows() -> list[tuple[str, str]]:
    pairs = (line.split(None, 1) for line in OUTCOMES.splitlines() if line.strip())
    return [(pattern, outcome.strip()) for pattern, outcome in pairs]


@cache
def files() -> dict[str, Path]:
    """Every file once, by root and path; archives of whole series are tested in test_reader.py."""
    found: dict[str, Path] = {}
    seen: set[str] = set()
    for name, root in ROOTS.items():
        for path in sorted(root.rglob("*")):
            if not path.is_file() or path.name.endswith(".tar.gz") or path.suffix == ".pyc":
                continue
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            if digest not in seen:
                seen.add(digest)
                found[f"{name}/{path.relative_to(root).as_posix()}"] = path
    return found


def expected_of(name: str) -> str:
    for pattern, outcome in rows():
        if fnmatch(name, pattern):
            return outcome
    return "no row of the table fits"


@pytest.mark.parametrize("name", sorted(files()))
def test_file_gives_the_pixels_of_pydicom_or_a_fitting_refusal(name: str) -> None:
    source = DicomSource(name="test", path=files()[name], allow_missing_patient=True)
    given: list[Any] = []
    for found in find(source):
        given += [found] if isinstance(found, Refused | Consulted) else read(source, found)
    outcome = [
        item.code
        if isinstance(item, Refused)
        else "index"
        if isinstance(item, Consulted)
        else item.kind
        for item in given
    ]
    expected = expected_of(name).split()
    assert outcome == [word for word in expected if word != "unlike"]
    visuals = [item for item in given if isinstance(item, VisualItem)]
    if visuals and "unlike" not in expected:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            data = files()[name].read_bytes()
            plain = gzip.decompress(data) if name.endswith(".gz") else data
            compare(visuals, dcmread(io.BytesIO(plain)))


def compare(visuals: list[VisualItem], dataset: Dataset) -> None:
    """Stored pixels against pydicom's decoding and its modality table, palette and rescale."""
    if visuals[0].kind == "clip":
        frames = dataset.pixel_array
        assert len(frames) == len(visuals[0].payload.members)
        for (_, data), frame in zip(visuals[0].payload.members, frames, strict=True):
            shown = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)
            assert np.abs(shown - frame).mean() < 3
        return
    if visuals[0].kind == "volume":
        volume = np.load(io.BytesIO(visuals[0].payload.members[0][1]), allow_pickle=False)
        values = real(dataset)
        # Where each voxel lies is the matter of other tests; here none may be another.
        np.testing.assert_array_equal(
            np.sort(volume.ravel()), np.sort(values.ravel()).astype(volume.dtype)
        )
        return
    frames = [dataset.pixel_array] if len(visuals) == 1 else list(dataset.pixel_array)
    for visual, frame in zip(visuals, frames, strict=True):
        stored = np.asarray(Image.open(io.BytesIO(visual.payload.members[0][1])))
        if stored.ndim == 3:
            np.testing.assert_array_equal(stored, colour(frame, dataset))
        else:
            same_grey(stored.astype(float), real(dataset))


def colour(frame: np.ndarray, dataset: Dataset) -> np.ndarray:
    """RGB, as its most significant eight bits."""
    if dataset.PhotometricInterpretation == "PALETTE COLOR":
        frame = apply_color_lut(frame, dataset)
    bits = 16 if frame.dtype == np.uint16 and frame.max() > 255 else dataset.BitsStored
    return (frame >> max(0, bits - 8)).astype(np.uint8)


def real(dataset: Dataset) -> np.ndarray:
    """Rescaled values, padding as the connector fills it, MONOCHROME1 turned over."""
    stored = dataset.pixel_array
    values = apply_modality_lut(stored, dataset).astype(np.float64)
    if "SharedFunctionalGroupsSequence" in dataset:
        for index, groups in enumerate(dataset.get("PerFrameFunctionalGroupsSequence", [])):
            for place in (groups, dataset.SharedFunctionalGroupsSequence[0]):
                if "PixelValueTransformationSequence" in place:
                    macro = place.PixelValueTransformationSequence[0]
                    values[index] = stored[index] * float(macro.RescaleSlope)
                    values[index] += float(macro.RescaleIntercept)
                    break
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        ends = np.array([[0, 2**dataset.BitsStored - 1]])
        values = apply_modality_lut(ends, dataset).astype(float).sum() - values
    if "PixelPaddingValue" in dataset:
        outside = stored == np.array(dataset.PixelPaddingValue).astype(stored.dtype)
        if outside.any() and not outside.all():
            hounsfield = dataset.Modality == "CT" and "RescaleSlope" in dataset
            values[outside] = -1024 if hounsfield else values[~outside].min()
    return values


def same_grey(stored: np.ndarray, values: np.ndarray) -> None:
    """Equal, but for what a PNG cannot hold: a shift of negative values, a scale of fractions."""
    low = min(values.min(), 0.0)
    if (values == np.rint(values)).all() and values.max() - low <= 65535:
        np.testing.assert_array_equal(stored, values - low)
        return
    # Fractions: the stored whole numbers, or a scale of 0 to 65535 (and float32 on the way).
    ours, theirs = (array - array.min() for array in (stored, values))
    assert np.abs(ours / ours.max() - theirs / theirs.max()).max() <= 1.5 / 65535


def test_every_row_of_the_table_is_used() -> None:
    if not SHARED.is_dir():
        pytest.skip("the real data (../shared/data) is not beside the checkout")
    used = {next((p for p, _ in rows() if fnmatch(name, p)), "none") for name in files()}
    assert used == {pattern for pattern, _ in rows()}
