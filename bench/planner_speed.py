"""How long planning a day takes, beside the same problem as an integer program.

``python -m greencache.bench.planner_speed [--json FILE]``: 24 hourly intervals that span two days,
17 SSD and 5 DRAM sizes, 65 levels of content and 3 of backlog (`greencache.bench.planner_cases`);
with targets that cost nothing, and such that bind ever more tightly. Both sides have to find plans
of the same grams. Compilation is over, and printed, before anything is timed; of the fast side the
median of several turns counts. Both sides run in one thread, and what is timed is that of the CPU.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from greencache.bench.planner_cases import scattered, serving_days, tightened
from greencache.controller.plan_network import lay_out
from greencache.controller.plan_prices import search_prices
from greencache.controller.planner import Instance, plan, plan_ilp
from greencache.errors import SolverError
from greencache.output import check_outputs, write_json

__all__ = ["main", "measure"]

SEEDS = 40
PROGRAM_SEEDS = 3
"""Instances of each kind that are solved as an integer program too."""

TURNS = 5
TIME_LIMIT_S = 120.0

_NO_PROGRAM = "at random"
"""The kind of which no integer program is made: it has eight times the arcs."""

KINDS: dict[str, Callable[[int], Instance]] = {
    "slack": lambda seed: serving_days(seed, target=0.0),
    "binds, 30 %": lambda seed: tightened(serving_days(seed), 0.3),
    "binds, 70 %": lambda seed: tightened(serving_days(seed), 0.7),
    "binds, 95 %": lambda seed: tightened(serving_days(seed), 0.95),
    _NO_PROGRAM: scattered,
}
"""Kinds of instances: a target that is slack, or that binds; and without any structure."""


def _decompose(instance: Instance, clock: Callable[[], float], turns: int) -> dict[str, Any]:
    seconds = []
    for _ in range(turns):
        began_s = clock()
        made = plan(instance)
        seconds.append(clock() - began_s)
    network = lay_out(instance)
    priced = search_prices(network, instance.start_node)
    return {
        "median_s": statistics.median(seconds),
        "grams": made.grams,
        "lower_bound": made.lower_bound,
        "gap": made.gap,
        "gap_by_prices": max(0.0, 1 - priced.bound / priced.grams),
        "prices": made.prices.tolist(),
        "arcs": int(network.degree.sum()),
    }


def _program(instance: Instance, clock: Callable[[], float]) -> dict[str, Any]:
    began_s = clock()
    try:
        made = plan_ilp(instance, time_limit_s=TIME_LIMIT_S)
    except SolverError as fault:
        return {"seconds": clock() - began_s, "failed": str(fault)}
    return {"seconds": clock() - began_s, "grams": made.grams, "gap": made.gap}


def measure(
    clock: Callable[[], float],
    *,
    kinds: dict[str, Callable[[int], Instance]] = KINDS,
    seeds: int = SEEDS,
    program_seeds: int = PROGRAM_SEEDS,
    turns: int = TURNS,
) -> dict[str, Any]:
    """Time both sides on instances of each kind; what ``--json`` writes."""
    began_s = clock()
    plan(tightened(serving_days(0, intervals=4), 0.5))
    first_s = clock() - began_s
    cases = []
    for kind, make in kinds.items():
        for seed in range(seeds):
            instance = make(seed)
            case: dict[str, Any] = {"kind": kind, "seed": seed}
            case["decomposition"] = _decompose(instance, clock, turns)
            if seed < program_seeds and kind != _NO_PROGRAM:
                case["program"] = _program(instance, clock)
            cases.append(case)
    intervals, nodes, choices = serving_days(0).shape
    return {
        "schema": "greencache.bench.planner_speed/1",
        "intervals": intervals,
        "nodes": nodes,
        "choices": choices,
        "first_call_s": first_s,
        "cases": cases,
    }


def _row(kind: str, cases: list[dict[str, Any]]) -> list[str]:
    ours = [case["decomposition"] for case in cases]
    seconds = [side["median_s"] for side in ours]
    row = [
        kind,
        f"{len(cases)}",
        f"{1e3 * statistics.median(seconds):,.1f} / {1e3 * max(seconds):,.1f}",
        f"{max(side['gap_by_prices'] for side in ours):.3%}",
        f"{max(side['gap'] for side in ours):.3%}",
    ]
    both = [case for case in cases if "program" in case]
    if not both:
        return [*row, "", "", ""]
    took = [case["program"]["seconds"] for case in both]
    solved = [case for case in both if "grams" in case["program"]]
    times = [case["program"]["seconds"] / case["decomposition"]["median_s"] for case in both]
    ratios = [case["decomposition"]["grams"] / case["program"]["grams"] for case in solved]
    apart = max((abs(ratio - 1) for ratio in ratios), default=None)
    return [
        *row,
        f"{statistics.median(took):,.1f} / {max(took):,.1f}",
        f"{statistics.median(times):,.0f}",
        _agreement(apart, len(both) - len(solved)),
    ]


def _agreement(apart: float | None, unsolved: int) -> str:
    """Whether both sides found the same, and how many programs gave no plan."""
    missing = f"{unsolved} failed" if unsolved else ""
    if apart is None:
        return missing
    said = "equal" if apart < 1e-9 else f"{apart:.2%} apart"
    return f"{said}, {missing}" if missing else said


def _table(result: dict[str, Any]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    headings = (
        "instances",
        "plans",
        "ms, median\n/ slowest",
        "gap by\nprices",
        "gap\nproven",
        "program s\n/ slowest",
        "times\nours",
        "grams",
    )
    for heading in headings:
        left = heading == "instances"
        table.add_column(heading, justify="left" if left else "right", no_wrap=True)
    for kind in dict.fromkeys(case["kind"] for case in result["cases"]):
        table.add_row(*_row(kind, [case for case in result["cases"] if case["kind"] == kind]))
    return table


def main(
    json: Annotated[
        Path | None, typer.Option(help="Write the result as JSON to this file.")
    ] = None,
) -> None:
    """Time the planner over a day, by decomposition and as an integer program."""
    check_outputs(json)
    result = measure(time.process_time)
    console = Console(highlight=False)
    console.print(
        f"{result['intervals']} intervals, {result['nodes']} nodes, {result['choices']} choices;"
        f" first call {result['first_call_s']:.1f} s\n"
    )
    console.print(_table(result))
    if json is not None:
        write_json(json, result)


if __name__ == "__main__":
    typer.run(main)
