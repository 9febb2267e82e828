"""Sweeps: every cell as if it were replayed alone, whatever is shared, kept or run elsewhere."""

from __future__ import annotations

import dataclasses
import multiprocessing
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from greencache.bench.replay import run_replay
from greencache.bench.scenario import build
from greencache.bench.sweep import SweepResult, run_sweep, sweep_as_json
from greencache.bench.sweep_chart import summary_picture
from greencache.bench.sweep_jobs import Job, jobs_of, run_job
from greencache.bench.sweep_parts import parquet_bytes
from greencache.bench.sweep_rows import COLUMNS, rows_of
from greencache.bench.sweep_runners import JobResults, run_locally, run_on_dask
from greencache.bench.sweep_spec import read_spec
from greencache.bench.sweep_table import MOST_LINES, sweep_table
from greencache.errors import InputError, OutputError, SweepError
from greencache.settings import load_settings

LINE = '{"timestamp": %d, "input_length": 1100, "output_length": 5, "hash_ids": [%d, %d, %d]}\n'
GRID = "zone,utc_hour,gco2_per_kwh,kind\n" + "".join(
    f"HOME,2024-01-01T{hour:02d}:00:00Z,{50 + hour},direct\n" for hour in range(9)
)


def trace_lines(requests: int) -> str:
    """Requests that share prefixes of one of five users."""
    return "".join(
        LINE % (i * 1000, 10 * (i % 5), 10 * (i % 5) + 1, 100 + i) for i in range(requests)
    )


@pytest.fixture(autouse=True)
def _in_a_folder_with_inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "trace.jsonl").write_text(trace_lines(120))
    (tmp_path / "grid.csv").write_text(GRID)
    monkeypatch.chdir(tmp_path)


def run_here(jobs: Sequence[Job]) -> JobResults:
    """In this process, last first: results must not depend on the order in which jobs end."""
    for job in reversed(jobs):
        yield job, run_job(job)


BY_VALUE = "[replay]\nplans = 'hbm-only,full'\ntrace = 'trace.jsonl'\nwarmup = '0'\n"
REPLAY = BY_VALUE + "admission = 'all'\n"
AXES = """
[axes]
ssd = ["1TB", "4TB"]
grid = ["FR", "grid.csv:HOME"]
scope = ["attributable", "provisioned"]
factors.ssd_kg_per_tb = [3.9, 160]
"""


def sweep(text: str = REPLAY + AXES, folder: str = "out", run: Any = run_here) -> SweepResult:
    Path("spec.toml").write_text(text)
    return run_sweep(read_spec(Path("spec.toml")), load_settings(), Path(folder), run)


def rows(result: SweepResult) -> list[dict[str, Any]]:
    table: list[dict[str, Any]] = result.table.to_pylist()
    return table


@pytest.mark.slow
def test_cells_that_share_a_simulation_are_as_if_replayed_alone() -> None:
    more = (
        'grid_start = ["2022-01-01T05:00Z", "2024-01-01T02:00Z"]\nfactors.gpu_tdp_w = [600, 700]\n'
    )
    result = sweep(REPLAY + AXES + more)
    assert (len(result.spec), result.jobs) == (64, 4), "grid, scope and one factor are shared"
    expected = []
    for cell in result.spec.cells():
        said = dict(zip(result.spec.axes, cell.values, strict=True))
        try:
            setup, plans = build(cell.scenario, load_settings())
            alone = rows_of(run_replay(setup, plans, clock=time.perf_counter))
        except InputError as fault:
            alone = [{**dict.fromkeys(COLUMNS), "valid": False, "error": str(fault)}]
        expected += [{**said, **row, **said} for row in alone]
    by_absolute_path = [
        {**row, "error": row["error"] and row["error"].replace(f"{Path.cwd()}/", "")}
        for row in rows(result)
    ]
    assert by_absolute_path == expected
    failed = {row["error"] for row in expected if row["error"]}
    assert len(failed) == 2, "the hour is missing in one grid or the other"


@pytest.mark.slow
def test_cells_that_weigh_wear_alike_share_a_simulation() -> None:
    """Admission by value looks at the grid: rows are as if replayed alone all the same."""
    text = (
        BY_VALUE
        + """
[axes]
grid = ["FR", "DE", "PL", "grid.csv:HOME"]
scope = ["attributable", "provisioned"]
factors.ssd_kg_per_tb = [17.3, 17.9, 160]
policy = ["lru", "carbon"]
"""
    )
    result = sweep(text)
    prices, expected = set(), []
    for cell in result.spec.cells():
        said = dict(zip(result.spec.axes, cell.values, strict=True))
        setup, plans = build(cell.scenario, load_settings())
        prices.add((said["policy"], setup.prices))
        alone = rows_of(run_replay(setup, plans, clock=time.perf_counter))
        expected += [{**said, **row, **said} for row in alone]
    assert rows(result) == expected
    assert len(result.spec) == 48
    assert result.jobs == len(prices) < 24
    assert {row["admission"] for row in expected} == {"value"}


