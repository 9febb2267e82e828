"""``greencache trace``, and the traces that every command takes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from greencache.traces import FORMATS, read_trace, sample_names, sample_path
from tests.cli.test_commands import greencache
from tests.traces.examples import EXAMPLES, write


def test_it_says_what_the_shipped_trace_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert greencache("trace") == 0
    out = capsys.readouterr().out
    for said in ("mooncake-conversation", "12,031", "3,537 s", "182,790 different", "37.3%"):
        assert said in out
    assert greencache("trace", "mooncake-conversation", "--json=-") == 0
    assert json.loads(capsys.readouterr().out)["requests"] == 12_031


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_has_its_numbers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    path = write(tmp_path, EXAMPLES[name])
    assert greencache("trace", path, "--json", tmp_path / "n.json") == 0
    assert name in capsys.readouterr().out
    numbers = json.loads((tmp_path / "n.json").read_text())
    assert numbers["schema"] == "greencache.trace/1"
    assert numbers["format"] == name
    assert (numbers["block_accesses"] is None) == (name in {"azure", "burstgpt"})
    assert (numbers["sessions"] is not None) == (name in {"agentic", "bailian", "columns"})


def test_a_trace_without_hashes_says_so_everywhere(capsys: pytest.CaptureFixture[str]) -> None:
    assert greencache("trace", "azure-2023-code") == 0
    assert "reuse cannot be seen" in capsys.readouterr().out
    assert greencache("replay", "azure-2023-code", "--plans=full", "--json=-") == 0
    result = json.loads(capsys.readouterr().out)
    assert result["trace"]["has_blocks"] is False
    assert result["runs"][0]["hit_rate_tokens"] == 0
    assert greencache("replay", "azure-2023-code", "--plans=hbm-only") == 0
    assert "reuse cannot be seen in it, and every hit rate is 0" in capsys.readouterr().out
    assert greencache("curve", "azure-2023-code") == 2
    assert "names no blocks" in capsys.readouterr().err


def test_conversion_gives_the_same_trace(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, target = write(tmp_path, EXAMPLES["bailian"], "b.jsonl"), tmp_path / "b.parquet"
    assert greencache("trace", source, "--parquet", target, "--json=-") == 0
    out = capsys.readouterr()
    assert json.loads(out.out)["format"] == "bailian"
    assert out.err == f"wrote {target}\n"
    trace, again = read_trace(source), read_trace(target)
    assert (again.name, again.format) == ("b", "columns")
    assert again.block_names.tolist() == trace.block_names.tolist()
    assert greencache("trace", source, "--block-tokens=32", "--parquet", target) == 0
    assert read_trace(target).block_tokens == 32
    assert greencache("trace", source, "--parquet", source) == 2
    assert "is named twice" in capsys.readouterr().err


@pytest.mark.slow
def test_conversion_reads_standard_input_once(tmp_path: Path) -> None:
    installed = str(Path(sys.executable).with_name("greencache"))
    command = [installed, "trace", "-", "--parquet=t.parquet"]
    done = subprocess.run(
        command, input=EXAMPLES["burstgpt"], capture_output=True, check=True, cwd=tmp_path
    )
    assert b"burstgpt" in done.stdout
    assert len(read_trace(tmp_path / "t.parquet")) == 3


@pytest.mark.parametrize("command", ["replay", "curve", "trace"])
def test_every_command_takes_a_shipped_name_a_format_and_larger_blocks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    path = write(tmp_path, EXAMPLES["mooncake"])
    extra = ["--plans=hbm-only", "--warmup=0"] if command == "replay" else []
    assert (
        greencache(command, path, "--format=mooncake", "--block-tokens=1024", "--json=-", *extra)
        == 0
    )
    result = json.loads(capsys.readouterr().out)
    assert (result["trace"] if command == "replay" else result)["block_tokens"] == 1024
    refused: dict[tuple[str | Path, ...], str] = {
        (command, path, "--format=azure"): "not a header with the columns",
        (command, path, "--format=nothing"): "unknown trace format 'nothing'",
        (command, path, "--block-tokens=700"): "choose a multiple",
        (command, "mooncake-conversatio"): "did you mean 'mooncake-conversation'",
        (command, tmp_path / "none.csv"): "no such file",
        (command, tmp_path): "is a directory",
    }
    for bad, complaint in refused.items():
        assert greencache(*bad) == 2
        err = capsys.readouterr().err
        assert complaint in err
        assert err.count("\n") == 1


def test_shipped_names_are_in_the_help_and_lead_to_files(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert greencache("trace", "--help") == 0
    text = "".join(capsys.readouterr().out.split())  # lines end at hyphens too
    for name in sample_names():
        assert sample_path(name).is_file()
        assert name in text
    for name in FORMATS:
        assert name in text
