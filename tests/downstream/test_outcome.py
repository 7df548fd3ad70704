from __future__ import annotations

from typing import Any

import pytest

from downstream.outcome import Outcome


def _outcome(*groups: int) -> Outcome:
    results: list[Any] = [{"groups": count} for count in groups]
    return Outcome("name", "phase", results, [], {}, None)


@pytest.mark.parametrize(("groups", "warned"), [((2, 40), True), ((9,), True), ((10, 12), False)])
def test_an_interval_over_few_patients_comes_with_a_warning(
    groups: tuple[int, ...], warned: bool
) -> None:
    note = f"Only {min(groups)} patients or lectures: the interval says little."
    assert _outcome(*groups).notes == [note] * warned
