"""How far the controller's models are off the simulated engine.

``python -m greencache.bench.prospects_error [--json FILE]``: for each workload and load, the engine
is simulated with several fixed sizes. Shadow caches are fed hour by hour with the requests of one
of these runs, and for each measured hour the models say what every size should bring, from what was
known when the hour began and the number of requests that then came: only that is not forecast.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from greencache.bench.accounting import account
from greencache.bench.outcome import TIERS
from greencache.bench.plans import Plan
from greencache.bench.scenario import Scenario, build
from greencache.bench.setup import ReplaySetup, storage_of
from greencache.bench.simulated import admit_measured
from greencache.bench.simulation import BIN_S, SimulatedRun, simulate
from greencache.bench.sizes import SizesOverTime
from greencache.bench.storage import StorageSetup
from greencache.bench.windows import Watched, prompts_between
from greencache.controller.calibration import Calibration
from greencache.controller.demand import EngineLimits, ServiceModel
from greencache.controller.lookout import learned_from
from greencache.controller.prices import Prices
from greencache.controller.prospects import ProspectsModel
from greencache.controller.reuse import ReuseProfile
from greencache.controller.shadow import ShadowCaches, ShadowSizes
from greencache.controller.sizes import Sizes
from greencache.controller.telemetry import Window
from greencache.controller.work import prefill
from greencache.output import check_outputs, write_json
from greencache.quantities import HOUR_S
from greencache.settings import Settings
from greencache.traces.requests import RequestTrace

__all__ = ["Comparison", "compare", "model_of", "pollaczek_khinchine_s", "shadow_of"]

SCHEMA = "greencache.bench.prospects_error/1"
WORKLOADS = ("conversation", "document")
LOADS = (0.3, 0.6, 0.8)
DRAMS = (0, 64_000_000_000, 128_000_000_000, 256_000_000_000, 512_000_000_000)
SSDS = tuple(i * 10**12 for i in range(17))
PAIRS = ((0, 0), (0, 1), (0, 4), (2, 0), (4, 16))
"""Of DRAM and SSD sizes, which are simulated."""
RATES = (1.0, 0.5, 0.25, 0.1)
"""Shares of the blocks that shadow caches follow, the first all of them."""
FED = 2
"""Of these, the one whose requests the shadow caches see and the calibration learns from."""


def pollaczek_khinchine_s(rate: float, mean_s: float, square_s2: float) -> float:
    """Mean wait in M/G/1, first come first served (Kleinrock, Queueing Systems 1, 1975, eq. 5.68).

    ``rate * E[S**2] / (2 * (1 - rate * E[S]))``; infinite where the load is 1 or more.
    """
    load = rate * mean_s
    return rate * square_s2 / (2 * (1 - load)) if load < 1 else float("inf")


def shadow_of(setup: ReplaySetup, *, rate: float | None = None) -> ShadowCaches:
    """Shadow caches of the sizes that are compared."""
    hardware = setup.hardware
    block = hardware.layout.block_bytes
    return ShadowCaches(
        ShadowSizes(
            int(hardware.kv_bytes // block),
            tuple(int(size // block) for size in DRAMS),
            tuple(int(size // block) for size in SSDS),
        ),
        setup.trace.block_tokens,
        setup.policy,
        rate=rate,
    )


def model_of(setup: ReplaySetup) -> ProspectsModel:
    """The models of a replay's engine."""
    prices = Prices(
        setup.factors,
        setup.hardware.gpus,
        setup.installed.dram_bytes,
        setup.installed.ssd_bytes,
        setup.scope,
    )
    limits = EngineLimits(
        setup.slo.ttft_s, setup.slo.tpot_s, setup.batching.max_batched_tokens, HOUR_S
    )
    read = setup.factors.ssd_read_bytes_per_s.value
    read_bytes_per_s = np.array([prices.drives(size) * read for size in SSDS])
    service = ServiceModel(setup.hardware, limits, read_bytes_per_s)
    return ProspectsModel(service, prices, np.array(DRAMS, float), np.array(SSDS, float))


