"""Memory comes and goes as the operating system counts it, and nothing is left behind."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import multiprocessing
import os
import random
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from greencache.errors import TierClosedError, TierError
from greencache.quantities import GIB
from greencache.tiers.dram import DramTier
from greencache.tiers.memory import available_memory_bytes
from greencache.tiers.syscalls import allocate
from tests.conformance.prompts import check, load, prompt, settled, store, the_bytes

MIB = 2**20


_OTHERS: set[int] = set()
"""Memory files that were there before the test: of tiers that other tests in this process left."""


@pytest.fixture(autouse=True)
def only_own_memory_files() -> None:
    _OTHERS.clear()
    _OTHERS.update(file.stat().st_ino for file in memory_files())


def memory_files(process: int | str = "self") -> list[Path]:
    """The memory files of tiers that a process has open, but for those of other tests."""
    found = []
    for link in Path(f"/proc/{process}/fd").iterdir():
        try:
            ours = "memfd:greencache" in str(link.readlink()) and link.stat().st_ino not in _OTHERS
        except OSError:
            continue  # that of the listing itself
        if ours:
            found.append(link)
    return found


def taken_bytes() -> int:
    """Memory that tiers of this process take, as the kernel counts it."""
    taken = {}
    for file in memory_files():
        with contextlib.suppress(FileNotFoundError):  # it was closed meanwhile
            found = file.stat()
            taken[found.st_dev, found.st_ino] = found.st_blocks * 512
    return sum(taken.values())


def taken_at_most(limit_bytes: int) -> bool:
    return taken_bytes() <= limit_bytes


def mapped_bytes() -> int:
    """Shared memory that this process has in its page tables."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["RssShmem"].split()[0]) * 1024


