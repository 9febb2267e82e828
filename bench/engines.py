"""Time to the first token, and throughput, of vLLM with and without GreenCache on this machine.

``python -m greencache.bench.engines --vllm .venv-vllm/bin/python [--json F]``

Engines with a tiny random model stand side by side and take turns, so that all of them meet the
same machine. TTFT is the time of a request for one token: of a prompt that nobody has
(*recompute*), and of one that the store has and the engine has forgotten (*full hit*). Throughput
is tokens per second over prompts of which nothing is stored, so that storing them is all that the
store does, and what it does from the first time on that its memory is full.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from greencache.bench.vllm_engine import Engine, EngineError, connector, make_model
from greencache.client import Client
from greencache.errors import UnavailableError
from greencache.output import check_outputs, write_json
from greencache.quantities import write_bytes

__all__ = ["main"]

LENGTHS = (2048, 8192)
NONE, OURS = "no connector", "GreenCache"
OTHERS = {
    "OffloadingConnector": {"cpu_bytes_to_use": 1 << 30},
    "SimpleCPUOffloadConnector": {"cpu_bytes_to_use": 1 << 30},
}
"""vLLM's own tiers in host memory, and how large they are."""

PROMPTS, PROMPT_TOKENS, OUTPUT_TOKENS = 24, 1024, 16
"""Of a turn of the throughput part."""

STORE_BYTES = 512 * 2**20
WARM_TURNS = 4
"""In which the store's memory has been filled once: what is measured later evicts, as it does in
all of an engine's life but the first minutes, and meets no memory that nobody has touched."""

_QUIET_S = 2.0
"""Before an engine's turn: for a second after their last step, vLLM's processes look for the next
one without sleeping (``busy_loop_s`` of its ``SpinCondition``), on the processors that the next
engine computes on."""

_ALLOCATOR = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(8 * 2**30)}
"""glibc gives large tensors back to the system when they are freed, or does not, as it happens: an
engine met from 9 to 240 thousand page faults a turn, and was up to 1.4 times as fast. Here it keeps
them."""

_START_S = 120.0


def _everywhere() -> dict[str, str]:
    """What all engines are started with, beside their connectors.

    The last processor is left to their schedulers, as vLLM does by itself (and leaves another one
    to connectors): one that computes spins, and a scheduler that has none waits for its time slice.
    """
    cores = sorted(os.sched_getaffinity(0))
    computing = cores[:-1] or cores
    return {**_ALLOCATOR, "VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, computing))}


def _arguments(model: Path) -> dict[str, object]:
    return {
        "model": str(model),
        "dtype": "float32",
        "enforce_eager": True,
        "max_model_len": 8704,
        "max_num_seqs": 16,
        "max_num_batched_tokens": 8704,
        "prefix_caching_hash_algo": "sha256_cbor",
    }


class _Sides:
    """Engines that run, by name; and why others do not."""

    def __init__(self, stack: ExitStack, python: Path, folder: Path, others: bool) -> None:
        self.engines: dict[str, Engine] = {}
        self.missing: dict[str, str] = {}
        self._stack, self._python, self._folder = stack, python, folder
        self._model = make_model(python, folder / "model", 0)
        socket = _daemon(stack, folder)
        self._start(NONE, {})
        ours: dict[str, object] = {"kv_transfer_config": connector()}
        self._start(OURS, ours, {"GREENCACHE_SERVE__SOCKET": str(socket)})
        for name, extra in OTHERS.items() if others else ():
            transfer = {
                "kv_connector": name,
                "kv_role": "kv_both",
                "kv_connector_extra_config": extra,
            }
            try:
                self._start(name, {"kv_transfer_config": transfer})
            except EngineError:
                self.missing[name] = _reason((self._folder / f"{name}.log").read_text())

    def _start(
        self, name: str, more: dict[str, object], environment: dict[str, str] | None = None
    ) -> None:
        engine = Engine(
            self._python,
            self._folder / f"{name}.log",
            {**_everywhere(), **(environment or {})},
            **{**_arguments(self._model), **more},
        )
        self.engines[name] = self._stack.enter_context(engine)


def _reason(text: str) -> str:
    """The first exception in a log."""
    lines = [line for line in text.splitlines() if "Error: " in line]
    return lines[0].split("] ")[-1].strip() if lines else "see its log"


def _daemon(stack: ExitStack, folder: Path) -> Path:
    """Start one with DRAM alone; its socket."""
    socket = folder / "store" / "daemon.sock"
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "greencache",
            "serve",
            "--socket",
            socket,
            "--dram",
            write_bytes(STORE_BYTES),
        ],
        env={**os.environ, "GREENCACHE_SERVE__METRICS": "false"},
        stderr=subprocess.DEVNULL,
    )
    stack.callback(process.wait)
    stack.callback(process.terminate)
    end_s = time.monotonic() + _START_S
    while True:
        with Client(4096, socket=socket) as client:
            try:
                client.status()
            except UnavailableError:
                if process.poll() is not None or time.monotonic() > end_s:
                    raise
                time.sleep(0.1)
            else:
                return socket


