"""The command line, as users meet it: results, and what it says to bad input."""

from __future__ import annotations

import csv
import gzip
import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from greencache.cli import main, serve
from greencache.errors import ServiceError
from greencache.settings import Settings, load_settings

LINE = '{"timestamp": %d, "input_length": 1100, "output_length": 5, "hash_ids": [1, 2, %d]}\n'


def greencache(*arguments: str | Path) -> int:
    """Run the command line in this process; its exit status."""
    previous = sys.argv
    sys.argv = ["greencache", *map(str, arguments)]
    try:
        main()
    except SystemExit as end:
        return int(end.code or 0)
    finally:
        sys.argv = previous
    return 0


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    path = tmp_path / "trace.jsonl"
    path.write_text("".join(LINE % (i * 1000, i) for i in range(30)))
    return path


def test_replay_writes_a_table_json_html_and_png(
    trace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {kind: tmp_path / f"out.{kind}" for kind in ("json", "html", "png")}
    options = [f"--{kind}={path}" for kind, path in files.items()]
    assert greencache("replay", trace, "--warmup", "0", *options) == 0
    out = capsys.readouterr()
    for plan in ("none", "hbm-only", "full", "best-static"):
        assert plan in out.out
    result = json.loads(files["json"].read_text())
    assert [run["plan"] for run in result["runs"]] == [
        "none",
        "hbm-only",
        "full",
        "best-static",
    ]
    assert files["html"].read_text().startswith("<!doctype html>")
    assert files["png"].read_bytes().startswith(b"\x89PNG")
    assert (
        stat.S_IMODE(files["json"].stat().st_mode) & 0o044 == 0o044 & ~os.umask(os.umask(0)) & 0o777
    )


def test_json_to_standard_output_is_nothing_but_json(
    trace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert greencache("replay", trace, "--plans=hbm-only", "--json=-") == 0
    assert json.loads(capsys.readouterr().out)["schema"] == "greencache.replay/1"
    assert greencache("curve", trace, "--capacities=1,2,100", "--json=-") == 0
    curve = json.loads(capsys.readouterr().out)
    assert curve["schema"] == "greencache.curve/1"
    assert curve["block_bytes"] is None
    assert [point["capacity_blocks"] for point in curve["points"]] == [1, 2, 100]
    assert curve["points"][-1]["hit_blocks"] == 58, "blocks 1 and 2 hit in all requests but one"
    assert curve["accesses"] == 90


def test_options_go_before_settings(
    trace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GREENCACHE_STORAGE__POLICY", "lfu")
    monkeypatch.setenv("GREENCACHE_CARBON__FACTORS__SSD_KG_PER_TB", "30")
    arguments = ("replay", trace, "--plans=full", "--json=-", "--ssd=1TB")
    assert greencache(*arguments) == 0
    from_settings = json.loads(capsys.readouterr().out)
    assert from_settings["runs"][0]["policy"] == "lfu"
    assert from_settings["runs"][0]["admission"] == "value"
    assert from_settings["runs"][0]["capacity_bytes"][0][1]["ssd"] == 10**12
    assert from_settings["factors"]["ssd_kg_per_tb"]["value"] == 30
    options = ("--policy=lcs", "--ssd-kg-per-tb=160", "--admission=all")
    assert greencache(*arguments, *options) == 0
    from_options = json.loads(capsys.readouterr().out)
    assert from_options["runs"][0]["policy"] == "lcs"
    assert from_options["runs"][0]["admission"] == "all"
    written, declined = (from_options["runs"][0][f"ssd_bytes_{n}"] for n in ("written", "declined"))
    assert written > from_settings["runs"][0]["ssd_bytes_written"]
    assert declined == 0 < from_settings["runs"][0]["ssd_bytes_declined"]
    assert from_options["factors"]["ssd_kg_per_tb"]["value"] == 160


def test_a_grid_of_ones_own(
    trace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grid = tmp_path / "grid.csv"
    with grid.open("w") as file:
        writer = csv.writer(file)
        writer.writerow(["zone", "utc_hour", "gco2_per_kwh", "kind"])
        writer.writerows(
            [["HOME", f"2024-01-01T{h:02d}:00:00Z", 50 + h, "direct"] for h in range(9)]
        )
    for text in (f"{grid}", f"{grid}:HOME"):
        start = ("--grid-start", "2024-01-01T05:00Z")
        assert greencache("replay", trace, "--plans=full", "--json=-", "--grid", text, *start) == 0
        result = json.loads(capsys.readouterr().out)["grid"]
        assert (result["zone"], result["mean_gco2_per_kwh"], result["kind"]) == (
            "HOME",
            55.0,
            "direct",
        )


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--model=llama-9"], "unknown model 'llama-9'"),
        (["--hardware=4xH101"], "unknown GPU 'H101'; did you mean 'H100'"),
        (["--hardware=many"], "unknown GPU 'many'"),
        (["--hardware=3xH100"], "1, 2, 4 or 8 GPUs"),
        (["--policy=fifo"], "unknown policy 'fifo'"),
        (["--admission=some"], "unknown admission 'some'"),
        (["--plans=full,empty"], "unknown plan 'empty'"),
        (["--grid=ATLANTIS"], "unknown zone 'ATLANTIS'"),
        (["--grid=nowhere.csv"], "nowhere.csv: no such file"),
        (["--grid=nowhere.csv:XX"], "nowhere.csv: no such file"),
        (["--grid-start=tomorrow"], "'tomorrow' is not a time"),
        (["--grid-start=1999-01-01T00:00Z"], "has no value at 1999"),
        (["--ssd=12XB"], "'12XB' is not a size"),
        (["--ssd=1e30TB"], "is too large a size"),
        (["--ssd=900PB"], "drives are more than one host holds"),
        (["--mean-rate=1e-9"], "zone CISO ends at"),
        (["--dram=lots"], "'lots' is not a size"),
        (["--warmup=3h"], "--warmup 3h is longer than the trace"),
        (["--slo-ttft=soon"], "'soon' is not a duration"),
        (["--slo-ttft=0"], "--slo-ttft must be more than 0"),
        (["--model="], "unknown model ''"),
        (["--grid="], "unknown zone ''"),
        (["--grid-start=9999-12-31T23:59-23:00"], "is not a time"),
        (["--ssd-kg-per-tb=1e300"], "must be more than 0"),
        (["--json=same", "--html=same"], "same is named twice"),
        (["--json=-", "--html=-"], "- is named twice"),
        (["--scope=none"], "unknown scope 'none'"),
        (["--mean-rate=0"], "a mean rate is more than 0"),
        (["--mean-rate=nan"], "a mean rate is more than 0"),
        (["--ssd-kg-per-tb=-1"], "must be more than 0"),
        (["--weight-dtype=fp7"], "unknown weight dtype"),
        (["--kv-dtype=fp7"], "unknown KV dtype"),
        (["--model=llama-3.1-70b", "--hardware=T4"], "use more GPUs"),
    ],
)
def test_bad_options_are_one_clear_line_and_exit_2(
    trace: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], complaint: str
) -> None:
    assert greencache("replay", trace, *arguments) == 2
    out = capsys.readouterr()
    assert out.out == ""
    assert out.err.startswith("error: ")
    assert complaint in out.err
    assert out.err.count("\n") == 1
    assert "Traceback" not in out.err


@pytest.mark.parametrize("command", ["replay", "curve"])
@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "empty"),
        (b"{]\n", "line 1: not a trace in a known format"),
        (bytes(range(256)) * 20, "line 1: not a trace in a known format"),
        (b'{"timestamp": "x"}\n', "line 1: not a trace in a known format"),
        ((LINE % (5, 1)).encode() + (LINE % (4, 1)).encode(), "line 2: timestamp goes back"),
        ((LINE % (-1, 1)).encode(), "line 1: timestamp is -0.001 s"),
        (LINE.replace("1100", "-3").encode() % (0, 1), "line 1: input_length is -3"),
    ],
)
def test_bad_traces_are_one_clear_line_and_exit_2(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    command: str,
    content: bytes,
    complaint: str,
) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_bytes(content)
    assert greencache(command, path) == 2
    err = capsys.readouterr().err
    assert complaint in err
    assert str(path) in err
    assert err.count("\n") == 1


