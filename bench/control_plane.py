"""What it takes to know where blocks are: time to look prefixes up, memory, and a restart.

``python -m greencache.bench.control_plane [--blocks N] [--dir D] [--json FILE] [--png FILE]``.
Keys to ids to slots, as the live tiers do it, beside one ``OrderedDict`` of keys for each tier,
which is how one would write it in plain Python. Both hold as many blocks in each of two tiers, in
prompts of 1,000, and take turns. No block's bytes move.

*Memory* is counted in the arrays themselves, by part, and as what the process grew by. The records
of the SSD tier's manifest are in memory too and count. A cache remembers blocks that are gone
(`greencache.tiers.cache`): what that adds once it remembers as many as it may is a row of its own.
"""

from __future__ import annotations

import asyncio
import gc
import os
import secrets
import tempfile
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from greencache.bench.direct_io import filesystem_of
from greencache.bench.table import WIDE
from greencache.blocks import KEY_BYTES
from greencache.output import check_outputs, write_json, write_output
from greencache.tiers import KeyDirectory, Policy, TierIndex
from greencache.tiers.forgetting import IDS_PER_BLOCK
from greencache.tiers.learning import Learner
from greencache.tiers.manifest import BYTES_OF_SLOT
from greencache.tiers.ssd import SsdTier

__all__ = ["main", "measure"]

BLOCKS = 1_000_000
PROMPT_BLOCKS = 1_000
LOOKUPS = 600
REQUESTS = 300
SHORT_BLOCKS = 32

RESTART_BLOCKS = 100_000
RESTART_BLOCK_BYTES = 4096
RESTARTS = 5

WANTED_LOOKUP_MS = 1.0
WANTED_BYTES = 200.0
WANTED_RESTART_S = 2.0

OURS, PLAIN = "ours", "OrderedDict"

Keys = list[bytes]
Clock = Callable[[], float]


def new_keys(count: int) -> Keys:
    """Keys of blocks that nobody has seen."""
    drawn = secrets.token_bytes(count * KEY_BYTES)
    return [drawn[at : at + KEY_BYTES] for at in range(0, len(drawn), KEY_BYTES)]


def resident_bytes() -> int:
    """Memory that the process has now; proc(5), statm."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Ours:
    """Two tiers' indexes and the directory of both, full."""

    def __init__(self, prompts: Sequence[Keys], policy: Policy = Policy.LRU) -> None:
        blocks = sum(map(len, prompts))
        self.learner = Learner(ranks=True) if policy is Policy.CARBON else None
        self.directory = KeyDirectory()
        self.tiers = [TierIndex(blocks, policy, learner=self.learner) for _ in range(2)]
        self.now_s = 0.0
        for keys in prompts:
            self.store(keys)

    def match(self, keys: Keys) -> int:
        """Longest prefix in the second tier."""
        return self.tiers[1].match(self.directory.find(keys))

    def store(self, keys: Keys) -> None:
        """Reserve and commit new blocks in both."""
        self.now_s += 1.0
        ids = self.directory.intern(keys)
        for tier in self.tiers:
            tier.commit(tier.reserve(ids, self.now_s), self.now_s)

    def load(self, keys: Keys) -> None:
        """Lease a prefix in both, and release it."""
        self.now_s += 1.0
        ids = self.directory.find(keys)
        for tier in self.tiers:
            tier.release(tier.acquire(ids, self.now_s), self.now_s)

    def remember(self) -> None:
        """Store new blocks until so many are known as a cache knows before it forgets some."""
        most = int(IDS_PER_BLOCK * self.tiers[-1].capacity_blocks)
        while len(self.directory) < most:
            self.store(new_keys(min(PROMPT_BLOCKS, most - len(self.directory))))

    def bytes_by_part(self) -> dict[str, int]:
        """Bytes of all arrays; of the manifest, which is not here, what its arrays would take."""
        states = [tier.state for tier in self.tiers]
        return {
            "keys to ids": self.directory.nbytes,
            "ids to slots": sum(state.slot_of.nbytes for state in states),
            "slots": sum(state.slots.nbytes + state.heap.nbytes for state in states),
            "history": sum(state.history.nbytes for state in states),
            "reuse": 0 if self.learner is None else self.learner.model.seen.nbytes,
            "backed": sum(tier.capacity_blocks for tier in self.tiers),
            "manifest": BYTES_OF_SLOT * self.tiers[1].capacity_blocks,
        }


class Plain:
    """Two tiers, each an ``OrderedDict`` of keys to slots, the newest last."""

    def __init__(self, prompts: Sequence[Keys]) -> None:
        self.tiers: list[OrderedDict[bytes, int]] = [OrderedDict(), OrderedDict()]
        self.capacity_blocks = sum(map(len, prompts))
        for keys in prompts:
            self.store([bytes(bytearray(key)) for key in keys])  # a key of its own, as ours has

    def match(self, keys: Keys) -> int:
        """Longest prefix in the second tier."""
        tier = self.tiers[1]
        for found, key in enumerate(keys):
            if key not in tier:
                return found
        return len(keys)

    def store(self, keys: Keys) -> None:
        """Put new blocks into both, each in the slot of the oldest."""
        for tier in self.tiers:
            for key in keys:
                full = len(tier) >= self.capacity_blocks
                tier[key] = tier.popitem(last=False)[1] if full else len(tier)

    def load(self, keys: Keys) -> None:
        """Touch a prefix in both."""
        for tier in self.tiers:
            for key in keys:
                if key not in tier:
                    break
                tier.move_to_end(key)


