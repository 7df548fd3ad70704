from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.encaps import get_frame
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless

from data_connectors.dicom.coded import coded_size


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, JPEGLSLossless])
def test_size_of_what_an_encoder_wrote(tmp_path: Path, write_dicom: Any, syntax: str) -> None:
    path = write_dicom(tmp_path / "x", np.zeros((40, 36), np.uint16), syntax=syntax)
    frame = get_frame(dcmread(path).PixelData, 0, number_of_frames=1)
    assert coded_size(frame) == (40, 36)


def test_size_of_every_coded_syntax_of_one_image(shared_data: Path) -> None:
    paths = sorted((shared_data / "dicom/syntaxes_ct/testImages").glob("CTImage.dcm_J*"))
    assert len(paths) == 10
    for path in paths:
        assert coded_size(get_frame(dcmread(path).PixelData, 0, number_of_frames=1)) == (512, 512)


@settings(deadline=None)
@given(st.binary(max_size=64))
def test_arbitrary_bytes_never_raise_and_give_no_impossible_size(data: bytes) -> None:
    for start in (b"", b"\xff\xd8", b"\xff\x4f\xff\x51", b"\x00\x00\x00\x0cjP  "):
        size = coded_size(start + data)
        assert size is None or (size[0] > 0 and size[1] > 0)


def test_an_image_area_left_of_its_own_offset_has_no_size() -> None:
    area = b"".join(value.to_bytes(4, "big") for value in (10, 20, 30, 5))
    assert coded_size(b"\xff\x4f\xff\x51" + bytes(4) + area) is None
