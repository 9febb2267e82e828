"""Engines' pages: what happened between two looks, over restarts, and how sure that is."""

from __future__ import annotations

import asyncio
import logging
import math

import numpy as np
import pytest
from hypothesis import given, strategies as st
from prometheus_client.samples import Sample

from greencache.adapters.engine_metrics import EngineInterval, EnginePages, Histogram
from greencache.adapters.engine_watch import EngineWatch
from greencache.adapters.exposition import read_page
from greencache.errors import SourceError
from tests.adapters.engine_page import TTFT_BUCKETS, EnginePage
from tests.adapters.serving import Reply, serving

latencies = st.lists(st.floats(0, 5000), min_size=1, max_size=200)


def histogram(values: list[float]) -> Histogram:
    below = {bound: float(sum(v <= bound for v in values)) for bound in (*TTFT_BUCKETS, math.inf)}
    return Histogram.of(below, sum(values))


@given(latencies, st.floats(0.01, 0.99))
def test_a_quantile_lies_in_its_bucket_and_so_does_the_truth(values: list[float], q: float) -> None:
    found = histogram(values).quantile(q)
    true = float(np.quantile(values, q, method="inverted_cdf"))
    assert found.low <= found.value <= found.high
    assert found.low <= true <= found.high


@given(latencies, st.floats(0, 4000))
def test_a_share_within_a_limit_lies_between_its_ends_and_so_does_the_truth(
    values: list[float], limit: float
) -> None:
    found = histogram(values).share_within(limit)
    true = sum(value <= limit for value in values) / len(values)
    assert found.low - 1e-9 <= found.value <= found.high + 1e-9
    assert found.low - 1e-9 <= true <= found.high + 1e-9


@given(latencies, st.sampled_from(TTFT_BUCKETS))
def test_at_the_end_of_a_bucket_a_share_is_exact(values: list[float], limit: float) -> None:
    found = histogram(values).share_within(limit)
    assert found.value == pytest.approx(sum(v <= limit for v in values) / len(values))
    assert found.low == pytest.approx(found.high)


def test_an_empty_histogram_knows_nothing() -> None:
    empty = EngineInterval(0.0, 1.0).ttft
    assert math.isnan(empty.mean)
    assert math.isnan(empty.quantile(0.5).value)
    assert math.isnan(empty.share_within(1.0).value)
    assert math.isnan(EngineInterval(0.0, 1.0).attainment(1.0, 1.0).value)


def served(page: EnginePage, requests: int, ttft_s: float, tpot_s: float = 0.03) -> None:
    for _ in range(requests):
        page.first_token(ttft_s)
        page.finish(tpot_s)
        page.count("prompt_tokens", 1000)
        page.count("generation_tokens", 100)
        page.count("prefix_cache_queries", 1000)
        page.count("prefix_cache_hits", 300)
        page.count("external_prefix_cache_hits", 200)


def test_an_interval_is_what_came_between_two_looks() -> None:
    page, pages = EnginePage(), EnginePages(0.0)
    served(page, 50, 9.0)
    page.show("num_requests_running", 4)
    pages.see("a", page.samples, 0.0)
    first = pages.take(0.0 + 1e-9)
    assert (first.finished, first.prompt_tokens, first.arrivals) == (0, 0, 0)
    served(page, 8, 0.3)
    served(page, 2, 1.5)
    page.show("num_requests_running", 6)
    page.show("num_requests_waiting", 3)
    page.show("kv_cache_usage_perc", 0.5)
    pages.see("a", page.samples, 30.0)
    page.show("kv_cache_usage_perc", 0.9)
    page.show("num_requests_running", 2)
    pages.see("a", page.samples, 90.0)
    made = pages.take(90.0)
    assert (made.finished, made.arrivals) == (10, 10 + 2 + 3 - 4)
    assert (made.prompt_tokens, made.output_tokens) == (10_000, 1000)
    assert (made.local_hit_tokens, made.external_hit_tokens) == (3000, 2000)
    assert made.ttft.mean == pytest.approx((8 * 0.3 + 2 * 1.5) / 10)
    assert made.ttft.share_within(1.0) == (0.8, 0.8, 0.8)
    assert made.ttft.quantile(0.5)[1:] == (0.25, 0.5)
    assert made.tpot.spread().mean_s == pytest.approx(0.03)
    assert (made.running, made.waiting) == (4.0, 3.0)
    assert made.held == pytest.approx(0.7)
    assert made.attainment(1.0, 0.05) == pytest.approx((0.8, 0.8, 0.8))
    assert made.attainment(1.0, 0.01) == (0.0, 0.0, 0.0)
    assert made.attainment(1.0, 0.04).low == 0.0
    assert made.attainment(1.0, 0.04).high == 0.8
    nothing = pages.take(100.0)
    assert (nothing.start_s, nothing.pages, nothing.finished) == (90.0, 0, 0)