def test_missing_traces_and_directories_exit_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert greencache("replay", tmp_path / "none.jsonl") == 2
    assert "no such file" in capsys.readouterr().err
    assert greencache("curve", tmp_path) == 2
    assert "is a directory" in capsys.readouterr().err


def test_bad_lines_can_be_skipped_and_are_counted(
    trace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trace.write_text("nonsense\n" + trace.read_text())
    assert greencache("replay", trace, "--plans=hbm-only") == 2
    capsys.readouterr()
    assert greencache("replay", trace, "--plans=hbm-only", "--skip-bad") == 0
    assert "1 lines of the trace skipped" in capsys.readouterr().out


@pytest.mark.parametrize("option", ["--json", "--html", "--png"])
def test_unwritable_output_exits_1_and_leaves_nothing(
    trace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    missing = tmp_path / "none" / "out"
    for target in (missing, tmp_path, Path("/proc/out")):
        before = sorted(tmp_path.rglob("*"))
        assert greencache("replay", trace, "--plans=hbm-only", option, target) == 1
        assert f"error: cannot write {target}" in capsys.readouterr().err
        assert sorted(tmp_path.rglob("*")) == before


def test_a_result_never_replaces_its_input(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = trace.read_text()
    assert greencache("replay", trace, "--plans=hbm-only", "--json", trace) == 2
    assert "is named twice" in capsys.readouterr().err
    assert trace.read_text() == before


def test_links_stay_links_and_pipes_stay_pipes(trace: Path, tmp_path: Path) -> None:
    """As root, replacing what a path leads to would destroy devices such as /dev/null."""
    real, link, pipe = (tmp_path / name for name in ("real.json", "link.json", "pipe"))
    real.write_text("old")
    link.symlink_to(real)
    assert greencache("replay", trace, "--plans=hbm-only", "--json", link) == 0
    assert link.is_symlink()
    assert json.loads(real.read_text())["schema"] == "greencache.replay/1"
    os.mkfifo(pipe)
    with subprocess.Popen(["cat", pipe], stdout=subprocess.PIPE) as reader:
        assert greencache("replay", trace, "--plans=hbm-only", "--json", pipe) == 0
        assert reader.stdout is not None
        assert json.load(reader.stdout)["schema"] == "greencache.replay/1"
    assert pipe.is_fifo()


@pytest.mark.slow
def test_traces_can_come_through_a_pipe(trace: Path) -> None:
    command: list[str | Path] = [
        Path(sys.executable).with_name("greencache"),
        "curve",
        "-",
        "--json=-",
    ]
    for content in (trace.read_bytes(), gzip.compress(trace.read_bytes())):
        done = subprocess.run(command, input=content, capture_output=True, check=True)
        assert json.loads(done.stdout)["accesses"] == 90


@pytest.mark.slow
@pytest.mark.parametrize("options", [[], ["--json=-"]])
def test_a_full_standard_output_exits_1(trace: Path, options: list[str]) -> None:
    command: list[str | Path] = [
        Path(sys.executable).with_name("greencache"),
        "curve",
        trace,
        *options,
    ]
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, check=False)
    assert done.returncode == 1
    assert b"error: cannot write standard output: " in done.stderr
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (OSError(28, "No space left"), "error: cannot write standard output: No space left\n"),
        (OSError(2, "No such file", "/a/folder"), "error: /a/folder: No such file\n"),
    ],
)
def test_what_the_system_refuses_is_named(
    fault: OSError, said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(json: Path | None) -> None:
        raise fault

    monkeypatch.setattr("greencache.cli.settings.run", fails)
    assert greencache("settings") == 1
    assert capsys.readouterr().err == said


def test_a_daemon_that_the_system_fails_blames_no_output(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fails(settings: Settings, while_used: bool) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(serve, "_serve", fails)
    monkeypatch.setattr(serve, "configure_logs", lambda form: None)
    with pytest.raises(ServiceError, match=r"the daemon cannot go on: .*Too many open files"):
        serve.run(serve.Options())


def test_an_overloaded_engine_still_gives_its_reports(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "burst.jsonl"
    prompt = '{"timestamp": %d, "input_length": 100000, "output_length": 5, "hash_ids": %s}\n'
    chains = (list(range(i * 200, i * 200 + 196)) for i in range(60))
    path.write_text("".join(prompt % (i * 100, chain) for i, chain in enumerate(chains)))
    files = {kind: tmp_path / f"out.{kind}" for kind in ("json", "html", "png")}
    options = [f"--{kind}={file}" for kind, file in files.items()]
    hardware = ("--hardware=L40", "--weight-dtype=int8", "--warmup=0")
    assert greencache("replay", path, "--plans=hbm-only,full", *hardware, *options) == 0
    assert "invalid: overloaded: " in capsys.readouterr().out
    assert all(file.stat().st_size > 0 for file in files.values())


def test_help_names_the_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    assert greencache("replay", "--help") == 0
    text = " ".join(capsys.readouterr().out.split())
    settings = load_settings()
    for value in (
        settings.engine.model,
        settings.engine.hardware,
        settings.engine.weight_dtype,
        settings.engine.kv_dtype,
        settings.storage.policy,
        settings.storage.admission,
        settings.grid.zone,
        "512GiB",
        "16TB",
    ):
        assert f"default {value}" in text
    assert (settings.storage.dram, settings.storage.ssd) == (512 * 2**30, 16 * 10**12)


def test_a_full_disk_exits_1_and_keeps_what_was_there(
    trace: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A file size limit makes the write fail after it began, as a full disk does."""
    target = tmp_path / "out.json"
    target.write_text("what was there")
    code = (
        "import resource, signal, sys\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "from pathlib import Path\n"
        "from greencache.output import write_output\n"
        "from greencache.errors import OutputError\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try:\n"
        "    write_output(Path(sys.argv[1]), b'x' * 5000)\n"
        "except OutputError as fault:\n"
        "    print(fault)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(target)], capture_output=True, text=True, check=True
    )
    assert "cannot write" in done.stdout
    assert target.read_text() == "what was there"
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_curve_in_bytes_and_as_a_picture(
    trace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "curve.png"
    arguments = ("curve", trace, "--model=llama-3.1-8b", "--policy=lcs", "--capacities=1GiB,64MiB")
    assert greencache(*arguments, "--png", picture, "--json=-") == 0
    curve = json.loads(capsys.readouterr().out)
    assert curve["block_bytes"] == 64 * 2**20
    assert [point["capacity_bytes"] for point in curve["points"]] == [64 * 2**20, 2**30]
    assert picture.read_bytes().startswith(b"\x89PNG")


def curve_json(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> dict[str, Any]:
    assert greencache("curve", *arguments, "--json=-") == 0
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    return result


def test_a_sampled_curve_says_how_sure_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """On the trace that ships; the rates of blocks and tokens both lie in their intervals."""
    exact = curve_json(capsys)
    for option in ("--sample=9000", "--sample=5%"):
        sampled = curve_json(capsys, option)
        assert 0.04 < sampled["sample"]["rate"] < 0.06
        assert exact.keys() == sampled.keys() - {"sample"}
        held = 0
        for point, truth in zip(sampled["points"], exact["points"], strict=True):
            added = {f"hit_rate_{u}_{end}" for u in ("blocks", "tokens") for end in ("low", "high")}
            assert point.keys() == truth.keys() | added
            for rate in ("hit_rate_blocks", "hit_rate_tokens"):
                assert point[f"{rate}_low"] <= point[rate] <= point[f"{rate}_high"]
                held += point[f"{rate}_low"] <= truth[rate] <= point[f"{rate}_high"]
        assert held >= 2 * len(exact["points"]) - 1
    everything = curve_json(capsys, "--sample=100%")
    assert everything["points"][-1]["hit_blocks"] == exact["points"][-1]["hit_blocks"]
    picture = tmp_path / "curve.png"
    assert greencache("curve", "--sample=500", "--png", picture) == 0
    assert "in brackets the interval that holds" in " ".join(capsys.readouterr().out.split())
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_several_curves_stand_side_by_side(
    trace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One is written as ever; several as the first, and all of them under ``curves``."""
    alone = curve_json(capsys, trace, "--policy=lfu")
    assert "curves" not in alone
    picture = tmp_path / "curves.png"
    several = curve_json(capsys, trace, "--policy=lfu,opt", "--png", picture)
    assert {key: value for key, value in several.items() if key != "curves"} == alone
    assert [curve["policy"] for curve in several["curves"]] == ["lfu", "opt"]
    assert several["curves"][0] == alone
    for policy, bound in zip(*(curve["points"] for curve in several["curves"]), strict=True):
        assert policy["hit_blocks"] <= bound["hit_blocks"]
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert greencache("curve", trace, "--policy=lfu,opt") == 0
    assert "tokens, opt" in capsys.readouterr().out


def test_what_knows_the_future_cannot_be_replayed(
    trace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert greencache("replay", trace, "--policy=opt") == 2
    assert "unknown policy 'opt'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--capacities=1GB"], "give --model for bytes"),
        (["--capacities=-4"], "not a usable number of blocks"),
        (["--capacities=99999999999999999999"], "not a usable number of blocks"),
        (["--capacities=,"], "at least one capacity"),
        (["--policy=best"], "unknown policy"),
        (["--policy=lru,lru"], "policy lru is named twice"),
        (["--policy=lru,"], "unknown policy ''"),
        (["--policy=lfu", "--sample=10"], "only lru can be sampled"),
        (["--sample=0"], "at least one block"),
        (["--sample=0%"], "more than 0 %"),
        (["--sample=nan%"], "more than 0 %"),
        (["--sample=101%"], "at most 100 %"),
        (["--sample=1e-12%"], "a sampling rate is"),
        (["--sample=few"], "neither a share like 1% nor a number of blocks"),
        (["--model=gpt-5"], "unknown model"),
        (["--model=llama-3.1-8b", "--capacities=12XB"], "'12XB' is not a size"),
    ],
)
def test_bad_curve_options_exit_2(
    trace: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], complaint: str
) -> None:
    assert greencache("curve", trace, *arguments) == 2
    assert complaint in capsys.readouterr().err