async def test_memory_falls_on_a_shrink_and_comes_back_on_growth() -> None:
    block_bytes, blocks = MIB, 128
    keys = prompt(*range(blocks))
    async with DramTier(block_bytes, blocks * block_bytes, extent_bytes=16 * MIB) as tier:
        assert await settled(lambda: taken_bytes() == blocks * block_bytes), "taken ahead"
        for _ in range(2):
            await store(tier, keys)
            assert taken_bytes() == tier.stats().backed_bytes == blocks * block_bytes
            mapped = mapped_bytes()
            assert await tier.resize(blocks // 4 * block_bytes) == 0
            assert taken_bytes() == tier.stats().backed_bytes == blocks // 4 * block_bytes
            assert tier.allocated_bytes == taken_bytes()
            assert mapped - mapped_bytes() == 3 * blocks // 4 * block_bytes
            assert await load(tier, keys) == blocks // 4
            await tier.resize(0)
            assert taken_bytes() == 0
            assert memory_files() == []
            await tier.resize(blocks * block_bytes)
            assert await settled(lambda: taken_bytes() == blocks * block_bytes)
            assert await load(tier, keys) == 0
    assert memory_files() == []


async def test_memory_is_taken_as_blocks_come_unless_ahead() -> None:
    async with DramTier(3 * MIB - 1, 30 * MIB, prefault=False) as tier:
        assert taken_bytes() == 0
        for count in (1, 4, 10):
            await store(tier, prompt(*range(count)))
            assert taken_bytes() == tier.stats().backed_bytes == count * 3 * MIB


async def test_a_shrink_stops_memory_from_being_taken_ahead() -> None:
    async with DramTier(MIB, 512 * MIB) as tier:
        await asyncio.sleep(0.01)
        await tier.resize(8 * MIB)
        assert taken_bytes() <= 8 * MIB
        await asyncio.sleep(0.05)
        assert taken_bytes() <= 8 * MIB


async def test_closing_does_not_wait_for_memory_taken_ahead() -> None:
    tier = DramTier(MIB, 4 * GIB)
    await tier.open()
    await asyncio.sleep(0.01)
    await tier.close()
    assert tier.stats().backed_bytes < 2 * GIB
    assert memory_files() == []


async def test_leased_blocks_outlive_a_shrink_to_nothing() -> None:
    keys = prompt(*range(64))
    async with DramTier(MIB, 64 * MIB, extent_bytes=8 * MIB) as tier:
        await store(tier, keys)
        lease = await tier.acquire(keys[:16])
        assert await tier.resize(0) == 16 * MIB
        assert taken_bytes() == 16 * MIB
        assert await check(tier, lease) == 16
        tier.release(lease)
        assert await settled(lambda: taken_bytes() == 0)


async def test_it_shrinks_to_a_quarter_and_back_while_read_and_written() -> None:
    block_bytes, blocks = 3 * MIB // 2 + 1, 64
    prompts = [prompt(n % 4, *range(n, n + 9)) for n in range(12)]
    async with DramTier(block_bytes, 0, extent_bytes=32 * MIB) as tier:
        whole = blocks * tier.stride_bytes
        await tier.resize(whole)
        done = False
        loaded = uses = 0

        async def use(seed: int) -> None:
            nonlocal loaded, uses
            draw = random.Random(seed)
            while not done:
                keys = draw.choice(prompts)
                found = await load(tier, keys)
                loaded += found  # after the wait, in which others added theirs
                await store(tier, keys)
                uses += 1
                assert taken_bytes() <= whole
                await asyncio.sleep(0)  # what finds nothing and no room has waited for nothing

        users = [asyncio.create_task(use(seed)) for seed in range(4)]
        for turn in range(8):
            for capacity in (whole // 4, whole):
                await asyncio.wait(users, timeout=0.01)
                await tier.resize(capacity)
                limit = max(capacity, tier.stats().used_bytes)
                assert await settled(partial(taken_at_most, limit))
            while uses < 8 * (turn + 1) and not any(user.done() for user in users):
                await asyncio.sleep(0.001)
        done = True
        await asyncio.gather(*users)
        assert loaded > 0
        assert tier.stats().failures == {}
        await tier.resize(whole // 4)
        assert taken_bytes() <= whole // 4


async def test_more_than_there_is_is_refused_and_changes_nothing() -> None:
    much = 2 * available_memory_bytes()
    with pytest.raises(TierError, match=r"for a capacity of .* is available"):
        await DramTier(MIB, much).open()
    async with DramTier(MIB, 8 * MIB) as tier:
        await store(tier, prompt(*range(8)))
        with pytest.raises(TierError, match=r"is available; choose less"):
            await tier.resize(much)
        assert tier.stats().capacity_bytes == 8 * MIB
        assert await load(tier, prompt(*range(8))) == 8


async def test_without_memory_nothing_is_reserved_and_it_is_counted(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with DramTier(MIB, 64 * MIB, prefault=False) as tier:
        await store(tier, prompt("a", "b"))
        give = allocate
        pieces = 0

        def full(descriptor: int, offset: int, length: int) -> None:
            nonlocal pieces
            pieces += 1
            if pieces > 1:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            give(descriptor, offset, length)

        lease = await tier.acquire(prompt("a"))
        await tier.delete(prompt("a", "b"))  # so that what is free is in two pieces
        tier.release(lease)
        with monkeypatch.context() as failing:
            failing.setattr("greencache.tiers.memory_file.allocate", full)
            for times in (1, 2):
                pieces = 1
                assert await store(tier, prompt("a", *range(9))) == 0
                assert tier.stats().failures == {"claim": times}
                assert tier.stats().blocks == 1
                assert taken_bytes() == tier.stats().backed_bytes
        assert [record.message for record in caplog.records if "no memory" in record.message] == [
            "dram: claim failed: tier dram got no memory: No space left on device; make it smaller;"
            " counted from now on"
        ]
        assert await store(tier, prompt("a", *range(9))) == 9
        assert await load(tier, prompt("a", *range(9))) == 10


async def test_part_of_what_was_asked_for_is_given_back_if_the_rest_is_not_to_be_had(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with DramTier(MIB, 64 * MIB, prefault=False, extent_bytes=4 * MIB) as tier:
        give = allocate

        def scarce(descriptor: int, offset: int, length: int) -> None:
            if taken_bytes() > 8 * MIB:
                raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
            give(descriptor, offset, length)

        monkeypatch.setattr("greencache.tiers.memory_file.allocate", scarce)
        assert await store(tier, prompt(*range(16))) == 0
        assert taken_bytes() == tier.stats().backed_bytes == 0
        assert await store(tier, prompt(*range(8))) == 8


CHILD = """
import asyncio, sys
from greencache.tiers.dram import DramTier
from tests.conformance.prompts import prompt, store

async def main():
    async with DramTier(2**20, 2**26) as tier:
        await store(tier, prompt(*range(64)))
        print("stored", flush=True)
        await asyncio.sleep(600)

asyncio.run(main())
"""


def test_nothing_is_left_of_a_process_that_was_killed() -> None:
    command = [sys.executable, "-c", CHILD]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == "stored\n"
            files = {link.stat().st_ino for link in memory_files(child.pid)}
            assert len(files) > 0
        finally:
            child.send_signal(signal.SIGKILL)
            child.wait()
    # A memory file lasts as long as somebody has it open or mapped: nobody has.
    for process in Path("/proc").glob("[0-9]*"):
        try:
            assert files.isdisjoint(link.stat().st_ino for link in memory_files(process.name))
            maps = (process / "maps").read_text()
        except OSError:
            continue  # it has ended, or is not ours
        assert not any(
            int(line.split()[4]) in files
            for line in maps.splitlines()
            if "memfd:greencache" in line
        )
    assert not any("greencache" in entry.name for entry in Path("/dev/shm").iterdir())


def look_around(tier: DramTier, answers: multiprocessing.Queue[object]) -> None:
    """In a forked child."""
    try:
        asyncio.run(tier.acquire(prompt("a")))
        refused = False
    except TierClosedError:
        refused = True
    answers.put((refused, len(memory_files())))


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
async def test_a_forked_child_has_no_part_in_it() -> None:
    fork = multiprocessing.get_context("fork")
    answers = fork.Queue()
    async with DramTier(MIB, 8 * MIB) as tier:
        await store(tier, prompt("a", "b"))
        assert len(memory_files()) > 0
        child = fork.Process(target=look_around, args=(tier, answers))
        child.start()
        assert await asyncio.to_thread(answers.get, timeout=30) == (True, 0)
        await asyncio.to_thread(child.join)
        assert await load(tier, prompt("a", "b")) == 2
        await tier.resize(0)
        assert taken_bytes() == 0


async def test_no_other_program_gets_its_files() -> None:
    async with DramTier(MIB, 8 * MIB) as tier:
        await store(tier, prompt("a"))
        listing = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            "import os; print([os.readlink(f'/proc/self/fd/{f}') for f in range(3, 20)"
            " if os.path.exists(f'/proc/self/fd/{f}')])",
            stdout=asyncio.subprocess.PIPE,
            close_fds=False,
        )
        out, _ = await listing.communicate()
        assert listing.returncode == 0
        assert b"memfd" not in out


async def test_slots_are_found_in_their_extents_whatever_the_size() -> None:
    """A block larger than an extent stands in one of its own."""
    for block_bytes in (5000, 70_000):
        async with DramTier(block_bytes, 2 * MIB, extent_bytes=64 * 1024) as tier:
            blocks = 2 * MIB // tier.stride_bytes
            keys = prompt(*range(blocks))
            assert await store(tier, keys) == blocks
            assert await load(tier, keys) == blocks
            assert tier.slots_per_extent == max(1, 64 * 1024 // tier.stride_bytes)


async def test_large_batches_are_split_over_threads_and_put_together_again() -> None:
    block_bytes, keys = 700_001, prompt(*range(53))
    async with DramTier(block_bytes, 64 * MIB, threads=3) as tier:
        assert await store(tier, keys) == 53
        lease = await tier.acquire(keys)
        apart = [np.zeros(block_bytes, np.uint8) for _ in keys]
        assert await tier.read(lease, apart) == 53
        assert (np.stack(apart) == the_bytes(keys, block_bytes)).all()
        tier.release(lease)


def test_what_a_control_group_leaves_is_what_is_available(tmp_path: Path) -> None:
    proc, groups = tmp_path / "proc", tmp_path / "cgroup"
    (proc / "self").mkdir(parents=True)
    (proc / "meminfo").write_text("MemTotal: 1000 kB\nMemAvailable:    800 kB\n")
    assert available_memory_bytes(proc, groups) == 800 * 1024, "none without control groups"
    (proc / "self" / "cgroup").write_text("0::/pod/container\n")
    inner = groups / "pod" / "container"
    inner.mkdir(parents=True)
    for folder, limit, used, droppable in (
        (inner, "max", 100, 0),
        (inner.parent, "500000", 300_000, 40_000),
    ):
        (folder / "memory.max").write_text(f"{limit}\n")
        (folder / "memory.current").write_text(f"{used}\n")
        (folder / "memory.stat").write_text(f"anon 5\ninactive_file {droppable}\n")
    assert available_memory_bytes(proc, groups) == 240_000
    (inner.parent / "memory.current").write_text("900000\n")
    assert available_memory_bytes(proc, groups) == 0
