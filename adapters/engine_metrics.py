"""What vLLM says of itself on its Prometheus page, from one look at it to the next.

Names are those of vLLM's V1 engine (https://docs.vllm.ai/en/latest/usage/metrics.html; 0.32 was
looked at). Histograms know their buckets only: a quantile or a share inside one is interpolated on
a straight line, and `Between` has the ends of the bucket, between which the truth lies for sure.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from prometheus_client.samples import Sample

from greencache.adapters.counters import Counters
from greencache.controller.telemetry import Spread

__all__ = ["Between", "EngineInterval", "EnginePages", "Histogram"]

COUNTERS = {
    "vllm:prompt_tokens_total": "prompt_tokens",
    "vllm:generation_tokens_total": "output_tokens",
    "vllm:request_success_total": "finished",
    "vllm:prefix_cache_hits_total": "local_hit_tokens",
    "vllm:external_prefix_cache_hits_total": "external_hit_tokens",
}

HISTOGRAMS = {
    "vllm:time_to_first_token_seconds": "ttft",
    "vllm:request_time_per_output_token_seconds": "tpot",
    "vllm:request_prompt_tokens": "prompts",
}

GAUGES = {
    "vllm:num_requests_running": "running",
    "vllm:num_requests_waiting": "waiting",
    "vllm:kv_cache_usage_perc": "held",
    "vllm:gpu_cache_usage_perc": "held",  # before 0.10
}

_MINUTE_S = 60.0

_MOST_ENGINES = 256
_LONGEST_MISSED = 24
"""Intervals after which an engine that is not seen any more is forgotten."""


_Name = tuple[str, str | None, str | None]
"""A page, and an engine on it."""


class _Series(NamedTuple):
    name: str
    labels: tuple[tuple[str, str], ...]


class Between(NamedTuple):
    """A figure, and the ends between which it lies for sure."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Histogram:
    """Counts of observations in buckets.

    Attributes
    ----------
    bounds:
        Upper ends of the buckets, rising; the last is infinite.
    counts:
        Observations in each bucket.
    total:
        Sum of all observations.
    """

    bounds: NDArray[np.float64]
    counts: NDArray[np.float64]
    total: float

    @classmethod
    def of(cls, below: dict[float, float], total: float) -> Histogram:
        """From the number of observations below each bound, as pages have them."""
        bounds = np.array(sorted(below))
        counts = np.diff([0.0, *(below[bound] for bound in bounds.tolist())])
        return cls(bounds, np.maximum(counts, 0.0), total)

    @property
    def count(self) -> float:
        """How many observations there are."""
        return float(self.counts.sum())

    @property
    def mean(self) -> float:
        """Their mean, which is exact; NaN without any."""
        return self.total / self.count if self.count else math.nan

    @property
    def unevenness(self) -> float:
        """Mean square over squared mean, as far as buckets tell; 1 without any.

        Values are taken to lie evenly in the logarithm over each bucket, as in a falling tail.
        """
        low = np.concatenate([[0.0], self.bounds[:-1]])
        high = np.where(np.isinf(self.bounds), low, self.bounds)
        with np.errstate(divide="ignore", invalid="ignore"):
            width = np.log(high / low)
            mean = np.where(width > 0, (high - low) / width, high)
            square = np.where(width > 0, (high**2 - low**2) / (2 * width), high**2)
        first = np.isinf(width)
        mean[first], square[first] = high[first] / 2, high[first] ** 2 / 3
        total = float(self.counts @ mean)
        return max(self.count * float(self.counts @ square) / total**2, 1.0) if total else 1.0

    def _ends(self, bucket: int) -> tuple[float, float]:
        low = float(self.bounds[bucket - 1]) if bucket else min(0.0, float(self.bounds[0]))
        return low, float(self.bounds[bucket])

    def quantile(self, q: float) -> Between:
        """The value below which a share ``q`` of them lies; NaN without any.

        In the last bucket, which has no end, it is where that begins.
        """
        if self.count == 0:
            return Between(math.nan, math.nan, math.nan)
        below = np.cumsum(self.counts)
        rank = q * float(below[-1])
        bucket = min(int(np.searchsorted(below, rank)), len(self.bounds) - 1)
        low, high = self._ends(bucket)
        if math.isinf(high):
            return Between(low, low, high)
        before = float(below[bucket] - self.counts[bucket])
        inside = (rank - before) / float(self.counts[bucket]) if self.counts[bucket] else 1.0
        return Between(low + inside * (high - low), low, high)

    def share_within(self, limit: float) -> Between:
        """Share of them that is at most ``limit``; NaN without any.

        Exact where a bucket ends at the limit.
        """
        if self.count == 0:
            return Between(math.nan, math.nan, math.nan)
        below = np.cumsum(self.counts) / self.count
        bucket = min(int(np.searchsorted(self.bounds, limit)), len(self.bounds) - 1)
        low_end, high_end = self._ends(bucket)
        high = float(below[bucket])
        if limit >= high_end:
            return Between(high, high, high)
        low = float(below[bucket - 1]) if bucket else 0.0
        if math.isinf(high_end):
            return Between(low, low, high)
        inside = min(max((limit - low_end) / (high_end - low_end), 0.0), 1.0)
        return Between(low + inside * (high - low), low, high)

    def spread(self) -> Spread:
        """As telemetry has latencies; the mean is exact, the quantiles are interpolated."""
        return Spread(self.mean, *(self.quantile(q).value for q in (0.5, 0.9, 0.99)))


