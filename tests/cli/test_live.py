"""``greencache replay --live``, as users meet it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from greencache.tiers import SsdTier, making
from tests.cli.test_commands import greencache

LINE = '{"timestamp": %d, "input_length": 2600, "output_length": 5, "hash_ids": [%s]}\n'
OPTIONS = (
    *("--model=llama-3.1-70b", "--weight-dtype=fp8", "--hardware=1xH100", "--admission=all"),
    *("--plans=hbm-only,full", "--dram=4GiB", "--ssd=12GiB"),
    *("--live", "--live-block=4KiB"),
)


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """Documents that are asked for again and again, of which all tiers together hold some."""
    path = tmp_path / "trace.jsonl"
    asked = [i * i % 37 for i in range(120)]
    blocks = [", ".join(str(10 * each + block) for block in range(6)) for each in asked]
    path.write_text("".join(LINE % (i * 20_000, each) for i, each in enumerate(blocks)))
    return path


def test_the_real_store_does_as_the_simulated_one(
    trace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, folder = tmp_path / "out.json", tmp_path / "drive"
    folder.mkdir()
    arguments = (*OPTIONS, f"--live-dir={folder}", f"--json={out}")
    assert greencache("replay", trace, *arguments) == 0
    assert "Real store on this machine, blocks of 4.1 kB" in capsys.readouterr().out
    result = json.loads(out.read_text())
    (run,) = result["live"]
    assert run["plan"] == "full"
    assert run["same_as_simulated"] is True
    assert run["starts"] == 120
    assert run["block_bytes"] == 4096
    assert run["read_blocks"] == sum(run["hit_blocks_by_tier"].values())
    assert run["ssd_written_blocks"] == run["ssd_written_blocks_simulated"] > 0
    assert [each["plan"] for each in result["runs"]] == ["hbm-only", "full"]
    assert list(folder.iterdir()) == []


def test_a_store_that_does_otherwise_exits_1_with_all_results(
    trace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Forgetful(SsdTier):
        async def acquire(self, keys: Any) -> Any:
            return await super().acquire(keys[:-1])

    monkeypatch.setattr(making, "SsdTier", Forgetful)
    out = tmp_path / "out.json"
    assert greencache("replay", trace, *OPTIONS, f"--json={out}") == 1
    printed = capsys.readouterr()
    assert "the real store did not do as the simulated one under full" in printed.err
    assert "Traceback" not in printed.err
    (run,) = json.loads(out.read_text())["live"]
    assert run["same_as_simulated"] is False
    assert run["starts_with_other_hits"] > 0


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (("--plans=hbm-only", "--live"), "--live plays plans with DRAM or SSD"),
        (("--plans=full", "--live", "--live-block=12B"), "multiple of 8 bytes"),
        (("--plans=full", "--live", "--live-block=few"), "'few' is not a size"),
        (("--plans=full", "--live", "--live-dir=nowhere"), "nowhere: no such folder"),
        (("--plans=full", "--live", "--replicas=2"), "one engine, not 2 replicas"),
    ],
)
def test_what_cannot_be_played_exits_2(
    trace: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], complaint: str
) -> None:
    assert greencache("replay", trace, *options) == 2
    assert complaint in capsys.readouterr().err
