"""One telemetry window of an interval, from the store's counts, engines' pages and meters."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from greencache.adapters.engine_metrics import EngineInterval
from greencache.controller.modelled_energy import modelled_energy
from greencache.controller.performance import ServingHardware
from greencache.controller.telemetry import Spread, Window

__all__ = ["LiveWindow", "StoreInterval", "live_window"]

_UNKNOWN = Spread.of(np.empty(0))


@dataclass(frozen=True)
class StoreInterval:
    """What the store counted in an interval.

    Attributes
    ----------
    lookups, lookup_tokens:
        Prompts that engines looked up, and their tokens.
    hit_tokens:
        Prompt tokens that engines loaded, by ``dram`` and ``ssd``.
    read_bytes, written_bytes, declined_bytes:
        SSD traffic, and what was not written.
    capacity_bytes, used_bytes:
        Size and content of ``dram`` and ``ssd`` at the end; shared by all engines.
    """

    lookups: int = 0
    lookup_tokens: int = 0
    hit_tokens: Mapping[str, float] = field(default_factory=dict)
    read_bytes: float = 0.0
    written_bytes: float = 0.0
    declined_bytes: float = 0.0
    capacity_bytes: Mapping[str, float] = field(default_factory=dict)
    used_bytes: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class LiveWindow:
    """A telemetry window, and what stood for what was not measured.

    Attributes
    ----------
    window:
        For the controller.
    energy_source:
        What measured the GPUs' energy, or ``model``.
    prompt_s:
        Work of a request that waits, in seconds of one engine, if it is shared by all of them: as
        prompts took on average.
    """

    window: Window
    energy_source: str
    prompt_s: float


def live_window(
    engine: EngineInterval,
    store: StoreInterval,
    hardware: ServingHardware,
    *,
    ttft_s: float,
    tpot_s: float,
    max_batched_tokens: int,
    gpu_j: float | None = None,
    energy_source: str = "model",
    replicas: int = 1,
) -> LiveWindow:
    """Put together what is known of an interval; pure.

    Without a page of the engines, requests are those that were looked up, latencies are not known
    and no request counts as finished. Seconds and joules of prompts are not measured by anyone:
    they are 0, from which the controller's calibration learns nothing.

    Parameters
    ----------
    engine:
        From the engines' pages; it also says which interval it is.
    store:
        What the store counted.
    hardware:
        Of one engine.
    ttft_s, tpot_s:
        The SLO's limits.
    max_batched_tokens:
        Tokens that a step of an engine takes.
    gpu_j, energy_source:
        Energy of all GPUs and what measured it; None to have it modelled.
    replicas:
        Engines that share the store.
    """
    seen = engine.pages > 0
    prompt_tokens = engine.prompt_tokens if seen else store.lookup_tokens
    hits = {
        "hbm": float(engine.local_hit_tokens),
        "dram": float(store.hit_tokens.get("dram", 0.0)),
        "ssd": float(store.hit_tokens.get("ssd", 0.0)),
    }
    computed_tokens = max(prompt_tokens - sum(hits.values()), 0.0)
    requests = max(engine.finished, engine.arrivals) if seen else store.lookups
    modelled = modelled_energy(
        hardware.rates,
        engine.duration_s,
        requests=requests,
        prompt_tokens=prompt_tokens,
        computed_tokens=computed_tokens,
        output_tokens=engine.output_tokens,
        running=engine.running,
        max_batched_tokens=max_batched_tokens,
        replicas=replicas,
        unevenness=engine.prompts.unevenness,
    )
    prompt_s = modelled.prefill_s / max(requests, 1.0) / replicas
    block_bytes = hardware.layout.block_bytes
    window = Window(
        start_s=engine.start_s,
        duration_s=engine.duration_s,
        arrivals=engine.arrivals if seen else store.lookups,
        prompt_tokens=prompt_tokens,
        output_tokens=engine.output_tokens,
        hit_tokens=hits,
        finished=engine.finished,
        within_slo=_within_slo(engine, ttft_s, tpot_s),
        ttft=engine.ttft.spread() if engine.ttft.count else _UNKNOWN,
        tpot=engine.tpot.spread() if engine.tpot.count else _UNKNOWN,
        busy_s=modelled.busy_s,
        gpu_j=modelled.gpu_j if gpu_j is None else gpu_j,
        prefill_tokens=computed_tokens,
        prefill_s=0.0,
        prefill_j=0.0,
        read_bytes=store.read_bytes,
        written_bytes=store.written_bytes,
        declined_bytes=store.declined_bytes,
        held_blocks=engine.held * hardware.kv_bytes / block_bytes,
        backlog_s=engine.waiting * prompt_s,
        # The controller thinks of one engine; what the store has serves all of them.
        capacity_bytes={k: v / replicas for k, v in store.capacity_bytes.items()},
        used_bytes={k: v / replicas for k, v in store.used_bytes.items()},
    )
    return LiveWindow(window, "model" if gpu_j is None else energy_source, prompt_s)


def _within_slo(engine: EngineInterval, ttft_s: float, tpot_s: float) -> int:
    share = engine.attainment(ttft_s, tpot_s).value
    return 0 if math.isnan(share) else round(engine.finished * share)
