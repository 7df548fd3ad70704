from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_connectors.dicom import load_all, load_volume
from data_connectors.dicom.series import LoadedSeries, load_series
from data_connectors.dicom.source import DicomSource
from medvlp.errors import GeometryError, InputError


def test_a_folder_a_file_and_a_list_of_files(
    tmp_path: Path, write_series: Any, noise: np.ndarray
) -> None:
    paths = write_series(tmp_path / "a", noise)
    (tmp_path / "a" / "notes.txt").write_text("nothing")
    np.testing.assert_array_equal(load_volume(tmp_path / "a").array, noise - 1024)
    np.testing.assert_array_equal(load_volume(paths[2:7]).array, noise[2:7] - 1024)
    np.testing.assert_array_equal(load_volume(str(paths[3])).array, noise[3:4] - 1024)


def test_what_is_wrong_is_raised_with_its_code(
    tmp_path: Path, write_series: Any, noise: np.ndarray
) -> None:
    paths = write_series(tmp_path / "a", noise)
    with pytest.raises(GeometryError) as gap:
        load_volume([*paths[:4], *paths[5:]])
    assert gap.value.code == "series-gap"
    write_series(tmp_path / "b", noise, SeriesInstanceUID="2.25.77")
    with pytest.raises(InputError) as several:
        load_volume(tmp_path)
    assert several.value.code == "series-several"
    with pytest.raises(InputError) as missing:
        load_volume(tmp_path / "nowhere")
    assert missing.value.code == "source-missing"
    (tmp_path / "c").mkdir()
    with pytest.raises(InputError) as empty:
        load_volume(tmp_path / "c")
    assert empty.value.code == "series-none"


def test_a_broken_file_beside_the_volume_is_not_ignored(
    tmp_path: Path, write_series: Any, noise: np.ndarray
) -> None:
    paths = write_series(tmp_path, noise)
    paths[-1].write_bytes(paths[-1].read_bytes()[:-20])
    with pytest.raises(InputError) as caught:
        load_volume(tmp_path)
    assert caught.value.code == "dicom-truncated"


def test_several_series_come_one_by_one(
    tmp_path: Path, write_series: Any, noise: np.ndarray
) -> None:
    write_series(tmp_path / "a", noise)
    write_series(tmp_path / "b", noise + 1, SeriesInstanceUID="2.25.77")
    parts = [part for part in load_all(tmp_path) if isinstance(part, LoadedSeries)]
    assert [int(part.volume.array[0, 0, 0] - noise[0, 0, 0]) for part in parts] == [-1024, -1023]


def test_files_follow_the_normal_and_lead_back_to_the_pixels_as_acquired(
    tmp_path: Path, write_series: Any, noise: np.ndarray
) -> None:
    """A sagittal series, whose slices become the last axis of the volume."""
    places = [(30.0 - 2 * k, 0.0, 0.0) for k in range(10)]
    sagittal = [0.0, 1, 0, 0, 0, -1]
    write_series(tmp_path, noise, positions=places, ImageOrientationPatient=sagittal)
    source = DicomSource(name="x", path=tmp_path)
    [part] = load_series(source, tuple(f"{k:03d}.dcm" for k in range(10)))
    assert isinstance(part, LoadedSeries)
    assert part.volume.array.shape == (6, 5, 10)
    stack = part.frame.view(part.volume.array)
    for name, pixels in zip(part.names, stack, strict=True):
        np.testing.assert_array_equal(pixels, noise[int(name[:3])] - 1024)
