"""Text drawn by Pillow over what looks like a radiograph."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from data_connectors.deid import ocr
from data_connectors.deid.gate import Gate
from data_connectors.deid.payloads import frames_of
from data_connectors.deid.policy import PixelPolicy
from data_connectors.items import Identity, Payload, PixelFacts, Refused, VisualItem
from medvlp.types import Geometry

RISK = PixelFacts(text=("class-ultrasound",))


def film(seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(rng.random((300, 400)), 40)
    smooth = (smooth - smooth.min()) / (smooth.max() - smooth.min())
    return np.clip(smooth * 150 + 40 + rng.normal(0, 3, (300, 400)), 0, 255).astype(np.uint8)


def written(pixels: np.ndarray, *, fill: int = 255, turns: int = 0) -> np.ndarray:
    image = Image.fromarray(np.rot90(pixels, turns).copy())
    font = ImageFont.truetype("DejaVuSans.ttf", 14) if _has_font() else ImageFont.load_default(14)
    ImageDraw.Draw(image).text((60, 80), "QUILLON ZYXWV 1942", fill=fill, font=font)
    return np.rot90(np.asarray(image), -turns).copy()


def _has_font() -> bool:
    try:
        ImageFont.truetype("DejaVuSans.ttf", 14)
    except OSError:
        return False
    return True


def item(*frames: np.ndarray) -> VisualItem:
    members = []
    for number, frame in enumerate(frames):
        buffer = io.BytesIO()
        Image.fromarray(frame).save(buffer, "PNG")
        members.append((f"{number:010d}.png", buffer.getvalue()))
    payload = Payload(tuple(members))
    return VisualItem(Identity("p"), "clip", "US", payload, Geometry(), (), "0" * 64, pixels=RISK)


@pytest.mark.parametrize(("fill", "turns"), [(255, 0), (0, 0), (255, 1), (255, 3)])
def test_text_is_found_where_it_is(program, fill, turns):
    program("tesseract")
    boxes = ocr.find_text(item(written(film(), fill=fill, turns=turns)), timeout_s=100)
    assert boxes
    drawn = written(film(), fill=fill, turns=turns) != film()
    inside = np.zeros_like(drawn)
    for box in boxes:
        inside[max(0, box.top) : box.top + box.height, max(0, box.left) : box.left + box.width] = 1
    assert (drawn & inside).sum() > 0.5 * drawn.sum()


def test_one_frame_of_many_is_enough_and_clean_frames_are_cleared(program, tmp_path):
    program("tesseract")
    gate = Gate(PixelPolicy(burned_in="ocr"), tmp_path / "held", b"0" * 43 + b"=")
    clean = gate.judge(item(film(1), film(2), film(3)), "dicom", None)
    assert isinstance(clean, VisualItem)
    assert clean.flags == ("text-cleared-by-ocr",)
    found = gate.judge(item(film(1), written(film(2)), film(3)), "dicom", None)
    assert isinstance(found, Refused)
    assert found.code == "burned-in-text"
    assert "QUILLON" not in found.reason


def test_masked_text_is_gone(program, tmp_path):
    program("tesseract")
    policy = PixelPolicy(burned_in="ocr", mask_text=True)
    masked = Gate(policy, tmp_path / "held", b"0" * 43 + b"=").judge(
        item(written(film(2)), film(3)), "dicom", None
    )
    assert isinstance(masked, VisualItem)
    assert masked.flags == ("text-masked",)
    assert masked.digest != "0" * 64
    assert not ocr.find_text(masked, timeout_s=100)
    first = next(frames_of(masked))
    assert (first[150:] == film(2)[150:]).all()


@pytest.mark.parametrize("why", ["missing", "slow", "failing"])
def test_recognition_that_fails_clears_nothing(tmp_path, monkeypatch, why):
    fake = tmp_path / "bin/tesseract"
    fake.parent.mkdir()
    if why != "missing":
        fake.write_text("#!/bin/sh\n" + ("exec sleep 9\n" if why == "slow" else "exit 1\n"))
        fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake.parent}:/bin" if why != "missing" else str(fake.parent))
    gate = Gate(PixelPolicy(burned_in="ocr", ocr_timeout_s=1), tmp_path / "held", b"0" * 43 + b"=")
    judged = gate.judge(item(film()), "dicom", None)
    assert isinstance(judged, Refused)
    assert judged.code == "burned-in-risk"
    assert (tmp_path / "held" / ("0" * 64)).exists()
