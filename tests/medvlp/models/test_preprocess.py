from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medvlp.models.config import PreprocessConfig
from medvlp.models.preprocess import heat_to_original, normalise, preprocess
from medvlp.types import Visual


def volume(frames: np.ndarray, unit="HU", window=None) -> Visual:
    return Visual(frames, np.arange(len(frames), dtype=float), "volume", unit, window)


def image(frame: np.ndarray, window=None) -> Visual:
    unit = "rgb" if frame.ndim == 3 else "raw"
    return Visual(frame[None], np.zeros(1), "image", unit, window)


def test_ct_is_shown_through_three_windows():
    hu = np.array([[-1350, -600, 150, 40], [-160, 240, 300, 1050]], np.int16)
    hu = np.kron(hu, np.ones((4, 2), np.int16))  # 8 x 8: nothing is resized
    out = preprocess(volume(hu[None]), PreprocessConfig(size=8))[0]
    for channel, (centre, width) in enumerate([(-600, 1500), (40, 400), (300, 1500)]):
        expected = np.clip((hu - (centre - width / 2)) / width, 0, 1) * 255
        assert np.abs(out[channel].numpy() - expected).max() <= 0.5


def test_sixteen_bit_grey_uses_the_window_of_its_header():
    frame = np.linspace(0, 4000, 64).reshape(8, 8).astype(np.uint16)
    out = preprocess(image(frame, window=(2000.0, 1000.0)), PreprocessConfig(size=8))[0, 0]
    expected = np.clip((frame.astype(float) - 1500) / 1000, 0, 1) * 255
    assert np.abs(out.numpy() - expected).max() <= 0.51


def test_grey_without_a_window_is_stretched_between_its_percentiles():
    rng = np.random.default_rng(0)
    frame = rng.integers(500, 600, (32, 32)).astype(np.uint16)
    frame[0, 0] = 65535  # a dead pixel must not decide the contrast
    out = preprocess(image(frame), PreprocessConfig(size=32))[0, 0]
    assert out.float().std() > 60
    assert torch.equal(out, preprocess(image(frame), PreprocessConfig(size=32))[0, 1])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float32])
@pytest.mark.parametrize("value", [0, 7])
def test_a_constant_image_gives_finite_input(dtype, value):
    config = PreprocessConfig(size=16)
    out = preprocess(image(np.full((20, 30), value, dtype)), config)
    for standardise in ("fixed", "frame"):
        floats = normalise(out, PreprocessConfig(size=16, standardise=standardise))
        assert torch.isfinite(floats).all()
    assert normalise(out, config).abs().max() < 1e-3


def test_missing_values_of_float_images_do_not_spread():
    frame = np.random.default_rng(0).normal(size=(16, 16)).astype(np.float32)
    frame[3, 3] = np.nan
    out = preprocess(image(frame), PreprocessConfig(size=16))[0, 0]
    assert out.float().std() > 30


def test_colour_is_kept():
    frame = np.zeros((10, 10, 3), np.uint8)
    frame[..., 0], frame[..., 2] = 200, 50
    out = preprocess(image(frame), PreprocessConfig(size=10))[0]
    assert out[:, 5, 5].tolist() == [200, 0, 50]


def test_read_only_frames_are_taken_without_a_warning():
    frame = np.zeros((8, 8, 3), np.uint8)
    frame.setflags(write=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        colour = preprocess(image(frame), PreprocessConfig(size=8))
        grey = preprocess(image(frame[..., 0]), PreprocessConfig(size=8))
    assert colour.shape == grey.shape == (1, 3, 8, 8)
    assert not frame.flags.writeable


def test_frames_are_padded_not_cropped_or_stretched():
    frame = np.full((10, 20), 255, np.uint8)
    frame[0, 0] = 0
    out = preprocess(image(frame, window=(127.5, 255.0)), PreprocessConfig(size=20))[0, 0]
    assert out[:5].max() == 0
    assert out[15:].max() == 0
    assert out[5:15, 1:].min() == 255


def test_a_long_series_in_chunks_equals_one_by_one():
    rng = np.random.default_rng(0)
    frames = rng.integers(-1000, 1000, (90, 512, 512)).astype(np.int16)
    config = PreprocessConfig(size=16)
    whole = preprocess(volume(frames), config)
    assert torch.equal(whole[77], preprocess(volume(frames[77:78]), config)[0])


def test_standardised_frames_forget_exposure():
    rng = np.random.default_rng(0)
    frame = rng.random((1, 1, 16, 16)).astype(np.float32).repeat(3, 1)
    config = PreprocessConfig(size=16, standardise="frame")
    dim = normalise(torch.from_numpy(frame) * 0.5 + 0.2, config)
    assert torch.allclose(normalise(torch.from_numpy(frame), config), dim, atol=0.15)
    assert abs(float(dim.mean())) < 1e-5


@settings(max_examples=30, deadline=None)
@given(h=st.integers(8, 60), w=st.integers(8, 60), y=st.floats(0.1, 0.9), x=st.floats(0.1, 0.9))
def test_a_bright_spot_maps_back_to_where_it_was(h, w, y, x):
    frame = np.zeros((h * 4, w * 4), np.uint8)
    at = int(y * h) * 4 + 2, int(x * w) * 4 + 2
    frame[at[0] - 2 : at[0] + 2, at[1] - 2 : at[1] + 2] = 255
    config = PreprocessConfig(size=64)
    shown = preprocess(image(frame, window=(127.5, 255.0)), config)[0, 0].float()
    back = heat_to_original(shown, frame.shape)
    assert back.shape == frame.shape
    peak = np.unravel_index(int(back.argmax()), frame.shape)
    reach = max(frame.shape) / 64 * 1.5 + 2
    assert abs(peak[0] - at[0]) <= reach
    assert abs(peak[1] - at[1]) <= reach