EMPTY = Histogram(np.array([math.inf]), np.zeros(1), 0.0)


@dataclass(frozen=True)
class EngineInterval:
    """What engines did in an interval, all of them together.

    Attributes
    ----------
    start_s, duration_s:
        When, on the caller's clock.
    pages:
        How often a page was read; without any nothing else is known.
    restarts:
        How often an engine began anew: what it did since the page was read before is not in here.
    arrivals:
        Requests that arrived: those that finished, and by how many more there are in the engine.
    finished, prompt_tokens, output_tokens:
        Requests that ended, tokens of the prompts that were computed or found, and answers.
    local_hit_tokens, external_hit_tokens:
        Prompt tokens found in HBM, and through the engine's connector.
    ttft, tpot:
        Seconds to the first token, and per token of an answer after that, one for each request.
    prompts:
        Lengths of the prompts of requests that ended.
    running, waiting:
        Requests in the engines: those that ran, in the mean over looks at which any did, and those
        that waited at the end.
    held:
        Share of the HBM blocks that requests kept from being used as cache: the most in each
        minute, in the mean over minutes and engines.
    """

    start_s: float
    duration_s: float
    pages: int = 0
    restarts: int = 0
    arrivals: int = 0
    finished: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0
    local_hit_tokens: int = 0
    external_hit_tokens: int = 0
    ttft: Histogram = EMPTY
    tpot: Histogram = EMPTY
    prompts: Histogram = EMPTY
    running: float = 0.0
    waiting: float = 0.0
    held: float = 0.0

    def attainment(self, ttft_s: float, tpot_s: float) -> Between:
        """Share of requests that met both limits; NaN if none had a first token.

        The page has each latency by itself, not both of one request. The value takes them to be
        independent: on simulated days of conversation that was off by 0.04 at most. The ends are
        those of any dependence.
        """
        first = self.ttft.share_within(ttft_s)
        if not self.tpot.count:
            return first
        later = self.tpot.share_within(tpot_s)
        return Between(
            first.value * later.value,
            max(first.low + later.low - 1, 0.0),
            min(first.high, later.high),
        )