def test_an_engine_that_began_anew_counts_from_nothing_also_where_it_looks_grown() -> None:
    page, pages = EnginePage(), EnginePages(0.0)
    served(page, 10, 0.3)
    page.show("num_requests_running", 7)
    pages.see("a", page.samples, 0.0)
    page = EnginePage()
    served(page, 12, 0.3)  # more of them than before, yet fewer
    page.count("external_prefix_cache_hits", 10_000)
    page.show("num_requests_running", 1)
    pages.see("a", page.samples, 15.0)
    made = pages.take(15.0)
    assert made.restarts == 1
    assert (made.finished, made.arrivals, made.ttft.count) == (12, 13, 12)
    assert made.external_hit_tokens == 12 * 200 + 10_000


def without_created(page: EnginePage) -> list[Sample]:
    """As an engine of several processes writes its page."""
    return [sample for sample in page.samples if not sample.name.endswith("_created")]


def test_a_restart_shows_in_any_counter_that_fell() -> None:
    page, pages = EnginePage(), EnginePages(0.0)
    served(page, 10, 0.3)
    pages.see("a", without_created(page), 0.0)
    page = EnginePage()
    served(page, 4, 0.3)
    page.count("prompt_tokens", 90_000)
    pages.see("a", without_created(page), 15.0)
    made = pages.take(15.0)
    assert (made.restarts, made.finished, made.prompt_tokens) == (1, 4, 94_000)


def test_of_two_engines_one_may_begin_anew_and_their_buckets_may_differ() -> None:
    one, two = EnginePage("0"), EnginePage("1", ttft_buckets=(0.5, 1.0, 5.0))
    pages = EnginePages(0.0)
    served(one, 5, 0.3)
    served(two, 5, 0.3)
    for name, page in (("a", one), ("b", two)):
        pages.see(name, page.samples, 0.0)
    served(one, 10, 0.3)
    two = EnginePage("1", ttft_buckets=(0.5, 1.0, 5.0))
    served(two, 3, 2.0)
    for name, page in (("a", one), ("b", two)):
        pages.see(name, page.samples, 15.0)
    made = pages.take(15.0)
    assert (made.restarts, made.finished) == (1, 13)
    assert made.ttft.bounds.tolist() == [0.5, 1.0, 5.0, math.inf]
    assert made.ttft.counts.tolist() == [10.0, 0.0, 3.0, 0.0]
    assert made.ttft.mean == pytest.approx((10 * 0.3 + 3 * 2.0) / 13)


async def test_a_page_that_cannot_be_read_is_said_once_and_nothing_is_missed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "greencache.adapters")
    page = EnginePage()
    served(page, 3, 0.3)
    now_s = 0.0
    with serving(lambda asked: Reply(page.text)) as site:
        watch = EngineWatch([f"{site.url}/metrics"], clock=lambda: now_s)
        await watch.open()
        assert (await watch.take()).pages == 2
        served(page, 5, 0.3)
        for body in (b"<html>", b"\xff", b"x{ 1\n"):
            site.answer = lambda asked, body=body: Reply(body)  # type: ignore[misc]
            await watch.look()
        site.answer = lambda asked: Reply("", 500)
        missing = await watch.take()
        assert (missing.pages, missing.finished) == (0, 0)
        assert watch.failures == {"garbage": 3, "failing": 1}
        site.answer = lambda asked: Reply(page.text)
        now_s = 60.0
        made = await watch.take()
        assert (made.pages, made.finished, made.duration_s) == (1, 5, 60.0)
        await watch.close()
    assert len(caplog.records) == 2, caplog.text


