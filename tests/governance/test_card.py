from governance.card import write_card
from governance.config import CardConfig

RESULT = {
    "task": "zero_shot",
    "metric": "macro_auc",
    "value": 0.9123,
    "low": 0.88,
    "high": 0.94,
    "n": 40,
    "baselines": {"chance": 0.5, "untrained": {"value": 0.47, "low": 0.4, "high": 0.5}},
}


def _card(card: CardConfig | None = None, **facts: object) -> str:
    return write_card(card or CardConfig(), name="m", model={}, run=dict(facts), results=[RESULT])


def test_numbers_carry_their_interval_and_what_stands_beside_them() -> None:
    card = _card()
    assert "| 0.912 | 0.880 to 0.940 | 40 | chance 0.5, untrained 0.47 |" in card


def test_a_blank_is_printed_as_not_provided() -> None:
    card = _card(steps=10)
    assert "| Intended use | not provided |" in card
    assert "| Steps | 10 |" in card
    assert "| Seed | not provided |" in card


def test_text_of_people_stays_text() -> None:
    card = _card(CardConfig(intended_use="<script>alert(1)</script> | x\n# Heading"))
    assert "<script" not in card.replace("\\<script", "")
    assert "\n# Heading" not in card


def test_no_card_ever_claims_compliance() -> None:
    assert "complian" not in _card().lower()


def test_an_undefined_metric_is_left_out() -> None:
    card = write_card(CardConfig(), name="m", model={}, run={}, results=[{**RESULT, "value": None}])
    assert "macro" not in card
