"""Meters: a tree of files as Linux shows RAPL, a local Prometheus, and no GPU."""

# ruff: noqa: N802 - NVML names its functions so

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from greencache.adapters.energy import EnergyMonitor, energy_monitor
from greencache.adapters.energy.nvml import NvmlMeter
from greencache.adapters.energy.prometheus import PrometheusMeter
from greencache.adapters.energy.rapl import RaplMeter
from greencache.errors import InputError, SettingsError, SourceError
from greencache.settings import EnergySettings
from tests.adapters.serving import Asked, Reply, serving

WRAPS_UJ = 262_143_328_850


def powercap(root: Path, zones: dict[str, tuple[str, int]]) -> Path:
    """What the kernel shows: a folder for each zone."""
    for folder, (name, energy_uj) in zones.items():
        path = root / folder
        path.mkdir(parents=True, exist_ok=True)
        (path / "name").write_text(f"{name}\n")
        (path / "energy_uj").write_text(f"{energy_uj}\n")
        (path / "max_energy_range_uj").write_text(f"{WRAPS_UJ}\n")
        (path / "enabled").write_text("1\n")
    return root


TWO_SOCKETS = {
    "intel-rapl": ("intel-rapl", 0),
    "intel-rapl:0": ("package-0", 1_000_000),
    "intel-rapl:0:0": ("core", 900_000),
    "intel-rapl:0:1": ("dram", 500_000),
    "intel-rapl:1": ("package-1", WRAPS_UJ - 1_000_000),
    "intel-rapl:2": ("psys", 77),
    "intel-rapl-mmio:0": ("package-0", 1_000_000),
}


async def test_rapl_sums_packages_and_dram_and_counts_over_a_wrap(tmp_path: Path) -> None:
    meter = RaplMeter(powercap(tmp_path, TWO_SOCKETS))
    await meter.open()
    assert meter.components == {"cpu", "dram"}
    assert 60 < meter.longest_s < 262 / 1.0  # before a kilowatt comes round twice
    assert await meter.read(0.0) == {"cpu": 0.0, "dram": 0.0}
    later = {
        "intel-rapl:0": ("package-0", 31_000_000),
        "intel-rapl:0:1": ("dram", 2_500_000),
        "intel-rapl:1": ("package-1", 4_000_000),
    }
    powercap(tmp_path, later)
    assert await meter.read(1.0) == {"cpu": pytest.approx(35.0), "dram": pytest.approx(2.0)}
    await meter.close()


async def test_rapl_says_why_it_does_not_work(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no RAPL here") as absent:
        await RaplMeter(tmp_path).open()
    assert absent.value.kind == "absent"
    with pytest.raises(SourceError, match="no RAPL here"):
        await RaplMeter(tmp_path / "nowhere").open()
    root = powercap(tmp_path, TWO_SOCKETS)
    (root / "intel-rapl:0" / "energy_uj").write_text("lots\n")
    with pytest.raises(SourceError, match="not a number of microjoules") as garbage:
        await RaplMeter(root).open()
    assert garbage.value.kind == "garbage"
    (root / "intel-rapl:0" / "energy_uj").write_text("5\n")
    (root / "intel-rapl:0" / "max_energy_range_uj").write_text("0\n")
    with pytest.raises(SourceError, match="wraps at 0"):
        await RaplMeter(root).open()
    (root / "intel-rapl:0" / "energy_uj").unlink()
    powercap(tmp_path, {"intel-rapl:1": ("package-1", 5)})
    (root / "intel-rapl:0" / "max_energy_range_uj").write_text(f"{WRAPS_UJ}\n")
    with pytest.raises(SourceError) as lost:
        await RaplMeter(root).open()
    assert lost.value.kind == "lost"


async def test_rapl_that_only_root_may_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    powercap(tmp_path / "powercap", TWO_SOCKETS)
    (tmp_path / "powercap" / "intel-rapl:1" / "energy_uj").chmod(0)
    tmp_path.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)  # root may read everything; nobody may not
    try:
        with pytest.raises(SourceError, match="root only") as denied:
            await RaplMeter(Path("powercap")).open()
    finally:
        os.seteuid(user)
    assert denied.value.kind == "denied"


class _NvmlError(Exception):
    pass


