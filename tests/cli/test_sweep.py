"""``greencache sweep`` as users meet it: killed, run again, given bad input."""

from __future__ import annotations

import dataclasses
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from greencache.bench.sweep import run_sweep
from greencache.bench.sweep_chart import summary_picture
from greencache.bench.sweep_jobs import jobs_of, run_job
from greencache.bench.sweep_parts import parquet_bytes
from greencache.bench.sweep_spec import read_spec
from greencache.settings import load_settings
from tests.cli.test_commands import LINE, greencache

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "sweep.toml"
SPEC = """
[replay]
trace = "trace.jsonl"
plans = "hbm-only,full,best-static"
admission = "all"

[axes]
policy = ["lru", "lfu", "gdsf", "sieve", "lcs"]
grid = ["FR", "PL"]
"""
JOBS = 5


@pytest.fixture(autouse=True)
def _in_a_folder_with_a_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "trace.jsonl").write_text("".join(LINE % (i * 1000, i) for i in range(150)))
    (tmp_path / "spec.toml").write_text(SPEC)
    monkeypatch.chdir(tmp_path)


def wait_until(true: Callable[[], Any]) -> None:
    deadline_s = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline_s
        time.sleep(0.002)


def parts(folder: str) -> set[Path]:
    return set(Path(folder, "parts").glob("*.parquet"))


def workers_of(process: int) -> list[int]:
    """Processes that a sweep started to work for it, all but Python's own tracker."""
    children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    lines = {int(child): Path(f"/proc/{child}/cmdline").read_bytes() for child in children}
    return [child for child, line in lines.items() if b"spawn_main" in line]


def runs(process: int) -> bool:
    """Whether a process is there and has not ended."""
    try:
        return ") Z" not in Path(f"/proc/{process}/stat").read_text()
    except FileNotFoundError:
        return False


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds processes as Linux does")
def test_a_sweep_that_was_killed_goes_on_where_it_was(capsys: pytest.CaptureFixture[str]) -> None:
    command = [sys.executable, "-m", "greencache", "sweep", "spec.toml", "--out=killed", "--jobs=1"]
    with subprocess.Popen(command) as sweep:
        wait_until(lambda: parts("killed"))
        workers = workers_of(sweep.pid)
        sweep.send_signal(signal.SIGKILL)
    kept = len(parts("killed"))
    assert 0 < kept < JOBS
    assert len(workers) == 1
    wait_until(lambda: not any(map(runs, workers)))

    assert greencache("sweep", "spec.toml", "--out=killed", "--jobs=1") == 0
    said = capsys.readouterr()
    assert f"{kept} of {JOBS} jobs were there already" in said.err

    unbroken = run_sweep(
        read_spec(Path("spec.toml")),
        load_settings(),
        Path("unbroken"),
        lambda jobs: ((job, run_job(job)) for job in jobs),
    )
    assert unbroken.jobs_found == 0
    assert Path("killed/results.parquet").read_bytes() == parquet_bytes(unbroken.table)
    assert Path("killed/summary.png").read_bytes() == summary_picture(unbroken)
    table = pq.read_table("killed/results.parquet")
    assert table.num_rows == 2 * JOBS * 3
    assert table["grid"].to_pylist()[:6] == ["FR"] * 3 + ["PL"] * 3


def test_it_is_said_how_many_jobs_the_example_is(capsys: pytest.CaptureFixture[str]) -> None:
    scenarios = [cell.scenario for cell in read_spec(EXAMPLE).cells()]
    writing_all = [dataclasses.replace(each, admission="all") for each in scenarios]
    counts = [len(jobs_of(each, load_settings())) for each in (scenarios, writing_all)]
    assert counts == [10, 2]
    document = " ".join((EXAMPLE.parents[1] / "sweep.md").read_text().split())
    assert "the twelve above are ten jobs" in document
    assert 'With `admission = "all"` the grid plays no part, and they are two.' in document
    assert greencache("sweep", "--help") == 0
    assert "these 12 are ten jobs" in " ".join(capsys.readouterr().out.split())


@pytest.mark.slow
def test_the_example_that_ships_runs_as_it_stands(capsys: pytest.CaptureFixture[str]) -> None:
    assert greencache("sweep", EXAMPLE, "--json=-", "--jobs=2") == 0
    result = json.loads(capsys.readouterr().out)
    assert result["schema"] == "greencache.sweep/1"
    rows = result["rows"]
    assert len(rows) == 2 * 2 * 3 * 3
    assert all(row["valid"] for row in rows)
    cheapest = {
        (row["grid"], row["factors.ssd_kg_per_tb"])
        for row in rows
        if row["plan"] == "static:64GiB+1TB" and row["saving_vs_hbm_only"] > 0
    }
    assert cheapest == {("PL", 3.9)}, "as docs/sweep.md says"
    assert pq.read_table("sweep.results/results.parquet").to_pylist() == rows
    assert Path("sweep.results/summary.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("spec", "arguments", "status", "complaint"),
    [
        ("[axes]\ngrid = 3\n", [], 2, "spec.toml: [axes] grid is not a list"),
        ("[axes]\ngrid = [\n", [], 2, "spec.toml"),
        ("[axes]\ngrid = ['X']\n", ["--jobs=0"], 2, "--jobs is at least 1"),
        ("[axes]\ngrid = ['X']\n", ["--jobs=1", "--dask=tcp://x:1"], 2, "not both"),
        ("[axes]\ngrid = ['X']\n", ["--json=spec.toml"], 2, "spec.toml is named twice"),
        ("[axes]\ngrid = ['X']\n", ["--json=none/x.json"], 1, "cannot write none/x.json"),
        ("[axes]\ngrid = ['FR']\n", ["--out=trace.jsonl"], 1, "trace.jsonl"),
    ],
)
def test_bad_sweeps_are_one_clear_line(
    spec: str,
    arguments: list[str],
    status: int,
    complaint: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("spec.toml").write_text(spec)
    assert greencache("sweep", "spec.toml", *arguments) == status
    out = capsys.readouterr()
    assert out.out == ""
    assert out.err.startswith("error: ")
    assert complaint in out.err
    assert out.err.count("\n") == 1
    assert not Path("spec.results").exists()
