"""Tables of docs/results.md, as Markdown.

Savings are shares of grams per output token, in per cent; ``-`` where a run of the two is invalid
or was not made.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence

from greencache.bench.experiments.checks import CONTROLLED, ORACLE
from greencache.bench.experiments.rows import Row
from greencache.bench.experiments.running import Results
from greencache.quantities import GIB, TB

__all__ = [
    "ablations",
    "capacities",
    "checks",
    "forecast_errors",
    "headline",
    "limits",
    "markdown",
    "matrices",
    "paper",
    "per_cent",
    "policies",
    "seeds",
    "variants",
]

HEADLINE_KG = 30
HEADLINE_ZONES = ("NO", "SE-SE3")
PAPER_ZONE = "FR"
_NONE = "-"
_GRAMS = "sci_g_per_1k_output_tokens"


def markdown(headings: Sequence[str], rows: Iterable[Sequence[str]], *, left: int = 1) -> str:
    """A table, its first ``left`` columns aligned to the left and the others to the right."""
    marks = ["---"] * left + ["---:"] * (len(headings) - left)
    lines = [headings, marks, *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def per_cent(share: float | None, digits: int = 1) -> str:
    """A share in per cent, without the sign."""
    if share is None or not math.isfinite(share):
        return _NONE
    text = f"{100 * share:.{digits}f}"
    return text if float(text) else text.removeprefix("-")


def _number(value: float | None, form: str = ".3g") -> str:
    return _NONE if value is None else f"{value:{form}}"


def _grams(row: Row | None) -> float | None:
    return None if row is None or not row["valid"] else row.get(_GRAMS)


def _usual(row: Row) -> bool:
    """Whether a row is in the default scope, with wear."""
    return bool(row["scope"] == "attributable" and row["wear"])


def _first_seed(rows: Sequence[Row]) -> list[Row]:
    seed = min((row["seed"] for row in rows), default=0)
    return [row for row in rows if row["seed"] == seed]


def _values(rows: Iterable[Row], name: str) -> list[str]:
    """Values of an axis, in the order of the rows."""
    return list(dict.fromkeys(row[name] for row in rows))


def _where(rows: Iterable[Row], **axes: object) -> list[Row]:
    return [row for row in rows if all(row[name] == value for name, value in axes.items())]


def _pick(rows: Iterable[Row], **axes: object) -> Row | None:
    return next(iter(_where(rows, **axes)), None)


def _saving(row: Row | None, reference: str) -> float | None:
    if row is None:
        return None
    saving: float | None = row["saving_vs"].get(reference)
    return saving


def _gap(row: Row | None) -> float | None:
    """By how much a run is above the oracle."""
    saving = _saving(row, ORACLE)
    return None if saving is None else -saving


def _spread(values: Iterable[float | None]) -> str:
    """Mean, least and most in per cent."""
    known = [value for value in values if value is not None]
    if not known:
        return _NONE
    mean = statistics.fmean(known)
    return f"{per_cent(mean)} ({per_cent(min(known))} to {per_cent(max(known))})"


def _worst_day(rows: Iterable[Row]) -> str:
    days = [row["slo_attainment_worst_day"] for row in rows if "slo_attainment_worst_day" in row]
    return per_cent(min((day for day in days if day is not None), default=None))


def limits(results: Results) -> str:
    """The limits on latency that the rule gave."""
    lines = []
    for workload, slo in results.limits.items():
        if isinstance(slo, str):
            lines.append([workload, slo, _NONE, _NONE])
        else:
            lines.append(
                [workload, f"{slo['ttft_s']:g}", f"{slo['tpot_s']:g}", f"{slo['target']:.0%}"]
            )
    return markdown(["workload", "TTFT, s", "TPOT, s", "of requests"], lines)


def checks(results: Results) -> str:
    """What must hold, and whether it does."""
    lines = []
    for check in results.checks:
        worst = "invalid there alone" if check.worst is None else f"{per_cent(check.worst, 2)} %"
        lines.append(
            [
                check.claim,
                "yes" if check.holds else "**no**",
                f"{check.cells:,}",
                f"{check.failed:,}",
                f"{check.left_out:,}",
                f"{worst}: {check.worst_cell}",
            ]
        )
    headings = ["must hold", "holds", "cells", "fails in", "left out", "largest excess"]
    return markdown(headings, lines)


def headline(results: Results) -> str:
    """Every run's grams in the clean zones at the factor of the headline, and what is saved."""
    rows = _where(_first_seed(results.rows), ssd_kg_per_tb=HEADLINE_KG)
    rows = [row for row in rows if _usual(row)]
    runs = ["hbm-only", "full-write-all", "full", "best-static", CONTROLLED, ORACLE]
    against = ["full-write-all", "full", "hbm-only", "best-static"]
    lines = []
    for zone in HEADLINE_ZONES:
        for workload in _values(_where(rows, zone=zone), "workload"):
            for load in _values(rows, "load_fraction"):
                here = _where(rows, zone=zone, workload=workload, load_fraction=load)
                ours = _pick(here, run=CONTROLLED)
                lines.append(
                    [
                        zone,
                        workload,
                        f"{load:g}",
                        *(_number(_grams(_pick(here, run=run))) for run in runs),
                        *(f"{per_cent(_saving(ours, name))}" for name in against),
                        _worst_day([ours] if ours else []),
                    ]
                )
    headings = [
        "zone",
        "workload",
        "load",
        *(f"{run}, g" for run in runs),
        *(f"saved over {name}, %" for name in against),
        "worst day in SLO, %",
    ]
    return markdown(headings, lines, left=2)


