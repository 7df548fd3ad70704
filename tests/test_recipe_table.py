from __future__ import annotations

import numpy as np
import pytest

from benchmarks.recipe_table import RESAMPLES, _mean_of_seeds, _row
from benchmarks.recipes import BENCHES, merged
from downstream.bootstrap import Estimate
from medvlp.losses.build import build_loss
from medvlp.models.config import ModelConfig
from medvlp.models.tokens import train_wordpiece
from pretrain.config import PretrainConfig


def seeds(*values: float) -> list[dict[str, Estimate]]:
    """Runs whose patients all agree: only seeds differ."""
    return [{"AUC": Estimate(value, np.full(RESAMPLES, value))} for value in values]


def test_an_interval_is_over_seeds_too() -> None:
    joined = _mean_of_seeds(seeds(0.0, 1.0))["AUC"]
    assert joined.value == 0.5
    drawn, times = np.unique(joined.draws, return_counts=True)
    assert drawn.tolist() == [0, 0.5, 1]
    assert times / RESAMPLES == pytest.approx([0.25, 0.5, 0.25], abs=0.05)


def test_recipes_are_compared_seed_by_seed() -> None:
    ours, theirs = _mean_of_seeds(seeds(0.3, 0.6, 0.9)), _mean_of_seeds(seeds(0.2, 0.5, 0.8))
    ahead = _row(theirs, ours, 3)["medvlp ahead"]
    assert ahead["value"] == pytest.approx(0.1)
    assert ahead["interval"] == pytest.approx((0.1, 0.1))
    assert _row(theirs, ours, 3)["AUC"]["interval"] == pytest.approx((0.2, 0.8))
    assert "medvlp ahead" not in _row(ours, ours, 3)


def test_a_small_data_set_is_split_anew_for_every_seed() -> None:
    assert BENCHES["nih"].dataset_of(2) == "nih-2"
    assert BENCHES["kermany"].dataset_of(2) == "kermany"


@pytest.mark.parametrize("budget", ["small", "large"])
@pytest.mark.parametrize("bench", BENCHES)
def test_a_budget_fits_every_recipe_and_is_the_same_for_all(bench: str, budget: str) -> None:
    tokenizer = train_wordpiece(["There is a nodule."], vocabulary=300, max_tokens=32)
    shared = set()
    for recipe in BENCHES[bench].recipes:
        config = PretrainConfig.model_validate(merged(recipe, bench, budget))
        for objective in config.objectives:
            build_loss(objective, config.model, tokenizer)  # refuses a part that is missing
        model, data = config.model, config.data
        shared.add((model.frames.model_dump_json(), model.text.model_dump_json(),
                    model.embed_dim, model.preprocess.size, data.batch_size,
                    data.augment.model_dump_json(), config.optim.model_dump_json(),
                    config.trainer.model_dump_json()))  # fmt: skip
    assert len(shared) == 1
    assert model != ModelConfig()
