"""An engine's page as vLLM writes it: by the same library, with its names, labels and buckets."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.samples import Sample

from greencache.adapters.exposition import read_page

# As in vLLM 0.32, vllm/v1/metrics/loggers.py.
TTFT_BUCKETS = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0),
)
TPOT_BUCKETS = (
    *(0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0),
)
PROMPT_BUCKETS = tuple(
    float(digit * 10**power)
    for power in range(6)
    for digit in (1, 2, 5)
    if digit * 10**power < 131_072
)


class EnginePage:
    """What one engine has counted since it began."""

    def __init__(self, engine: str = "0", ttft_buckets: tuple[float, ...] = TTFT_BUCKETS) -> None:
        self.registry = CollectorRegistry()
        self._labels = {"model_name": "llama", "engine": engine}
        names = list(self._labels)
        self._ttft = Histogram(
            "vllm:time_to_first_token_seconds",
            ".",
            names,
            buckets=ttft_buckets,
            registry=self.registry,
        )
        self._tpot = Histogram(
            "vllm:request_time_per_output_token_seconds",
            ".",
            names,
            buckets=TPOT_BUCKETS,
            registry=self.registry,
        )
        self._prompts = Histogram(
            "vllm:request_prompt_tokens", ".", names, buckets=PROMPT_BUCKETS, registry=self.registry
        )
        self._success = Counter(
            "vllm:request_success", ".", [*names, "finished_reason"], registry=self.registry
        )
        self._counters = {
            name: Counter(f"vllm:{name}", ".", names, registry=self.registry)
            for name in (
                "prompt_tokens",
                "generation_tokens",
                "prefix_cache_queries",
                "prefix_cache_hits",
                "external_prefix_cache_hits",
            )
        }
        self._gauges = {
            name: Gauge(f"vllm:{name}", ".", names, registry=self.registry)
            for name in ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc")
        }
        for metric in (
            self._ttft,
            self._tpot,
            self._prompts,
            *self._counters.values(),
            *self._gauges.values(),
        ):
            metric.labels(**self._labels)

    def first_token(self, ttft_s: float) -> None:
        self._ttft.labels(**self._labels).observe(ttft_s)

    def finish(self, tpot_s: float, prompt_tokens: float = 1000, reason: str = "stop") -> None:
        self._prompts.labels(**self._labels).observe(prompt_tokens)
        self._tpot.labels(**self._labels).observe(tpot_s)
        self._success.labels(**self._labels, finished_reason=reason).inc()

    def count(self, name: str, by: float) -> None:
        self._counters[name].labels(**self._labels).inc(by)

    def show(self, name: str, value: float) -> None:
        self._gauges[name].labels(**self._labels).set(value)

    @property
    def text(self) -> bytes:
        return generate_latest(self.registry)

    @property
    def samples(self) -> list[Sample]:
        return list(read_page(self.text, "engine"))