class _NvmlNotSupportedError(_NvmlError):
    pass


class Gpus:
    """What NVML's module offers, over GPUs of which some cannot count energy."""

    NVMLError = _NvmlError
    NVMLError_NotSupported = _NvmlNotSupportedError

    def __init__(self, *millijoules: float | None) -> None:
        self.millijoules = list(millijoules)
        self.milliwatts = 70_000.0
        self.open = 0
        self.lost = False

    def nvmlInit(self) -> None:
        self.open += 1

    def nvmlShutdown(self) -> None:
        self.open -= 1

    def nvmlDeviceGetCount(self) -> int:
        return len(self.millijoules)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        if index >= len(self.millijoules):
            raise _NvmlError("Invalid Argument")
        return index

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: int) -> float:
        if self.lost:
            raise _NvmlError("GPU is lost")
        value = self.millijoules[handle]
        if value is None:
            raise _NvmlNotSupportedError("Not Supported")
        return value

    def nvmlDeviceGetPowerUsage(self, handle: int) -> float:
        return self.milliwatts


async def test_nvml_counts_and_where_it_cannot_it_integrates_power() -> None:
    gpus = Gpus(5_000_000.0, None, 1000.0)
    meter = NvmlMeter(library=gpus)
    await meter.open()
    assert meter.longest_s == 1.0
    assert (await meter.read(100.0))["gpu"] == 0.0
    gpus.millijoules = [5_600_000.0, None, 0.0]  # the third one's driver was loaded anew
    gpus.milliwatts = 90_000.0
    assert (await meter.read(102.0))["gpu"] == pytest.approx(600 + 160)
    gpus.lost = True
    with pytest.raises(SourceError, match="GPU is lost"):
        await meter.read(103.0)
    await meter.close()
    assert gpus.open == 0


async def test_nvml_of_chosen_gpus_and_of_one_that_is_not_there() -> None:
    gpus = Gpus(0.0, 0.0)
    meter = NvmlMeter([1], gpus)
    await meter.open()
    assert meter.longest_s == 60.0
    await meter.read(0.0)
    gpus.millijoules = [9e9, 5000.0]
    assert await meter.read(1.0) == {"gpu": 5.0}
    await meter.close()
    for wrong in (NvmlMeter([7], gpus), NvmlMeter(library=Gpus())):
        with pytest.raises(SourceError) as absent:
            await wrong.open()
        assert absent.value.kind == "absent"
    assert gpus.open == 0


def test_a_driver_that_hangs_does_not_keep_the_process_from_ending() -> None:
    script = """
import asyncio, logging, threading
from greencache.adapters.energy import EnergyMonitor, monitor, nvml
from tests.adapters.energy.test_meters import Gpus

async def main():
    monitor._ANSWER_S = nvml._ANSWER_S = 0.2
    gpus, hang = Gpus(1e6), threading.Event()
    meter = nvml.NvmlMeter(library=gpus)
    await meter.open()
    gpus.nvmlDeviceGetTotalEnergyConsumption = gpus.nvmlShutdown = lambda *_: hang.wait()
    async with EnergyMonitor([meter]) as energy:
        assert (await energy.take()).joules == {}
    gpus.nvmlInit = hang.wait
    other = nvml.NvmlMeter(library=gpus)
    try:
        await other.open()
    except Exception as fault:
        print(fault)
    await other.close()

asyncio.run(main())
"""
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True
    )
    assert "NVML does not answer in 0.2 s" in ended.stdout
    assert ended.stderr.count("\n") <= 1, ended.stderr