def _percentiles(seconds: list[float], scale: float) -> dict[str, float]:
    p50, p99 = np.percentile(seconds, (50, 99)) * scale
    return {"p50": float(p50), "p99": float(p99)}


def _in_turns(
    works: Mapping[str, Callable[[Keys], object]], requests: list[Keys], clock: Clock
) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for keys in requests:
        for name, work in works.items():
            began_s = clock()
            work(keys)
            seconds[name].append(clock() - began_s)
    return seconds


def _time_lookups(
    sides: dict[str, Ours | Plain], prompts: list[Keys], clock: Clock
) -> list[dict[str, Any]]:
    """Prompts of which all blocks, the first half, or none are there."""
    rows = []
    drawn = np.random.default_rng(1)
    for there in (1.0, 0.5, 0.0):
        known = round(there * len(prompts[0]))
        requests = [
            prompts[place][:known] + new_keys(len(prompts[0]) - known)
            for place in drawn.integers(0, len(prompts), LOOKUPS)
        ]
        assert all(side.match(requests[0]) == known for side in sides.values())
        works = {name: side.match for name, side in sides.items()}
        seconds = _in_turns(works, requests, clock)
        rows.append(
            {
                "keys": len(prompts[0]),
                "there": known,
                "ms": {name: _percentiles(each, 1e3) for name, each in seconds.items()},
                "times_plain": float(np.median(seconds[PLAIN]) / np.median(seconds[OURS])),
            }
        )
    return rows


