"""The tier benchmark: sides take turns, ratios are those of a round, wrong bytes are not timed."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer import Typer
from typer.testing import CliRunner

from greencache.bench import tiers as tiers_bench
from greencache.bench.direct_io import RawDirectSide, filesystem_of, wait_for_rest
from greencache.bench.lmcache_side import LmcacheSide
from greencache.bench.lmcache_worker import CPU
from greencache.bench.tier_rounds import (
    DRAM,
    SSD,
    Batch,
    Case,
    Checked,
    Side,
    SideError,
    measure_case,
    size_text,
)
from greencache.bench.tier_sides import FromDramSide, MemcpySide, TierSide
from greencache.bench.tiers import OURS, REFERENCES, Grid, make_cases, targets
from greencache.bench.tiers_chart import tiers_picture
from greencache.tiers.dram import DramTier
from greencache.tiers.ssd import SsdTier

KIB, MIB = 2**10, 2**20

TINY = Case(DRAM, block_bytes=4 * KIB, blocks=3, batches=2)


class Told(Side):
    """A side whose times were written down before; it notes when it is its turn."""

    def __init__(self, name: str, rounds_s: list[float], turns: list[str]) -> None:
        self.name = name
        self._rounds_s, self._turns = iter(rounds_s), turns
        self.ended = False

    def prepare(self, case: Case, batch: Batch) -> None:
        pass

    def put(self, batch: int) -> float:
        if batch == 0:
            self._turns.append(self.name)
            self._now_s = next(self._rounds_s)
        return self._now_s

    def get(self, batch: int) -> float:
        return 2 * self._now_s

    def settle(self) -> float:
        return 3 * self._now_s

    def end_case(self) -> None:
        self.ended = True


def test_ratios_are_medians_of_those_within_rounds() -> None:
    """The machine is ten times slower in a round for all: the ratio of that round is as good."""
    turns: list[str] = []
    a = Told("a", [9.0, 1.0, 10.0, 1.0], turns)
    b = Told("b", [9.0, 2.0, 20.0, 8.0], turns)
    result = measure_case(TINY, [a, b], rounds=3)
    sides = result["sides"]
    assert sides["a"]["times"]["b"] == {"put": 2.0, "durable_put": 2.0, "get": 2.0}
    assert sides["b"]["times"]["a"]["get"] == 0.5
    assert sides["a"]["put_gb_per_s"] == pytest.approx(TINY.batch_bytes / 1e9)
    assert sides["a"]["get_gb_per_s"] == pytest.approx(TINY.batch_bytes / 2e9)
    assert sides["a"]["first_put_gb_per_s"] == pytest.approx(TINY.batch_bytes / 9e9)
    # Each batch bears half of the flush: 1 s and 3 s / 2.
    assert sides["a"]["durable_put_gb_per_s"] == pytest.approx(TINY.batch_bytes / 2.5e9)
    assert sides["a"]["timed_puts"] == 3 * TINY.batches
    assert sides["a"]["put_ms"]["p50"] == pytest.approx(1000.0)
    assert sides["a"]["put_ms"]["p99"] == pytest.approx(10_000.0)


def test_every_side_begins_in_its_turn() -> None:
    turns: list[str] = []
    rested: list[int] = []
    sides = [Told(name, [1.0] * 5, turns) for name in "abc"]
    measure_case(TINY, sides, rounds=3, rest=lambda: rested.append(len(turns)))
    assert turns[3:] == [*"abc", *"bca", *"cab"], "one round before is not counted"
    assert len(rested) == 2 * len(turns), "before puts and before gets"
    assert all(side.ended for side in sides)


def test_a_side_that_cannot_take_part_says_why_and_the_others_go_on() -> None:
    class Broken(Told):
        def get(self, batch: int) -> float:
            raise SideError("lost a block")

    class Absent(Told):
        def prepare(self, case: Case, batch: Batch) -> None:
            raise SideError("not installed")

    turns: list[str] = []
    broken, absent = Broken("broken", [1.0], turns), Absent("absent", [], turns)
    good = Told("good", [1.0] * 3, turns)
    sides = measure_case(TINY, [broken, absent, good], rounds=2)["sides"]
    assert sides["broken"] == {"missing": "lost a block"}
    assert sides["absent"] == {"missing": "not installed"}
    assert sides["good"]["times"] == {}
    assert [side.ended for side in (broken, good, absent)] == [True, True, False]


def test_stale_or_damaged_blocks_are_found() -> None:
    batch = Batch(TINY)
    mine = Checked(batch, TINY.batches)
    mine.renew(0)
    mine.check(0)
    older = mine.blocks.copy()
    mine.blocks[1, 100] ^= 1
    with pytest.raises(SideError, match="1 of 3 blocks wrong"):
        mine.check(0)
    mine.renew(0)
    mine.check(0)
    with pytest.raises(SideError, match="3 of 3"):
        mine.check(1)
    mine.forget()
    with pytest.raises(SideError, match="3 of 3"):
        mine.check(0)
    np.copyto(mine.blocks, older)
    with pytest.raises(SideError, match="3 of 3"):
        mine.check(0)
    batch.close()


def test_real_sides_store_and_read_what_they_are_timed_for() -> None:
    sides = [
        MemcpySide(),
        MemcpySide(by_block=True),
        TierSide("tier", lambda case: DramTier(case.block_bytes, case.store_bytes)),
    ]
    result = measure_case(TINY, sides, rounds=2)
    for side in sides:
        side.close()
    for name in ("memcpy", "memcpy, block by block", "tier"):
        found = result["sides"][name]
        assert found["timed_gets"] == 4
        assert 0 < found["get_ms"]["p50"] <= found["get_ms"]["p90"] <= found["get_ms"]["p99"]
        assert found["get_gb_per_s"] > 0 < found["put_gb_per_s"]
    assert set(result["sides"]["tier"]["times"]) == {"memcpy", "memcpy, block by block"}


def test_a_side_beneath_dram_moves_the_same_bytes(tmp_path: Path) -> None:
    case = Case(SSD, block_bytes=64 * KIB, blocks=3, batches=2, depth=2)
    side = FromDramSide("ssd", lambda case: SsdTier(tmp_path / "ssd", case.block_bytes, 4 * MIB))
    found = measure_case(case, [side], rounds=2)["sides"]["ssd"]
    side.close()
    assert found["timed_puts"] == found["timed_gets"] == 4, "each of which was checked"


def test_a_tier_without_room_is_not_timed() -> None:
    small = TierSide("small", lambda case: DramTier(case.block_bytes, 2 * case.block_bytes))
    sides = measure_case(TINY, [small], rounds=1)["sides"]
    small.close()
    assert sides["small"] == {"missing": "room for 2 of 3 blocks"}


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_raw_direct_io_moves_every_byte_at_any_depth(tmp_path: Path, depth: int) -> None:
    case = Case(SSD, block_bytes=8 * KIB, blocks=3, batches=2, depth=depth)
    slots = tmp_path / "slots"
    slots.write_bytes(bytes(case.store_bytes + 100))
    found = measure_case(case, [RawDirectSide(slots)], rounds=1)["sides"]["raw direct I/O"]
    assert "missing" in found or found["timed_gets"] == 2
    if "missing" in found:
        assert "no direct I/O" in found["missing"], "some filesystems have none"
    assert slots.stat().st_size == case.store_bytes + 100


def test_raw_direct_io_moves_what_the_tier_keeps_in_its_slots(tmp_path: Path) -> None:
    case = Case(SSD, block_bytes=64 * KIB, blocks=3, batches=2, depth=2)
    path = tmp_path / "greencache"
    ours = TierSide("ours", lambda case: SsdTier(path, case.block_bytes, 4 * MIB))
    sides = [ours, RawDirectSide(path / "extent-000000")]
    found = measure_case(case, sides, rounds=3)["sides"]
    ours.close()
    assert found["ours"]["timed_gets"] == 6
    if "missing" not in found["raw direct I/O"]:
        assert found["raw direct I/O"]["timed_gets"] == 6


def test_filesystems_are_named() -> None:
    assert filesystem_of(Path("/proc/self")) == "proc"
    wait_for_rest(Path("/proc"))  # not on a disk: it returns


def test_lmcache_that_is_not_there_says_how_to_get_it(tmp_path: Path) -> None:
    case = Case(DRAM, block_bytes=128 * KIB, blocks=1, batches=2)
    sides = [
        LmcacheSide(CPU, None, tmp_path),
        LmcacheSide(CPU, tmp_path / "python", tmp_path),
        LmcacheSide(CPU, Path(sys.executable), tmp_path),
    ]
    for side, reason in zip(
        sides, ("make lmcache-env", "cannot run", "ModuleNotFoundError"), strict=True
    ):
        found = measure_case(case, [side], rounds=1)["sides"]
        side.close()
        assert reason in found["LMCache CPU"]["missing"]


def test_cases_are_all_combinations_but_batches_of_less_than_a_block() -> None:
    grid = Grid(
        block_bytes=(64 * KIB, 1024 * KIB), batch_bytes=(256 * KIB, 2048 * KIB), depths=(1, 4)
    )
    cases = make_cases([DRAM, SSD], grid)
    assert [case.depth for case in cases if case.tier == DRAM] == [1, 1, 1]
    assert len([case for case in cases if case.tier == SSD]) == 6
    assert all(case.batch_bytes >= case.block_bytes and 2 <= case.batches <= 32 for case in cases)


def test_targets_are_those_of_large_batches_and_say_whether_they_hold() -> None:
    mib = 2**20

    def case(tier: str, block: int, batch: int, times: dict[str, Any]) -> dict[str, Any]:
        return {
            "tier": tier,
            "block_bytes": block,
            "batch_bytes": batch,
            "depth": 4,
            "sides": {OURS[tier]: {"times": times}},
        }

    found = targets(
        [
            case(DRAM, 2 * mib, 64 * mib, {REFERENCES[DRAM]: {"put": 0.9, "get": 0.8}}),
            case(DRAM, 2 * mib, 4 * mib, {REFERENCES[DRAM]: {"put": 0.1, "get": 0.1}}),
            case(DRAM, 8 * mib, 64 * mib, {REFERENCES[DRAM]: {"put": 0.1, "get": 0.1}}),
            case(SSD, 32 * mib, 64 * mib, {"LMCache disk, direct": {"put": 0.5, "get": 1.1}}),
        ]
    )
    assert [(each["operation"], each["of"], each["holds"]) for each in found] == [
        ("put", "memcpy", True),
        ("get", "memcpy", False),
        ("get", "LMCache disk, direct", True),
    ]


def test_the_command_writes_what_it_prints(tmp_path: Path) -> None:
    app = Typer()
    app.command()(tiers_bench.main)
    arguments = ["--tier", "dram", "--block", "64KiB", "--batch", "256KiB", "--rounds", "2"]
    out = tmp_path / "out.json"
    picture = tmp_path / "out.png"
    done = CliRunner().invoke(
        app, [*arguments, "--dir", str(tmp_path), "--json", str(out), "--png", str(picture)]
    )
    assert done.exit_code == 0, done.output
    result = json.loads(out.read_text())
    assert result["schema"] == "greencache.bench.tiers/1"
    [case] = result["cases"]
    assert (case["tier"], case["block_bytes"], case["batch_bytes"]) == (DRAM, 64 * KIB, 256 * KIB)
    assert case["sides"][OURS[DRAM]]["put_gb_per_s"] > 0
    assert "DRAM, blocks of 64 KiB, batches of 256 KiB" in done.output
    assert f"LMCache CPU: {case['sides']['LMCache CPU']['missing']}" in done.output
    assert picture.read_bytes() == tiers_picture(result)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.json", "out.png"]


def test_sizes_below_a_mebibyte_are_written_in_kibibytes() -> None:
    assert size_text(128 * KIB) == "128 KiB"
    assert size_text(2 * 2**20) == "2 MiB"
    assert size_text(1000) == "1 kB"
