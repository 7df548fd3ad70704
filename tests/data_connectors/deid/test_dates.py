from __future__ import annotations

from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_connectors.deid.dates import cap_age, shift


@given(st.dates(date(1900, 1, 1), date(2100, 1, 1)), st.integers(-3650, -1))
def test_a_date_moves_by_days_of_the_calendar(day, days):
    expected = f"{day + timedelta(days=days):%Y%m%d}"
    assert shift("DA", f"{day:%Y%m%d}", days) == expected
    assert shift("DT", f"{day:%Y%m%d}120000.5+0100", days) == f"{expected}120000.5+0100"


@pytest.mark.parametrize(
    ("vr", "text", "moved"),
    [
        ("DA", "20240301", "20240229"), ("DA", "20230301", "20230228"),
        ("DA", "2024.03.01", "20240229"), ("DA", "20240230", None), ("DA", "", None),
        ("DA", "202403", None), ("DA", "today", None), ("DA", "00010101", None),
        ("DT", "20240301", "20240229"), ("DT", "2024", None), ("DT", "20240301-0500",
                                                               "20240229-0500"),
        ("DT", "20240301101", None), ("TM", "235959.123", "235959.123"), ("TM", "at noon", None),
        ("TM", "10:11:12", "10:11:12"), ("SH", "+0100", "+0100"), ("SH", "CET", None),
    ],
)  # fmt: skip
def test_values_that_are_none_do_not_stay(vr, text, moved):
    assert shift(vr, text, -1) == moved


@pytest.mark.parametrize(
    ("age", "capped"),
    [("034Y", "034Y"), ("089Y", "089Y"), ("090Y", "090Y"), ("091Y", "090Y"), ("999Y", "090Y"),
     ("999M", "999M"), ("999D", "999D"), ("34", None), ("0034Y", None)],
)  # fmt: skip
def test_ages(age, capped):
    assert cap_age(age) == capped