def matrices(results: Results) -> str:
    """For each workload and load, what the controller saves in each zone at each SSD factor."""
    rows = [row for row in _first_seed(results.rows) if _usual(row) and row["run"] == CONTROLLED]
    parts = []
    for workload in _values(rows, "workload"):
        for load in _values(rows, "load_fraction"):
            here = _where(rows, workload=workload, load_fraction=load)
            factors = _values(here, "ssd_kg_per_tb")
            lines = []
            for zone in _values(here, "zone"):
                in_zone = _where(here, zone=zone)
                cells = [_matrix_cell(_pick(in_zone, ssd_kg_per_tb=kg)) for kg in factors]
                mean = in_zone[0].get("mean_gco2_per_kwh")
                lines.append([zone, _number(mean, ".0f"), *cells])
            headings = ["zone", "g/kWh", *(f"{kg:g} kg/TB" for kg in factors)]
            parts.append(f"**{workload}, load {load:g}**\n\n{markdown(headings, lines)}")
    return "\n\n".join(parts)


def _matrix_cell(row: Row | None) -> str:
    if row is None or row["error"] is not None:
        return _NONE
    if not row["valid"]:
        return "invalid"
    savings = [_saving(row, name) for name in ("full-write-all", "full", "hbm-only", "best-static")]
    return " / ".join(per_cent(value) for value in [*savings, _gap(row)])


_VARIANTS: Sequence[tuple[str, Callable[[Row], bool]]] = (
    ("attributable, wear", _usual),
    ("provisioned, wear", lambda row: row["scope"] == "provisioned"),
    ("attributable, no wear", lambda row: not row["wear"]),
)


def variants(results: Results) -> str:
    """Scope and wear: what the controller saves on average over zones, least and most."""
    rows = [row for row in _first_seed(results.rows) if row["run"] == CONTROLLED]
    shared = {
        (row["workload"], row["load_fraction"], row["zone"], row["ssd_kg_per_tb"])
        for row in rows
        if not _usual(row)
    }
    rows = [
        row
        for row in rows
        if (row["workload"], row["load_fraction"], row["zone"], row["ssd_kg_per_tb"]) in shared
    ]
    against = ["full-write-all", "full", "hbm-only", "best-static"]
    lines = []
    for workload in _values(rows, "workload"):
        for kg in _values(rows, "ssd_kg_per_tb"):
            for name, chosen in _VARIANTS:
                here = [r for r in _where(rows, workload=workload, ssd_kg_per_tb=kg) if chosen(r)]
                lines.append(
                    [
                        workload,
                        f"{kg:g}",
                        name,
                        *(_spread(_saving(row, each) for row in here) for each in against),
                        _spread(_gap(row) for row in here),
                    ]
                )
    headings = ["workload", "kg/TB", "counted", *(f"over {each}, %" for each in against)]
    return markdown([*headings, "above oracle, %"], lines, left=3)


def _against_run(
    rows: Sequence[Row], reference: str, runs: Sequence[str], names: Mapping[str, str]
) -> list[list[str]]:
    """Lines of runs by workload: grams above a reference over all cells, hits, writes, days."""
    axes = ("load_fraction", "zone", "ssd_kg_per_tb", "seed", "scope", "wear")
    lines = []
    for workload in _values(rows, "workload"):
        here = _where(rows, workload=workload)
        base = {
            tuple(row[axis] for axis in axes): _grams(row) for row in _where(here, run=reference)
        }
        for run in runs:
            own = [row for row in _where(here, run=run) if row["error"] is None]
            more = [
                ours / theirs - 1
                for row in own
                if (ours := _grams(row)) is not None
                and (theirs := base.get(tuple(row[axis] for axis in axes))) is not None
            ]
            valid = sum(row["valid"] for row in own)
            measured = [row for row in own if "hit_rate_tokens" in row]
            written = [row["ssd_bytes_written"] / TB for row in measured]
            lines.append(
                [
                    workload,
                    names.get(run, run),
                    _spread(more),
                    per_cent(_mean([row["hit_rate_tokens"] for row in measured])),
                    _number(_mean(written)),
                    _worst_day(own),
                    f"{valid} of {len(own)}",
                ]
            )
    return lines


def _mean(values: Sequence[float]) -> float | None:
    return statistics.fmean(values) if values else None


def _run_table(
    rows: Sequence[Row], reference: str, runs: Sequence[str], names: Mapping[str, str]
) -> str:
    headings = [
        "workload",
        "run",
        f"grams above {reference}, %",
        "hit rate, %",
        "written, TB",
        "worst day in SLO, %",
        "valid",
    ]
    return markdown(headings, _against_run(rows, reference, runs, names), left=2)