async def test_nvml_without_a_driver_or_without_its_package(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pynvml = pytest.importorskip("pynvml")
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        with pytest.raises(SourceError, match="does not work here"):
            await NvmlMeter().open()
    else:
        pynvml.nvmlShutdown()
    monkeypatch.setitem(__import__("sys").modules, "pynvml", None)
    with pytest.raises(SourceError, match=r"pip install nvidia-ml-py$") as absent:
        await NvmlMeter().open()
    assert absent.value.kind == "absent"


PAGE = """\
# HELP node_joules_total Energy.
# TYPE node_joules_total counter
node_joules_total{{package="0"}} {a}
node_joules_total{{package="1"}} {b}
# TYPE node_watts gauge
node_watts 3
"""


async def test_a_page_with_one_counter_in_joules_needs_no_name() -> None:
    values = {"a": "1000", "b": "5e3"}
    with serving(lambda asked: Reply(PAGE.format(**values))) as site:
        meter = PrometheusMeter(f"{site.url}/metrics", "cpu")
        await meter.open()
        assert await meter.read(0.0) == {"cpu": 0.0}
        values.update(a="1010", b="30")  # one exporter began anew
        assert await meter.read(1.0) == {"cpu": 40.0}
        values.update(a="NaN", b="40")
        assert await meter.read(2.0) == {"cpu": 50.0}
        values.update(a="1030")
        assert await meter.read(3.0) == {"cpu": 70.0}
        await meter.close()


async def test_a_page_with_several_wants_a_name_and_one_without_has_none() -> None:
    page = "# TYPE a_joules_total counter\na_joules_total 1\nb_joules_total 2\nc_joules 3\n"
    with serving(lambda asked: Reply(page)) as site:
        with pytest.raises(SourceError, match="a_joules_total, b_joules_total"):
            await PrometheusMeter(site.url).open()
        for name in ("a_joules_total", "a_joules", "c_joules"):
            meter = PrometheusMeter(site.url, metric=name)
            await meter.open()
            await meter.close()
        with pytest.raises(SourceError, match="no joules by that name"):
            await PrometheusMeter(site.url, metric="d").open()
        site.answer = lambda asked: Reply("<html>")
        with pytest.raises(SourceError, match="Prometheus' text format"):
            await PrometheusMeter(site.url).open()


def vector(*values: str) -> dict[str, Any]:
    result = [
        {"metric": {"gpu": str(at)}, "value": [1.7e9, value]} for at, value in enumerate(values)
    ]
    return {"status": "success", "data": {"resultType": "vector", "result": result}}


async def test_a_prometheus_server_is_asked_by_query_with_its_token() -> None:
    answers: list[Any] = [vector("10", "20"), vector("10", "20"), vector("15", "NaN")]

    def answer(asked: Asked) -> Reply:
        assert asked.path == "/api/v1/query"
        assert asked.params == {"query": "sum by (gpu) (x_joules_total)"}
        assert asked.headers["authorization"] == "Bearer let-me-in"
        return Reply(answers.pop(0))

    with serving(answer) as site:
        meter = PrometheusMeter(site.url, query="sum by (gpu) (x_joules_total)", key="let-me-in")
        await meter.open()
        assert await meter.read(0.0) == {"gpu": 0.0}
        assert await meter.read(0.0) == {"gpu": 5.0}
        answers.append({"status": "success", "data": {"resultType": "scalar", "result": [1, "4"]}})
        assert await meter.read(0.0) == {"gpu": 5.0}
        for wrong in (
            {"status": "success", "data": {"resultType": "matrix", "result": []}},
            {"status": "success", "data": {"resultType": "vector", "result": 3}},
            vector("x"),
            {"status": "error", "errorType": "bad_data", "error": "parse error"},
            vector(),
            vector("-1"),
        ):
            answers.append(wrong)
            with pytest.raises(SourceError):
                await meter.read(0.0)
        await meter.close()
    with pytest.raises(InputError, match="use https"):
        PrometheusMeter("http://prometheus.example.org", key="let-me-in")


class Meter:
    """A meter that a test turns."""

    longest_s = 0.02

    def __init__(self, source: str = "test", *components: str) -> None:
        self.source, self.components = source, frozenset(components or ("gpu",))
        self.joules, self.works, self.closed, self.reads = 1000.0, True, False, 0

    async def open(self) -> None:
        if not self.works:
            raise SourceError("absent", "no such meter")

    async def read(self, now_s: float) -> dict[str, float]:
        self.reads += 1
        if not self.works:
            raise SourceError("lost", "the meter is gone")
        return dict.fromkeys(self.components, self.joules)

    async def close(self) -> None:
        self.closed = True


async def test_intervals_take_what_was_used_in_them_and_outages_are_said_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    meter, now = Meter(), SimpleNamespace(s=0.0)
    monitor = EnergyMonitor([meter], sample_s=3600.0, clock=lambda: now.s)
    assert (await monitor.take()).joules == {"gpu": 0.0}
    now.s, meter.joules = 100.0, 1500.0
    assert await monitor.take() == ({"gpu": 500.0}, {"gpu": "test"})
    meter.works = False
    for now.s in (200.0, 300.0):
        assert (await monitor.take()).joules == {}  # the model stands for them
    now.s, meter.works, meter.joules = 400.0, True, 4500.0
    assert (await monitor.take()).joules == {"gpu": pytest.approx(1000.0)}  # a third of the time
    meter.joules = 4600.0
    await monitor.sample()
    meter.works = False
    assert (await monitor.take()).joules == {"gpu": 100.0}  # part of it was read
    assert monitor.failures == {"test lost": 3}
    said = [record.getMessage() for record in caplog.records]
    assert said == [
        "energy: the meter is gone; instead: the power model",
        "energy: test can be read again",
        "energy: the meter is gone; instead: the power model",
    ]
    await monitor.close()
    assert meter.closed


async def test_what_no_host_draws_is_left_out_and_said_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    meter, now = Meter(), SimpleNamespace(s=0.0)
    monitor = EnergyMonitor([meter], clock=lambda: now.s)
    await monitor.take()
    for _ in range(3):
        now.s, meter.joules = now.s + 60, meter.joules + 700 * 60 * 1000  # millijoules
        await monitor.sample()
        now.s, meter.joules = now.s + 60, meter.joules + 600
        assert (await monitor.take()).joules == {"gpu": pytest.approx(600.0)}
    assert monitor.failures == {"test absurd": 3}
    assert len(caplog.records) == 1
    assert "is its counter in joules?" in caplog.text


async def test_a_driver_that_hangs_holds_nothing_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("greencache.adapters.energy.monitor._ANSWER_S", 0.02)
    goes_on, meter = asyncio.Event(), Meter()
    read = meter.read

    async def hanging(now_s: float) -> dict[str, float]:
        found = await read(now_s)
        await goes_on.wait()
        return found

    monkeypatch.setattr(meter, "read", hanging)
    async with asyncio.timeout(20), EnergyMonitor([meter], sample_s=3600.0) as monitor:
        assert (await monitor.take()).joules == {}
        assert monitor.failures["test slow"] >= 2
        assert meter.reads == 1, "it is asked once, and waited for"
        meter.joules = 2000.0
        goes_on.set()
        await asyncio.sleep(0.1)
        assert (await monitor.take()).joules == {"gpu": 0.0}, "what came late is left out"
        goes_on.clear()
        assert (await monitor.take()).joules == {}


async def test_meters_are_read_as_often_as_they_need() -> None:
    meter = Meter()
    async with EnergyMonitor([meter], sample_s=60.0):
        await asyncio.sleep(0.2)
    assert meter.reads >= 4
    reads = meter.reads
    await asyncio.sleep(0.05)
    assert meter.reads == reads


async def test_auto_takes_what_works_and_says_which(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    root = powercap(tmp_path, TWO_SOCKETS)
    with serving(lambda asked: Reply(PAGE.format(a="1", b="2"))) as site:
        settings = EnergySettings(rapl=root, url=site.url)
        async with await energy_monitor(settings) as monitor:
            assert monitor.sources == {"gpu": "prometheus", "cpu": "rapl", "dram": "rapl"}
            assert (await monitor.take()).sources == monitor.sources
    assert "energy: gpu by prometheus, cpu by rapl, dram by rapl, the rest" in caplog.text


async def test_a_meter_that_was_asked_for_and_does_not_work_is_a_warning_and_no_error(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for source in ("rapl", "prometheus"):
        settings = EnergySettings(source=source, rapl=tmp_path, url="http://127.0.0.1:9/metrics")
        async with await energy_monitor(settings) as monitor:
            assert monitor.sources == {}
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 2
    async with await energy_monitor(EnergySettings(source="model")) as monitor:
        assert (await monitor.take()).joules == {}


async def test_settings_that_do_not_go_together_are_errors() -> None:
    with pytest.raises(SettingsError, match="ENERGY__URL"):
        await energy_monitor(EnergySettings(source="prometheus"))
    with pytest.raises(SettingsError, match="ENERGY__GPUS: 'all'"):
        await energy_monitor(EnergySettings(gpus="all"))
