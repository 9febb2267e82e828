"""Published measurements of real engines, beside the simulated one in the same settings.

``python -m greencache.bench.published [--json FILE] [--markdown FILE]``: each row of
``data/published.toml`` is simulated with its lengths, load, types and batch limits, without reuse,
on the efficiencies of the catalog. The error is that of the simulation: +10 % throughput is faster
than measured, +10 % latency slower.
"""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from greencache.bench.simulated import available_cores
from greencache.bench.simulation import BIN_S, Batching, SimulatedRun, simulate
from greencache.bench.storage import StorageSetup
from greencache.catalog import Catalog, Source
from greencache.controller.models import find_model
from greencache.controller.performance import ServingHardware, serving_hardware
from greencache.output import check_outputs, write_json, write_output
from greencache.traces import RequestTrace

__all__ = ["MEASURES", "Comparison", "Setting", "compare", "main", "markdown", "read_published"]

SEED = 0
"""Of Poisson arrivals."""

LATER_S = 86400.0
"""When one last small request comes: a queue that is served until then counts as no overload."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What was run. ``rate_per_s`` is infinite for a queue.

    ``lengths_published`` is false where the source does not say how long prompts were.
    """

    source: str
    model: str
    hardware: str
    weights: str
    kv: str
    input_tokens: int
    output_tokens: int
    requests: int
    rate_per_s: float
    block_tokens: int
    batched_tokens: int
    running: int
    lengths_published: bool

    @property
    def group(self) -> tuple[str, ...]:
        """What the rows of one line of the summary share, besides the measure."""
        return self.source, self.model, self.hardware, self.weights


@dataclass(frozen=True, slots=True)
class Comparison:
    """One figure: what was measured and what the simulation gives, in the unit of ``measure``."""

    setting: Setting
    measure: str
    published: float
    simulated: float

    @property
    def error(self) -> float:
        """Of the simulation, as a share of what was measured."""
        return self.simulated / self.published - 1


@dataclass(frozen=True)
class _Served:
    """A run without the last small request."""

    requests: NDArray[np.void]
    end_s: float
    gpu_j: float


def _tokens_per_s(run: _Served) -> float:
    return float(run.requests["output_tokens"].sum()) / run.end_s


def _ttft_s(run: _Served) -> float:
    return float((run.requests["first_token_s"] - run.requests["arrival_s"]).mean())


def _itl_s(run: _Served) -> float:
    answers_s = run.requests["finish_s"] - run.requests["first_token_s"]
    return float((answers_s / (run.requests["output_tokens"] - 1)).mean())


def _gpu_j_per_token(run: _Served) -> float:
    return run.gpu_j / float(run.requests["output_tokens"].sum())


MEASURES: dict[str, Callable[[_Served], float]] = {
    "output_tokens_per_s": _tokens_per_s,
    "ttft_s": _ttft_s,
    "itl_s": _itl_s,
    "batch_s": lambda run: run.end_s,
    "gpu_j_per_output_token": _gpu_j_per_token,
}
"""Output tokens over the whole run, from the first arrival to the last answer; mean TTFT; mean time
between the tokens of an answer; time for all answers; energy of all GPUs over the whole run."""


def read_published() -> tuple[dict[str, Source], list[tuple[Setting, dict[str, float]]]]:
    """Sources by name, and every setting with what was measured in it by name of the measure."""
    text = files("greencache.bench").joinpath("data/published.toml").read_text(encoding="utf-8")
    content = tomllib.loads(text)
    sources = {
        name: Source(each["title"], each["url"], each["year"], each["read"])
        for name, each in content["sources"].items()
    }
    rows = []
    for each in content["sets"]:
        limits = content["sources"][each["source"]]
        for values in each["rows"]:
            row = dict(zip(each["columns"], values, strict=True))
            given = limits | each | row
            setting = Setting(
                source=each["source"],
                model=each["model"],
                hardware=each["hardware"],
                weights=each["weights"],
                kv=each["kv"],
                input_tokens=given["input_tokens"],
                output_tokens=given["output_tokens"],
                requests=given["requests"],
                rate_per_s=given["rate_per_s"] if each["load"] == "poisson" else np.inf,
                block_tokens=given["block_tokens"],
                batched_tokens=given["batched_tokens"],
                running=given["running"],
                lengths_published=given["lengths_published"],
            )
            rows.append((setting, {name: row[name] for name in MEASURES if name in row}))
    return sources, rows