@dataclass
class Comparison:
    """Sums over the measured hours of one pair of sizes: what was expected, and what came."""

    dram_bytes: int
    ssd_bytes: int
    hit_rate: list[dict[str, float]] = field(default_factory=list)
    attainment: list[tuple[float, float, int]] = field(default_factory=list)
    calibrated: list[float] = field(default_factory=list)
    ttft_s: list[tuple[float, float, float]] = field(default_factory=list)
    prefill_j: list[tuple[float, float]] = field(default_factory=list)
    written_bytes: list[tuple[float, float]] = field(default_factory=list)
    grams: list[tuple[float, float]] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """Means over the hours, weighted by requests, and sums."""
        model, measured, count = np.array(self.attainment).T
        weights = count / count.sum()
        off = (model - measured) * 100
        return {
            "dram_bytes": self.dram_bytes,
            "ssd_bytes": self.ssd_bytes,
            "hit_rate": {
                key: float(np.dot(weights, [each[key] for each in self.hit_rate]))
                for key in self.hit_rate[0]
            },
            "attainment": float(np.dot(weights, measured)),
            "attainment_off_points": float(np.dot(weights, off)),
            "attainment_rms_points": float(np.sqrt(np.dot(weights, off**2))),
            "calibrated_off_points": float(
                np.dot(weights, np.array(self.calibrated) - measured) * 100
            ),
            **{
                f"ttft_s_{name}": float(np.dot(weights, values))
                for name, values in zip(
                    ("model", "pollaczek_khinchine", "engine"), np.array(self.ttft_s).T, strict=True
                )
            },
            **{
                f"{name}_{side}": float(value)
                for name in ("prefill_j", "written_bytes", "grams")
                for side, value in zip(
                    ("model", "engine"), np.sum(getattr(self, name), axis=0), strict=True
                )
            },
        }


def _poisson_ttft_s(
    model: ProspectsModel, profile: ReuseProfile, pair: tuple[int, int], rate: float
) -> float:
    """Mean TTFT if prompts came as a Poisson process: what the queued sample is compared with."""
    computed = profile.sample.input_tokens - np.sum(profile.prefix_tokens(*pair), axis=0)
    computed = np.maximum(computed, 1.0)
    attended = computed * (profile.sample.input_tokens - (computed - 1) / 2)
    limits = model.service.limits
    seconds = prefill(
        model.service.hardware.rates, computed, attended, limits.max_batched_tokens
    ).seconds
    wait_s = pollaczek_khinchine_s(rate, float(seconds.mean()), float((seconds**2).mean()))
    return min(wait_s, HOUR_S) + float(seconds.mean())


def _hit_rates(
    profile_now: ReuseProfile, pair: tuple[int, int], window: Window
) -> dict[str, float]:
    rates: dict[str, float] = {}
    for i, tier in enumerate(TIERS):
        rates[f"{tier}_model"] = float(profile_now.found[(*pair, i)])
        rates[f"{tier}_engine"] = window.hit_tokens[tier] / max(window.prompt_tokens, 1)
    return rates


def _hour_grams(setup: ReplaySetup, run: SimulatedRun, plan: Plan, begin_s: float) -> float:
    """Grams of one hour of a run, accounted as the replay does."""
    report = account(
        run.bins[: int((begin_s + HOUR_S) / BIN_S)],
        begin_s + HOUR_S,
        setup.hardware,
        setup.factors,
        setup.gco2_per_kwh,
        sizes=SizesOverTime.of(Sizes(plan.dram_bytes, plan.ssd_bytes)),
        installed=setup.installed,
        start_s=begin_s,
    )
    return report.total_g(setup.scope)