def test_cells_that_the_controller_steers_share_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """It looks at grid, scope and every factor."""
    monkeypatch.setenv("GREENCACHE_CONTROL__INTERVAL", "1min")
    monkeypatch.setenv("GREENCACHE_CONTROL__LEARN", "1min")
    replay = BY_VALUE.replace("full", "greencache")
    result = sweep(replay + '[axes]\ngrid = ["FR", "PL"]\nscope = ["attributable", "provisioned"]')
    expected = []
    for cell in result.spec.cells():
        said = dict(zip(result.spec.axes, cell.values, strict=True))
        setup, plans = build(cell.scenario, load_settings())
        alone = rows_of(run_replay(setup, plans, clock=time.perf_counter))
        expected += [{**said, **row, **said} for row in alone]
    assert rows(result) == expected
    assert result.jobs == len(result.spec) == 4


def test_rows_have_fixed_types_and_axes_come_first() -> None:
    result = sweep()
    names = result.table.column_names
    assert names[:4] == ["ssd", "grid", "scope", "factors.ssd_kg_per_tb"]
    assert names[4:] == list(COLUMNS)
    assert {row["plan"] for row in rows(result)} == {"hbm-only", "full"}
    assert [row["ssd"] for row in rows(result)] == ["1TB"] * 16 + ["4TB"] * 16
    first = rows(result)[1]
    assert (first["plan"], first["ssd_bytes"], first["requests"]) == ("full", 10**12, 120)
    assert first["hit_rate_tokens"] > 0.9 * 1024 / 1100 - 0.1
    assert first["carbon_g"] == pytest.approx(first["operational_g"] + first["embodied_g"])
    json_rows = sweep_as_json(result)["rows"]
    assert json_rows == rows(result)


def test_an_axis_takes_the_place_of_the_column_of_its_name() -> None:
    result = sweep(REPLAY + "[axes]\npolicy = ['LRU', 'lcs']\nreplicas = [1, 2]\n")
    assert result.table.column_names[:3] == ["policy", "replicas", "plan"]
    assert result.table.column_names.count("policy") == 1
    assert [row["policy"] for row in rows(result)[::4]] == ["LRU", "lcs"]


def test_what_was_finished_is_not_run_again() -> None:
    text = REPLAY + AXES
    whole = sweep(text)
    assert whole.jobs_found == 0
    runs: list[str] = []

    def counted(jobs: Sequence[Job]) -> JobResults:
        runs.extend(job.key for job in jobs)
        yield from run_here(jobs)

    again = sweep(text, run=counted)
    assert (again.jobs_found, runs) == (2, [])
    assert parquet_bytes(again.table) == parquet_bytes(whole.table)
    larger = sweep(text.replace('"4TB"]', '"4TB", "8TB"]'), run=counted)
    assert (larger.jobs_found, len(runs)) == (2, 1), "only the new value was run"
    moved = sweep(
        text.replace('ssd = ["1TB", "4TB"]\n', "").replace("[axes]", "ssd = '1TB'\n[axes]"),
        run=counted,
    )
    assert (moved.jobs_found, len(runs)) == (1, 1), "how cells came about makes no difference"


@pytest.mark.parametrize("damage", ["cut", "flipped", "emptied", "another", "nonsense"])
def test_a_damaged_part_is_run_again(damage: str) -> None:
    whole = sweep()
    part, other = sorted(Path("out/parts").iterdir())
    content = bytearray(part.read_bytes())
    if damage == "flipped":
        content[content.index(b"hbm-only")] ^= 1
    part.write_bytes(
        {
            "cut": bytes(content[:-20]),
            "flipped": bytes(content),
            "emptied": b"",
            "another": other.read_bytes(),
            "nonsense": b"PAR1" + bytes(100) + b"PAR1",
        }[damage]
    )
    again = sweep()
    assert again.jobs_found == 1
    assert again.table.equals(whole.table)


