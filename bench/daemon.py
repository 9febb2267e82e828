"""What a client of the daemon gets: lookups over the socket, and blocks beside memcpy.

``python -m greencache.bench.daemon [--json FILE]``. The daemon is ``greencache serve`` in a process
of its own, one for each side.

- *Blocks*: puts and gets of batches through both clients take turns with ``memcpy`` between warm
  buffers (`greencache.bench.tier_rounds`). The first puts go to memory that the client has mapped
  but never touched, and so do the first gets of another client: each page is met by a fault then,
  which is why they are given apart.
- *Lookups*: how long a prefix of 1,000 blocks is, and the same prefix leased and released.
- *Idle*: processor time of a daemon with DRAM, SSD and a client connected, while nothing is asked.
"""

from __future__ import annotations

import asyncio
import os
import platform
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from greencache.bench.client_sides import (
    TIMEOUT_S,
    AsyncClientSide,
    ClientSide,
    ServedDaemon,
    new_keys,
)
from greencache.bench.table import WIDE
from greencache.bench.tier_rounds import DRAM, Case, Side, buffer, measure_case, size_text
from greencache.bench.tier_sides import MEMCPY, MemcpySide
from greencache.client import AsyncClient, Client
from greencache.output import check_outputs, write_json

__all__ = ["main", "measure", "targets"]

MIB = 2**20

BLOCK_BYTES = (2 * MIB, 32 * MIB)
BATCH_BYTES = 64 * MIB
STORE_BYTES = 512 * MIB
"""A round stores and reads so much: far above what a processor's caches hold."""
ROUNDS = 7

KEYS = 1_000
PROMPTS = 20
LOOKUPS = 500
LOOKUP_BLOCK_BYTES = 4096

IDLE_S = 20.0
SETTLE_S = 3.0
"""Before that, for what a daemon does after its start: it takes its memory from the system."""

WANTED_LOOKUP_MS = 3.0
WANTED_SHARE = 0.8
"""Of memcpy's bandwidth."""
WANTED_IDLE_SHARE = 0.01
"""Of a core."""


def measure(
    cases: Sequence[Case], rounds: int, lookups: int, idle_s: float, console: Console
) -> dict[str, Any]:
    """Measure everything, and print it as it comes; what ``--json`` writes."""
    sides: list[Side] = [MemcpySide(), ClientSide(), AsyncClientSide()]
    results = []
    try:
        for case in cases:
            result = measure_case(case, sides, rounds)
            result["first_get_gb_per_s"] = _first_gets(case)
            results.append(result)
            console.print(_title(result), style="bold")
            console.print(_blocks_table(result), end="\n\n")
    finally:
        for side in sides:
            side.close()
    found = _time_lookups(lookups)
    console.print(_lookups_table(found), end="\n\n")
    idle = _idle(idle_s)
    result = {
        "schema": "greencache.bench.daemon/1",
        "machine": {
            "processor": platform.machine(),
            "cpus": len(os.sched_getaffinity(0)),
            "kernel": platform.release(),
        },
        "cases": results,
        "lookups": found,
        "idle": idle,
    }
    result["targets"] = targets(result)
    return result


def _first_gets(case: Case) -> float:
    """Bandwidth of a client's gets from memory that it has just mapped."""
    blocks = buffer(case.batch_bytes).reshape(case.blocks, case.block_bytes)
    prompts = [new_keys(case.blocks) for _ in range(case.batches)]
    with ServedDaemon(case.block_bytes, case.store_bytes) as daemon:
        daemon.settle(case.store_bytes)
        with Client(case.block_bytes, socket=daemon.socket, timeout_s=TIMEOUT_S) as writer:
            for keys in prompts:
                writer.store(keys, blocks)
        with Client(case.block_bytes, socket=daemon.socket, timeout_s=TIMEOUT_S) as reader:
            seconds = []
            for keys in prompts:
                began_s = time.perf_counter()
                reader.load(keys, blocks)
                seconds.append(time.perf_counter() - began_s)
    return float(case.batch_bytes / np.median(seconds)) / 1e9


# Lookups.