def policies(results: Results) -> str:
    """Each policy at full size and under the controller, all with our admission."""
    suffixes = {"": "ours", "-lru": "lru", "-lfu": "lfu", "-lcs": "lcs"}
    parts = []
    for plan in ("full", CONTROLLED):
        runs = {f"{plan}{suffix}": name for suffix, name in suffixes.items()}
        if plan == "full":
            runs["full-lcs-admission"] = runs.pop("full-lcs")
        compared = [row for row in _first_seed(results.rows) if row["run"] in runs]
        cells = {_cell_key(row) for row in compared if row["run"] == f"{plan}-lru"}
        compared = [row for row in compared if _cell_key(row) in cells]
        table = _run_table(compared, plan, list(runs), runs)
        parts.append(f"**{plan}**\n\n{table}")
    return "\n\n".join(parts)


def _cell_key(row: Row) -> tuple[object, ...]:
    names = ("workload", "load_fraction", "zone", "ssd_kg_per_tb", "seed", "scope", "wear")
    return tuple(row[name] for name in names)


def paper(results: Results) -> str:
    """What is saved over always-full caching in France, load by load, and on average."""
    rows = _where(_first_seed(results.rows), zone=PAPER_ZONE, ssd_kg_per_tb=HEADLINE_KG)
    ours = [row for row in rows if row["run"] == CONTROLLED]
    against = ["full-write-all", "full-lcs", "full", "hbm-only", "best-static"]
    lines = []
    for name, chosen in _VARIANTS:
        for workload in _values(rows, "workload"):
            here = [row for row in _where(ours, workload=workload) if chosen(row)]
            for row in here:
                saved = (per_cent(_saving(row, each)) for each in against)
                lines.append([name, workload, f"{row['load_fraction']:g}", *saved])
            if len(here) > 1:
                means = (_spread(_saving(row, each) for row in here) for each in against)
                lines.append([name, workload, "all", *means])
    headings = ["counted", "workload", "load", *(f"over {each}, %" for each in against)]
    return markdown(headings, lines, left=3)


def ablations(results: Results) -> str:
    """The controller without one of its parts."""
    runs = _values(results.rows, "run")
    return _run_table(results.rows, CONTROLLED, runs, {})


def forecast_errors(results: Results) -> str:
    """The controller with a known error in its forecasts."""
    runs = [run for run in _values(results.rows, "run") if run not in ("hbm-only", "full", ORACLE)]
    return _run_table(results.rows, ORACLE, runs, {})


def seeds(results: Results) -> str:
    """Mean and standard deviation over seeds of what the controller saves."""
    rows = _where(results.rows, run=CONTROLLED)
    against = ["full-write-all", "full", "hbm-only", "best-static"]
    lines = []
    for workload in _values(rows, "workload"):
        for load in _values(rows, "load_fraction"):
            for zone in _values(rows, "zone"):
                here = _where(rows, workload=workload, load_fraction=load, zone=zone)
                savings = ([_saving(row, name) for row in here] for name in against)
                valid = sum(row["valid"] for row in here)
                lines.append(
                    [
                        workload,
                        f"{load:g}",
                        zone,
                        *(_mean_and_deviation(each) for each in savings),
                        _mean_and_deviation([_gap(row) for row in here]),
                        _worst_day(here),
                        f"{valid} of {len(here)}",
                    ]
                )
    headings = ["workload", "load", "zone", *(f"over {name}, %" for name in against)]
    headings += ["above oracle, %", "worst day in SLO, %", "valid seeds"]
    return markdown(headings, lines, left=3)


def _mean_and_deviation(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return _NONE
    if len(known) == 1:
        return f"{per_cent(known[0])} (1)"
    mean, deviation = statistics.fmean(known), statistics.stdev(known)
    count = "" if len(known) == len(values) else f" ({len(known)})"
    return f"{per_cent(mean)} ± {per_cent(deviation)}{count}"


def capacities(results: Results) -> str:
    """Policy and admission at equal capacity: grams above ours, hits and bytes written."""
    rows = results.rows
    runs = [run for run in _values(rows, "run") if run != "hbm-only"]
    parts = []
    for size in dict.fromkeys(run.rpartition("-")[2] for run in runs):
        of_size = [run for run in runs if run.endswith(f"-{size}")]
        measured = [row for row in rows if row["run"] in of_size and "dram_bytes_mean" in row]
        if not measured:
            continue
        sizes = measured[0]
        capacity = f"{sizes['dram_bytes_mean'] / GIB:g} GiB + {sizes['ssd_bytes_mean'] / TB:g} TB"
        names = {run: run.removesuffix(f"-{size}") for run in of_size}
        table = _run_table(
            [row for row in rows if row["run"] in (*of_size, "hbm-only")],
            f"ours-{size}",
            [*of_size, "hbm-only"],
            names,
        )
        parts.append(f"**{capacity}**\n\n{table}")
    return "\n\n".join(parts)
