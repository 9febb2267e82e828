"""What a controller would have seen of a simulated run: telemetry windows, and the prompts."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from greencache.bench.outcome import TIERS, Slo
from greencache.bench.simulation import BIN_S, SimulatedRun
from greencache.controller.prompts import Prompts
from greencache.controller.telemetry import Spread, Window
from greencache.quantities import HOUR_S
from greencache.traces.requests import RequestTrace

__all__ = ["held_blocks", "prompts_between", "windows_of", "within_slo"]

Floats = NDArray[np.float64]


def within_slo(requests: NDArray[np.void], slo: Slo) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    """TTFT and TPOT of finished requests, and which met both limits; one token has TPOT 0."""
    ttft_s = requests["first_token_s"] - requests["arrival_s"]
    later = np.maximum(requests["output_tokens"] - 1, 1)
    tpot_s = (requests["finish_s"] - requests["first_token_s"]) / later
    return ttft_s, tpot_s, (ttft_s <= slo.ttft_s) & (tpot_s <= slo.tpot_s)


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
