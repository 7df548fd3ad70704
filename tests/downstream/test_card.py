from __future__ import annotations

from dataclasses import fields, replace

import pytest

from downstream.card import MetricCard, compare, split_digest
from medvlp.errors import MedvlpError

CARD = MetricCard(
    task="zero-shot", metric="macro_auc", aggregation="mean", undefined="left out", truth="gold",
    score="difference", ties="half", interval="95 %", split="test", split_digest="s",
    prompt_digest="p", dataset_digest="d", model_digest="m1", fps=1.0, labels=("a", "b"),
)  # fmt: skip


def result(card: MetricCard, value: float | None = 0.9, half: float = 0.01) -> dict[str, object]:
    low, high = (None, None) if value is None else (value - half, value + half)
    return {"metric": card.metric, "value": value, "low": low, "high": high, "card": card.to_dict()}


def test_two_models_are_compared_in_one_definition() -> None:
    other = replace(CARD, model_digest="m2")
    assert other.digest == CARD.digest
    comparison = compare(result(CARD, 0.9), result(other, 0.8))
    assert comparison.difference == pytest.approx(0.1)
    assert comparison.intervals_apart
    assert not compare(result(CARD, 0.9, 0.2), result(other, 0.8, 0.2)).intervals_apart


@pytest.mark.parametrize("name", [f.name for f in fields(MetricCard) if f.name != "model_digest"])
def test_any_other_difference_is_refused_and_named(name: str) -> None:
    value = 25.0 if name == "fps" else ("a",) if name == "labels" else "something else"
    other = replace(CARD, **{name: value})
    assert other.digest != CARD.digest
    with pytest.raises(MedvlpError, match=f"different {name}") as caught:
        compare(result(CARD), result(other))
    assert caught.value.code == "card-mismatch"


def test_undefined_results_are_not_compared() -> None:
    with pytest.raises(MedvlpError) as caught:
        compare(result(CARD, None), result(CARD))
    assert caught.value.code == "result-undefined"


def test_split_digest_ignores_order_and_sees_every_key() -> None:
    rows = [("a", "1"), ("b", "0")]
    assert split_digest(rows) == split_digest(reversed(rows))
    assert split_digest(rows) != split_digest([("a", "1"), ("b", "1")])
