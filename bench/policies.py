"""Policies and admission side by side at equal capacity, on recorded and composed requests.

``python -m greencache.bench.policies [--grid ZONE] [--json FILE]``: the Mooncake conversation
trace, and two composed days of conversation, documents and agents, through engines with 64 GiB of
DRAM and a small or a large SSD. All rows of one setting serve the same requests with the same
tiers.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from greencache.bench.replay import Replay, run_replay
from greencache.bench.scenario import Scenario, build
from greencache.bench.setup import ReplaySetup
from greencache.output import write_json
from greencache.settings import Settings
from greencache.tiers.admission import Admission
from greencache.tiers.policies import Policy

__all__ = ["main"]

PLANS = "hbm-only,static:64GiB+1TB,static:64GiB+4TB"

SIDES = (
    (Policy.LRU, Admission.ALL),
    (Policy.LCS, Admission.ALL),
    (Policy.CARBON, Admission.ALL),
    (Policy.LRU, Admission.VALUE),
    (Policy.LCS, Admission.VALUE),
    (Policy.CARBON, Admission.VALUE),
)


def _scenarios(grid: str) -> Iterator[tuple[str, Scenario]]:
    small = Scenario(plans=PLANS, grid=grid)
    yield "mooncake, 8B on 4xH100", small
    # The setting of the GreenCache paper (arXiv 2505.23970), with an SSD factor of its order.
    large = replace(
        small,
        model="llama-3.1-70b",
        hardware="4xL40",
        weight_dtype="int8",
        ssd_kg_per_tb=30.0,
        load_fraction=0.6,
    )
    yield "mooncake, 70B on 4xL40", large
    for workload in ("conversation", "document", "agentic"):
        composed = replace(large, workload=workload, hours=48.0, block_tokens=512)
        yield f"{workload}, 70B on 4xL40", composed


def _rows(name: str, replay: Replay) -> Iterator[dict[str, Any]]:
    setup = replay.setup
    for result in replay.results:
        row = {
            "setting": name,
            "plan": result.plan,
            "policy": str(setup.policy),
            "admission": str(setup.admission),
            "gco2_per_kwh": setup.mean_gco2_per_kwh,
        }
        if result.measured is not None:
            measured, scope = result.measured, setup.scope
            row |= {
                "hit_rate_tokens": measured.served.hit_rate_tokens,
                "hit_rate_tokens_by_tier": measured.served.hit_rate_tokens_by_tier,
                "slo_attainment": measured.served.slo_attainment,
                "ssd_bytes_written": measured.ssd_bytes_written,
                "ssd_embodied_g": measured.carbon.embodied_g[scope]["ssd"],
                "sci_g_per_1k_output_tokens": measured.sci_g_per_1k_output_tokens,
            }
        yield row


def _measure_setting(name: str, setup: ReplaySetup, plans: list[Any]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for policy, admission in SIDES:
        each = replace(setup, policy=policy, admission=admission)
        rows += _rows(name, run_replay(each, plans, clock=time.perf_counter))
    by_plan = sorted(rows, key=lambda row: [plan.name for plan in plans].index(row["plan"]))
    for _, same in itertools.groupby(by_plan, key=lambda row: row["plan"]):
        group = list(same)
        base = group[0].get("sci_g_per_1k_output_tokens")
        for row in group:
            sci = row.get("sci_g_per_1k_output_tokens")
            row["times_lru_all"] = sci / base if sci and base else None
    # Admission says nothing where there is no SSD.
    return [row for row in by_plan if row["plan"] != "hbm-only" or row["admission"] == "all"]


def measure(grid: str) -> dict[str, Any]:
    """All that is measured; what ``--json`` writes."""
    rows: list[dict[str, Any]] = []
    for name, scenario in _scenarios(grid):
        rows += _measure_setting(name, *build(scenario, Settings()))
    return {"schema": "greencache.bench.policies/1", "grid": grid, "rows": rows}


def _table(rows: list[dict[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", title_justify="left")
    headings = (
        "plan", "policy", "admission", "hit rate\ntokens", "of SSD", "in SLO", "TB\nwritten",
        "SSD embodied\ngCO2e", "g per 1k\noutput tok.", "times\nlru, all",
    )  # fmt: skip
    for i, heading in enumerate(headings):
        table.add_column(heading, justify="right" if i > 2 else "left", no_wrap=True)
    for row in rows:
        if "hit_rate_tokens" not in row:
            table.add_row(row["plan"], row["policy"], row["admission"], "overloaded")
            continue
        table.add_row(
            row["plan"],
            row["policy"],
            row["admission"],
            f"{row['hit_rate_tokens']:.1%}",
            f"{row['hit_rate_tokens_by_tier']['ssd']:.1%}",
            f"{row['slo_attainment']:.1%}",
            f"{row['ssd_bytes_written'] / 1e12:,.2f}",
            f"{row['ssd_embodied_g']:,.1f}",
            f"{row['sci_g_per_1k_output_tokens']:.4f}",
            f"{row['times_lru_all']:.4f}",
        )
    return table


def main(
    grid: Annotated[str, typer.Option(help="Grid zone that ships with GreenCache.")] = "SE-SE3",
    json: Annotated[
        Path | None, typer.Option(help="Write the result as JSON to this file.")
    ] = None,
) -> None:
    """Compare eviction policies and admission at equal capacity."""
    result = measure(grid)
    for name, rows in itertools.groupby(result["rows"], key=lambda row: row["setting"]):
        group = list(rows)
        print(f"{name}, {group[0]['gco2_per_kwh']:.0f} gCO2e/kWh ({grid})")
        Console(width=120).print(_table(group), end="\n\n")
    if json is not None:
        write_json(json, result)


if __name__ == "__main__":
    typer.run(main)
