"""What the controller is told of a simulated engine: one telemetry window an interval."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from greencache.bench import engine_state as e
from greencache.bench.outcome import Slo
from greencache.bench.simulation import StorageSetup
from greencache.controller.prompts import Prompts
from greencache.controller.telemetry import Spread, Window
from greencache.quantities import HOUR_S
from greencache.tiers.state import CAPACITY, USED
from greencache.traces.requests import RequestTrace

__all__ = ["Watched", "prompts_between", "window_of"]


def window_of(engines: e.Engine, start_s: float, end_s: float, slo: Slo) -> Window:
    """What can be seen at ``end_s`` of the time since ``start_s``: whole bins, all replicas.

<<<<<<< HEAD
    Requests are those that arrived in the interval. Of what ended later nothing is known yet.
    """
    arrivals = engines.requests["arrival_s"]
    requests = engines.requests[slice(*np.searchsorted(arrivals, (start_s, end_s)))]
    bin_s, block_tokens = engines.config.bin_s, engines.config.block_tokens
    block_bytes = engines.config.block_bytes
    bins = engines.bins[:, round(start_s / bin_s) : round(end_s / bin_s)]
    ended = requests[requests["finish_s"] <= end_s]
    ttft_s = ended["first_token_s"] - ended["arrival_s"]
    later = ended["output_tokens"] - 1
    several = later > 0
    tpot_s = (ended["finish_s"] - ended["first_token_s"])[several] / later[several]
    kept = ttft_s <= slo.ttft_s
    kept[several] &= tpot_s <= slo.tpot_s
    replicas = len(engines.clock)
    rates = engines.rates
    s_per_token = rates.flops_per_token / rates.flops_per_s + rates.link_s_per_token
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
        tpot=Spread.of(tpot_s),
        busy_s=float(bins["busy_s"].sum()),
        gpu_j=float(bins["gpu_j"].sum()),
        prefill_tokens=float(bins["prefill_tokens"].sum()),
        prefill_s=float(bins["prefill_s"].sum()),
        prefill_j=float(bins["prefill_j"].sum()),
        read_bytes=float(bins["read_bytes"].sum()),
        written_bytes=float(bins["written_bytes"].sum()),
        declined_bytes=float(bins["dropped_bytes"].sum()),
        held_blocks=float(bins["held_block_s"].sum()) / (replicas * (end_s - start_s)),
        backlog_s=float(engines.clock[:, e.BACKLOG].sum()) * s_per_token / replicas,
        capacity_bytes={
            name: float(tier.meta[0, CAPACITY]) * block_bytes for name, tier in tiers.items()
        },
        used_bytes={
            name: float(tier.meta[:, USED].mean()) * block_bytes for name, tier in tiers.items()
        },
    )
=======

def _since(start_s: Floats, blocks: Floats, at_s: Floats) -> Floats:
    """Block-seconds held by each time, of what is held from its start on and never given back."""
    order = np.argsort(start_s, kind="stable")
    zero = np.zeros(1)
    many = np.concatenate([zero, np.cumsum(blocks[order])])
    moment = np.concatenate([zero, np.cumsum((blocks * start_s)[order])])
    begun = np.searchsorted(start_s[order], at_s)
    return np.asarray(many[begun] * at_s - moment[begun])


def held_blocks(requests: NDArray[np.void], edges_s: Floats, block_tokens: int) -> Floats:
    """Mean HBM blocks that running requests keep without a name, in each interval.

    A request keeps room for what its prompt did not hit there from its arrival, about, until the
    prompt is computed, and then for its answer.
    """
    prompt = -(-requests["input_tokens"] // block_tokens) - requests["hbm_blocks"]
    answer = requests["output_tokens"] / block_tokens / 2 + 0.5  # half of it in the mean
    total = np.zeros(len(edges_s) - 1)
    for blocks, begin, end in (
        (prompt, "arrival_s", "first_token_s"),
        (answer, "first_token_s", "finish_s"),
    ):
        taken = _since(requests[begin], blocks, edges_s)
        total += np.diff(taken - _since(requests[end], blocks, edges_s))
    return np.asarray(total / np.diff(edges_s))
>>>>>>> prospects


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


<<<<<<< HEAD
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
=======
def windows_of(
    run: SimulatedRun, slo: Slo, block_tokens: int, interval_s: float = HOUR_S
) -> list[Window]:
    """All intervals of a finished run of one engine, from its start to its last arrival."""
    requests, bins = run.requests, run.bins
    count = int(requests["arrival_s"][-1] // interval_s) + 1
    edges_s = np.arange(count + 1, dtype=np.float64) * interval_s
    held = held_blocks(requests, edges_s, block_tokens)
    ttft_s, tpot_s, met = within_slo(requests, slo)
    computed = np.cumsum(
        requests["input_tokens"] - block_tokens * sum(requests[f"{tier}_blocks"] for tier in TIERS)
    )
    windows = []
    for i in range(count):
        begin_s, end_s = edges_s[i], edges_s[i + 1]
        first, last = np.searchsorted(requests["arrival_s"], (begin_s, end_s))
        chosen = slice(first, last)
        totals = bins[int(begin_s / BIN_S) : int(end_s / BIN_S)]
        sums = {name: float(totals[name].sum()) for name in totals.dtype.names or ()}
        waiting = requests["first_token_s"][:last] > end_s
        left = float(np.diff(computed[:last], prepend=0)[waiting].sum()) if last else 0.0
        rate = sums["prefill_s"] / max(sums["prefill_tokens"], 1.0)
        windows.append(
            Window(
                start_s=float(begin_s),
                duration_s=interval_s,
                arrivals=int(last - first),
                prompt_tokens=int(requests["input_tokens"][chosen].sum()),
                output_tokens=int(requests["output_tokens"][chosen].sum()),
                hit_tokens={
                    tier: float(requests[f"{tier}_blocks"][chosen].sum()) * block_tokens
                    for tier in TIERS
                },
                finished=int(last - first),
                within_slo=int(met[chosen].sum()),
                ttft=Spread.of(ttft_s[chosen]),
                tpot=Spread.of(tpot_s[chosen]),
                busy_s=sums["busy_s"],
                gpu_j=sums["gpu_j"],
                prefill_tokens=sums["prefill_tokens"],
                prefill_s=sums["prefill_s"],
                prefill_j=sums["prefill_j"],
                read_bytes=sums["read_bytes"],
                written_bytes=sums["written_bytes"],
                declined_bytes=sums["dropped_bytes"],
                held_blocks=float(held[i]),
                backlog_s=left * rate,
            )
        )
    return windows
>>>>>>> prospects
