"""What is said of sources outside: a real feed of carbon intensity, well and failing."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from greencache.adapters.energy.choice import energy_monitor
from greencache.adapters.intensity import intensity_feed
from greencache.metrics import INTENSITY_AGE, INTENSITY_FALLBACKS, SOURCE_FAILURES, Sample
from greencache.service.http import HttpServer, Reply
from greencache.service.metrics import MetricsPage
from greencache.service.source_metrics import energy_samples, intensity_samples, meter_samples
from greencache.settings import EnergySettings, load_settings
from tests.service.pages import OPENMETRICS, Answer, values_of


def by_metric(samples: list[Sample]) -> dict[str, dict[tuple[str, ...], float]]:
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for metric, value, labels in samples:
        assert isinstance(value, float | int)
        found.setdefault(metric.name, {})[labels] = value
    return found


async def answer_of(page: MetricsPage) -> Answer:
    body, content_type = await page.render(OPENMETRICS)
    return Answer(200, {"content-type": content_type}, body)


async def test_a_file_of_ones_own_has_an_age(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hour = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    rows = [
        f"HOME,{hour - timedelta(hours=n):%Y-%m-%dT%H:%M:%SZ},50,direct" for n in range(30, 1, -1)
    ]
    path = tmp_path / "grid.csv"
    path.write_text("\n".join(["zone,utc_hour,gco2_per_kwh,kind", *rows]) + "\n")
    monkeypatch.setenv("GREENCACHE_INTENSITY__ZONE", str(path))
    feed = intensity_feed(load_settings())
    await feed.refresh()
    found = by_metric(list(intensity_samples(feed.report())))
    ((labels, age_s),) = found[INTENSITY_AGE.name].items()
    assert labels == ("HOME",)
    assert 3600 <= age_s <= 2 * 3600 + 60
    assert found[SOURCE_FAILURES.name]["intensity", "stale"] == 0, "an alarm sees the first one"
    assert not any(found[SOURCE_FAILURES.name].values())
    assert found[INTENSITY_FALLBACKS.name].keys() == {("same hour",), ("recorded",), ("constant",)}
    await feed.close()


async def test_a_service_that_fails_is_counted_by_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    async def nonsense(accept: str) -> Reply:
        return Reply(b"[]", "application/json")

    async with HttpServer({"/v3/carbon-intensity/history": nonsense}) as server:
        for name, value in {
            "PROVIDER": "electricitymaps",
            "ZONE": "FR",
            "KEY": "key",
            "URL": f"http://127.0.0.1:{server.port}",
        }.items():
            monkeypatch.setenv(f"GREENCACHE_INTENSITY__{name}", value)
        feed = intensity_feed(load_settings())
        await feed.refresh()
    await feed.refresh()
    feed.forecast(0.0, 3)
    found = by_metric(list(intensity_samples(feed.report())))
    assert INTENSITY_AGE.name not in found, "it has said nothing yet"
    failed = {labels: count for labels, count in found[SOURCE_FAILURES.name].items() if count}
    assert failed == {("intensity", "garbage"): 1, ("intensity", "down"): 1}
    assert sum(found[INTENSITY_FALLBACKS.name].values()) > 0
    await feed.close()


async def test_it_is_said_what_energy_is_from(tmp_path: Path) -> None:
    monitor = await energy_monitor(EnergySettings(rapl=tmp_path))
    sources = {"gpu": "model", "host": "model", **monitor.sources}
    page = MetricsPage({"energy": lambda: energy_samples(sources)}, process=False)
    values = values_of(await answer_of(page))
    assert values["greencache_energy_source_info", "host", "model"] == 1


async def test_a_meter_counts_from_zero(tmp_path: Path) -> None:
    zone = tmp_path / "intel-rapl:0"
    zone.mkdir()
    for name, text in {
        "name": "package-0",
        "max_energy_range_uj": "262143328850",
        "energy_uj": "5",
    }.items():
        (zone / name).write_text(text)
    async with await energy_monitor(EnergySettings(source="rapl", rapl=tmp_path)) as monitor:
        page = MetricsPage({"energy": lambda: meter_samples(monitor)}, process=False)
        lost = ("greencache_source_failures_total", "rapl lost", "energy")
        assert values_of(await answer_of(page))[lost] == 0
        (zone / "energy_uj").unlink()
        await monitor.sample()
        assert values_of(await answer_of(page))[lost] == 1
