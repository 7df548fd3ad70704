"""Uneven stacks, kept on request as slices with their true positions, up to the batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_connectors.config import IngestConfig
from data_connectors.dataset.store import Dataset
from data_connectors.dicom import load_volume
from data_connectors.ingest.run import ingest as run_ingest
from medvlp.config import load_config
from pretrain.config import PretrainConfig
from pretrain.datamodule import PretrainData
from pretrain.samples import train_samples
from pretrain.texts import build_tokenizer

HEIGHTS = np.array([0.0, 2, 4, 6, 8, 11.1, 13.1, 15.1, 20.0, 22.0])
SMOKE = Path(__file__).resolve().parents[3] / "configs" / "pretrain" / "smoke.yaml"


@pytest.mark.parametrize("falling", [False, True])
def test_slices_keep_their_positions(
    tmp_path: Path, write_series: Any, noise: np.ndarray, falling: bool
) -> None:
    order = list(range(10))[:: -1 if falling else 1]
    write_series(tmp_path, noise[order], positions=[(-10.0, -20.0, 30 + HEIGHTS[k]) for k in order])
    volume = load_volume(tmp_path, irregular="keep")
    np.testing.assert_array_equal(volume.array, noise - 1024)
    np.testing.assert_allclose(volume.positions_mm, HEIGHTS)
    np.testing.assert_allclose(volume.affine[:3, 3], [-10, -20, 30])
    np.testing.assert_allclose(volume.spacing_mm, (2.0, 0.8, 0.6))


@pytest.mark.parametrize("towards", [1.0, -1.0])
def test_sagittal_slices_stay_the_first_axis(
    tmp_path: Path, write_series: Any, noise: np.ndarray, towards: float
) -> None:
    """Every voxel is where PS3.3 C.7.6.2.1.1 puts it: origin + unit step x position, and so on."""
    cosines = [0.0, 1, 0, 0, 0, -1]
    places = [(50 + towards * float(z), 7.0, 9.0) for z in HEIGHTS]
    write_series(tmp_path, noise, positions=places, ImageOrientationPatient=cosines)
    volume = load_volume(tmp_path, irregular="keep")
    assert volume.array.shape == (10, 6, 5)
    assert volume.positions_mm is not None
    unit = volume.affine[:3, 0] / np.linalg.norm(volume.affine[:3, 0])
    assert unit[0] == pytest.approx(1)
    for d, h, w in np.ndindex(volume.array.shape):
        place = volume.affine[:3, 1:3] @ [h, w] + volume.affine[:3, 3]
        place += unit * volume.positions_mm[d]
        k = next(k for k in range(10) if abs(places[k][0] - place[0]) < 1e-6)
        row, column = round((9.0 - place[2]) / 0.8), round((place[1] - 7.0) / 0.6)
        assert volume.array[d, h, w] == noise[k, row, column] - 1024


def test_a_gap_is_kept_but_never_a_duplicate_or_a_shifted_slice(
    ingest: Any, tmp_path: Path, write_series: Any, noise: np.ndarray
) -> None:
    paths = write_series(tmp_path, noise)
    paths[4].unlink()
    kept = ingest(tmp_path, irregular="keep").only
    assert kept.geometry.positions_mm == pytest.approx((0, 2, 4, 6, 10, 12, 14, 16, 18))
    places = [(0.0, 0.0, 2.0 * k) for k in (0, 1, 2, 3, 4, 4, 5, 6, 7, 8)]
    write_series(tmp_path, noise, positions=places)
    assert ingest(tmp_path, irregular="keep").refusal.code == "series-duplicate-position"
    places = [(3.0 * (k == 4), 0.0, HEIGHTS[k]) for k in range(10)]
    write_series(tmp_path, noise, positions=places)
    assert ingest(tmp_path, irregular="keep").refusal.code == "series-irregular-position"


def test_an_even_stack_has_no_positions(
    ingest: Any, tmp_path: Path, write_series: Any, noise: np.ndarray
) -> None:
    write_series(tmp_path, noise)
    assert ingest(tmp_path, irregular="keep").only.geometry.positions_mm is None


def test_positions_reach_the_batch(tmp_path: Path, write_series: Any, noise: np.ndarray) -> None:
    for patient in range(4):
        write_series(
            tmp_path / "in" / str(patient), noise + patient,
            positions=[(0.0, 0.0, float(z)) for z in HEIGHTS], PatientID=f"P{patient}",
            StudyInstanceUID=f"2.25.5{patient}", SeriesInstanceUID=f"2.25.6{patient}",
        )  # fmt: skip
    source = {"kind": "dicom", "name": "ct", "path": str(tmp_path / "in"), "caption": "Chest CT.",
              "irregular": "keep"}  # fmt: skip
    config = IngestConfig.model_validate({"sources": [source], "split": {"val": 0, "test": 0}})
    run_ingest(config, tmp_path / "dataset", base=tmp_path)
    dataset = Dataset.open(tmp_path / "dataset")
    np.testing.assert_allclose(dataset.visual(dataset.samples[0]).positions, HEIGHTS)
    some = dataset.visual(dataset.samples[0], max_frames=2).positions
    np.testing.assert_allclose(some, HEIGHTS[[2, 7]])

    pretrain = load_config(PretrainConfig, SMOKE, ["data.volume_frames=32"])
    samples = train_samples(dataset, pretrain)
    data = PretrainData(pretrain, dataset, samples, build_tokenizer(pretrain.model.text, samples))
    batch = data.batch(0)
    positions = batch.positions.numpy().reshape(-1, 10)
    np.testing.assert_allclose(positions, np.tile(HEIGHTS, (len(batch), 1)), rtol=1e-6)
