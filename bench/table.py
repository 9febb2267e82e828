"""A replay as a table that a person can read in a terminal."""

from __future__ import annotations

from collections import Counter

from rich.console import Group
from rich.table import Table
from rich.text import Text

from greencache.bench.outcome import STEADY_GROWTH, TIERS, Latency, Served
from greencache.bench.replay import PlanResult, Replay
from greencache.bench.setup import ReplaySetup
from greencache.catalog import Quantity
from greencache.quantities import HOUR_S, format_bytes

__all__ = ["WIDE", "load_notes", "replay_table", "sizes_text", "span_text"]

WIDE = 140
"""Columns of a table that is not printed to a terminal."""

_NO_BLOCKS = "this trace names no blocks: reuse cannot be seen in it, and every hit rate is 0"

_NEEDED = 112
"""Columns below which the least needed parts of the table are left out."""

_COMPARATOR = "hbm-only"
_SPARED = {1, 2, 5, 6, 7, 8}
"""Columns left out where there is no room: sizes, TPOT, SLO, operational and embodied grams."""


def _heading(replay: Replay) -> list[str]:
    setup = replay.setup
    trace, hardware, grid = setup.trace, setup.hardware, setup.grid
    replicas = f"{setup.replicas} replicas of " if setup.replicas > 1 else ""
    lines = [
        f"{trace.name}: {len(trace):,} requests in {span_text(trace.duration_s)}"
        f" ({trace.input_tokens.sum() / 1e6:,.1f} M prompt tokens,"
        f" {trace.output_tokens.sum() / 1e6:,.1f} M output tokens)",
        f"{hardware.model.title} on {replicas}{hardware.name} (simulated),"
        f" {hardware.weight_dtype} weights,"
        f" {hardware.layout.dtype} KV, policy {setup.policy}, admission {setup.admission}",
        f"{grid.zone} from {grid.start:%Y-%m-%d %H:%M} UTC,"
        f" mean {setup.mean_gco2_per_kwh:.0f} gCO2e/kWh ({grid.kind}, average; {grid.source})",
    ]
    notes = [*load_notes(setup)]
    if setup.warmup_s:
        notes.append(f"the first {span_text(setup.warmup_s)} warm the caches and are not measured")
    else:
        notes.append("no warm-up: caches are empty when measuring begins")
    if trace.format == "agentic":
        notes.append("all sessions begin together here: their joint load is not recorded")
    if replay.rejections.total:
        notes.append(f"{replay.rejections.total:,} requests rejected: too long for model or HBM")
    if trace.skipped:
        notes.append(f"{trace.skipped:,} lines of the trace skipped: malformed, or not answered")
    if not trace.has_blocks:
        notes.append(_NO_BLOCKS)
    return [*lines, *notes]


def span_text(seconds: float) -> str:
    """A span of time as people say it."""
    return f"{seconds / HOUR_S:.4g} h" if seconds >= 2 * HOUR_S else f"{seconds:,.0f} s"


def load_notes(setup: ReplaySetup) -> list[str]:
    """What is asked of the engine, where that is not the trace as recorded."""
    lines = []
    load = setup.load
    if load is not None and load.saturation_rate is not None and load.fraction is not None:
        lines.append(
            f"full saturates at {load.saturation_rate:.3g} requests/s; the busiest hour asks for"
            f" {load.fraction:.0%} of that, the mean is {load.mean_rate:.3g}"
        )
    if setup.composed is not None:
        lines += setup.composed.notes
    return lines


def _latency(latency: Latency | None, scale: float) -> str:
    if latency is None:
        return "-"
    return " / ".join(f"{latency.percentile_s(percent) * scale:.3g}" for percent in (50, 90))


def sizes_text(result: PlanResult) -> list[str]:
    """DRAM and SSD; the mean, with a tilde, where they changed."""
    about = "~" if result.sizes.changes else ""
    return [about + format_bytes(size) if size else "-" for size in result.mean_sizes]


def _row(replay: Replay, result: PlanResult) -> list[str]:
    sizes = sizes_text(result)
    measured = result.measured
    if measured is None:
        return [result.plan, *sizes, *["-"] * 7, "invalid"]
    carbon, served = measured.carbon, measured.served
    saving = replay.saving(result, _COMPARATOR)
    if not result.valid:
        versus = "invalid"
    elif saving is None or result.plan == _COMPARATOR:
        versus = "-"
    else:
        versus = f"{0.0 - saving:+.1%}"  # from zero, so that no saving is +0.0%
    return [
        result.plan,
        *sizes,
        f"{served.hit_rate_tokens:.1%}",
        _latency(served.ttft, 1.0),
        _latency(served.tpot, 1e3),
        f"{served.slo_attainment:.1%}",
        f"{carbon.total_operational_g:,.0f}",
        f"{carbon.total_embodied_g(replay.setup.scope):,.0f}",
        f"{measured.sci_g_per_1k_output_tokens:.4g}",
        versus,
    ]


