"""The metrics page: what the tiers know of themselves, in the formats that Prometheus reads."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from greencache.metrics import FAILURES, SESSIONS, Sample
from greencache.service.http import HttpServer, Reply
from greencache.service.metrics import MOST_VALUES, MetricsPage, cache_samples, few
from greencache.tiers import TieredCache
from greencache.tiers.extents import extent_name
from greencache.version import VERSION
from tests.conformance.prompts import prompt
from tests.service.pages import OPENMETRICS, Answer, Values, ask, values_of
from tests.tiers.caches import BLOCK_BYTES, cache_in, load, store


def served(page: MetricsPage) -> HttpServer:
    async def metrics(accept: str) -> Reply:
        return Reply(*await page.render(accept))

    return HttpServer({"/metrics": metrics})


async def scraped(page: MetricsPage, *headers: str) -> Answer:
    async with served(page) as server:
        return await ask(server.port, "/metrics", *headers)


def of_caches(*caches: TieredCache) -> MetricsPage:
    def samples() -> Iterator[Sample]:
        for cache in caches:
            yield from cache_samples(cache.stats())

    return MetricsPage({"caches": samples})


async def scraped_values(*caches: TieredCache) -> Values:
    page = of_caches(*caches)
    openly = await scraped(page, f"Accept: {OPENMETRICS}")
    plainly = await scraped(page)
    assert openly.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    assert plainly.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    ours = {
        name: value for name, value in values_of(openly).items() if name[0][:10] == "greencache"
    }
    assert ours == {
        name: value for name, value in values_of(plainly).items() if name[0][:10] == "greencache"
    }
    assert values_of(openly)["process_resident_memory_bytes",] > 0
    return ours


async def test_what_was_stored_and_loaded_is_on_the_page(tmp_path: Path) -> None:
    async with cache_in(tmp_path, 8, 16) as cache:
        empty = await scraped_values(cache)
        assert empty["greencache_tier_used_bytes", "dram"] == 0
        assert not [name for name in empty if name[0] == "greencache_tier_failures_total"]
        keys = prompt(*range(12))
        await store(cache, keys[:8])
        assert await load(cache, keys) == 8
        await cache.flush()
        values = await scraped_values(cache)
    assert values["greencache_build_info", VERSION] == 1
    assert values["greencache_tier_blocks", "dram"] == 8
    assert values["greencache_tier_used_bytes", "dram"] == 8 * 4096
    assert values["greencache_tier_capacity_bytes", "dram"] >= 8 * 4096
    assert values["greencache_hit_blocks_total", "dram"] == 8
    assert values["greencache_missed_blocks_total", "dram"] == 4
    assert values["greencache_tier_written_bytes_total", "ssd"] == 8 * BLOCK_BYTES
    assert values["greencache_ssd_written_bytes_total",] == 8 * BLOCK_BYTES
    assert values["greencache_write_queue_bytes",] == 0
    assert values["greencache_ssd_dropped_blocks_total",] == 0
    assert values["greencache_io_seconds_count", "read", "dram"] == 1
    assert values["greencache_io_seconds_count", "write", "ssd"] == 1
    assert values["greencache_io_seconds_count", "read", "ssd"] == 0
    assert values["greencache_io_seconds_sum", "write", "ssd"] > 0
    assert values["greencache_io_seconds_bucket", "+Inf", "write", "ssd"] == 1


async def test_failures_are_there_by_tier_and_cause(tmp_path: Path) -> None:
    async with cache_in(tmp_path, None, 16) as cache:
        keys = prompt(*range(4))
        await store(cache, keys)
        extent = tmp_path / extent_name(0)
        content = bytearray(extent.read_bytes())
        content[10] ^= 1
        extent.write_bytes(content)
        assert await load(cache, keys) < 4
        values = await scraped_values(cache)
    assert values["greencache_tier_failures_total", "checksum", "ssd"] == 1


async def test_caches_of_several_sizes_are_one(tmp_path: Path) -> None:
    async with (
        cache_in(tmp_path / "a", 8, None) as small,
        cache_in(tmp_path / "b", 8, None, block_bytes=6000) as large,
    ):
        await store(small, prompt(1, 2))
        await store(large, prompt(1, 2, 3))
        values = await scraped_values(small, large)
    assert values["greencache_tier_blocks", "dram"] == 5
    assert values["greencache_tier_used_bytes", "dram"] == 2 * 4096 + 3 * 8192
    assert values["greencache_io_seconds_count", "write", "dram"] == 2


async def test_what_cannot_be_read_is_left_out_said_once_and_counted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def sessions() -> Iterator[Sample]:
        yield Sample(SESSIONS, 3)

    def broken() -> Iterator[Sample]:
        yield Sample(SESSIONS, 1000)
        raise ZeroDivisionError

    page = MetricsPage({"broken": broken, "sessions": sessions}, process=False)
    for failures in (1, 2):
        values = values_of(await scraped(page))
        assert values["greencache_sessions",] == 3
        assert values["greencache_metrics_failures_total", "broken"] == failures
        assert values["greencache_metrics_failures_total", "sessions"] == 0
    assert [record.message for record in caplog.records] == [
        "metrics of broken cannot be read; counted from now on"
    ]


async def test_labels_may_say_anything_but_are_few() -> None:
    causes = {f'"{n}"\n\\{{}}\U0001f33f': 1.0 for n in range(1000)}

    def failures() -> Iterator[Sample]:
        for cause, count in few(causes):
            yield Sample(FAILURES, count, ("dram", cause))

    values = values_of(await scraped(MetricsPage({"failures": failures}, process=False)))
    found = {name[1]: value for name, value in values.items() if "tier_failures" in name[0]}
    assert len(found) == MOST_VALUES + 1
    assert found["other"] == 1000 - MOST_VALUES
    assert set(found) - {"other"} <= set(causes)
