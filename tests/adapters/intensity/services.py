"""The HTTP services as their references describe them, on a local server."""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from greencache.adapters.intensity import Provider
from greencache.adapters.intensity.base import iso
from greencache.adapters.intensity.electricitymaps import ElectricityMaps
from greencache.adapters.intensity.gb import GreatBritain
from greencache.adapters.intensity.watttime import G_PER_KWH_OF_LB_PER_MWH, WattTime
from greencache.quantities import HOUR_S
from tests.adapters.serving import Answerer, Asked, Reply

NOW_S = datetime(2026, 11, 20, 15, 20, tzinfo=UTC).timestamp()
NOW_H = int(NOW_S // HOUR_S)
KEY = "top-secret-key"


def value_at(time_s: float) -> float:
    """The grid of these tests: by the hour of the day, from 100 to 330."""
    return 100.0 + 10.0 * (int(time_s // HOUR_S) % 24)


def _hours(begin_s: float, end_s: float) -> list[float]:
    return [h * HOUR_S for h in range(int(begin_s // HOUR_S), int(end_s // HOUR_S))]


def _time(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def maps_rows(times_s: list[float]) -> list[dict[str, Any]]:
    return [
        {
            "zone": "DE",
            "carbonIntensity": value_at(time_s),
            "datetime": iso(time_s).replace("Z", ".000Z"),
            "updatedAt": iso(time_s + 7000),
            "createdAt": iso(time_s - 250_000),
            "emissionFactorType": "lifecycle",
            "isEstimated": False,
            "estimationMethod": None,
        }
        for time_s in times_s
    ]


def electricity_maps(asked: Asked) -> Reply:
    if asked.headers.get("auth-token") != KEY:
        return Reply({"error": "Invalid auth-token"}, 401)
    what = asked.path.removeprefix("/v3/carbon-intensity/")
    if what == "history":
        return Reply({"zone": "DE", "history": maps_rows(_hours(NOW_S - 24 * HOUR_S, NOW_S))})
    if what == "past-range":
        begin_s, end_s = _time(asked.params["start"]), _time(asked.params["end"])
        if end_s - begin_s > 10 * 24 * HOUR_S:
            return Reply({"error": "range too long"}, 400)
        return Reply({"zone": "DE", "data": maps_rows(_hours(begin_s, end_s))})
    if what == "forecast":
        rows = [
            {"carbonIntensity": 500 + value_at(time_s), "datetime": iso(time_s)}
            for time_s in _hours(NOW_S, NOW_S + 25 * HOUR_S)
        ]
        return Reply({"zone": "DE", "forecast": rows, "updatedAt": iso(NOW_S)})
    return Reply({"error": "not found"}, 404)


def great_britain(asked: Asked) -> Reply:
    parts = asked.path.split("/")
    regional = parts[1] == "regional"
    span = parts[3:5] if regional else parts[2:4]
    begin_s = _time(span[0])
    end_s = begin_s + 48 * HOUR_S if span[1] == "fw48h" else _time(span[1])
    if end_s - begin_s > 14 * 24 * HOUR_S:
        return Reply({"error": {"code": "400 Bad Request", "message": "..."}}, 400)
    periods: list[dict[str, Any]] = []
    for time_s in _hours(begin_s, end_s):
        for half_s in (time_s, time_s + 1800):
            intensity = {"forecast": value_at(half_s) + 500, "index": "low"}
            if not regional:
                over = half_s < NOW_S - 3600
                intensity["actual"] = value_at(half_s) if over else None
            begin, end = (
                f"{datetime.fromtimestamp(at_s, UTC):%Y-%m-%dT%H:%MZ}"
                for at_s in (half_s, half_s + 1800)
            )
            periods.append({"from": begin, "to": end, "intensity": intensity})
    if not regional:
        return Reply({"data": periods})
    region = {"regionid": int(parts[6]), "dnoregion": "UKPN London", "shortname": "London"}
    return Reply({"data": {**region, "data": periods}})


def watttime_body(begin_s: float, end_s: float, offset: float = 0.0) -> dict[str, Any]:
    times = [300.0 * at for at in range(int(begin_s // 300), int(end_s // 300))]
    rows = [
        {
            "point_time": iso(time_s).replace("Z", "+00:00"),
            "value": (value_at(time_s) + offset) / G_PER_KWH_OF_LB_PER_MWH,
        }
        for time_s in times
    ]
    meta = {
        "data_point_period_seconds": 300,
        "region": "CAISO_NORTH",
        "signal_type": "co2_moer",
        "units": "lbs_co2_per_mwh",
        "warnings": [],
        "model": {"date": "2026-03-01"},
    }
    return {"data": rows, "meta": meta}


def watttime(asked: Asked) -> Reply:
    sent = asked.headers.get("authorization", "")
    if asked.path == "/login":
        wanted = "Basic " + base64.b64encode(f"me:{KEY}".encode()).decode()
        return Reply({"token": "tok-1"}) if sent == wanted else Reply("no", 401)
    if sent != "Bearer tok-1":
        return Reply({"error": "unauthorized"}, 401)
    if asked.path == "/v3/historical":
        begin_s, end_s = _time(asked.params["start"]), _time(asked.params["end"])
        return Reply(watttime_body(begin_s, min(end_s, NOW_S - 300)))
    if asked.path == "/v3/forecast":
        hours = int(asked.params["horizon_hours"])
        return Reply(watttime_body(NOW_S, NOW_S + hours * HOUR_S, 500.0))
    return Reply("no such place", 404)


@dataclass(frozen=True)
class Service:
    """A service, what asks it, and how it may go wrong."""

    answer: Answerer
    provider: Callable[[str], Provider]
    wrong_zone: Any
    absurd: Callable[[Any], Reply]
    """A body in its form, of three hours, with this value in the first two of them."""


def _maps_absurd(value: Any) -> Reply:
    rows = maps_rows([(NOW_H - back) * HOUR_S for back in (3, 2, 1)])
    for row in rows[:2]:
        row["carbonIntensity"] = value
    return Reply({"zone": "DE", "history": rows, "data": rows, "forecast": []})


def _gb_absurd(value: Any) -> Reply:
    periods = [
        {
            "from": iso((NOW_H - back) * HOUR_S),
            "to": iso((NOW_H - back + 1) * HOUR_S),
            "intensity": {"forecast": 1, "actual": value if back > 1 else 250.0, "index": "low"},
        }
        for back in (3, 2, 1)
    ]
    return Reply({"data": periods})


def _watttime_absurd(value: Any) -> Reply:
    body = watttime_body((NOW_H - 3) * HOUR_S, NOW_H * HOUR_S)
    for row in body["data"][:24]:
        row["value"] = value
    return Reply(body)


SERVICES = {
    "electricitymaps": Service(
        electricity_maps,
        lambda url: ElectricityMaps("DE", KEY, url=url, timeout_s=2.0),
        {"zone": "FR", "history": [], "data": []},
        _maps_absurd,
    ),
    "watttime": Service(
        watttime,
        lambda url: WattTime("CAISO_NORTH", "me", KEY, url=url, timeout_s=2.0),
        {
            "data": [],
            "meta": {"region": "PJM", "signal_type": "co2_moer", "units": "lbs_co2_per_mwh"},
        },
        _watttime_absurd,
    ),
    "gb": Service(
        great_britain,
        lambda url: GreatBritain("GB", url=url, timeout_s=2.0),
        None,
        _gb_absurd,
    ),
}
