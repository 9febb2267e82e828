"""How fast the tiers move blocks, beside copies, raw direct I/O, fio and LMCache.

``python -m greencache.bench.tiers [--full] [--lmcache PYTHON] [--json FILE] [--png FILE]``. All
sides take turns at each case (`greencache.bench.tier_rounds`): a block size, a size of batches and,
on disk, a depth. Blocks are stored new each time, in place of older ones, and checked when read.

- *DRAM* is held against ``memcpy`` between warm buffers, of a batch at once and block by block, and
  LMCache's CPU backend.
- *SSD* is held against a raw loop of direct I/O at the same depth, fio if it is installed, and
  LMCache's disk backend, buffered and with direct I/O. What was stored is flushed before it is
  read, and dropped from the page cache where it went through that. Reads go straight into the
  buffers of who asks; LMCache's end in objects of its pool, and its writes begin there. All of
  these share one piece of memory; as blocks go between tiers, from a DRAM tier's and into it, is
  measured beside them.
"""

from __future__ import annotations

import os
import platform
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from greencache.bench.direct_io import RAW, FioSide, RawDirectSide, filesystem_of, wait_for_rest
from greencache.bench.lmcache_side import LMCACHE_DISK_SIDES, LmcacheSide
from greencache.bench.lmcache_worker import BUFFERED, CPU, DIRECT
from greencache.bench.table import WIDE
from greencache.bench.tier_rounds import DRAM, SSD, Case, Side, measure_case, size_text
from greencache.bench.tier_sides import MEMCPY, FromDramSide, MemcpySide, TierSide
from greencache.errors import InputError
from greencache.output import check_outputs, write_json, write_output
from greencache.quantities import parse_bytes
from greencache.tiers.base import Tier
from greencache.tiers.dram import DramTier
from greencache.tiers.extents import extent_name
from greencache.tiers.ssd import SsdTier

__all__ = ["OURS", "REFERENCES", "main", "make_cases", "measure", "targets"]

KIB, MIB = 2**10, 2**20

OURS = {DRAM: "DRAM, ours", SSD: "SSD, ours"}
FROM_DRAM = "the same, DRAM's memory"
REFERENCES = {DRAM: MEMCPY, SSD: RAW}
"""What each tier's bandwidth is given as a share of."""

ROUNDS = 7
STORE_BYTES = {DRAM: 512 * MIB, SSD: 256 * MIB}
"""Bytes that a round stores and reads: far above what a processor's caches hold."""
FEWEST_BATCHES, MOST_BATCHES = 2, 32

SHARE = 0.85
"""Of the reference's bandwidth that is wanted, for the sizes below."""
WANTED_BLOCK_BYTES = (2 * MIB, 32 * MIB)
WANTED_BATCH_BYTES = 64 * MIB


@dataclass(frozen=True)
class Grid:
    """Every combination is a case, but batches of less than a block."""

    block_bytes: Sequence[int] = WANTED_BLOCK_BYTES
    batch_bytes: Sequence[int] = (WANTED_BATCH_BYTES,)
    depths: Sequence[int] = (4,)


QUICK = Grid()
FULL = Grid(
    block_bytes=(128 * KIB, 512 * KIB, 2 * MIB, 8 * MIB, 32 * MIB),
    batch_bytes=(4 * MIB, 64 * MIB, 256 * MIB),
    depths=(1, 4, 16),
)


def make_cases(tiers: Iterable[str], grid: Grid) -> list[Case]:
    """All cases of a grid; a depth means nothing to memory, which has one case of all depths."""
    cases = []
    for tier in tiers:
        for block_bytes in grid.block_bytes:
            for batch_bytes in grid.batch_bytes:
                blocks = batch_bytes // block_bytes
                if blocks == 0:
                    continue
                batches = STORE_BYTES[tier] // (blocks * block_bytes)
                batches = min(max(batches, FEWEST_BATCHES), MOST_BATCHES)
                depths = (1,) if tier == DRAM else grid.depths
                cases += [Case(tier, block_bytes, blocks, batches, depth) for depth in depths]
    return cases


def _dram(case: Case) -> Tier:
    return DramTier(case.block_bytes, case.store_bytes)