@pytest.mark.slow
def test_other_inputs_or_settings_are_another_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    first = sweep()
    Path("grid.csv").write_text(GRID.replace(",5", ",9"))
    changed = sweep()
    assert changed.jobs_found == 0
    assert not changed.table.equals(first.table)
    Path("trace.jsonl").write_text(trace_lines(100))
    assert sweep().jobs_found == 0
    Path("catalog.toml").write_text(
        "[sources.ours]\ntitle = 'ours'\nurl = ''\nyear = 2026\nread = 'primary'\n"
        "[ssd.NVME]\nlifetime_years = { value = 4.0, source = 'ours' }\n"
    )
    monkeypatch.setenv("GREENCACHE_CATALOG", "catalog.toml")
    assert sweep().jobs_found == 0
    monkeypatch.setenv("GREENCACHE_SLO__TTFT", "3s")
    assert sweep().jobs_found == 0
    assert sweep().jobs_found == 2
    monkeypatch.delenv("GREENCACHE_CATALOG")
    monkeypatch.delenv("GREENCACHE_SLO__TTFT")
    Path("trace.jsonl").write_text(trace_lines(120))
    Path("grid.csv").write_text(GRID)
    assert sweep().jobs_found == 2, "what is as it was is known again"


def test_files_that_swap_contents_are_not_mistaken_for_one_another() -> None:
    names = ("one.csv", "two.csv")
    text = REPLAY + f"[axes]\ngrid = {list(names)}\n"
    contents = (GRID, GRID.replace(",5", ",9"))
    for name, content in zip(names, contents, strict=True):
        Path(name).write_text(content)
    before = sweep(text)
    for name, content in zip(names, reversed(contents), strict=True):
        Path(name).write_text(content)
    after = sweep(text)
    assert after.jobs_found == 0
    assert [row["carbon_g"] for row in rows(after)] == [
        row["carbon_g"] for row in [*rows(before)[2:], *rows(before)[:2]]
    ]


def test_a_cell_that_fails_says_why_and_the_others_go_on() -> None:
    result = sweep(
        REPLAY + "[axes]\nmodel = ['llama-3.1-8b', 'llama-3.1-70b']\nhardware = ['T4', 'H100']\n"
    )
    outcomes = [(row["model"], row["hardware"], row["plan"]) for row in rows(result)]
    assert outcomes == [
        *[("llama-3.1-8b", "T4", plan) for plan in ("hbm-only", "full")],
        *[("llama-3.1-8b", "H100", plan) for plan in ("hbm-only", "full")],
        ("llama-3.1-70b", "T4", None),
        *[("llama-3.1-70b", "H100", plan) for plan in ("hbm-only", "full")],
    ]
    failed = rows(result)[4]
    assert "use more GPUs" in failed["error"]
    assert not failed["valid"]
    assert printed(result).count("use more GPUs") == 1
    assert summary_picture(result).startswith(b"\x89PNG")


def test_if_every_cell_fails_the_first_reason_is_the_error() -> None:
    with pytest.raises(InputError, match=r"all 2 replays fail: unknown zone 'ATLANTIS'"):
        sweep(REPLAY + "[axes]\ngrid = ['ATLANTIS', 'LEMURIA']\n")
    with pytest.raises(InputError, match=r"^.*none\.jsonl: no such file"):
        sweep("[axes]\ntrace = ['none.jsonl']\n")
    Path("none.jsonl").write_text(trace_lines(30))
    assert sweep("[replay]\nplans = 'full'\n[axes]\ntrace = ['none.jsonl']\n").jobs == 1


def printed(result: SweepResult) -> str:
    from rich.console import Console

    console = Console(width=140)
    with console.capture() as capture:
        console.print(sweep_table(result, "out/results.parquet"))
    return capture.get()


def test_the_table_names_the_cheapest_valid_plan_and_where_the_rest_is() -> None:
    result = sweep(REPLAY + f"[axes]\nfactors.ssd_kg_per_tb = {[1 + i for i in range(50)]}\n")
    assert result.jobs == 1
    text = printed(result)
    grams = {(row["factors.ssd_kg_per_tb"], row["plan"]): row for row in rows(result)}
    lines = [line.split() for line in text.splitlines() if line[:1].isdigit()]
    table = [line for line in lines if len(line) == 4]
    assert len(table) == MOST_LINES
    for kg, *by_plan, cheapest in table:
        sci = {
            plan: grams[float(kg), plan]["sci_g_per_1k_output_tokens"]
            for plan in ("hbm-only", "full")
        }
        assert by_plan == [f"{value:.4g}" for value in sci.values()]
        assert cheapest == min(sci, key=lambda plan: sci[plan])
    assert "10 replays more" in text
    assert "out/results.parquet" in text


