"""Bombs and lies among PNG, JPEG and NIfTI files, through the real command."""

from __future__ import annotations

import gzip
import io
import zlib

import makers
import nibabel
import numpy as np
import pytest
from PIL import Image, PngImagePlugin

pytestmark = pytest.mark.slow


def good() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(buffer, "PNG")
    return buffer.getvalue()


def text_bomb() -> bytes:
    """A comment that inflates to a gigabyte."""
    text = PngImagePlugin.PngInfo()
    text.add(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(300_000_000), 9))
    buffer = io.BytesIO()
    Image.new("L", (8, 8)).save(buffer, "PNG", pnginfo=text)
    return buffer.getvalue()


def jpeg(rows: int, columns: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(buffer, "JPEG")
    return makers.resized(buffer.getvalue(), rows, columns)


def nifti() -> bytes:
    image = nibabel.Nifti1Image(np.zeros((8, 8, 8), np.int16), np.diag([1, 1, 1, 1]))
    image.set_qform(image.affine, 1)
    image.set_sform(image.affine, 1)
    return image.to_bytes()


def lying(*shape: int) -> bytes:
    data = bytearray(nifti())
    data[40:48] = np.array([3, *shape], "<i2").tobytes()
    return bytes(data)


FILES = {
    "huge.png": (makers.png_bomb(100_000, 100_000), {"image-too-large"}),
    "large.png": (makers.png_bomb(9_999, 9_999), {"image-truncated", "image-not-decodable"}),
    "text.png": (text_bomb(), {"image-not-decodable", "image-too-large", "reader-out-of-memory"}),
    "huge.jpg": (jpeg(65_000, 65_000), {"image-too-large"}),
    "large.jpg": (jpeg(9_999, 9_999), {"image-truncated", "image-not-decodable"}),
    "huge.nii": (lying(32_767, 32_767, 32_767), {"nifti-too-large"}),
    "large.nii": (lying(900, 900, 900), {"nifti-truncated"}),
    "bomb.nii.gz": (makers.gzipped(1024, nifti()), {"nifti-lying-size"}),
    "large.nii.gz": (
        makers.gzipped(1500, lying(900, 900, 900)),
        {"reader-out-of-memory", "nifti-lying-size", "archive-broken"},
    ),
    "cut.nii.gz": (gzip.compress(nifti())[:-3], {"archive-broken"}),
    "bomb.png.gz": (makers.gzipped(1024, good()), {"not-image"}),
}


@pytest.fixture(scope="module")
def outcome(tmp_path_factory, run_ingest):
    folder = tmp_path_factory.mktemp("pictures")
    (folder / "in").mkdir()
    for name, (data, _) in FILES.items():
        (folder / "in" / name).write_bytes(data)
    (folder / "in" / "good.png").write_bytes(good())
    (folder / "in" / "good.nii.gz").write_bytes(gzip.compress(nifti()))
    return run_ingest(
        folder, [{"kind": "images", "name": "p", "path": "in", "patient_per_image": True}],
        memory_mb=600,
    )  # fmt: skip


def test_the_parent_lives_below_the_limit_and_the_good_ones_are_used(outcome):
    assert outcome.returncode == 0, outcome.stderr
    assert "Traceback" not in outcome.stderr
    assert outcome.summary["used"] == 2
    assert outcome.peak_mb < 600
    assert outcome.new == set()
    assert all(row["code"] and row["reason"] and row["next_step"] for row in outcome.rows)


@pytest.mark.parametrize(("name", "codes"), [(name, codes) for name, (_, codes) in FILES.items()])
def test_each_is_refused_with_its_reason(outcome, name, codes):
    assert outcome.codes[name] & codes, outcome.codes.get(name)
