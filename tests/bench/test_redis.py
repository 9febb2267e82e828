"""The bench of the Redis tier: real servers, real bytes; who cannot take part says so."""

from __future__ import annotations

import json
from pathlib import Path

from rich.console import Console
from typer import Typer
from typer.testing import CliRunner

from greencache.bench import redis as redis_bench
from greencache.bench.redis import OURS, measure
from greencache.bench.tier_rounds import Case

KIB = 2**10


def test_sides_store_and_read_what_they_are_timed_for() -> None:
    case = Case("redis", block_bytes=128 * KIB, blocks=3, batches=2, depth=2)
    (found,) = measure([case], 2, None, Console(quiet=True), redis_py=True)["cases"]
    sides = found["sides"]
    for name in (OURS, "redis-py, asyncio"):
        assert sides[name]["timed_gets"] == 4
        assert sides[name]["put_gb_per_s"] > 0 < sides[name]["get_gb_per_s"]
    assert sides[OURS]["times"]["redis-py, asyncio"]["get"] > 0
    assert "make lmcache-env" in sides["LMCache resp://"]["missing"]


def test_it_is_run_from_a_shell(tmp_path: Path) -> None:
    app = Typer()
    app.command()(redis_bench.main)
    file = tmp_path / "result.json"
    options = ["--block", "64KiB", "--batch", "128KiB", "--rounds", "1", "--json", str(file)]
    result = CliRunner().invoke(app, options)
    assert result.exit_code == 0, result.output
    assert OURS in result.output
    assert json.loads(file.read_text())["cases"][0]["block_bytes"] == 64 * KIB