def _time_requests(
    sides: dict[str, Ours | Plain], prompts: list[Keys], clock: Clock
) -> list[dict[str, Any]]:
    """Storing and loading, in full tiers, so that each block stored evicts one from each."""
    rows = []
    drawn = np.random.default_rng(2)
    for blocks in (1, SHORT_BLOCKS, PROMPT_BLOCKS):
        some = drawn.integers(len(prompts) // 2, len(prompts), REQUESTS)
        work = {
            "find, acquire, release": ("load", [prompts[place][:blocks] for place in some]),
            "intern, reserve, commit": ("store", [new_keys(blocks) for _ in range(REQUESTS)]),
        }
        for what, (method, requests) in work.items():
            works = {name: getattr(side, method) for name, side in sides.items()}
            for run in works.values():
                run(requests[0])  # compiled before it is timed
            seconds = _in_turns(works, requests[1:], clock)
            us = {name: _percentiles(each, 1e6 / blocks) for name, each in seconds.items()}
            rows.append(
                {
                    "what": what,
                    "blocks": blocks,
                    "us_per_block": us,
                    "times_plain": us[PLAIN]["p50"] / us[OURS]["p50"],
                }
            )
    return rows


def _memory_row(what: str, blocks: int, parts: dict[str, int], grown: int) -> dict[str, Any]:
    each = {part: size / blocks for part, size in parts.items()}
    return {
        "what": what,
        "bytes_per_block": sum(each.values()),
        "parts": each,
        "resident_bytes_per_block": grown / blocks,
    }


def _measure_memory(prompts: list[Keys], blocks: int) -> list[dict[str, Any]]:
    rows = []
    for policy in (Policy.LRU, Policy.CARBON):
        before = resident_bytes()
        ours = Ours(prompts, policy)
        grown = resident_bytes() - before
        rows.append(_memory_row(f"two tiers, {policy}", blocks, ours.bytes_by_part(), grown))
        if policy is Policy.CARBON:
            ours.remember()
            grown = resident_bytes() - before
            what = f"two tiers, {policy}, {IDS_PER_BLOCK} blocks known for each"
            rows.append(_memory_row(what, blocks, ours.bytes_by_part(), grown))
        del ours
    return rows


async def _restart(folder: Path, blocks: int, clock: Clock) -> dict[str, Any]:
    """Fill a tier, then open it again and again with nothing of its files in the page cache."""

    def tier() -> SsdTier:
        capacity_bytes = round(blocks * RESTART_BLOCK_BYTES * 1.1) + 2**20
        return SsdTier(folder, RESTART_BLOCK_BYTES, capacity_bytes)

    prompts = [new_keys(min(100, blocks)) for _ in range(blocks // min(100, blocks))]
    content = np.frombuffer(secrets.token_bytes(len(prompts[0]) * RESTART_BLOCK_BYTES), np.uint8)
    async with tier() as written:
        for keys in prompts:
            reservation = await written.reserve(keys)
            await written.write(reservation, content.reshape(len(keys), -1))
            await written.commit(reservation)
    seconds = []
    for _ in range(RESTARTS):
        for path in folder.iterdir():
            file = os.open(path, os.O_RDONLY)
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(file)
        opened = tier()
        began_s = clock()
        await opened.open()
        seconds.append(clock() - began_s)
        found = sum([await opened.match(keys) for keys in prompts])
        await opened.close()
    return {
        "blocks": len(prompts) * len(prompts[0]),
        "found": found,
        "median_s": float(np.median(seconds)),
        "slowest_s": max(seconds),
        "filesystem": filesystem_of(folder),
    }


def measure(blocks: int, restart_blocks: int, folder: Path, clock: Clock) -> dict[str, Any]:
    """All that is measured; what ``--json`` writes."""
    length = min(PROMPT_BLOCKS, blocks)
    prompts = [new_keys(length) for _ in range(blocks // length)]
    blocks = len(prompts) * length
    asyncio.run(_restart(folder / "first", 1, clock))  # compiled before it is timed
    memory = _measure_memory(prompts, blocks)
    before = resident_bytes()
    plain = Plain(prompts)
    plain_bytes = (resident_bytes() - before) / blocks
    sides: dict[str, Ours | Plain] = {OURS: Ours(prompts), PLAIN: plain}
    return {
        "schema": "greencache.bench.control_plane/1",
        "blocks": blocks,
        "lookups": _time_lookups(sides, prompts, clock),
        "requests": _time_requests(sides, prompts, clock),
        "memory": memory,
        "plain_resident_bytes_per_block": plain_bytes,
        "restart": asyncio.run(_restart(folder / "restart", restart_blocks, clock)),
        "wanted": {
            "lookup_ms": WANTED_LOOKUP_MS,
            "bytes_per_block": WANTED_BYTES,
            "restart_s": WANTED_RESTART_S,
        },
    }


def _table(*headings: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for place, heading in enumerate(headings):
        table.add_column(heading, justify="right" if place else "left", no_wrap=True)
    return table


def _tables(result: dict[str, Any]) -> list[Table]:
    lookups = _table("prefix lookup", "ours ms p50 / p99", f"{PLAIN} ms p50 / p99", "times")
    for row in result["lookups"]:
        lookups.add_row(
            f"{row['keys']:,} keys, the first {row['there']:,} there",
            *(
                f"{row['ms'][side]['p50']:.3f} / {row['ms'][side]['p99']:.3f}"
                for side in (OURS, PLAIN)
            ),
            f"{row['times_plain']:.2f}",
        )
    requests = _table(
        "a request in two full tiers", "blocks", "ours us a block p50 / p99", f"{PLAIN}", "times"
    )
    for row in result["requests"]:
        us = row["us_per_block"]
        requests.add_row(
            row["what"],
            f"{row['blocks']:,}",
            *(f"{us[side]['p50']:.2f} / {us[side]['p99']:.2f}" for side in (OURS, PLAIN)),
            f"{row['times_plain']:.2f}",
        )
    parts = list(result["memory"][0]["parts"])
    memory = _table(f"bytes a block, {result['blocks']:,} blocks", *parts, "in all", "resident")
    for row in result["memory"]:
        memory.add_row(
            row["what"],
            *(f"{row['parts'][part]:.0f}" for part in parts),
            f"{row['bytes_per_block']:.0f}",
            f"{row['resident_bytes_per_block']:.0f}",
        )
    plain = f"{result['plain_resident_bytes_per_block']:.0f}"
    memory.add_row(f"two {PLAIN}s", *[""] * len(parts), "", plain)
    return [lookups, requests, memory]


def main(
    blocks: Annotated[int, typer.Option(min=1, help="Blocks in each of two tiers.")] = BLOCKS,
    restart: Annotated[
        int, typer.Option(min=1, help="Blocks of the SSD tier that is restarted.")
    ] = RESTART_BLOCKS,
    dir: Annotated[Path | None, typer.Option(help="Where the SSD tier's files go.")] = None,
    json: Annotated[
        Path | None, typer.Option(help="Write the result as JSON to this file.")
    ] = None,
    png: Annotated[Path | None, typer.Option(help="Draw the result into this file.")] = None,
) -> None:
    """Time lookups, requests and a restart, and weigh the index, beside OrderedDicts."""
    check_outputs(json, png)
    console = Console(highlight=False, width=None if Console().is_terminal else WIDE)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=dir)))
        result = measure(blocks, restart, folder, time.perf_counter)
    for table in _tables(result):
        console.print(table, end="\n\n")
    restarted = result["restart"]
    console.print(
        f"restart of an SSD tier with {restarted['blocks']:,} blocks on "
        f"{restarted['filesystem']}: {restarted['median_s']:.2f} s, the slowest of {RESTARTS} "
        f"{restarted['slowest_s']:.2f} s; {restarted['found']:,} blocks found"
    )
    console.print(
        f"wanted: lookups of 1,000 keys in {WANTED_LOOKUP_MS:g} ms, {WANTED_BYTES:g} bytes a block,"
        f" a restart in {WANTED_RESTART_S:g} s"
    )
    if json is not None:
        write_json(json, result)
    if png is not None:
        from greencache.bench.tiers_chart import control_plane_picture

        write_output(png, control_plane_picture(result))


if __name__ == "__main__":
    typer.run(main)
