"""What the controller is told of a simulated engine: one telemetry window an interval."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from greencache.bench import engine_state as e
from greencache.bench.outcome import latencies_s
from greencache.bench.storage import StorageSetup
from greencache.controller.prompts import Prompts
from greencache.controller.slo import Slo
from greencache.controller.telemetry import Spread, Window
from greencache.quantities import HOUR_S
from greencache.tiers.state import CAPACITY, USED
from greencache.traces.requests import RequestTrace

__all__ = ["Watched", "content_bytes", "prompts_between", "waiting_s", "window_of"]


def waiting_s(engines: e.Engine) -> float:
    """Work that waits, in seconds of one engine: prompt tokens still to be computed.

    Each takes as long as those computed so far did, which a real engine can be asked for, too.
    """
    computed = float(engines.bins["prefill_tokens"].sum())
    if computed == 0.0:
        return 0.0
    s_per_token = float(engines.bins["prefill_s"].sum()) / computed
    return float(engines.clock[:, e.BACKLOG].mean()) * s_per_token


def content_bytes(engines: e.Engine) -> float:
    """What the SSD holds, in the mean over engines."""
    return float(engines.ssd.meta[:, USED].mean()) * engines.config.block_bytes


def window_of(engines: e.Engine, start_s: float, end_s: float, slo: Slo) -> Window:
    """What can be seen at ``end_s`` of the time since ``start_s``: whole bins, all replicas.

    Arrivals and their prompts are those of the interval, latencies those of requests that ended in
    it. What still waits at its end is told of by the next one: often it is what came too late.
    """
    arrivals = engines.requests["arrival_s"]
    requests = engines.requests[slice(*np.searchsorted(arrivals, (start_s, end_s)))]
    bin_s, block_tokens = engines.config.bin_s, engines.config.block_tokens
    block_bytes = engines.config.block_bytes
    bins = engines.bins[:, round(start_s / bin_s) : round(end_s / bin_s)]
    finish_s = engines.requests["finish_s"]
    ended = engines.requests[(finish_s > start_s) & (finish_s <= end_s)]
    ttft_s, tpot_s = latencies_s(ended)
    kept = slo.kept(ttft_s, tpot_s)
    tiers = {"dram": engines.dram, "ssd": engines.ssd}
    return Window(
        start_s=start_s,
        duration_s=end_s - start_s,
        arrivals=len(requests),
        prompt_tokens=int(requests["input_tokens"].sum()),
        output_tokens=int(requests["output_tokens"].sum()),
        hit_tokens={
            tier: float(requests[f"{tier}_blocks"].sum(dtype=np.int64) * block_tokens)
            for tier in ("hbm", "dram", "ssd")
        },
        finished=len(ended),
        within_slo=int(kept.sum()),
        ttft=Spread.of(ttft_s),
        tpot=Spread.of(tpot_s[~np.isnan(tpot_s)]),
        busy_s=float(bins["busy_s"].sum()),
        gpu_j=float(bins["gpu_j"].sum()),
        prefill_tokens=float(bins["prefill_tokens"].sum()),
        prefill_s=float(bins["prefill_s"].sum()),
        prefill_j=float(bins["prefill_j"].sum()),
        read_bytes=float(bins["read_bytes"].sum()),
        written_bytes=float(bins["written_bytes"].sum()),
        declined_bytes=float(bins["dropped_bytes"].sum()),
        held_blocks=float(bins["held_blocks"].mean()),
        backlog_s=waiting_s(engines),
        capacity_bytes={
            name: float(tier.meta[0, CAPACITY]) * block_bytes for name, tier in tiers.items()
        },
        used_bytes={
            name: float(tier.meta[:, USED].mean()) * block_bytes for name, tier in tiers.items()
        },
    )


def prompts_between(
    trace: RequestTrace, requests: NDArray[np.void], begin_s: float, end_s: float
) -> Prompts:
    """Requests that arrived in an interval, stored when the engine had computed them."""
    first, last = np.searchsorted(trace.arrival_s, (begin_s, end_s))
    chosen = slice(first, last)
    begin, end = trace.block_starts[first], trace.block_starts[last]
    return Prompts(
        ids=trace.block_ids[begin:end],
        starts=trace.block_starts[chosen] - begin,
        full=trace.full_blocks[chosen],
        reusable=trace.reusable_blocks[chosen],
        input_tokens=trace.input_tokens[chosen],
        output_tokens=trace.output_tokens[chosen],
        arrival_s=trace.arrival_s[chosen],
        computed_s=requests["first_token_s"][chosen],
    )


class Watched:
    """Leaves a run as it is and keeps what a controller would have seen of it.

    The last interval is seen only if the run goes on beyond its end.
    """

    def __init__(self, storage: StorageSetup, slo: Slo, interval_s: float = HOUR_S) -> None:
        self.interval_s, self.largest = interval_s, storage.sizes
        self.windows: list[Window] = []
        self._storage, self._slo = storage, slo

    def steer(self, now_s: float, engines: e.Engine) -> StorageSetup:
        """Note the interval that ends."""
        self.windows.append(window_of(engines, now_s - self.interval_s, now_s, self._slo))
        return self._storage
