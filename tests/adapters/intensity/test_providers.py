"""Each service against a local server that answers in the service's form, well and badly."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from greencache.adapters.intensity import IntensityFeed, Provider
from greencache.adapters.intensity.electricitymaps import ElectricityMaps
from greencache.adapters.intensity.gb import GreatBritain
from greencache.adapters.intensity.watttime import WattTime
from greencache.controller.forecasts import SeasonalNaive
from greencache.controller.intensity import IntensityBook, by_hour
from greencache.errors import InputError
from greencache.quantities import DAY_S, HOUR_S
from tests.adapters.intensity.services import (
    KEY,
    NOW_H,
    NOW_S,
    SERVICES,
    Service,
    value_at,
    watttime_body,
)
from tests.adapters.serving import Asked, Reply, serving


@pytest.fixture(params=SERVICES)
def service(request: pytest.FixtureRequest) -> Service:
    return SERVICES[request.param]


def feed_of(provider: Provider, **options: Any) -> IntensityFeed:
    book = IntensityBook(
        SeasonalNaive(),
        HOUR_S,
        stale_s=6 * HOUR_S,
        constant_gco2_per_kwh=480.0,
        trust_forecast=options.pop("trust_forecast", False),
    )
    return IntensityFeed(provider, book, clock=lambda: NOW_S, **options)


async def test_history_and_forecast_arrive_in_grams_by_the_hour(service: Service) -> None:
    with serving(service.answer) as site:
        provider = service.provider(site.url)
        history = by_hour(await provider.history(NOW_S - 40 * DAY_S, NOW_S))
        forecast = await provider.forecast(NOW_S)
        await provider.close()
    assert forecast is not None
    for hour in range(NOW_H - 39 * 24, NOW_H - 2):
        assert history[hour] == pytest.approx(value_at(hour * HOUR_S)), hour - NOW_H
    ahead = by_hour(forecast)
    for hour in range(NOW_H + 1, NOW_H + 24):
        assert ahead[hour] == pytest.approx(500 + value_at(hour * HOUR_S))


async def test_a_feed_over_it_forecasts_and_reports(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    with serving(service.answer) as site:
        feed = feed_of(service.provider(site.url))
        assert await feed.refresh() == 900.0
        report = feed.report()
        assert not report.failures
        assert report.fallback is None
        assert report.hours >= 24 * 55
        forecast = feed.forecast(NOW_H * HOUR_S, 24)
        wanted = [value_at(hour * HOUR_S) for hour in range(NOW_H, NOW_H + 24)]
        assert forecast.mean == pytest.approx(wanted)
        trusting = feed_of(service.provider(site.url), trust_forecast=True)
        await trusting.refresh()
        mean = trusting.forecast(NOW_H * HOUR_S, 24).mean
        assert mean[1:20] == pytest.approx([500 + value for value in wanted[1:20]])
        await feed.close()
        await trusting.close()
    assert not caplog.records


GARBAGE = [
    "",
    "<html>down for maintenance</html>",
    "null",
    "[]",
    '{"zone": "DE"',
    '{"zone": "DE", "history": {}}',
    '{"data": 5, "meta": {}}',
    "[" * 100_000,
    b"\xff\xfe\x00",
    '{"zone": "DE", "history": [{"datetime": "soon", "carbonIntensity": 1}], "token": "t",'
    ' "data": [{"from": "x", "to": "y", "intensity": {"actual": 1}, "point_time": "z",'
    ' "datetime": "q"}], "meta": {"region": "CAISO_NORTH", "signal_type": "co2_moer",'
    ' "units": "percentile"}}',
    '{"zone": "DE", "history": [{"datetime": "2026-11-20T15:00:00Z", "carbonIntensity": NaN}],'
    ' "data": [{"from": NaN}]}',
]


@pytest.mark.parametrize("body", GARBAGE, ids=range(len(GARBAGE)))
async def test_garbage_is_a_failure_that_is_counted(service: Service, body: str | bytes) -> None:
    with serving(lambda asked: Reply(body)) as site:
        feed = feed_of(service.provider(site.url))
        assert await feed.refresh() == 30.0
        assert feed.failures == {"garbage": 1}
        assert feed.forecast(NOW_S, 3).mean == pytest.approx([480.0] * 3)
        await feed.close()


@pytest.mark.parametrize(
    ("reply", "kind", "again_s"),
    [
        (Reply("", 500), "failing", 30.0),
        (Reply("", 503), "failing", 30.0),
        (Reply("", 503, {"Retry-After": "120"}), "limited", 120.0),
        (Reply("", 429), "limited", 30.0),
        (Reply("", 429, {"Retry-After": "3600"}), "limited", 3600.0),
        (Reply("", 429, {"Retry-After": "1e400"}), "limited", DAY_S),
        (Reply("", 429, {"Retry-After": "-5"}), "limited", 30.0),
        (Reply("", 429, {"Retry-After": "nan"}), "limited", 30.0),
        (Reply("", 429, {"Retry-After": "Fri, 31 Dec 1999 23:59:59 GMT"}), "limited", 30.0),
        (Reply("", 429, {"Retry-After": "Fri, 31 Dec 9999 23:59:59 GMT"}), "limited", DAY_S),
        (Reply("", 429, {"Retry-After": "soon"}), "limited", 30.0),
        (Reply("", 401), "refused", 30.0),
        (Reply("", 404), "refused", 30.0),
        (Reply("", 302, {"Location": "http://127.0.0.1:9/"}), "garbage", 30.0),
        (Reply("{}", headers={"Content-Encoding": "gzip"}), "garbage", 30.0),
        (Reply("x" * 65536, endless=True), "huge", 30.0),
    ],
    ids=str,
)
async def test_every_way_to_fail_is_counted_by_its_kind(
    reply: Reply, kind: str, again_s: float
) -> None:
    with serving(lambda asked: reply) as site:
        feed = feed_of(SERVICES["gb"].provider(site.url))
        assert await feed.refresh() == again_s
        assert feed.failures == {kind: 1}
        await feed.close()


async def test_down_and_slow(service: Service) -> None:
    down = feed_of(service.provider("http://127.0.0.1:9"))
    assert await down.refresh() == 30.0
    assert down.failures == {"down": 1}
    await down.close()
    with serving(lambda asked: Reply("{}", wait_s=60.0)) as site:
        provider = service.provider(site.url)
        provider._web._timeout_s = 0.2  # type: ignore[attr-defined]
        feed = feed_of(provider)
        began = asyncio.get_running_loop().time()
        await feed.refresh()
        assert asyncio.get_running_loop().time() - began < 5
        assert feed.failures == {"slow": 1}
        await feed.close()


@pytest.mark.parametrize("value", [-3, 1e9, "x"], ids=str)
async def test_absurd_values_are_dropped_and_counted_and_the_others_kept(
    service: Service, value: Any, caplog: pytest.LogCaptureFixture
) -> None:
    def answer(asked: Asked) -> Reply:
        return Reply({"token": "tok-1"}) if asked.path == "/login" else service.absurd(value)

    with serving(answer) as site:
        feed = feed_of(service.provider(site.url))
        await feed.refresh()
        dropped = feed.report().dropped
        assert dropped > 0
        await feed.refresh()
        report = feed.report()
        assert report.hours == 1
        assert report.dropped == dropped, "the same ones"
        assert report.failures["absurd"] == 2
        await feed.close()
    said = [r.getMessage() for r in caplog.records if "cannot be true" in r.getMessage()]
    assert len(said) == 1


async def test_another_zone_is_refused() -> None:
    for service in SERVICES.values():
        if service.wrong_zone is None:
            continue

        def answer(asked: Asked, body: Any = service.wrong_zone) -> Reply:
            return Reply({"token": "tok-1"} if asked.path == "/login" else body)

        with serving(answer) as site:
            feed = feed_of(service.provider(site.url))
            await feed.refresh()
            assert feed.failures == {"zone": 1}
            await feed.close()
    with serving(lambda asked: Reply({"data": {"regionid": 4, "data": []}})) as site:
        feed = feed_of(GreatBritain("GB/13", url=site.url))
        await feed.refresh()
        assert feed.failures == {"zone": 1}
        await feed.close()


async def test_old_values_are_stale(service: Service, caplog: pytest.LogCaptureFixture) -> None:
    def years_ago(asked: Asked) -> Reply:
        body = service.answer(asked)
        return Reply(body.raw.replace(b"2026-", b"2025-"))

    with serving(years_ago) as site:
        feed = feed_of(service.provider(site.url))
        for _ in range(3):
            await feed.refresh()
        assert feed.failures == {"stale": 3}
        for _ in range(3):
            assert feed.forecast(NOW_S, 2).mean == pytest.approx([480.0] * 2)
        assert feed.report().fallbacks == {"constant": 3}
        await feed.close()
    messages = [record.getMessage() for record in caplog.records]
    assert sum("nothing newer" in message for message in messages) == 1
    assert sum("fallback_gco2_per_kwh" in message for message in messages) == 1


async def test_no_secret_gets_into_a_log(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with serving(service.answer) as site:
        provider = service.provider(site.url)
        feed = feed_of(provider)
        await feed.refresh()
        site.answer = lambda asked: Reply("no", 401)
        await feed.refresh()
        await feed.close()
    assert "refuses (401)" in caplog.text
    assert KEY not in caplog.text
    assert "tok-1" not in caplog.text
    assert KEY not in repr(provider)


async def test_electricity_maps_free_plan_gives_a_day_and_no_forecast() -> None:
    whole = SERVICES["electricitymaps"].answer

    def free(asked: Asked) -> Reply:
        return whole(asked) if asked.path.endswith("/history") else Reply({"error": "plan"}, 403)

    with serving(free) as site:
        feed = feed_of(SERVICES["electricitymaps"].provider(site.url))
        await feed.refresh()
        await feed.refresh()
        assert feed.report().hours == 24
        assert feed.failures == {"forecast refused": 1}
        assert [path.rpartition("/")[2] for path in site.paths] == [
            *("history", "past-range", "forecast"),
            "history",
        ]
        await feed.close()


async def test_a_part_of_the_past_is_better_than_none(service: Service) -> None:
    with serving(service.answer) as site:

        def breaks(asked: Asked) -> Reply:
            past = [path for path in site.paths if "forecast" not in path and "login" not in path]
            return Reply("", 500) if len(past) == 3 else service.answer(asked)

        site.answer = breaks
        provider = service.provider(site.url)
        hours = by_hour(await provider.history(NOW_S - 90 * DAY_S, NOW_S))
        await provider.close()
    assert 10 * 24 < len(hours) < 80 * 24
    assert max(hours) >= NOW_H - 3


async def test_watttime_signs_in_anew_when_the_token_has_run_out() -> None:
    token = "tok-1"

    def answer(asked: Asked) -> Reply:
        if asked.path == "/login":
            return Reply({"token": token})
        if asked.headers["authorization"] != f"Bearer {token}":
            return Reply("expired", 401)
        return Reply(watttime_body(NOW_S - 2 * HOUR_S, NOW_S))

    with serving(answer) as site:
        provider = SERVICES["watttime"].provider(site.url)
        await provider.history(NOW_S - HOUR_S, NOW_S)
        token = "tok-2"
        assert len((await provider.history(NOW_S - HOUR_S, NOW_S)).start_s) == 24
        await provider.close()
    assert [path for path in site.paths if path == "/login"] == ["/login"] * 2


async def test_a_region_of_great_britain() -> None:
    with serving(SERVICES["gb"].answer) as site:
        provider = GreatBritain("GB/13", url=site.url)
        hours = by_hour(await provider.history(NOW_S - DAY_S, NOW_S))
        assert hours[NOW_H - 5] == value_at((NOW_H - 5) * HOUR_S) + 500
        await provider.close()
    for zone in ("FR", "GB/0", "GB/18", "GB/x", "gb"):
        with pytest.raises(InputError, match="no zone of Great Britain"):
            GreatBritain(zone)


def test_keys_travel_encrypted_or_stay_on_this_machine() -> None:
    for url in ("http://api.example.org", "http://10.0.0.1:80"):
        with pytest.raises(InputError, match="use https"):
            ElectricityMaps("DE", KEY, url=url)
        with pytest.raises(InputError, match="use https"):
            WattTime("PJM", "me", KEY, url=url)
    for url in ("https://api.example.org", "http://localhost:1", "http://[::1]:1"):
        ElectricityMaps("DE", KEY, url=url)


async def test_what_is_missing_of_the_past_is_asked_for_again(service: Service) -> None:
    with serving(service.answer) as site:

        def breaks(asked: Asked) -> Reply:
            past = [path for path in site.paths if "forecast" not in path and "login" not in path]
            return Reply("", 500) if len(past) == 2 else service.answer(asked)

        site.answer = breaks
        feed = feed_of(service.provider(site.url))
        await feed.refresh()
        some = feed.report().hours
        assert some < 24 * 50
        await feed.refresh()
        assert feed.report().hours > max(some, 24 * 55)
        await feed.close()
