from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from data_connectors.items import Region
from downstream.config import EvalConfig, GroundingTask
from downstream.embedder import Embedder
from downstream.grounding import contrast_heat, heat_map, run_grounding
from downstream.outcome import Context, SkipTask
from downstream.regions import mean_location, region_mask, to_grid
from medvlp.errors import DatasetError
from medvlp.types import Geometry, Sample, Visual


def run(dataset: Any, encoder: Any, rivals: Any = None, **fields: Any) -> Any:
    task = {"kind": "grounding", "name": "point", **fields}
    config = EvalConfig.model_validate({"tasks": [task], "bootstrap": 200})
    embedders = {n: Embedder(n, e, dataset) for n, e in (rivals or {}).items()}
    context = Context(config, dataset, Embedder("model", encoder, dataset), embedders)
    return run_grounding(GroundingTask.model_validate(task), context)


def by_metric(outcome: Any) -> dict[str, Any]:
    return {result["metric"]: result for result in outcome.results}


def test_a_model_that_sees_findings_points_at_them(fakes: Any) -> None:
    hospital = fakes.hospital(patients=150)
    outcome = run(hospital, fakes.Encoder(), {"untrained": fakes.Encoder(blind=True)})
    overall = by_metric(outcome)["pointing"]
    assert overall["value"] > 0.85
    for name in ("mean_location", "centre", "all_ones", "untrained"):
        assert overall["baselines"][name]["high"] < overall["low"]
        assert overall["baselines"][name]["difference_low"] > 0
    assert (
        by_metric(outcome)["pointing/nodule"]["n"]
        + (by_metric(outcome)["pointing/pleural_effusion"]["n"])
        == overall["n"]
    )


def test_all_ones_is_the_expected_area(hospital: Any, encoder: Any) -> None:
    outcome = run(hospital, encoder, where={"kinds": ["image"]}, labels=["nodule"])
    nodules = [
        r for r in hospital.rows if r.split == "test" and r.kind == "image" and "nodule" in r.labels
    ]
    assert by_metric(outcome)["pointing"]["n"] == len(nodules)
    ones = by_metric(outcome)["pointing"]["baselines"]["all_ones"]["value"]
    assert ones == pytest.approx(100 / (64 * 80))


def one_finding(key: str, split: Any, mask: np.ndarray, fakes: Any) -> tuple[Sample, Region]:
    sample = Sample(
        key=key, patient=key, study=key, split=split, kind="image", modality="CR",
        labels=("nodule",), geometry=Geometry(shape=mask.shape),
    )  # fmt: skip
    return sample, Region("nodule", None, fakes.png(mask))


def test_mean_location_points_where_training_masks_overlap_most(fakes: Any, encoder: Any) -> None:
    dataset = fakes.Dataset()
    masks = {}
    for key, split, (y, x) in (
        ("t1", "train", (0, 0)), ("t2", "train", (2, 2)), ("e1", "test", (3, 3)),
        ("e2", "test", (0, 4)),
    ):  # fmt: skip
        mask = np.zeros((8, 8), dtype=bool)
        mask[y : y + 4, x : x + 4] = True
        masks[key] = mask
        sample, region = one_finding(key, split, mask, fakes)
        dataset.add(sample, Visual(np.zeros((1, 8, 8), np.uint8), np.zeros(1), "image", "raw"))
        dataset.truth[key] = [region]
    training = [s for s in dataset.rows if s.split == "train"]
    prior = mean_location(dataset, training, ["nodule"], 8)["image", "nodule"]
    np.testing.assert_allclose(prior, (masks["t1"] * 1.0 + masks["t2"]) / 2)
    # The four cells (2, 2) to (3, 3) are in both masks. e1 holds one of them, e2 none.
    outcome = run(dataset, encoder, grid=8)
    assert by_metric(outcome)["pointing"]["baselines"]["mean_location"]["value"] == (1 / 4 + 0) / 2