async def test_what_waits_now_is_asked_of_all_pages_that_can_be_read() -> None:
    page = EnginePage()
    with serving(lambda asked: Reply(page.text)) as site:
        watch = EngineWatch([f"{site.url}/metrics", f"{site.url}/other"])
        assert await watch.waiting() == 0
        page.show("num_requests_waiting", 4)
        assert await watch.waiting() == 8
        site.answer = lambda asked: Reply(page.text) if "other" in asked.path else Reply("", 500)
        page.show("num_requests_waiting", 5)
        assert await watch.waiting() == 5, "and not what was said by a page that cannot be read"
        site.answer = lambda asked: Reply("", 500)
        assert await watch.waiting() is None
        assert (await watch.take()).finished == 0
        await watch.close()


async def test_pages_are_looked_at_in_the_background() -> None:
    page = EnginePage()
    with serving(lambda asked: Reply(page.text)) as site:
        watch = EngineWatch([f"{site.url}/metrics", f"{site.url}/other"], every_s=0.01)
        async with watch:
            while len(site.asked) < 6:
                await asyncio.sleep(0.01)
    assert set(site.paths) == {"/metrics", "/other"}


@pytest.mark.parametrize(
    "body", [b'a{b="c"} x\n', b"{\n", b"# TYPE a counter\n# TYPE a gauge\na\n"]
)
def test_what_is_no_page_is_garbage(body: bytes) -> None:
    with pytest.raises(SourceError) as garbage:
        list(read_page(body, "engine"))
    assert garbage.value.kind == "garbage"


@given(st.binary(max_size=200))
def test_no_bytes_do_worse_than_being_garbage(body: bytes) -> None:
    pages = EnginePages(0.0)
    try:
        samples = list(read_page(b"vllm:prompt_tokens_total " + body, "engine"))
    except SourceError:
        return
    pages.see("a", samples, 1.0)
    pages.take(2.0)


@given(st.lists(st.floats(1, 1000), min_size=1, max_size=100))
def test_how_uneven_values_are_is_at_least_one(values: list[float]) -> None:
    found = histogram(values).unevenness
    assert found >= 1


def test_of_values_all_over_their_buckets_it_is_known_how_uneven_they_are() -> None:
    values = np.random.default_rng(2).lognormal(1.0, 1.0, 20_000)
    true = float((values**2).mean() / values.mean() ** 2)
    assert histogram(values.tolist()).unevenness == pytest.approx(true, rel=0.15)


def test_what_ends_for_a_new_reason_counts_from_the_first() -> None:
    page, pages = EnginePage(), EnginePages(0.0)
    served(page, 5, 0.3)
    pages.see("a", page.samples, 0.0)
    page.finish(0.03, reason="length")
    page.finish(0.03, reason="length")
    pages.see("a", page.samples, 15.0)
    assert pages.take(15.0).finished == 2


def test_an_engine_that_is_not_seen_any_more_holds_no_requests_and_is_forgotten() -> None:
    page, pages = EnginePage(), EnginePages(0.0)
    page.show("num_requests_waiting", 9)
    page.show("num_requests_running", 9)
    pages.see("a", page.samples, 0.0)
    assert pages.take(10.0).waiting == 9
    assert pages.take(20.0).waiting == 9, "of the moment at which it was last seen"
    assert pages.take(30.0).waiting == 0
    served(page, 4, 0.3)
    pages.see("a", page.samples, 31.0)
    back = pages.take(40.0)
    assert (back.finished, back.arrivals, back.waiting) == (4, 4, 9)
    for at in range(30):
        pages.take(50.0 + at)
    served(page, 4, 0.3)
    pages.see("a", page.samples, 100.0)
    assert pages.take(100.0).finished == 0


def test_there_are_only_so_many_engines() -> None:
    pages = EnginePages(0.0)
    name = "vllm:num_requests_waiting"
    flood = [Sample(name, {"engine": str(at)}, 1.0) for at in range(1000)]
    pages.see("a", flood, 0.0)
    assert pages.take(1.0).waiting == 256