def compare(setup: ReplaySetup, admitted: RequestTrace) -> list[Comparison]:
    """Simulate every pair of sizes, and hold the models against them hour by hour.

    Shadow caches and calibration see one of the runs only, as a controller does.
    """
    plans = [Plan("fixed", dram_bytes=DRAMS[d], ssd_bytes=SSDS[s]) for d, s in PAIRS]
    storages = [storage_of(plan, setup.policy, setup.factors) for plan in plans]
    watched = [Watched(storage, setup.slo) for storage in storages]
    runs = [
        simulate(admitted, setup.hardware, storage, drain_s=1e9, steering=watch)
        for storage, watch in zip(storages, watched, strict=True)
    ]
    windows = [watch.windows for watch in watched]
    results = [Comparison(DRAMS[d], SSDS[s]) for d, s in PAIRS]
    shadow, model, calibration = shadow_of(setup), model_of(setup), Calibration()
    block_bytes = setup.hardware.layout.block_bytes
    for hour, seen in enumerate(windows[FED]):
        profile = shadow.profile()
        begin_s = seen.start_s
        measured = begin_s >= setup.warmup_s and len(profile.sample.gaps) > 0
        middle_s = np.array([begin_s + HOUR_S / 2])
        gco2 = float(setup.gco2_per_kwh(middle_s)[0])
        now = prompts_between(admitted, runs[FED].requests, begin_s, seen.end_s)
        shadow.observe(now, seen.end_s)
        shadow.hold(seen.held_blocks, seen.end_s)
        shadow.end_interval(begin_s, HOUR_S)
        if not measured or seen.arrivals == 0:
            continue
        learned = calibration
        for i, (pair, plan, result) in enumerate(zip(PAIRS, plans, results, strict=True)):
            window = windows[i][hour]
            content = runs[i].bins["ssd_blocks"][int((begin_s + HOUR_S / 2) / BIN_S)] * block_bytes
            raw, mended = (
                model.expected(
                    profile,
                    float(window.arrivals),
                    gco2,
                    dram_bytes=plan.dram_bytes,
                    content_bytes=float(content),
                    ssd_bytes=plan.ssd_bytes,
                    backlog_s=windows[i][hour - 1].backlog_s if hour else 0.0,
                    calibration=each,
                )
                for each in (Calibration(), calibration)
            )
            if i == FED:
                learned = learned_from(calibration, mended, window)
            rate = window.requests_per_s
            result.hit_rate.append(_hit_rates(profile, pair, window))
            result.attainment.append((raw.attainment, window.attainment, window.arrivals))
            result.calibrated.append(float(calibration.shifted(np.array(mended.attainment))))
            poisson_s = _poisson_ttft_s(model, profile, pair, rate)
            result.ttft_s.append((raw.ttft_s, poisson_s, window.ttft.mean_s))
            result.prefill_j.append((raw.prefill_j, window.prefill_j))
            result.written_bytes.append((raw.written_bytes, window.written_bytes))
            result.grams.append((raw.grams, _hour_grams(setup, runs[i], plan, begin_s)))
        calibration = learned
    return results