def _trace(setting: Setting) -> RequestTrace:
    """Equal requests that share nothing, and one of a token each that comes much later."""
    count = setting.requests
    gaps_s = np.random.default_rng(SEED).exponential(1 / setting.rate_per_s, count)
    arrival_s = np.cumsum(gaps_s) - gaps_s[0]
    blocks = -(-setting.input_tokens // setting.block_tokens)
    starts = np.append(np.arange(count + 1) * blocks, count * blocks + 1)
    return RequestTrace(
        name="equal requests",
        arrival_s=np.append(arrival_s, arrival_s[-1] + LATER_S),
        input_tokens=np.append(np.full(count, setting.input_tokens), 1),
        output_tokens=np.append(np.full(count, setting.output_tokens), 1),
        block_tokens=setting.block_tokens,
        block_names=np.arange(starts[-1]),
        block_starts=starts,
    )


def _hardware(catalog: Catalog, setting: Setting) -> ServingHardware:
    return serving_hardware(
        catalog,
        find_model(setting.model),
        setting.hardware,
        weight_dtype=setting.weights,
        kv_dtype=setting.kv,
        block_tokens=setting.block_tokens,
    )


def _served(run: SimulatedRun, idle_w: float) -> _Served:
    requests = run.requests[:-1]
    end_s = float(requests["finish_s"].max())
    assert run.overloaded is None, run.overloaded
    assert end_s < run.requests["arrival_s"][-1], "the queue took longer than a day"
    bins = int(end_s / BIN_S) + 1
    idle_s = bins * BIN_S - end_s
    return _Served(requests, end_s, float(run.bins["gpu_j"][:bins].sum()) - idle_w * idle_s)


def _compare_one(
    catalog: Catalog, setting: Setting, measured: dict[str, float]
) -> list[Comparison]:
    hardware = _hardware(catalog, setting)
    batching = Batching(setting.batched_tokens, setting.running)
    storage = StorageSetup(reuse_hbm=False)
    run = simulate(_trace(setting), hardware, storage, batching=batching)
    served = _served(run, hardware.rates.idle_w)
    return [
        Comparison(setting, name, figure, MEASURES[name](served))
        for name, figure in measured.items()
    ]


def compare(catalog: Catalog, rows: Sequence[tuple[Setting, dict[str, float]]]) -> list[Comparison]:
    """Simulate every setting; one comparison for each figure, in the order of ``rows``."""
    # The first alone, so that threads do not compile at once; the engine runs without the GIL.
    first = _compare_one(catalog, *rows[0])
    with ThreadPoolExecutor(available_cores()) as pool:
        others = list(pool.map(lambda row: _compare_one(catalog, *row), rows[1:]))
    return [comparison for each in [first, *others] for comparison in each]


def _grouped(comparisons: Sequence[Comparison]) -> dict[tuple[str, ...], NDArray[np.float64]]:
    """Errors by source, model, hardware, weights and measure, in order of appearance."""
    groups: dict[tuple[str, ...], list[float]] = {}
    for each in comparisons:
        groups.setdefault((*each.setting.group, each.measure), []).append(each.error)
    return {key: np.array(errors) for key, errors in groups.items()}


def _worst(errors: NDArray[np.float64]) -> float:
    return float(errors[np.abs(errors).argmax()])


def markdown(comparisons: Sequence[Comparison]) -> str:
    """The summary as ``docs/checks.md`` has it: errors by group, then over all of each measure."""
    lines = [
        "| source | model | hardware | weights | measure | figures | median error | worst |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for key, errors in _grouped(comparisons).items():
        lines.append(
            f"| {' | '.join(key)} | {len(errors)} | {np.median(errors):+.0%} "
            f"| {_worst(errors):+.0%} |"
        )
    lines += [
        "",
        "| measure | lengths | figures | median absolute error | worst |",
        "|---|---|---|---|---|",
    ]
    for measure in MEASURES:
        for published, lengths in ((True, "published"), (False, "assumed")):
            errors = np.array(
                [
                    each.error
                    for each in comparisons
                    if each.measure == measure and each.setting.lengths_published == published
                ]
            )
            if len(errors):
                median = f"{np.median(np.abs(errors)):.0%}"
                worst = f"{_worst(errors):+.0%}"
                lines.append(f"| {measure} | {lengths} | {len(errors)} | {median} | {worst} |")
    return "\n".join(lines) + "\n"


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _as_json(sources: dict[str, Source], comparisons: Sequence[Comparison]) -> dict[str, Any]:
    return {
        "schema": "greencache.bench.published/1",
        "sources": {
            name: {"title": s.title, "url": s.url, "year": s.year, "read": s.read}
            for name, s in sources.items()
        },
        "figures": [
            {
                "source": each.setting.source,
                "model": each.setting.model,
                "hardware": each.setting.hardware,
                "weights": each.setting.weights,
                "kv": each.setting.kv,
                "input_tokens": each.setting.input_tokens,
                "output_tokens": each.setting.output_tokens,
                "requests": each.setting.requests,
                "rate_per_s": _finite(each.setting.rate_per_s),
                "running": each.setting.running,
                "measure": each.measure,
                "published": each.published,
                "simulated": each.simulated,
                "error": each.error,
            }
            for each in comparisons
        ],
    }


def _table(comparisons: Sequence[Comparison]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("source", "model", "hardware", "weights", "in/out", "load", "measure"):
        table.add_column(heading)
    for heading in ("published", "simulated", "error"):
        table.add_column(heading, justify="right")
    for each in comparisons:
        setting = each.setting
        load = f"{setting.rate_per_s:g}/s"
        if np.isinf(setting.rate_per_s):
            load = f"{min(setting.requests, setting.running)} at once"
        table.add_row(
            *setting.group,
            f"{setting.input_tokens}/{setting.output_tokens}",
            load,
            each.measure,
            f"{each.published:,.4g}",
            f"{each.simulated:,.4g}",
            f"{each.error:+.0%}",
        )
    return table


def main(
    json: Annotated[
        Path | None, typer.Option(help="Write every figure as JSON to this file.")
    ] = None,
    markdown_file: Annotated[
        Path | None, typer.Option("--markdown", help="Write the summary as Markdown to this file.")
    ] = None,
) -> None:
    """Simulate what others measured, and print both and the error."""
    check_outputs(json, markdown_file)
    sources, rows = read_published()
    comparisons = compare(Catalog.load(), rows)
    # Not cut to 80 columns where nobody has set a width.
    console = Console(width=None if sys.stdout.isatty() else 140)
    console.print(_table(comparisons))
    console.print("\n" + markdown(comparisons), markup=False)
    if json is not None:
        write_json(json, _as_json(sources, comparisons))
    if markdown_file is not None:
        write_output(markdown_file, markdown(comparisons).encode())


if __name__ == "__main__":
    typer.run(main)
