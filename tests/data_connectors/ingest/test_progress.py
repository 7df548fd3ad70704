from __future__ import annotations

import logging

import pytest

from data_connectors.ingest import progress
from data_connectors.ingest.progress import Meter, shown


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test moves."""

    class Clock:
        now = 1000.0

    monkeypatch.setattr(progress.time, "monotonic", lambda: Clock.now)
    return Clock


def test_time_left_follows_bytes_not_units(clock):
    meter = Meter("reading", "units", 101, 10_000_000)
    for _ in range(100):  # a hundred small images, then one volume of nine tenths of the bytes
        clock.now += 0.1
        meter.add(1, 10_000)
    assert meter.rates == pytest.approx((10, 100_000))
    assert meter.left_s == pytest.approx(90)  # by units it would be 0.1 s
    assert "100 of 101 units, 1 of 10 MB (0.1 MB/s, 10 units/s), about 2 min left" in meter.line()


def test_what_an_earlier_run_did_is_done_but_does_not_count_as_speed(clock):
    meter = Meter("reading", "units", 100, 1000)
    meter.skip(50, 500)
    assert meter.left_s is None
    clock.now += 10
    meter.add(1, 10)
    assert meter.left_s == pytest.approx(490)


def test_the_rate_is_that_of_the_last_minute(clock):
    meter = Meter("reading", "units", 10_000, 10_000_000)
    for _ in range(100):
        clock.now += 1
        meter.add(1, 1_000)
    for _ in range(100):
        clock.now += 1
        meter.add(1, 10_000)
    assert meter.rates[1] == pytest.approx(10_000, rel=0.05)


def test_empty_files_still_have_a_rate(clock):
    meter = Meter("looking", "files", 10, 0)
    clock.now += 1
    meter.add(5, 0)
    assert meter.left_s == pytest.approx(1)


def test_a_log_gets_a_line_now_and_then(clock, caplog):
    with caplog.at_level(logging.INFO), shown(Meter("reading", "units", 100, 100)) as shows:
        for _ in range(100):
            clock.now += 1
            shows.add(1, 1)
    assert 5 <= len(caplog.messages) <= 7
    assert all("MB/s" in message and "left" in message for message in caplog.messages)