def sampling_error(setup: ReplaySetup, admitted: RequestTrace) -> list[dict[str, float]]:
    """Shadow caches that follow a share of the blocks, against those that follow all."""
    run = simulate(admitted, setup.hardware, StorageSetup(dram_bytes=DRAMS[-1], ssd_bytes=SSDS[-1]))
    hours = int(admitted.arrival_s[-1] // HOUR_S) + 1
    prompts = [
        prompts_between(admitted, run.requests, hour * HOUR_S, (hour + 1) * HOUR_S)
        for hour in range(hours)
    ]
    rows: list[dict[str, float]] = []
    exact = np.zeros(0)
    for rate in RATES:
        shadow = shadow_of(setup, rate=rate)
        begun_s = time.perf_counter()
        found = []
        for hour, each in enumerate(prompts):
            shadow.observe(each, (hour + 1) * HOUR_S)
            shadow.end_interval(hour * HOUR_S, HOUR_S)
            found.append(shadow.profile().found)
        wall_s = time.perf_counter() - begun_s
        rates = np.array(found[int(setup.warmup_s // HOUR_S) :]).sum(axis=-1)
        exact = rates if rate == 1 else exact
        rows.append(
            {
                "rate": rate,
                "memory_bytes": float(shadow.memory_bytes),
                "s_per_request": wall_s / len(admitted),
                "rms_error": float(np.sqrt(np.mean((rates - exact) ** 2))),
                "largest_error": float(np.abs(rates - exact).max()),
            }
        )
    return rows


def _scenario(workload: str, load: float, hours: float, seed: int) -> Scenario:
    return Scenario(
        workload=workload,
        load="m-large",
        load_fraction=load,
        hours=hours,
        seed=seed,
        model="llama-3.1-70b",
        hardware="4xL40",
        weight_dtype="int8",
        kv_dtype="bf16",
        dram="512GB",
        ssd="16TB",
        ssd_kg_per_tb=30.0,
        grid="SE-SE3",
        plans="full",
    )


_HEADINGS = (
    "workload",
    "load",
    "DRAM GB",
    "SSD TB",
    "hit rate\nmodel / engine",
    "in SLO\nengine",
    "off\npoints",
    "hourly\nRMS",
    "off,\ncalibr.",
    "mean TTFT s\nmodel / M/G/1 / engine",
    "prefill J\nmodel/eng.",
    "grams\nmodel/eng.",
    "grams vs none\nmodel / engine",
)


_SAMPLING_HEADINGS = (
    "workload",
    "load",
    "blocks\nfollowed",
    "MB",
    "us a\nrequest",
    "hit rate off,\nRMS points",
    "largest\npoints",
)

_WIDTH = 170


def _sampling_row(name: str, load: float, row: dict[str, float]) -> list[str]:
    return [
        name,
        f"{load:g}",
        f"{row['rate']:.0%}",
        f"{row['memory_bytes'] / 1e6:.0f}",
        f"{row['s_per_request'] * 1e6:.0f}",
        f"{row['rms_error'] * 100:.2f}",
        f"{row['largest_error'] * 100:.2f}",
    ]


def _row(name: str, load: float, row: dict[str, Any], first: dict[str, Any]) -> list[str]:
    hits = row["hit_rate"]
    rates = [sum(hits[f"{tier}_{side}"] for tier in TIERS) for side in ("model", "engine")]
    more = [row[f"grams_{side}"] - first[f"grams_{side}"] for side in ("model", "engine")]
    return [
        name,
        f"{load:g}",
        f"{row['dram_bytes'] / 1e9:g}",
        f"{row['ssd_bytes'] / 1e12:g}",
        " / ".join(f"{rate:.1%}" for rate in rates),
        f"{row['attainment']:.1%}",
        f"{row['attainment_off_points']:+.1f}",
        f"{row['attainment_rms_points']:.1f}",
        f"{row['calibrated_off_points']:+.1f}",
        " / ".join(
            f"{row[f'ttft_s_{name}']:.1f}" for name in ("model", "pollaczek_khinchine", "engine")
        ),
        f"{row['prefill_j_model'] / row['prefill_j_engine']:.3f}",
        f"{row['grams_model'] / row['grams_engine']:.3f}",
        " / ".join(f"{each:+,.0f}" for each in more),
    ]


def main(
    hours: Annotated[float, typer.Option(help="Measured hours of each run.")] = 48.0,
    seed: Annotated[int, typer.Option(help="Of the composed workloads.")] = 1,
    json: Annotated[
        Path | None, typer.Option(help="Write the result as JSON to this file.")
    ] = None,
) -> None:
    """Compare the controller's models with the simulated engine."""
    check_outputs(json)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in _HEADINGS:
        left = heading == "workload"
        table.add_column(heading, justify="left" if left else "right", no_wrap=True)
    samples = Table(box=None, pad_edge=False, header_style="bold")
    for heading in _SAMPLING_HEADINGS:
        samples.add_column(heading, justify="left" if heading == "workload" else "right")
    results: list[dict[str, Any]] = []
    for workload in WORKLOADS:
        for load in LOADS:
            setup, _ = build(_scenario(workload, load, hours, seed), Settings())
            admitted, _ = admit_measured(setup)
            rows = [each.as_json() for each in compare(setup, admitted)]
            result: dict[str, Any] = {"workload": workload, "load_fraction": load, "pairs": rows}
            result["sampling"] = sampling_error(setup, admitted)
            results.append(result)
            for each in result["sampling"]:
                samples.add_row(*_sampling_row(workload, load, each))
            for row in rows:
                table.add_row(*_row(workload, load, row, rows[0]))
    Console(width=_WIDTH, highlight=False).print(table, "", samples, sep="\n")
    if json is not None:
        write_json(json, {"schema": SCHEMA, "hours": hours, "seed": seed, "runs": results})


if __name__ == "__main__":
    typer.run(main)