def test_the_grid_keeps_areas_whatever_the_size() -> None:
    rng = np.random.default_rng(0)
    for shape in ((64, 48), (100, 37), (12, 40, 40)):
        mask = rng.random(shape) < 0.3
        grid = to_grid(mask, 4)
        assert grid.shape == (4,) * len(shape)
    np.testing.assert_allclose(to_grid(np.eye(4, dtype=bool), 2), [[0.5, 0], [0, 0.5]])


def test_masks_boxes_and_stacked_slices(fakes: Any) -> None:
    volume = np.zeros((3, 4, 5), dtype=bool)
    volume[1, 2:, 1:3] = True
    region = Region("mass", "left", fakes.png(volume))
    np.testing.assert_array_equal(region_mask([region], (3, 4, 5)), volume)
    box = Region("mass", None, None, (1.0, 2.0, 3.0, 4.0))
    np.testing.assert_array_equal(region_mask([box], (4, 5)), volume[1])
    both = Region("mass", "right", None, (3.0, 0.0, 5.0, 1.0))
    assert region_mask([box, both], (4, 5)).sum() == 4 + 2
    with pytest.raises(DatasetError) as caught:
        region_mask([region], (4, 5))
    assert caught.value.code == "region-shape"


def test_only_findings_that_are_truly_present_count(hospital: Any, encoder: Any) -> None:
    before = by_metric(run(hospital, encoder))["pointing"]["n"]
    victim = next(r for r in hospital.rows if r.split == "test" and "nodule" in r.labels)
    place = hospital.rows.index(victim)
    hospital.rows[place] = replace(victim, labels=("normal",))
    dropped = len(hospital.truth[victim.key])
    assert by_metric(run(hospital, encoder))["pointing"]["n"] == before - dropped
    hospital.truth = {}
    with pytest.raises(SkipTask):
        run(hospital, encoder)


def test_slice_weights_decide_between_slices_only_when_asked() -> None:
    # Two slices of one patch; the second has the higher similarity, the first the higher weight.
    maps = torch.tensor([0.6, 0.8, 0.0])[:, None, None]
    weights = torch.tensor([0.9, 0.1, 0.0])
    plain = heat_map(maps, weights, (3, 4, 4), "plain")
    assert plain.shape == (3, 4, 4)
    assert plain[:, 0, 0] == pytest.approx([0.6, 0.8, 0.0])
    weighted = heat_map(maps, weights, (3, 4, 4), "weighted")
    assert weighted[:, 0, 0] == pytest.approx([0.6, 0.8 * 0.1 / 0.9, 0.0])


def test_weighting_never_turns_a_cold_volume_round() -> None:
    """All similarities negative: the least negative patch of the heaviest slice must win."""
    maps = torch.tensor([-0.8, -0.6])[:, None, None]
    heat = heat_map(maps, torch.tensor([0.1, 0.9]), (2, 4, 4), "weighted")
    assert (heat >= 0).all()
    assert heat[1].max() > heat[0].max()


def test_contrasted_maps_are_claims_less_denials(hospital: Any, encoder: Any) -> None:
    embedder = Embedder("model", encoder, hospital)
    sample = next(s for s in hospital.samples if s.kind == "volume")
    claims, denials = np.eye(8)[:2], np.eye(8)[6:]
    maps, weights = contrast_heat(embedder, sample, claims, denials)
    alone, _ = contrast_heat(embedder, sample, claims, None)
    other, _ = contrast_heat(embedder, sample, denials, None)
    assert torch.allclose(maps, alone - other)
    assert weights.sum().item() == pytest.approx(1)


def test_pictures_show_the_pointed_slice(hospital: Any, encoder: Any) -> None:
    pictures = run(hospital, encoder, where={"kinds": ["volume"]}).view.pictures
    assert pictures
    for picture in pictures:
        assert picture.heat.shape == picture.mask.shape == (48, 40)
        assert len(picture.slice_weights) == len(picture.lesion_slices) == 12
        y, x = picture.pixel
        assert picture.heat[y, x] == picture.heat.max()
        assert picture.hit == 0 or picture.lesion_slices[picture.slice]
