"""The wall's clock, where the host sleeps or somebody sets its time."""

from __future__ import annotations

import time
from dataclasses import dataclass

import pytest

from greencache.quantities import HOUR_S
from greencache.service.clocks import WallClock


@dataclass
class Host:
    """Its two clocks."""

    wall_s: float = 1.8e9
    monotonic_s: float = 1000.0

    def runs(self, seconds: float) -> None:
        self.wall_s += seconds
        self.monotonic_s += seconds


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Host:
    one = Host()
    monkeypatch.setattr(time, "time", lambda: one.wall_s)
    monkeypatch.setattr(time, "monotonic", lambda: one.monotonic_s)
    return one


def test_it_is_the_time_of_day_again_after_a_suspend(
    host: Host, caplog: pytest.LogCaptureFixture
) -> None:
    clock = WallClock()
    host.runs(60.0)
    assert clock() == host.wall_s
    arrived_s, before_s = host.monotonic_s - 5.0, host.wall_s - 5.0
    host.wall_s += 8 * HOUR_S  # while the monotonic clock stands still
    host.runs(50.0)
    assert clock.of_monotonic(arrived_s) == before_s
    assert clock() == host.wall_s
    assert clock.skipped_s == 8 * HOUR_S
    assert clock.of_monotonic(host.monotonic_s - 10.0) == host.wall_s - 10.0
    assert clock.of_monotonic(arrived_s) == before_s, "what has been stays where it was"
    assert [each.getMessage()[:26] for each in caplog.records] == ["time goes on 28800 s later"]


def test_it_does_not_go_back_and_says_so_once(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    clock = WallClock()
    before_s = clock()
    host.wall_s -= HOUR_S
    for minute in range(1, 4):
        host.runs(60.0)
        assert clock() == before_s + minute * 60.0
    assert clock.skipped_s == 0
    assert len(caplog.records) == 1
    assert "set back by 3600 s" in caplog.text


def test_a_few_seconds_are_not_followed(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    clock = WallClock()
    before_s = clock()
    for off_s in (50.0, -100.0):
        host.wall_s += off_s
        assert clock() == before_s
    assert (clock.skipped_s, caplog.records) == (0, [])


@pytest.mark.parametrize("made", [{"speed": 3600.0}, {"starts_s": 5.0}], ids=str)
def test_time_that_is_made_up_is_not_corrected(host: Host, made: dict[str, float]) -> None:
    clock = WallClock(**made)
    before_s = clock()
    host.wall_s += 8 * HOUR_S
    assert clock() == before_s