def test_settings_are_listed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GREENCACHE_STORAGE__SSD", "8TB")
    assert greencache("settings") == 0
    table = capsys.readouterr().out
    assert "GREENCACHE_ENGINE__MODEL" in table
    assert any(
        "GREENCACHE_STORAGE__SSD" in row and "environment" in row for row in table.splitlines()
    )
    assert greencache("settings", "--json=-") == 0
    listed = json.loads(capsys.readouterr().out)["settings"]
    assert listed["GREENCACHE_STORAGE__SSD"]["value"] == 8 * 10**12


def test_a_wrong_setting_exits_2(
    trace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GREENCACHE_STORAGE__SSD", "12XB")
    assert greencache("replay", trace) == 2
    assert "GREENCACHE_STORAGE__SSD: '12XB' is not a size" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--nonsense"], ["nonsense"], ["replay", "a", "b"]])
def test_wrong_usage_exits_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert greencache(*arguments) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_help_is_light_and_says_what_there_is() -> None:
    """``--help`` must not load the heavy parts: it is what people type first."""
    code = (
        "import sys\n"
        "sys.argv = ['greencache', '--help']\n"
        "from greencache.cli import main\n"
        "try:\n"
        "    main()\n"
        "finally:\n"
        "    heavy = {'numba', 'numpy', 'matplotlib', 'pydantic', 'jinja2'} & set(sys.modules)\n"
        "    print('HEAVY', sorted(heavy))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "HEAVY []" in done.stdout
    for command in ("replay", "curve", "settings"):
        assert command in done.stdout


def test_the_installed_command_runs_end_to_end(trace: Path, tmp_path: Path) -> None:
    """As installed: its own process, from another folder."""
    command = Path(sys.executable).with_name("greencache")
    done = subprocess.run(
        [command, "replay", trace, "--plans=hbm-only,full", "--json=out.json"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "hbm-only" in done.stdout
    assert json.loads((tmp_path / "out.json").read_text())["runs"][1]["plan"] == "full"


def test_requests_that_come_all_at_once_have_no_rate_and_no_error(tmp_path: Path) -> None:
    trace = tmp_path / "two.jsonl"
    line = '{"timestamp":0,"input_length":1000,"output_length":10,"hash_ids":[1,2]}\n'
    trace.write_text(line * 2)
    out = tmp_path / "out.json"
    assert greencache("replay", trace, "--plans", "hbm-only", "--json", out) == 0
    assert json.loads(out.read_text())["load"] is None
