"""Windows of what an engine did, in order and bounded."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from greencache.controller.telemetry import Spread, Telemetry, Window
from greencache.errors import InputError

HOUR_S = 3600.0


def window(hour: int, arrivals: int = 10) -> Window:
    none = Spread.of(np.zeros(0))
    return Window(
        start_s=hour * HOUR_S,
        duration_s=HOUR_S,
        arrivals=arrivals,
        prompt_tokens=1000,
        output_tokens=100,
        hit_tokens={"hbm": 200.0, "dram": 100.0, "ssd": 50.0},
        finished=8,
        within_slo=6,
        ttft=Spread.of(np.array([1.0, 3.0])),
        tpot=none,
        busy_s=100.0,
        gpu_j=1e6,
        prefill_tokens=650.0,
        prefill_s=50.0,
        prefill_j=1e5,
        read_bytes=0.0,
        written_bytes=0.0,
        declined_bytes=0.0,
        held_blocks=3.0,
        backlog_s=0.0,
    )


def test_a_window_says_what_share_was_found_and_in_time() -> None:
    one = window(0)
    assert one.hit_rate == pytest.approx(0.35)
    assert one.attainment == pytest.approx(0.75)
    assert one.requests_per_s == pytest.approx(10 / 3600)
    assert one.ttft.mean_s == 2.0
    assert np.isnan(one.tpot.mean_s)


def test_without_requests_nothing_is_claimed_of_them() -> None:
    none = replace(window(0, 0), prompt_tokens=0, finished=0, within_slo=0)
    assert np.isnan(none.hit_rate)
    assert np.isnan(none.attainment)


def test_loads_have_gaps_where_windows_are_missing() -> None:
    telemetry = Telemetry()
    telemetry.extend([window(2, 5), window(3, 6), window(6, 7)])
    np.testing.assert_array_equal(telemetry.loads(), [5, 6, np.nan, np.nan, 7])


def test_windows_of_a_part_of_an_interval_count_as_much_as_they_ask_for() -> None:
    telemetry = Telemetry()
    telemetry.add(replace(window(0, 5), duration_s=HOUR_S / 2))
    assert telemetry.loads() == pytest.approx([10])


def test_history_is_bounded_gaps_included() -> None:
    telemetry = Telemetry(longest=3)
    telemetry.extend([window(0), window(1), window(4)])
    assert [each.start_s / HOUR_S for each in telemetry.windows] == [4]
    telemetry.extend([window(5), window(6), window(7)])
    assert len(telemetry.loads()) == len(telemetry) == 3
    assert telemetry.latest is not None
    assert telemetry.latest.start_s == 7 * HOUR_S


def test_what_is_known_of_the_time_before_comes_first() -> None:
    telemetry = Telemetry(longest=3, earlier_loads=np.array([3.0, 4.0]))
    np.testing.assert_array_equal(telemetry.loads(), [3, 4])
    telemetry.extend([window(0), window(1), window(2)])
    assert len(telemetry.loads()) == 5
    telemetry.add(window(3))  # the first one is forgotten, so that there would be a gap
    assert len(telemetry.loads()) == 3


def test_an_empty_history_has_no_loads() -> None:
    assert len(Telemetry().loads()) == 0
    assert Telemetry().latest is None


@pytest.mark.parametrize("start_s", [0.0, HOUR_S, 2.5 * HOUR_S])
def test_windows_out_of_step_are_refused(start_s: float) -> None:
    telemetry = Telemetry()
    telemetry.extend([window(0), window(1)])
    with pytest.raises(InputError, match="does not follow"):
        telemetry.add(replace(window(0), start_s=start_s))


def test_windows_that_cannot_be_are_refused() -> None:
    with pytest.raises(InputError, match="duration above 0"):
        replace(window(0), duration_s=0.0)
    with pytest.raises(InputError, match="within the SLO"):
        replace(window(0), within_slo=9)
    with pytest.raises(InputError, match="1 interval or more"):
        Telemetry(longest=0)
