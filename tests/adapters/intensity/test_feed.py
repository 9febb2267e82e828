"""A feed over restarts, files and time: the cache, the background, and the settings."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import stat
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from greencache.adapters.intensity import IntensityFeed, Label, intensity_feed, provider_of
from greencache.adapters.intensity.cache import read_cache, write_cache
from greencache.adapters.intensity.file import GridFile
from greencache.controller.forecasts import SeasonalNaive
from greencache.controller.intensity import IntensityBook, Points
from greencache.controller.regression_forecasts import LaggedRegression
from greencache.errors import SettingsError, SourceError
from greencache.quantities import DAY_S, HOUR_S
from greencache.settings import IntensitySettings, Settings
from greencache.traces.samples import sample_grid
from tests.adapters.intensity.services import KEY, NOW_H, NOW_S, SERVICES, value_at
from tests.adapters.serving import Reply, serving
from tests.controller.test_intensity import window

LABEL = Label("GB", "average", "direct", "a test")


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def settings_of(**intensity: Any) -> Settings:
    return Settings(intensity=IntensitySettings(**intensity))


def of_gb(url: str, directory: Path | None = None) -> IntensityFeed:
    settings = settings_of(provider="gb", url=url)
    return intensity_feed(settings, directory=directory, clock=lambda: NOW_S)


async def test_a_restart_needs_no_network(tmp_path: Path) -> None:
    directory = tmp_path / "daemon"
    with serving(SERVICES["gb"].answer) as site:
        feed = of_gb(site.url, directory)
        await feed.refresh()
        before = feed.forecast(NOW_S, 24)
        await feed.close()
    file = directory / "intensity.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert names(directory) == ["intensity.json"]
    again = of_gb("http://127.0.0.1:9", directory)
    await again.take_up()
    assert (again.forecast(NOW_S, 24).mean == before.mean).all()
    assert not again.failures
    await again.refresh()
    assert again.failures == {"down": 1}
    assert again.report().fallback is None, "an hour's outage is no staleness"
    await again.close()


BROKEN = [
    b"",
    b"\x00" * 100,
    b"{}",
    b"[" * 200_000,
    b'{"version": 2, "zone": "GB", "kind": "average", "factors": "direct", "source": "a test",'
    b' "first_h": 1, "gco2_per_kwh": [1]}',
    b'{"version": 1, "zone": "GB", "kind": "average", "factors": "direct", "source": "a test",'
    b' "first_h": 9223372036854775807, "gco2_per_kwh": [1]}',
    b'{"version": 1, "zone": "GB", "kind": "average", "factors": "direct", "source": "a test",'
    b' "first_h": 1, "gco2_per_kwh": ["x"]}',
    b" " * (5 * 2**20),
]


@pytest.mark.parametrize("body", BROKEN, ids=range(len(BROKEN)))
def test_a_damaged_file_is_ignored_and_said(tmp_path: Path, body: bytes) -> None:
    file = tmp_path / "intensity.json"
    file.write_bytes(body)
    with pytest.raises(SourceError, match="ignored") as broken:
        read_cache(file, LABEL)
    assert broken.value.kind == "cache"


def test_a_file_is_read_as_it_was_written_gaps_included(tmp_path: Path) -> None:
    file = tmp_path / "new" / "intensity.json"
    assert len(read_cache(file, LABEL).start_s) == 0
    write_cache(file, LABEL, {NOW_H - 5: 100.0, NOW_H - 2: 0.5})
    kept = read_cache(file, LABEL)
    assert (kept.start_s / HOUR_S).tolist() == [NOW_H - 5, NOW_H - 2]
    assert kept.gco2_per_kwh.tolist() == [100.0, 0.5]
    assert len(read_cache(file, LABEL._replace(zone="FR")).start_s) == 0
    assert len(read_cache(file, LABEL._replace(kind="marginal")).start_s) == 0
    write_cache(file, LABEL, {})
    assert len(read_cache(file, LABEL).start_s) == 2


def test_values_in_a_file_are_checked_like_any_others(tmp_path: Path) -> None:
    file = tmp_path / "intensity.json"
    write_cache(file, LABEL, {NOW_H - 2: 1e9, NOW_H - 1: 5.0})
    book = IntensityBook(SeasonalNaive(), HOUR_S, stale_s=6 * HOUR_S, constant_gco2_per_kwh=480.0)
    assert book.learn(read_cache(file, LABEL), NOW_S) == 1
    assert dict(book.hours) == {NOW_H - 1: 5.0}


def test_links_and_what_is_no_file_are_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "target"
    write_cache(target, LABEL, {NOW_H: 1.0})
    before = target.read_bytes()
    link = tmp_path / "link"
    link.symlink_to(target)
    with pytest.raises(SourceError):
        read_cache(link, LABEL)
    write_cache(link, LABEL, {NOW_H: 2.0})
    assert target.read_bytes() == before
    assert not link.is_symlink()
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name in ("folder", "pipe"):
        with pytest.raises(SourceError):
            read_cache(tmp_path / name, LABEL)
    with pytest.raises(SourceError):
        write_cache(tmp_path / "folder", LABEL, {NOW_H: 1.0})
    with pytest.raises(SourceError):
        write_cache(target / "below", LABEL, {NOW_H: 1.0})
    assert names(tmp_path) == ["folder", "link", "pipe", "target"]


async def test_a_broken_file_is_counted_and_replaced_by_what_is_known(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "intensity.json").write_text("what?")
    with serving(SERVICES["gb"].answer) as site:
        feed = of_gb(site.url, tmp_path)
        async with feed:
            while not feed.report().hours:
                await asyncio.sleep(0.01)
        assert feed.failures == {"cache": 1}
    assert json.loads((tmp_path / "intensity.json").read_text())["zone"] == "GB"
    assert len(caplog.records) == 1


class Flaky:
    """A provider that a test turns off and on."""

    label = LABEL
    backfill_s = 10 * DAY_S

    def __init__(self) -> None:
        self.fault: Exception | None = None
        self.asked = 0

    async def history(self, since_s: float, now_s: float) -> Points:
        self.asked += 1
        if self.fault is not None:
            raise self.fault
        hours = np.arange(int(since_s // HOUR_S), int(now_s // HOUR_S))
        return Points.hourly(hours, np.array([value_at(hour * HOUR_S) for hour in hours]))

    async def forecast(self, now_s: float) -> Points | None:
        return None

    async def close(self) -> None:
        pass


async def test_an_outage_is_said_once_its_fallback_once_and_both_again_the_next_time(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    provider, now_s = Flaky(), NOW_H * HOUR_S
    book = IntensityBook(SeasonalNaive(), HOUR_S, stale_s=6 * HOUR_S, constant_gco2_per_kwh=480.0)
    feed = IntensityFeed(provider, book, clock=lambda: now_s)
    await feed.refresh()
    for outage in range(2):
        provider.fault = SourceError("down", "nobody there")
        for _ in range(12):
            now_s += HOUR_S
            await feed.refresh()
            made = feed.forecast(now_s, 24)
            wanted = [value_at((now_s // HOUR_S + step) * HOUR_S) for step in range(24)]
            assert made.mean == pytest.approx(wanted, abs=1.0)
            assert feed.past(window(now_s - HOUR_S)) > 0
        provider.fault = None
        assert await feed.refresh() == 900.0
        feed.forecast(now_s, 24)
        messages = [record.getMessage() for record in caplog.records]
        assert len(messages) == 4 * (outage + 1), messages
        assert messages[-4] == "carbon intensity: nobody there"
        assert "the same hour of a day" in messages[-3]
        assert messages[-2].endswith("answers again")
        assert messages[-1].endswith("is known again")
    assert feed.failures == {"down": 24}
    report = feed.report()
    assert report.fallback is None
    assert report.fallbacks["same hour"] > 10


async def test_waiting_doubles_up_to_the_usual_time_and_no_mistake_ends_the_task() -> None:
    provider, waited = Flaky(), list[float]()
    provider.fault = ZeroDivisionError("a mistake of ours")
    enough = asyncio.Event()

    async def sleep(wait_s: float) -> None:
        waited.append(wait_s)
        if len(waited) == 8:
            enough.set()
        await asyncio.sleep(0.001)

    book = IntensityBook(SeasonalNaive(), HOUR_S, stale_s=6 * HOUR_S, constant_gco2_per_kwh=480.0)
    feed = IntensityFeed(provider, book, clock=lambda: NOW_S, sleep=sleep)
    async with feed:
        await enough.wait()
    assert waited[:8] == pytest.approx([30, 60, 120, 240, 480, 900, 900, 900], rel=0.1)
    assert len(set(waited[5:8])) == 3, "not all hosts at the same moment"
    assert feed.failures["garbage"] >= 8
    asked = provider.asked
    await asyncio.sleep(0.02)
    assert provider.asked == asked


async def test_a_shipped_zone_stands_for_the_present_year(tmp_path: Path) -> None:
    feed = intensity_feed(Settings(), directory=tmp_path, clock=lambda: NOW_S)
    assert await feed.refresh() == 900.0
    report = feed.report()
    assert report.label == (
        "CISO", "average", "lifecycle", "CarbonCast 2020-2021 (Apache-2.0), years ago",
    )  # fmt: skip
    assert report.fallback is None
    assert report.hours == 24 * 7 * 53
    grid = sample_grid("CISO")
    moved_h = 52 * 7 * 24 * 5  # from November 2026 to November 2021, on the same weekday
    at = int(NOW_H - moved_h - grid.start.timestamp() // HOUR_S)
    assert feed.past(window((NOW_H - 3) * HOUR_S)) == grid.gco2_per_kwh[at - 3]
    made = feed.forecast(NOW_S, 24)
    assert made.method == "lagged regression"
    assert made.mean == pytest.approx(grid.gco2_per_kwh[at : at + 24], rel=0.5)
    await feed.close()
    assert not names(tmp_path), "a file needs no file"


def csv(path: Path, first: datetime, values: list[float]) -> Path:
    rows = ["zone,utc_hour,gco2_per_kwh,kind"]
    begin_s = first.timestamp()
    for at, value in enumerate(values):
        hour = datetime.fromtimestamp(begin_s + at * HOUR_S, UTC)
        rows.append(f"XX,{hour:%Y-%m-%dT%H:%MZ},{value},direct")
    path.write_text("\n".join(rows) + "\n")
    return path


async def test_a_file_of_ones_own_is_taken_at_its_dates_and_read_again_when_it_changes(
    tmp_path: Path,
) -> None:
    begin = datetime(2026, 11, 18, tzinfo=UTC)
    file = csv(tmp_path / "grid.csv", begin, [100.0] * 48)
    settings = settings_of(zone=f"{file}:XX", stale=8 * HOUR_S)
    feed = intensity_feed(settings, clock=lambda: NOW_S)
    await feed.refresh()
    assert feed.failures == {"stale": 1}
    assert feed.report().fallback == "same hour"
    csv(file, begin, [100.0] * 48 + [200.0] * 60)
    await feed.refresh()
    assert feed.report().fallback is None
    assert feed.report().newest_s == NOW_H * HOUR_S, "what lies ahead is not known yet"
    assert feed.past(window(NOW_S - 2 * HOUR_S)) == 200.0
    file.write_text("zone,utc_hour\n")
    await feed.refresh()
    assert feed.failures["garbage"] == 1
    await feed.close()


async def test_a_file_that_ends_years_ago_is_stale_and_stands_for_other_years(
    tmp_path: Path,
) -> None:
    file = csv(tmp_path / "grid.csv", datetime(2023, 1, 1, tzinfo=UTC), [50.0] * 24 * 60)
    feed = intensity_feed(settings_of(zone=str(file)), clock=lambda: NOW_S)
    await feed.refresh()
    assert feed.report().fallback == "recorded"
    assert feed.forecast(NOW_S, 3).mean == pytest.approx([50.0] * 3, rel=0.01)
    await feed.close()


async def test_on_the_series_own_clock_a_feed_is_what_a_replay_knows() -> None:
    """Live control on a virtual clock: the same intensities as `GridForecast` has."""
    grid = sample_grid("CISO").beginning_at(datetime(2021, 6, 1, tzinfo=UTC))
    epoch_s = grid.start.timestamp()
    for now_h in (0, 1, 30):
        feed = intensity_feed(
            Settings(), forecaster=LaggedRegression(), epoch_s=epoch_s,
            clock=lambda: now_h * HOUR_S,  # noqa: B023
        )  # fmt: skip
        await feed.refresh()
        before_h = len(grid.earlier_gco2_per_kwh)
        history = grid.past_and_future[: before_h + now_h][-24 * 7 * 53 :]
        wanted = LaggedRegression().fit(history, before_h + now_h)
        made = feed.forecast(now_h * HOUR_S, 24)
        assert made.mean == pytest.approx(wanted.forecast(history, 24, before_h + now_h).mean)
        if now_h:
            true = float(grid.gco2_per_kwh[now_h - 1])
            assert feed.past(window((now_h - 1) * HOUR_S)) == pytest.approx(true)
        await feed.close()


def test_settings_that_a_provider_needs_are_named() -> None:
    for given, variable in [
        ({"provider": "electricitymaps"}, "INTENSITY__ZONE"),
        ({"provider": "electricitymaps", "zone": "DE"}, "INTENSITY__KEY"),
        ({"provider": "watttime", "zone": "PJM", "key": KEY}, "INTENSITY__USERNAME"),
    ]:
        with pytest.raises(SettingsError, match=variable):
            provider_of(settings_of(**given))
    maps = {"provider": "electricitymaps", "zone": "DE", "key": KEY, "factors": "direct"}
    assert provider_of(settings_of(**maps)).label.factors == "direct"
    watttime = {"provider": "watttime", "zone": "PJM", "key": KEY, "username": "me"}
    assert provider_of(settings_of(**watttime)).label.kind == "marginal"
    average = {**watttime, "signal": "co2_aoer"}
    assert provider_of(settings_of(**average)).label.kind == "average"
    assert provider_of(settings_of(provider="gb")).label.zone == "GB"
    assert isinstance(provider_of(Settings()), GridFile)


async def test_a_zone_that_ships_falls_back_on_its_own_recording() -> None:
    with serving(lambda asked: Reply("", 500)) as site:
        feed = of_gb(site.url)
        await feed.refresh()
        assert feed.report().fallback == "recorded"
        assert 20 < feed.forecast(NOW_S, 24).mean.mean() < 500
        await feed.close()
        settings = settings_of(
            provider="electricitymaps", zone="ZZ", key=KEY, url=site.url, fallback="FR"
        )
        french = intensity_feed(settings, clock=lambda: NOW_S)
        assert french.report().fallback == "recorded"
        await french.close()