def test_without_hbm_only_the_picture_shows_grams() -> None:
    result = sweep((REPLAY + AXES).replace("hbm-only,full", "none,full"))
    assert all(row["saving_vs_hbm_only"] is None for row in rows(result))
    assert summary_picture(result).startswith(b"\x89PNG")


def test_a_worker_with_other_code_or_files_refuses() -> None:
    Path("spec.toml").write_text(REPLAY + AXES)
    scenarios = [cell.scenario for cell in read_spec(Path("spec.toml")).cells()]
    job = jobs_of(scenarios, load_settings())[0]
    with pytest.raises(SweepError, match="another GreenCache"):
        run_job(dataclasses.replace(job, code="other"))
    Path("trace.jsonl").write_text(trace_lines(100))
    with pytest.raises(SweepError, match=r"trace\.jsonl is not the same"):
        run_job(job)


def kill_workers() -> None:
    for process in multiprocessing.active_children():
        process.kill()


def interrupt() -> None:
    raise KeyboardInterrupt


@pytest.mark.slow
@pytest.mark.parametrize(
    ("happens", "reason"),
    [(kill_workers, "a worker process died: killed, or out of memory"), (interrupt, "interrupted")],
)
def test_what_was_done_is_kept(happens: Callable[[], None], reason: str) -> None:
    lasting = REPLAY.replace("full", "best-static")  # so that not all are done by then
    Path("spec.toml").write_text(lasting + "[axes]\npolicy = ['lru', 'lfu', 'gdsf', 'lcs']\n")
    spec, settings = read_spec(Path("spec.toml")), load_settings()

    def progress(done: int, jobs: int) -> None:
        if done == 1:
            happens()

    with pytest.raises(SweepError) as caught:
        run_sweep(
            spec,
            settings,
            Path("out"),
            lambda jobs: run_locally(jobs, 1),
            on_progress=progress,
        )
    kept = len(list(Path("out/parts").iterdir()))
    assert 0 < kept < 4
    assert str(caught.value) == (
        f"{reason}; {kept} of 4 jobs are kept in out/parts; the same command again goes on from "
        "there"
    )
    deadline_s = time.monotonic() + 30
    while multiprocessing.active_children():  # the pool may be about to take note of its end
        assert time.monotonic() < deadline_s, "a worker was left behind"
        time.sleep(0.01)
    assert run_sweep(spec, settings, Path("out"), run_here).jobs_found == kept


def test_folders_that_cannot_be_written_are_refused_before_any_work() -> None:
    def never(jobs: Sequence[Job]) -> JobResults:
        raise AssertionError("work began")

    Path("file").write_text("")
    for folder in ("file", "file/below", "/proc/out"):
        with pytest.raises(OutputError, match="cannot write to"):
            sweep(folder=folder, run=never)


@pytest.mark.slow
def test_a_dask_cluster_gives_the_same_table(monkeypatch: pytest.MonkeyPatch) -> None:
    from distributed import LocalCluster

    with LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0"
    ) as cluster:
        # After the workers were started, so they know nothing of it.
        monkeypatch.setenv("GREENCACHE_STORAGE__DRAM", "64GiB")
        alone = sweep(folder="here")
        together = sweep(
            folder="cluster", run=lambda jobs: run_on_dask(jobs, cluster.scheduler_address)
        )
        assert together.jobs_found == 0
        assert rows(together)[1]["dram_bytes"] == 64 * 2**30
        assert parquet_bytes(together.table) == parquet_bytes(alone.table)


def test_without_distributed_a_cluster_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)  # as if it were not installed
    with pytest.raises(InputError, match=r"pip install distributed$"):
        sweep(run=lambda jobs: run_on_dask(jobs, "tcp://127.0.0.1:9"))


@pytest.mark.slow
def test_a_cluster_that_is_not_there_is_said_so() -> None:
    with pytest.raises(InputError, match=r"--dask tcp://127\.0\.0\.1:9: no scheduler"):
        sweep(run=lambda jobs: run_on_dask(jobs, "tcp://127.0.0.1:9", connect_s=0.3))
    with pytest.raises(InputError, match="no scheduler"):
        sweep(run=lambda jobs: run_on_dask(jobs, "nonsense://x:1", connect_s=0.3))
    with pytest.raises(InputError, match="write HOST:PORT"):
        sweep(run=lambda jobs: run_on_dask(jobs, "nonsense", connect_s=0.3))