def _percentiles(seconds: Sequence[float]) -> dict[str, float]:
    p50, p90, p99 = np.percentile(seconds, (50, 90, 99)) * 1e3
    return {"p50": float(p50), "p90": float(p90), "p99": float(p99)}


def _time_lookups(count: int) -> list[dict[str, Any]]:
    """Milliseconds of a question about many blocks, all of them there, half, or none."""
    prompts = [new_keys(KEYS) for _ in range(PROMPTS)]
    asked = {
        KEYS: prompts,
        KEYS // 2: [keys[: KEYS // 2] + new_keys(KEYS - KEYS // 2) for keys in prompts],
        0: [new_keys(KEYS) for _ in range(PROMPTS)],
    }
    blocks = np.zeros((KEYS, LOOKUP_BLOCK_BYTES), np.uint8)
    found = []
    with ServedDaemon(LOOKUP_BLOCK_BYTES, 256 * MIB) as daemon:
        options: dict[str, Any] = {"socket": daemon.socket, "timeout_s": TIMEOUT_S}
        with Client(LOOKUP_BLOCK_BYTES, **options) as client:
            for keys in prompts:
                client.store(keys, blocks)

            async def look_up(keys: list[bytes]) -> int:
                return client.lookup(keys)["dram"]

            async def hold(keys: list[bytes]) -> int:
                with client.acquire(keys) as lease:
                    return lease.ready

            for there, some in asked.items():
                for what, ask in (("lookup", look_up), ("acquire, release", hold)):
                    ms = asyncio.run(_time(ask, some, there, count))
                    found.append({"client": "Client", "what": what, "there": there, "ms": ms})
        found += asyncio.run(_time_async_lookups(options, asked, count))
    return found


async def _time_async_lookups(
    options: dict[str, Any], asked: dict[int, list[list[bytes]]], count: int
) -> list[dict[str, Any]]:
    found = []
    async with AsyncClient(LOOKUP_BLOCK_BYTES, **options) as client:

        async def look_up(keys: list[bytes]) -> int:
            return (await client.lookup(keys))["dram"]

        async def hold(keys: list[bytes]) -> int:
            with await client.acquire(keys) as lease:
                return lease.ready

        for there, some in asked.items():
            for what, ask in (("lookup", look_up), ("acquire, release", hold)):
                ms = await _time(ask, some, there, count)
                found.append({"client": "AsyncClient", "what": what, "there": there, "ms": ms})
    return found


async def _time(
    ask: Callable[[list[bytes]], Awaitable[int]],
    prompts: Sequence[list[bytes]],
    there: int,
    count: int,
) -> dict[str, float]:
    seconds = []
    for turn in range(-len(prompts), count):
        keys = prompts[turn % len(prompts)]
        began_s = time.perf_counter()
        found = await ask(keys)
        if turn >= 0:  # what goes before warms up
            seconds.append(time.perf_counter() - began_s)
        assert found == there
    return _percentiles(seconds)


# Idleness.


def _idle(span_s: float) -> dict[str, float]:
    """Share of a core that a daemon takes which nobody asks anything."""
    with (
        ServedDaemon(2 * MIB, 256 * MIB, ssd_bytes=256 * MIB) as daemon,
        Client(2 * MIB, socket=daemon.socket, timeout_s=TIMEOUT_S) as client,
    ):
        client.store(new_keys(8), np.zeros((8, 2 * MIB), np.uint8))
        client.flush()
        time.sleep(SETTLE_S)
        began_s, before_s = time.monotonic(), daemon.cpu_s()
        time.sleep(span_s)
        share = (daemon.cpu_s() - before_s) / (time.monotonic() - began_s)
        client.status()
    return {"span_s": span_s, "share_of_a_core": share}


# What is wanted.


