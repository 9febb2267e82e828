"""``greencache replay``: from options and settings to results."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from greencache.bench.accounting import Installed
from greencache.bench.plans import Plan, parse_plans
from greencache.bench.replay import COMPILING, Replay, ReplaySetup, Slo, run_replay
from greencache.bench.results import as_json
from greencache.bench.simulation import BIN_S, Batching
from greencache.bench.table import WIDE, replay_table
from greencache.carbon import Scope
from greencache.catalog import Catalog
from greencache.cli.progress import progress_bar
from greencache.cli.traces import TraceSource
from greencache.controller.models import find_model
from greencache.controller.performance import parse_hardware, serving_hardware
from greencache.errors import InputError, UnknownNameError
from greencache.factors import Factors
from greencache.output import STDOUT, as_bytes, check_outputs, write_output
from greencache.quantities import parse_bytes, parse_s
from greencache.settings import Settings, load_settings
from greencache.tiers.policies import Policy
from greencache.traces.grid import GridSeries, parse_utc, read_grid
from greencache.traces.requests import RequestTrace
from greencache.traces.samples import grid_zones, sample_grid

__all__ = ["Options", "run"]

_WARMUP_SHARE = 1 / 6


@dataclass(frozen=True, slots=True)
class Options:
    """The command line, unparsed; None where the setting holds."""

    trace: Path | None
    format: str | None
    block_tokens: int | None
    plans: str
    policy: str | None
    model: str | None
    hardware: str | None
    weight_dtype: str | None
    kv_dtype: str | None
    dram: str | None
    ssd: str | None
    ssd_kg_per_tb: float | None
    grid: str | None
    grid_start: str | None
    mean_rate: float | None
    warmup: str | None
    slo_ttft: str | None
    slo_tpot: str | None
    scope: str | None
    skip_bad: bool
    json: Path | None
    html: Path | None
    png: Path | None


def find_grid(text: str, start: str | None) -> GridSeries:
    """A zone that ships, or ``FILE[:ZONE]``, from ``start`` on.

    Raises
    ------
    UnknownNameError
        If it is neither a shipped zone nor a file.
    GridError
        If the file is not usable.
    """
    name, _, zone = text.rpartition(":")
    if text in grid_zones():
        series = sample_grid(text)
    elif text and Path(text).exists():
        series = read_grid(text)
    elif name and Path(name).exists():
        series = read_grid(name, zone)
    elif "/" in text or ".csv" in text:
        series = read_grid(name or text, zone if name else None)
    else:
        series = sample_grid(text)  # which says what zones there are
    return series if start is None else series.beginning_at(parse_utc(start))


def _scope(text: str) -> Scope:
    try:
        return Scope(text)
    except ValueError:
        raise UnknownNameError("scope", text, [scope.value for scope in Scope]) from None


def _warmup_s(text: str | None, trace: RequestTrace) -> float:
    asked_s = trace.duration_s * _WARMUP_SHARE if text is None else parse_s(text)
    if text is not None and asked_s > trace.duration_s:
        raise InputError(f"--warmup {text} is longer than the trace ({trace.duration_s:.0f} s)")
    return asked_s // BIN_S * BIN_S


def _chosen(option: str | None, setting: str) -> str:
    return setting if option is None else option


def _limit_s(name: str, option: str | None, setting_s: float) -> float:
    limit_s = setting_s if option is None else parse_s(option)
    if limit_s <= 0:
        raise InputError(f"{name} must be more than 0, not {option}")
    return limit_s


def _setup(
    options: Options, source: TraceSource, settings: Settings
) -> tuple[ReplaySetup, list[Plan]]:
    engine, storage, slo = settings.engine, settings.storage, settings.slo
    # Cheap checks first: a mistyped name should not wait for a trace to be read.
    policy = Policy.parse(_chosen(options.policy, storage.policy))
    scope = settings.carbon.scope if options.scope is None else _scope(options.scope)
    model = find_model(_chosen(options.model, engine.model))
    installed = Installed(
        storage.dram if options.dram is None else parse_bytes(options.dram),
        storage.ssd if options.ssd is None else parse_bytes(options.ssd),
    )
    plans = parse_plans(options.plans, installed)
    catalog = Catalog.load(settings.catalog)
    chosen = settings.carbon.factors
    if options.ssd_kg_per_tb is not None:
        chosen = chosen | {"ssd_kg_per_tb": options.ssd_kg_per_tb}
    grid = find_grid(
        _chosen(options.grid, settings.grid.zone),
        settings.grid.start if options.grid_start is None else options.grid_start,
    )
    hardware_name = _chosen(options.hardware, engine.hardware)
    _, gpu_name = parse_hardware(hardware_name)
    factors = Factors.of(catalog, catalog.part("gpu", gpu_name), chosen)
    trace = source.read()
    if options.mean_rate is not None:
        trace = trace.at_mean_rate(options.mean_rate)
    hardware = serving_hardware(
        catalog,
        model,
        hardware_name,
        weight_dtype=_chosen(options.weight_dtype, engine.weight_dtype),
        kv_dtype=_chosen(options.kv_dtype, engine.kv_dtype),
        block_tokens=trace.block_tokens,
        factors=factors,
    )
    setup = ReplaySetup(
        trace=trace,
        hardware=hardware,
        factors=factors,
        grid=grid,
        slo=Slo(
            _limit_s("--slo-ttft", options.slo_ttft, slo.ttft),
            _limit_s("--slo-tpot", options.slo_tpot, slo.tpot),
            slo.target,
        ),
        installed=installed,
        policy=policy,
        scope=scope,
        warmup_s=_warmup_s(options.warmup, trace),
        batching=Batching(engine.max_batched_tokens, engine.max_running),
    )
    return setup, plans


def _render(replay: Replay, options: Options, wall_s: float) -> list[tuple[Path, bytes]]:
    """All results, before any is written: a fault in one leaves none."""
    results = []
    if options.json is not None:
        results.append((options.json, as_bytes(as_json(replay, wall_s=wall_s))))
    if options.html is not None or options.png is not None:
        from greencache.bench.report import html_report, png_picture

        if options.html is not None:
            results.append((options.html, html_report(replay).encode()))
        if options.png is not None:
            results.append((options.png, png_picture(replay)))
    return results


def run(options: Options) -> None:
    """Replay, print the table, write what was asked for.

    Raises
    ------
    InputError
        If an option, a setting or a file is not usable.
    OutputError
        If a result cannot be written.
    """
    began_s = time.perf_counter()
    outputs = (options.json, options.html, options.png)
    source = TraceSource.of(options.trace, options.format, options.block_tokens, options.skip_bad)
    check_outputs(*outputs, inputs=(source.path,))
    setup, plans = _setup(options, source, load_settings())
    with progress_bar([COMPILING, *(plan.name for plan in plans)]) as report:
        replay = run_replay(setup, plans, on_progress=report, clock=time.perf_counter)
    results = _render(replay, options, time.perf_counter() - began_s)
    if STDOUT not in outputs:
        console = Console(width=None if Console().is_terminal else WIDE)
        console.print(replay_table(replay, width=console.width))
    for path, content in results:
        write_output(path, content)
        if path != STDOUT:
            print(f"wrote {path}", file=sys.stderr)
