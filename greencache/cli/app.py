"""The commands. Everything heavy is imported by the command that needs it."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from greencache.cli.daemon import add_commands
from greencache.errors import GreenCacheError, InputError
from greencache.version import VERSION

__all__ = ["app", "main"]

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="""Carbon-aware KV-cache storage for LLM serving.

    Every option that has a setting can be given as a variable GREENCACHE_... instead;
    'greencache settings' lists them.""",
)


_TRACE = typer.Argument(
    help="Request trace: a file, - for standard input, or one that ships: mooncake-conversation, "
    "azure-2023-code, agentic-sessions. Text may be gzipped. Default: mooncake-conversation, an "
    "hour of production chat."
)
_FORMAT = typer.Option(
    "--format",
    help="Format of the trace: agentic, azure, bailian, burstgpt, columns, lmcache or mooncake. "
    "Default: recognised by its content.",
)
_BLOCK_TOKENS = typer.Option(
    "--block-tokens",
    help="Read the trace in blocks of this many tokens, a multiple of its own (mooncake 512, "
    "agentic 64, bailian 16); any size for azure and burstgpt, which name no blocks. Fewer, larger "
    "blocks are faster and share a little less.",
)
_SKIP_BAD = typer.Option("--skip-bad", help="Skip malformed lines of the trace and count them.")
_JSON = typer.Option("--json", help="Write the result as JSON to this file; - for standard output.")


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"greencache {VERSION}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version.", callback=_version, is_eager=True),
    ] = False,
) -> None:
    pass


@app.command()
def replay(
    trace: Annotated[Path | None, _TRACE] = None,
    format: Annotated[str | None, _FORMAT] = None,
    block_tokens: Annotated[int | None, _BLOCK_TOKENS] = None,
    plans: Annotated[
        str,
        typer.Option(
            help="Plans to compare: none, hbm-only, full, best-static, static:SSD (with all the "
            "DRAM), static:DRAM+SSD (static:4TB, static:64GiB+4TB), greencache (the controller "
            "sizes the tiers as it goes) or oracle (in hindsight, with perfect forecasts)."
        ),
    ] = "none,hbm-only,full,best-static",
    policy: Annotated[
        str | None,
        typer.Option(help="Eviction policy: lru, lfu, gdsf, sieve, lcs or carbon; default lru."),
    ] = None,
    admission: Annotated[
        str | None,
        typer.Option(
            help="What is stored on SSD: value, what is worth the wear of writing it, or all; "
            "default value."
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="Model served: llama-3-8b, llama-3-70b, llama-3.1-8b, llama-3.1-70b; "
            "default llama-3.1-8b.",
        ),
    ] = None,
    hardware: Annotated[
        str | None,
        typer.Option(
            help="1, 2, 4 or 8 GPUs of one host with tensor parallelism: T4, L4, L40, "
            "A6000, RTX6000Ada, A100, H100, H200; default 4xH100.",
        ),
    ] = None,
    weight_dtype: Annotated[
        str | None,
        typer.Option(help="Type of the weights: bf16, fp16, fp8, int8, int4, fp32; default fp8."),
    ] = None,
    kv_dtype: Annotated[
        str | None, typer.Option(help="Type of the KV, likewise; default bf16.")
    ] = None,
    dram: Annotated[str | None, typer.Option(help="Host DRAM for KV; default 512GiB.")] = None,
    ssd: Annotated[str | None, typer.Option(help="SSD for KV; default 16TB.")] = None,
    dram_step: Annotated[
        str | None,
        typer.Option(help="Plans that choose a size try multiples of this; default shares of it."),
    ] = None,
    ssd_step: Annotated[
        str | None, typer.Option(help="The same for SSD, as 1TB.", show_default=False)
    ] = None,
    ssd_kg_per_tb: Annotated[
        float | None,
        typer.Option(help="Embodied carbon of SSD; default 17.3, published 3.9 to 160."),
    ] = None,
    grid: Annotated[
        str | None,
        typer.Option(
            help="Grid zone that ships with GreenCache (FR, DE, PL, SE-SE3, PJM, ...), "
            "or an hourly CSV as FILE[:ZONE]; default CISO.",
        ),
    ] = None,
    grid_start: Annotated[
        str | None,
        typer.Option(
            help="Hour of the grid's series at which the trace begins, e.g. "
            "2021-06-01T17:00Z; default its first.",
        ),
    ] = None,
    workload: Annotated[
        str | None,
        typer.Option(
            help="Instead of a trace: compose a stream of days from recorded sessions of "
            "conversation, document or agentic use."
        ),
    ] = None,
    load: Annotated[
        str | None,
        typer.Option(
            help="Shape of a workload's load: m-large, deepseek-r1, azure-2023-code, "
            "mooncake-conversation, flat, or a CSV as FILE[:SERIES]; default m-large.",
        ),
    ] = None,
    load_fraction: Annotated[
        float | None,
        typer.Option(
            help="Load of the busiest hour, as a fraction of the rate above which the engine "
            "cannot keep up with all tiers in use; default 0.6 for a workload."
        ),
    ] = None,
    mean_rate: Annotated[
        float | None,
        typer.Option(help="Requests a second on average, over all replicas."),
    ] = None,
    hours: Annotated[
        float | None, typer.Option(help="Length of a workload's measured part; default 24.")
    ] = None,
    warmup_hours: Annotated[
        float | None,
        typer.Option(
            help="How long a workload fills the caches before measuring begins; default as long "
            "as the largest tier needs to fill, at most 24."
        ),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="The same seed composes the same stream; default 0.")
    ] = None,
    replicas: Annotated[
        int,
        typer.Option(
            help="Engines that share the requests, each with such GPUs, DRAM and SSD; a request "
            "goes where it is expected to cost the least time."
        ),
    ] = 1,
    warmup: Annotated[
        str | None,
        typer.Option(
            help="How long a trace's requests fill the caches before measuring begins, e.g. 10min; "
            "rounded down to whole minutes. Default: a sixth of the trace."
        ),
    ] = None,
    slo_ttft: Annotated[str | None, typer.Option(help="Promised TTFT; default 2s.")] = None,
    slo_tpot: Annotated[str | None, typer.Option(help="Promised TPOT; default 200ms.")] = None,
    scope: Annotated[
        str | None,
        typer.Option(
            help="Embodied carbon of what is allocated (attributable, default) or "
            "installed (provisioned).",
        ),
    ] = None,
    skip_bad: Annotated[bool, _SKIP_BAD] = False,
    sensitivity: Annotated[
        bool,
        typer.Option(
            "--sensitivity",
            help="Also say how the result moves over the published range of each carbon and "
            "power factor, and between the scopes. Takes about ten times as long.",
        ),
    ] = False,
    live: Annotated[
        bool,
        typer.Option(
            "--live",
            help="Also play each plan with DRAM or SSD against the real store on this machine, "
            "with smaller blocks, check every byte, and compare every hit with the simulated one.",
        ),
    ] = False,
    live_block: Annotated[
        str, typer.Option(help="Bytes of a block there; tiers have as many blocks as simulated.")
    ] = "64KiB",
    live_dir: Annotated[
        Path | None,
        typer.Option(help="Folder for what is on SSD there; default the one for temporary files."),
    ] = None,
    json: Annotated[Path | None, _JSON] = None,
    html: Annotated[
        Path | None, typer.Option(help="Write a report with plots to this file.")
    ] = None,
    png: Annotated[Path | None, typer.Option(help="Write the main plots to this picture.")] = None,
) -> None:
    """Replay a request trace under several storage plans, with latency and carbon.

    Simulates an inference engine with continuous batching, its prefix cache in HBM and KV tiers in
    DRAM and SSD, and accounts energy and carbon on a real grid. Without arguments it replays an
    hour of production chat.

    For example:

      greencache replay

      greencache replay --grid FR --grid-start 2022-07-01T00:00Z --html report.html

      greencache replay my.jsonl.gz --model llama-3.1-70b --hardware 8xH100 --plans hbm-only,full

      greencache replay --workload conversation --load m-large --load-fraction 0.6 --hours 24

      greencache replay --plans full --live
    """
    options = locals()
    outputs = {name: options.pop(name) for name in ("sensitivity", "json", "html", "png")}
    wanted = {name: options.pop(name) for name in ("live", "live_block", "live_dir")}
    from greencache.bench.scenario import Scenario
    from greencache.cli import replay as command

    real = command.Live(wanted["live_block"], wanted["live_dir"]) if wanted["live"] else None
    command.run(Scenario(**options), command.Outputs(**outputs, live=real))


@app.command()
def curve(
    trace: Annotated[Path | None, _TRACE] = None,
    format: Annotated[str | None, _FORMAT] = None,
    block_tokens: Annotated[int | None, _BLOCK_TOKENS] = None,
    policy: Annotated[
        str,
        typer.Option(
            help="Eviction policies, separated by commas: lru, lfu, gdsf, sieve, lcs; or opt, the "
            "most that any policy can hit. It knows the future, so replay does not have it."
        ),
    ] = "lru",
    capacities: Annotated[
        str | None,
        typer.Option(
            help="Capacities, separated by commas: in blocks, or with --model in bytes "
            "(64GiB,1TB). Default: halving from the whole trace."
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Model whose KV blocks give the capacities in bytes.")
    ] = None,
    kv_dtype: Annotated[
        str | None, typer.Option(help="Type of the model's KV; default bf16.")
    ] = None,
    sample: Annotated[
        str | None,
        typer.Option(
            help="Follow only some blocks, of lru: at most so many (10000), or a share (1%). "
            "Rates then come with an interval.",
        ),
    ] = None,
    skip_bad: Annotated[bool, _SKIP_BAD] = False,
    json: Annotated[Path | None, _JSON] = None,
    png: Annotated[Path | None, typer.Option(help="Plot the curve to this picture.")] = None,
) -> None:
    """Hit rate over cache capacity.

    Storing takes no time here: a block is there for the next request. For lru, blocks are counted
    in the order of the trace, as cache simulators do (hit_blocks), and by leading prefix of full
    blocks, as an engine can use them (hit_rate_tokens). The other policies count by prefix.

    For example:

      greencache curve --policy lru,lfu,opt --model llama-3.1-70b --png curve.png

      greencache curve my.jsonl.gz --sample 10000
    """
    options = locals()
    from greencache.cli import curve as command

    command.run(command.Options(**options))


@app.command()
def trace(
    trace: Annotated[Path | None, _TRACE] = None,
    format: Annotated[str | None, _FORMAT] = None,
    block_tokens: Annotated[int | None, _BLOCK_TOKENS] = None,
    skip_bad: Annotated[bool, _SKIP_BAD] = False,
    json: Annotated[Path | None, _JSON] = None,
    parquet: Annotated[
        Path | None,
        typer.Option(
            help="Convert the trace to our Parquet columns in this file, which are read several "
            "times faster; memory does not grow with the trace while converting."
        ),
    ] = None,
) -> None:
    """Say what a trace is: rates, lengths, reuse of blocks, sessions; convert it.

    The share of prompt tokens in blocks seen before is the most that any cache could save; the time
    between two uses of a block says how long it must be kept for that.

    For example:

      greencache trace

      greencache trace BurstGPT_3.csv --skip-bad

      greencache trace qwen_traceB_blksz_16.jsonl --block-tokens 256 --parquet traceB.parquet

      cat lookup_hashes_*.jsonl | greencache trace -
    """
    options = locals()
    from greencache.cli import trace as command

    command.run(command.Options(**options))


@app.command()
def sweep(
    spec: Annotated[
        Path, typer.Argument(help="TOML file of what to replay and of the axes to vary.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the results, made if it is not there. Default: the file's name with "
            ".results, in this folder."
        ),
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option(help="Processes on this machine; default one for each processor."),
    ] = None,
    dask: Annotated[
        str | None,
        typer.Option(
            help="Run on the Dask cluster whose scheduler is at this address, e.g. "
            "tcp://10.0.0.1:8786, instead of on this machine."
        ),
    ] = None,
    json: Annotated[Path | None, _JSON] = None,
) -> None:
    """Replay every combination of some axes, in parallel.

    The file says under [replay] what all replays have and under [axes] what to vary, by the names
    of the options of 'greencache replay' with underscores, and carbon factors as factors.NAME. For
    example, 12 replays:

    \b
      [replay]
      plans = "hbm-only,full"
      hardware = "4xH100"

    \b
      [axes]
      policy = ["lru", "lcs"]
      grid = ["FR", "PL"]
      factors.ssd_kg_per_tb = [3.9, 17.3, 160]

    Replays that differ only in scope, or in a grid and carbon factors by which as much is written
    to SSD, are one job, simulated once: these 12 are ten jobs, and two with admission = "all".

    Every job is kept in the folder as soon as it is finished. The same command again runs only what
    is missing, or what other code, settings or files would change. The folder then has
    results.parquet, a row for each plan of each replay, and summary.png.

    For example:

      greencache sweep sweep.toml

      greencache sweep sweep.toml --out results --jobs 8 --json all.json

      greencache sweep sweep.toml --dask tcp://10.0.0.1:8786
    """
    options = locals()
    from greencache.cli import sweep as command

    command.run(command.Options(**options))


@app.command()
def settings(json: Annotated[Path | None, _JSON] = None) -> None:
    """List every setting with its variable, its value and where that is from."""
    from greencache.cli import settings as command

    command.run(json)


add_commands(app)


def _drop_unprintable() -> None:
    """Drop what cannot be printed any more, or Python complains of it once more at exit."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def main() -> None:
    """Exit 0 done, 1 failed, 2 wrong usage or input."""
    try:
        app(prog_name="greencache")
    except InputError as fault:
        print(f"error: {fault}", file=sys.stderr)
        sys.exit(2)
    except GreenCacheError as fault:
        _drop_unprintable()
        print(f"error: {fault}", file=sys.stderr)
        sys.exit(1)
    except MemoryError:
        print("error: not enough memory; replay less, or in larger --block-tokens", file=sys.stderr)
        sys.exit(1)
    except OSError as fault:
        _drop_unprintable()
        if not isinstance(fault, BrokenPipeError):
            what = fault.filename or "cannot write standard output"  # which has no name
            print(f"error: {what}: {fault.strerror}", file=sys.stderr)
        sys.exit(1)