def _prompt(rng: random.Random, tokens: int) -> list[int]:
    return [rng.randrange(260, 1000) for _ in range(tokens)]


def _ttft(sides: _Sides, tokens: int, rounds: int) -> dict[str, Any]:
    """Seconds of each side and kind, turn by turn."""
    rng = random.Random(tokens)
    times: dict[str, list[float]] = {}
    cached: dict[str, int] = {}
    for turn in range(rounds + 1):
        for name, engine in sides.engines.items():
            prompt = _prompt(rng, tokens)
            time.sleep(_QUIET_S)
            first = engine.generate([prompt], max_tokens=1)
            spent = {f"{name}, recompute": first["seconds"]}
            if name != NONE:
                time.sleep(0.5)  # it is stored beside
                engine.ask(do="reset")
                again = engine.generate([prompt], max_tokens=1)
                assert again["tokens"] == first["tokens"], f"{name} says something else from a hit"
                spent[f"{name}, full hit"] = again["seconds"]
                cached[name] = again["cached"][0]
            for kind, seconds in spent.items() if turn else ():  # the first turn warms
                times.setdefault(kind, []).append(seconds)
            engine.ask(do="reset")
    base = median(times[f"{NONE}, recompute"])
    return {
        "prompt_tokens": tokens,
        "cached_tokens": cached,
        "seconds": times,
        "median_s": {kind: median(each) for kind, each in times.items()},
        "of_recompute": {kind: median(each) / base for kind, each in times.items()},
    }


def _throughput(sides: _Sides, rounds: int) -> dict[str, Any]:
    """Tokens per second on prompts that nobody has, turn by turn."""
    rng = random.Random(1)
    rates: dict[str, list[float]] = {NONE: [], OURS: []}
    for turn in range(WARM_TURNS + rounds):
        order = [NONE, OURS] if turn % 2 else [OURS, NONE]
        for name in order:
            engine = sides.engines[name]
            prompts = [_prompt(rng, PROMPT_TOKENS) for _ in range(PROMPTS)]
            time.sleep(_QUIET_S)
            done = engine.generate(prompts, max_tokens=OUTPUT_TOKENS)
            assert not any(done["cached"])
            if turn >= WARM_TURNS:
                rates[name].append(PROMPTS * (PROMPT_TOKENS + OUTPUT_TOKENS) / done["seconds"])
            engine.ask(do="reset")
    ratios = [ours / none for ours, none in zip(rates[OURS], rates[NONE], strict=True)]
    return {"tokens_per_s": rates, "ratios": ratios, "median_ratio": median(ratios)}


def _tables(result: dict[str, Any], console: Console) -> None:
    for part in result["ttft"]:
        table = Table("", "TTFT, ms", "of recompute", "tokens found")
        for kind, seconds in part["median_s"].items():
            found = part["cached_tokens"].get(kind.split(",")[0], "") if "hit" in kind else ""
            ratio = part["of_recompute"][kind]
            table.add_row(kind, f"{seconds * 1e3:.0f}", f"{ratio:.2f}", str(found))
        console.print(f"prompts of {part['prompt_tokens']:,} tokens")
        console.print(table)
    for name, why in result["missing"].items():
        console.print(f"{name} does not run here: {why}")
    if rates := result["throughput"]:
        for name, values in rates["tokens_per_s"].items():
            console.print(f"misses, {name}: {median(values):,.0f} tokens/s")
        console.print(f"misses, median of ratios: {rates['median_ratio']:.3f}")


def main(
    vllm: Annotated[Path, typer.Option(help="A Python that has vLLM: see `make vllm-env`.")] = Path(
        ".venv-vllm/bin/python"
    ),
    rounds: Annotated[int, typer.Option(min=1, help="Turns of every side.")] = 6,
    others: Annotated[bool, typer.Option(help="vLLM's own offloading, too, where it runs.")] = True,
    throughput: Annotated[bool, typer.Option(help="The throughput part, too.")] = True,
    json: Annotated[
        Path | None, typer.Option(help="Write the result as JSON to this file.")
    ] = None,
) -> None:
    """Time vLLM with and without GreenCache, side by side."""
    check_outputs(json)
    console = Console(highlight=False)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        sides = _Sides(stack, vllm.absolute(), folder, others)
        result = {
            "schema": "greencache.bench.engines/1",
            "cores": sorted(os.sched_getaffinity(0)),
            "environment": _everywhere(),
            "ttft": [_ttft(sides, tokens, rounds) for tokens in LENGTHS],
            "throughput": _throughput(sides, rounds) if throughput else None,
            "missing": sides.missing,
        }
    _tables(result, console)
    if json is not None:
        write_json(json, result)


if __name__ == "__main__":
    typer.run(main)