@dataclass
class _Engine:
    """One engine of a page, as its labels tell it from others."""

    counters: Counters[_Series] = field(default_factory=Counters)
    created: dict[_Series, float] = field(default_factory=dict)
    gauges: dict[str, float] = field(default_factory=dict)
    below: dict[str, defaultdict[float, float]] = field(
        default_factory=lambda: {name: defaultdict(float) for name in HISTOGRAMS.values()}
    )
    sums: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    held_by_minute: dict[int, float] = field(default_factory=dict)
    running: list[float] = field(default_factory=list)
    seen_before: bool = False
    looks: int = 0
    """In this interval."""
    missed: int = 0
    """Intervals in a row in which it was not seen."""

    def begin(self) -> None:
        """Forget an interval that has passed."""
        self.missed = 0 if self.looks else self.missed + 1
        self.looks = 0
        if self.missed:
            self.gauges.clear()  # who knows
        for below in self.below.values():
            below.clear()
        self.sums.clear()
        self.held_by_minute.clear()
        self.running.clear()

    @property
    def inside(self) -> float:
        """Requests in it."""
        return self.gauges.get("running", 0.0) + self.gauges.get("waiting", 0.0)

    def see(self, samples: list[Sample], now_s: float) -> bool:
        """Take note of its part of a page; returns whether it began anew since the last one."""
        values: dict[_Series, float] = {}
        created: dict[_Series, float] = {}
        for sample in samples:
            key = _Series(sample.name, tuple(sorted(sample.labels.items())))
            if sample.name in GAUGES:
                if math.isfinite(sample.value):
                    self.gauges[GAUGES[sample.name]] = max(sample.value, 0.0)
            elif sample.name.endswith("_created"):
                created[key] = sample.value
            else:
                values[key] = sample.value
        known = self.created.items() & created.items()
        began_anew = self.counters.fallen(values) or (
            len(known) < len(self.created.keys() & created.keys())
        )
        self.created.update(created)
        newborn = self.seen_before
        increases = self.counters.grown(values, restarted=began_anew, newborn=newborn)
        self.seen_before, self.looks = True, self.looks + 1
        for key, grown in increases.items():
            self._add(dict(key.labels), key.name, grown)
        if "held" in self.gauges:
            minute = int(now_s // _MINUTE_S)
            most = max(self.held_by_minute.get(minute, 0.0), self.gauges["held"])
            self.held_by_minute[minute] = most
        if self.gauges.get("running"):
            self.running.append(self.gauges["running"])
        return began_anew

    def _add(self, labels: dict[str, str], name: str, grown: float) -> None:
        if name in COUNTERS:
            self.sums[COUNTERS[name]] += grown
        elif name.endswith("_bucket"):
            try:
                bound = float(labels["le"])
            except (KeyError, ValueError):
                return
            self.below[HISTOGRAMS[name.removesuffix("_bucket")]][bound] += grown
        elif name.endswith("_sum"):
            self.sums[HISTOGRAMS[name.removesuffix("_sum")]] += grown


def _wanted(sample: Sample) -> bool:
    name = sample.name
    if name in COUNTERS or name in GAUGES:
        return True
    for end in ("_bucket", "_sum"):
        if name.endswith(end):
            return name.removesuffix(end) in HISTOGRAMS
    stem = name.removesuffix("_created")
    return stem != name and (stem in HISTOGRAMS or f"{stem}_total" in COUNTERS)


class EnginePages:
    """Adds up what pages of engines say; time is an argument.

    Each engine of a page, by its labels ``engine`` and ``model_name``, may begin anew by itself:
    that shows in any of its counters falling, or in when they say they were created.
    """

    def __init__(self, start_s: float) -> None:
        self._start_s = start_s
        self._pages = self._restarts = 0
        self._engines: defaultdict[_Name, _Engine] = defaultdict(_Engine)
        self._inside_before = 0.0

    def see(self, page: str, samples: Iterable[Sample], now_s: float) -> None:
        """Take note of a page, named ``page``, as it was read at ``now_s``."""
        parts: dict[_Name, list[Sample]] = {}
        for sample in samples:
            if _wanted(sample):
                name = (page, sample.labels.get("engine"), sample.labels.get("model_name"))
                parts.setdefault(name, []).append(sample)
        for name, part in parts.items():
            if name not in self._engines and len(self._engines) >= _MOST_ENGINES:
                continue
            engine = self._engines[name]
            back = not engine.seen_before or engine.missed > 0 == engine.looks
            inside = engine.inside
            if engine.see(part, now_s):
                self._restarts += 1
                self._inside_before -= inside  # what was in it is lost, and asked anew or not
            if back:
                self._inside_before += engine.inside
        self._pages += 1

    def waiting(self, *, unread: Collection[str]) -> float:
        """Requests that wait by the newest look at each page, but for pages that were not read."""
        return sum(
            engine.gauges.get("waiting", 0.0)
            for (page, *_), engine in self._engines.items()
            if page not in unread
        )

    def take(self, now_s: float) -> EngineInterval:
        """What engines did since the last call, or the beginning."""
        engines = list(self._engines.values())
        sums: defaultdict[str, float] = defaultdict(float)
        for engine in engines:
            for name, value in engine.sums.items():
                sums[name] += value
        inside = sum(engine.inside for engine in engines)
        arrived = sums["finished"] + inside - self._inside_before
        held = [np.mean(list(e.held_by_minute.values())) for e in engines if e.held_by_minute]
        interval = EngineInterval(
            start_s=self._start_s,
            duration_s=now_s - self._start_s,
            pages=self._pages,
            restarts=self._restarts,
            arrivals=max(round(arrived), 0),
            finished=round(sums["finished"]),
            prompt_tokens=round(sums["prompt_tokens"]),
            output_tokens=round(sums["output_tokens"]),
            local_hit_tokens=round(sums["local_hit_tokens"]),
            external_hit_tokens=round(sums["external_hit_tokens"]),
            ttft=_merged(engines, "ttft", sums["ttft"]),
            tpot=_merged(engines, "tpot", sums["tpot"]),
            prompts=_merged(engines, "prompts", sums["prompts"]),
            running=sum(float(np.mean(e.running)) for e in engines if e.running),
            waiting=sum(engine.gauges.get("waiting", 0.0) for engine in engines),
            held=float(np.mean(held)) if held else 0.0,
        )
        for engine in engines:
            engine.begin()
        self._engines = defaultdict(
            _Engine, {n: e for n, e in self._engines.items() if e.missed <= _LONGEST_MISSED}
        )
        inside = sum(engine.inside for engine in self._engines.values())
        self._start_s, self._inside_before = now_s, inside
        self._pages = self._restarts = 0
        return interval


def _merged(engines: list[_Engine], name: str, total: float) -> Histogram:
    """One histogram of all engines; of bounds that differ, those that all have."""
    parts = [engine.below[name] for engine in engines if engine.below[name]]
    if not parts:
        return EMPTY
    common = set(parts[0]).intersection(*parts[1:]) | {math.inf}
    below = {bound: sum(part.get(bound, max(part.values())) for part in parts) for bound in common}
    return Histogram.of(below, total)