def replay_table(replay: Replay, *, width: int = WIDE) -> Group:
    """The replay's heading, one row a plan, and what is to be known to read it.

    On a terminal narrower than the table, capacities, TPOT and SLO attainment are left out.
    """
    table = Table(box=None, pad_edge=False, header_style="bold")
    headings = (
        "plan",
        "DRAM",
        "SSD",
        "hit rate\ntokens",
        "TTFT s\np50 / p90",
        "TPOT ms\np50 / p90",
        "in SLO",
        "operat.\ngCO2e",
        "embodied\ngCO2e",
        "g per 1k\noutput tok.",
        f"vs\n{_COMPARATOR}",
    )
    shown = [i for i in range(len(headings)) if width >= _NEEDED or i not in _SPARED]
    for i in shown:
        table.add_column(headings[i], justify="right" if i else "left", no_wrap=True)
    for result in replay.results:
        best = result.plan == "best-static"
        row = _row(replay, result)
        table.add_row(*(row[i] for i in shown), style="green" if best and result.valid else None)
    setup = replay.setup
    factors = setup.factors
    footer = [
        f"Hit rate by tier: {_tiers(replay)}",
        f"Embodied: {setup.scope}; SSD {factors.ssd_kg_per_tb.value:g} kg/TB"
        f"{_published(factors.ssd_kg_per_tb)}, by age over"
        f" {factors.ssd_lifetime_years.value:g} years or by wear, whichever is more;"
        f" DRAM {factors.dram_kg_per_gb.value:g} kg/GB; PUE {factors.pue.value:g}.",
    ]
    if len(shown) < len(headings):
        footer = [_left_out(replay), *footer]
    footer += _still_filling(replay)
    footer += [note for result in replay.results for note in _steering_notes(replay, result)]
    footer += [
        f"{result.plan} is invalid: {result.invalid_because}"
        for result in replay.results
        if not result.valid
    ]
    head = Text("\n".join(_heading(replay)), style="dim")
    return Group(head, Text(), table, Text(), Text("\n".join(footer), style="dim"))


def _left_out(replay: Replay) -> str:
    """What a narrow table does not show of the plans' sizes."""
    sizes = [
        "{} {} DRAM and {} SSD".format(result.plan, *sizes_text(result))
        for result in replay.results
        if any(result.mean_sizes)
    ]
    return f"Left out for width: TPOT, SLO and kinds of carbon. {'; '.join(sizes)}"


def _still_filling(replay: Replay) -> list[str]:
    """A line of the plans that were measured before their tiers were warm, if there are any."""
    filling = [
        f"{result.plan} ({', '.join(tiers)})"
        for result in replay.results
        if result.measured is not None and (tiers := _growing(result.measured.served))
    ]
    if not filling:
        return []
    return [
        f"Still filling while measured: {'; '.join(filling)}. A longer warm-up would show them as"
        " they stay."
    ]


def _steering_notes(replay: Replay, result: PlanResult) -> list[str]:
    """What the controller did and why, of a plan that it steered."""
    if not result.decisions:
        return []
    changes = [
        decision
        for decision in result.decisions
        if decision.sizes != decision.before and decision.now_s >= replay.setup.warmup_s
    ]
    last = result.decisions[-1]
    lines = [
        f"{result.plan} changed sizes {len(changes)} times while measured; last, at hour"
        f" {last.now_s / HOUR_S:.4g}: {last.reason}"
    ]
    fallbacks = Counter(decision.fallback for decision in result.decisions if decision.fallback)
    if fallbacks:
        counted = ", ".join(f"{name} {count}" for name, count in fallbacks.items())
        lines.append(f"{result.plan}, of {len(result.decisions)} decisions: {counted}")
    return lines


def _growing(served: Served) -> list[str]:
    return [
        f"{tier.upper()} by {growth:.0%} of its capacity"
        for tier, growth in served.content_growth.items()
        if growth is not None and growth > STEADY_GROWTH
    ]


def _published(factor: Quantity) -> str:
    if factor.low == factor.high:
        return ""
    return f" ({factor.low:g} to {factor.high:g} published)"


def _tiers(replay: Replay) -> str:
    parts = []
    for result in replay.results:
        if result.measured is not None and result.measured.served.hit_rate_tokens > 0:
            by_tier = result.measured.served.hit_rate_tokens_by_tier
            shares = ", ".join(f"{tier.upper()} {by_tier[tier]:.1%}" for tier in TIERS)
            parts.append(f"{result.plan} {shares}")
    return "; ".join(parts) or "no hits"