def targets(result: dict[str, Any]) -> list[dict[str, Any]]:
    """What the daemon and its clients are to reach, and what they reach."""
    found = []
    for case in result["cases"]:
        for name in (ClientSide.name, AsyncClientSide.name):
            times = case["sides"].get(name, {}).get("times", {}).get(MEMCPY)
            if times is None:
                continue
            size = size_text(case["block_bytes"])
            found += [
                _target(f"{name}: {op}, blocks of {size}, times memcpy", WANTED_SHARE, times[op])
                for op in ("put", "get")
            ]
    for row in result["lookups"]:
        if row["what"] == "lookup" and row["there"] == KEYS:
            what = f"{row['client']}: lookup of {KEYS:,} keys, median ms"
            found.append(_target(what, WANTED_LOOKUP_MS, row["ms"]["p50"], at_most=True))
    share = result["idle"]["share_of_a_core"]
    found.append(_target("idle: share of a core", WANTED_IDLE_SHARE, share, at_most=True))
    return found


def _target(what: str, wanted: float, value: float, *, at_most: bool = False) -> dict[str, Any]:
    return {
        "what": what,
        "wanted": wanted,
        "at_most": at_most,
        "value": value,
        "holds": value <= wanted if at_most else value >= wanted,
    }


# Tables.


def _table(*headings: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for place, heading in enumerate(headings):
        table.add_column(heading, justify="right" if place else "left", no_wrap=True)
    return table


def _title(case: dict[str, Any]) -> str:
    return (
        f"blocks of {size_text(case['block_bytes'])}, batches of {size_text(case['batch_bytes'])};"
        f" first gets of a client: {case['first_get_gb_per_s']:.2f} GB/s"
    )


def _blocks_table(case: dict[str, Any]) -> Table:
    table = _table(
        "side",
        "put GB/s",
        "of memcpy",
        "get GB/s",
        "of memcpy",
        "first put GB/s",
        "put ms p50 / p90 / p99",
        "get ms p50 / p90 / p99",
    )
    for name, side in case["sides"].items():
        if "missing" in side:
            table.add_row(name, side["missing"])
            continue
        times = side["times"].get(MEMCPY, {"put": 1.0, "get": 1.0})
        table.add_row(
            name,
            f"{side['put_gb_per_s']:.2f}",
            f"{times['put']:.2f}",
            f"{side['get_gb_per_s']:.2f}",
            f"{times['get']:.2f}",
            f"{side['first_put_gb_per_s']:.2f}",
            _ms(side["put_ms"]),
            _ms(side["get_ms"]),
        )
    return table


def _lookups_table(found: list[dict[str, Any]]) -> Table:
    table = _table(f"{KEYS:,} keys", "there", "client", "ms p50 / p90 / p99")
    for row in found:
        table.add_row(row["what"], f"{row['there']:,}", row["client"], _ms(row["ms"]))
    return table


def _targets_table(found: list[dict[str, Any]]) -> Table:
    table = _table("wanted", "", "is", "")
    for each in found:
        bound = "at most" if each["at_most"] else "at least"
        table.add_row(
            each["what"],
            f"{bound} {each['wanted']:g}",
            f"{each['value']:.3g}",
            "holds" if each["holds"] else "MISSED",
        )
    return table


def _ms(ms: dict[str, float]) -> str:
    return " / ".join(f"{value:.3g}" for value in ms.values())


def main(
    rounds: Annotated[int, typer.Option(min=1, help="Turns of every side.")] = ROUNDS,
    lookups: Annotated[int, typer.Option(min=1, help="Lookups of each kind.")] = LOOKUPS,
    idle: Annotated[float, typer.Option(min=0.1, help="Seconds of doing nothing.")] = IDLE_S,
    json: Annotated[
        Path | None, typer.Option(help="Write the result as JSON to this file.")
    ] = None,
) -> None:
    """Time lookups, puts and gets through both clients, beside memcpy; and weigh idleness."""
    check_outputs(json)
    console = Console(highlight=False, width=None if Console().is_terminal else WIDE)
    cases = [
        Case(DRAM, size, BATCH_BYTES // size, STORE_BYTES // BATCH_BYTES) for size in BLOCK_BYTES
    ]
    result = measure(cases, rounds, lookups, idle, console)
    console.print(_targets_table(result["targets"]))
    if json is not None:
        write_json(json, result)


if __name__ == "__main__":
    typer.run(main)