def _ssd(folder: Path, name: str, case: Case) -> Tier:
    """With room for the batches, and the 1/64 and 16 MiB more that are for its own records."""
    capacity_bytes = case.store_bytes + case.store_bytes // 64 + 16 * MIB
    return SsdTier(
        folder / name,
        case.block_bytes,
        capacity_bytes,
        depth=case.depth,
        start_empty=True,  # of the case before, whose blocks may be of another size
    )


def _sides(folder: Path, lmcache: Path | None) -> dict[str, list[Side]]:
    return {
        DRAM: [
            MemcpySide(),
            TierSide(OURS[DRAM], _dram),
            MemcpySide(by_block=True),
            LmcacheSide(CPU, lmcache, folder),
        ],
        SSD: [
            TierSide(OURS[SSD], partial(_ssd, folder, "greencache")),
            FromDramSide(FROM_DRAM, partial(_ssd, folder, "beneath-dram")),
            RawDirectSide(folder / "greencache" / extent_name(0)),
            FioSide(folder),
            LmcacheSide(BUFFERED, lmcache, folder),
            LmcacheSide(DIRECT, lmcache, folder),
        ],
    }


def targets(cases: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What the tiers are to reach, and what they reach: ratios, by case and operation."""
    found = []
    for case in cases:
        if (
            case["block_bytes"] not in WANTED_BLOCK_BYTES
            or case["batch_bytes"] < WANTED_BATCH_BYTES
        ):
            continue
        tier = case["tier"]
        times = case["sides"].get(OURS[tier], {}).get("times", {})
        wanted = [(REFERENCES[tier], op, SHARE) for op in ("put", "get")]
        if tier == SSD:
            wanted += [(name, "get", 1.0) for name in LMCACHE_DISK_SIDES]
        found += [
            {
                "tier": tier,
                "block_bytes": case["block_bytes"],
                "batch_bytes": case["batch_bytes"],
                "depth": case["depth"],
                "operation": op,
                "of": other,
                "wanted": share,
                "times": times[other][op],
                "holds": times[other][op] >= share,
            }
            for other, op, share in wanted
            if other in times
        ]
    return found


def measure(
    cases: Sequence[Case], rounds: int, folder: Path, lmcache: Path | None, console: Console
) -> dict[str, Any]:
    """Measure all cases, with files in ``folder``, and print each; what ``--json`` writes."""
    results = []
    sides = _sides(folder, lmcache)
    with ExitStack() as stack:
        for side in [*sides[DRAM], *sides[SSD]]:
            stack.callback(side.close)
        for case in cases:
            rest = partial(wait_for_rest, folder) if case.tier == SSD else lambda: None
            results.append(measure_case(case, sides[case.tier], rounds, rest))
            console.print(_title(results[-1]), style="bold")
            console.print(_table(results[-1]))
            console.print(*_notes(results[-1]), sep="\n", end="\n\n")
    return {
        "schema": "greencache.bench.tiers/1",
        "machine": {
            "processor": platform.machine(),
            "cpus": len(os.sched_getaffinity(0)),
            "kernel": platform.release(),
            "filesystem": filesystem_of(folder),
        },
        "cases": results,
        "targets": targets(results),
    }


def _title(case: dict[str, Any]) -> str:
    depth = f", depth {case['depth']}" if case["tier"] == SSD else ""
    return (
        f"{case['tier'].upper()}, blocks of {size_text(case['block_bytes'])}, batches of "
        f"{size_text(case['batch_bytes'])}{depth}"
    )


def _table(case: dict[str, Any]) -> Table:
    reference = REFERENCES[case["tier"]]
    on_disk = case["tier"] == SSD
    table = Table(box=None, pad_edge=False, header_style="bold")
    headings = ["side", "put\nGB/s", "of\n" + reference]
    headings += ["put and\nflush GB/s"] if on_disk else []
    headings += ["get\nGB/s", "of\n" + reference]
    headings += ["put ms a batch\np50 / p90 / p99", "get ms a batch\np50 / p90 / p99"]
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "side" else "right", no_wrap=True)
    for name, side in case["sides"].items():
        if "missing" in side:
            table.add_row(name, "-", "-")
            continue
        ratio = side["times"].get(reference, {"put": 1.0, "get": 1.0} if name == reference else {})
        row = [name, f"{side['put_gb_per_s']:.2f}", _ratio(ratio, "put")]
        row += [f"{side['durable_put_gb_per_s']:.2f}"] if on_disk else []
        row += [f"{side['get_gb_per_s']:.2f}", _ratio(ratio, "get")]
        row += [_percentiles(side["put_ms"]), _percentiles(side["get_ms"])]
        table.add_row(*row)
    return table


def _notes(case: dict[str, Any]) -> list[str]:
    said = {name: side.get("missing") or side["note"] for name, side in case["sides"].items()}
    return [f"{name}: {text}" for name, text in said.items() if text]


def _ratio(ratios: dict[str, float], op: str) -> str:
    return f"{ratios[op]:.2f}" if op in ratios else ""


def _percentiles(ms: dict[str, float]) -> str:
    return " / ".join(f"{value:,.0f}" if value >= 100 else f"{value:.3g}" for value in ms.values())


def _targets_table(found: list[dict[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("wanted of ours", "blocks", "batches", "depth", "at least", "times", ""):
        table.add_column(heading, justify="left" if heading in ("wanted of ours", "") else "right")
    for each in found:
        table.add_row(
            f"{each['tier'].upper()} {each['operation']}, of {each['of']}",
            size_text(each["block_bytes"]),
            size_text(each["batch_bytes"]),
            f"{each['depth']}" if each["tier"] == SSD else "",
            f"{each['wanted']:.2f}",
            f"{each['times']:.2f}",
            "holds" if each["holds"] else "MISSED",
        )
    return table


def _folder(stack: ExitStack, parent: Path | None) -> Path:
    """A folder of our own for files, gone at the end."""
    if parent is None:
        parent = Path(tempfile.gettempdir())
        if filesystem_of(parent) in ("tmpfs", "ramfs"):
            parent = Path("/var/tmp")
    if not parent.is_dir():
        raise InputError(f"there is no directory {parent} to put files in: see --dir")
    return Path(stack.enter_context(tempfile.TemporaryDirectory(dir=parent)))


def main(
    full: Annotated[
        bool, typer.Option("--full", help="The whole grid: about an hour with LMCache.")
    ] = False,
    tier: Annotated[
        list[str] | None, typer.Option(help="dram or ssd; by default both.", show_default=False)
    ] = None,
    block: Annotated[list[str] | None, typer.Option(help="Size of blocks: 2MiB.")] = None,
    batch: Annotated[list[str] | None, typer.Option(help="Size of batches: 64MiB.")] = None,
    depth: Annotated[list[int] | None, typer.Option(help="Depth of I/O on disk.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Turns of every side.")] = ROUNDS,
    dir: Annotated[
        Path | None, typer.Option(help="Where files go; by default a temporary folder on disk.")
    ] = None,
    lmcache: Annotated[
        Path | None, typer.Option(help="A Python that has LMCache: see `make lmcache-env`.")
    ] = None,
    json: Annotated[
        Path | None, typer.Option(help="Write the result as JSON to this file.")
    ] = None,
    png: Annotated[Path | None, typer.Option(help="Draw the result into this file.")] = None,
) -> None:
    """Time puts and gets of the tiers beside memcpy, raw direct I/O, fio and LMCache."""
    check_outputs(json, png)
    chosen = tier or [DRAM, SSD]
    if not set(chosen) <= {DRAM, SSD}:
        raise InputError(f"--tier is dram or ssd, not {', '.join(chosen)}")
    grid = FULL if full else QUICK
    grid = Grid(
        block_bytes=[parse_bytes(size) for size in block] if block else grid.block_bytes,
        batch_bytes=[parse_bytes(size) for size in batch] if batch else grid.batch_bytes,
        depths=depth or grid.depths,
    )
    console = Console(highlight=False, width=None if Console().is_terminal else WIDE)
    with ExitStack() as stack:
        folder = _folder(stack, dir)
        console.print(
            f"files in {folder.parent}, on {filesystem_of(folder)}; {rounds} rounds; what is "
            "read from disk is flushed before, and not in the page cache; GB = 1e9 bytes\n"
        )
        result = measure(make_cases(chosen, grid), rounds, folder, lmcache, console)
    if result["targets"]:
        console.print(_targets_table(result["targets"]))
    if json is not None:
        write_json(json, result)
    if png is not None:
        from greencache.bench.tiers_chart import tiers_picture

        write_output(png, tiers_picture(result))


if __name__ == "__main__":
    typer.run(main)
