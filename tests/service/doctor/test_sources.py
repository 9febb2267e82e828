"""Meters and intensity, as they are found here and as a server of the same form answers."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from greencache.service.doctor.finding import Finding, Verdict
from greencache.service.doctor.sources import check_energy, check_engines, check_intensity
from greencache.service.http import HttpServer, Reply
from greencache.settings import EnergySettings, EngineSettings, Settings, load_settings


def settings(monkeypatch: pytest.MonkeyPatch, **values: str) -> Settings:
    for name, value in values.items():
        monkeypatch.setenv(f"GREENCACHE_INTENSITY__{name.upper()}", value)
    return load_settings()


async def test_a_recorded_zone_works_but_is_not_now(monkeypatch: pytest.MonkeyPatch) -> None:
    found = await check_intensity(settings(monkeypatch))
    assert found.verdict is Verdict.WARN
    assert "a recorded year" in found.text
    assert "GREENCACHE_INTENSITY__PROVIDER" in found.advice


async def test_a_missing_key_fails_and_names_the_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    found = await check_intensity(settings(monkeypatch, provider="electricitymaps", zone="FR"))
    assert found.verdict is Verdict.FAIL
    assert "GREENCACHE_INTENSITY__KEY" in found.text


def own_file(path: Path, until: datetime) -> Path:
    hours = [until - timedelta(hours=n) for n in range(30, 0, -1)]
    rows = [f"HOME,{hour:%Y-%m-%dT%H}:00:00Z,{50 + hour.hour},direct\n" for hour in hours]
    path.write_text("zone,utc_hour,gco2_per_kwh,kind\n" + "".join(rows))
    return path


async def test_a_file_of_ones_own_is_fresh_or_stale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = datetime.now(UTC)
    fresh = own_file(tmp_path / "fresh.csv", now)
    found = await check_intensity(settings(monkeypatch, zone=str(fresh)))
    assert found.verdict is Verdict.OK
    assert "gCO2e/kWh, " in found.text
    stale = own_file(tmp_path / "stale.csv", now - timedelta(hours=10))
    found = await check_intensity(settings(monkeypatch, zone=str(stale)))
    assert found.verdict is Verdict.WARN
    assert "h old" in found.text
    assert "GREENCACHE_INTENSITY__STALE" in found.advice


async def test_a_service_that_is_down_or_answers_nonsense_is_a_warning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def nonsense(accept: str) -> Reply:
        return Reply(json.dumps({"zone": 5}).encode(), "application/json")

    async with HttpServer({"/v3/carbon-intensity/history": nonsense}) as server:
        wanted = {"provider": "electricitymaps", "zone": "FR", "key": "a-secret-key"}
        url = f"http://127.0.0.1:{server.port}"
        found = await check_intensity(settings(monkeypatch, **wanted, url=url))
    assert found.verdict is Verdict.WARN
    down = await check_intensity(settings(monkeypatch, **wanted, url=url))
    assert down.verdict is Verdict.WARN
    assert down.advice
    assert "a-secret-key" not in repr((found, down))


async def energy(**values: Any) -> dict[str, Finding]:
    return {each.check: each for each in await check_energy(EnergySettings(**values))}


def counter(path: Path, name: str, content: str) -> Path:
    path.mkdir(parents=True)
    (path / "name").write_text(f"{name}\n")
    (path / "max_energy_range_uj").write_text("262143328850\n")
    (path / "energy_uj").write_text(content)
    return path / "energy_uj"


async def test_counters_of_the_processor_are_read(tmp_path: Path) -> None:
    counter(tmp_path / "intel-rapl:0", "package-0", "123456\n")
    counter(tmp_path / "intel-rapl:0:0", "dram", "99\n")
    found = (await energy(rapl=tmp_path))["energy (rapl)"]
    assert (found.verdict, found.text) == (Verdict.OK, "counts the joules of cpu, dram")


async def test_a_machine_without_is_warned_of_unless_they_were_asked_for(tmp_path: Path) -> None:
    found = (await energy(rapl=tmp_path))["energy (rapl)"]
    assert found.verdict is Verdict.WARN
    assert "the power model stands for it" in found.text
    found = (await energy(rapl=tmp_path, source="rapl"))["energy (rapl)"]
    assert found.verdict is Verdict.FAIL
    counter(tmp_path / "intel-rapl:0", "package-0", "garbage")
    assert "'garbage'" in (await energy(rapl=tmp_path))["energy (rapl)"].text


async def test_gpus_are_found_or_said_to_be_missing() -> None:
    found = (await energy(source="nvml"))["energy (nvml)"]
    if Path("/dev/nvidiactl").exists():
        assert found.verdict is Verdict.OK
    else:
        assert found.verdict is Verdict.FAIL
        assert found.advice


async def test_the_power_model_is_as_good_as_it_was_set() -> None:
    assert (await energy(source="model"))["energy"].verdict is Verdict.OK
    missing = (await energy(source="prometheus"))["energy"]
    assert missing.verdict is Verdict.FAIL
    assert "GREENCACHE_ENERGY__URL" in missing.text


async def test_a_counter_of_prometheus_is_read() -> None:
    async def page(accept: str) -> Reply:
        return Reply(b"# TYPE host_joules_total counter\nhost_joules_total 5\n")

    async with HttpServer({"/metrics": page}) as server:
        url = f"http://127.0.0.1:{server.port}/metrics"
        found = (await energy(source="prometheus", url=url))["energy (prometheus)"]
        assert (found.verdict, found.text) == (Verdict.OK, "counts the joules of gpu")
    assert (await energy(url=url))["energy (prometheus)"].verdict is Verdict.WARN


async def test_engines_pages_are_read_if_named() -> None:
    async def vllm(accept: str) -> Reply:
        return Reply(b"# TYPE vllm:prompt_tokens counter\nvllm:prompt_tokens_total 5\n")

    async def other(accept: str) -> Reply:
        return Reply(b"up 1\n")

    assert await check_engines(EngineSettings()) == []
    async with HttpServer({"/metrics": vllm, "/other": other}) as server:
        here = f"http://127.0.0.1:{server.port}"
        urls = f"{here}/metrics,{here}/other,{here}/nothing"
        good, strange, missing = await check_engines(EngineSettings(metrics_url=urls))
    assert good.verdict is Verdict.OK
    assert (strange.verdict, missing.verdict) == (Verdict.WARN, Verdict.WARN)
    assert "vllm:prompt_tokens_total" in strange.text
    assert "METRICS_URL" in missing.advice
