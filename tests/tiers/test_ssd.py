"""The SSD tier: warm restarts, disks that fail, a limit of space that holds at every instant."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from greencache.blocks import KEY_BYTES
from greencache.errors import InputError, StorageError, TierBusyError, TierError
from greencache.tiers.directory import KeyDirectory
from greencache.tiers.files import Directory, aligned_buffer
from greencache.tiers.index import TierIndex
from greencache.tiers.ssd import SsdTier
from tests.conformance.prompts import load, the_bytes
from tests.tiers.chains import chain, store
from tests.tiers.disks import FaultyDisk, failing

BLOCK_BYTES = 8192
CAPACITY_BYTES = 2**20


class Disks:
    """Opens failing disks, and remembers the last."""

    def __init__(self) -> None:
        self.last: FaultyDisk | None = None

    def __call__(self, path: Path) -> FaultyDisk:
        self.last = FaultyDisk(path)
        return self.last

    @property
    def disk(self) -> FaultyDisk:
        assert self.last is not None
        return self.last


def tier_in(path: Path, *, disks: Disks | None = None, block_bytes: int = BLOCK_BYTES) -> SsdTier:
    return SsdTier(
        path,
        block_bytes,
        CAPACITY_BYTES,
        extent_bytes=16 * block_bytes,
        open_files=Directory if disks is None else disks,
    )


def allocated_bytes(path: Path) -> int:
    """What du says."""
    names = [path, *path.iterdir()]
    return sum(name.lstat().st_blocks * 512 for name in names)


def killed(path: Path) -> Path:
    """A copy of a tier in use: what it leaves behind if it is killed now."""
    copy = path.with_name(f"{len(list(path.parent.iterdir()))}")
    shutil.copytree(path, copy)
    return copy


# What it keeps.


@pytest.mark.parametrize("block_bytes", [1, 5000, 8192, 4 * 2**20 + 100])
def test_blocks_of_any_size_come_back_as_they_were(tmp_path: Path, block_bytes: int) -> None:
    async def run() -> None:
        path, keys = tmp_path / "tier", chain(1, 3)
        capacity_bytes = 6 * (block_bytes + 4096) + 2**17
        async with SsdTier(path, block_bytes, capacity_bytes) as tier:
            assert await store(tier, keys) == 3
            assert await load(tier, keys) == 3
        async with SsdTier(path, block_bytes, capacity_bytes) as tier:
            assert await load(tier, keys) == 3
            assert not tier.stats().failures

    asyncio.run(run())


def test_buffers_wherever_they_are_in_memory_are_read_and_written(tmp_path: Path) -> None:
    async def run() -> None:
        keys = chain(1, 6)
        data = the_bytes(keys, BLOCK_BYTES)
        room = aligned_buffer(6 * (BLOCK_BYTES + 1))
        odd = [room[i * (BLOCK_BYTES + 1) + 1 :][:BLOCK_BYTES] for i in range(6)]
        even = aligned_buffer(6 * BLOCK_BYTES).reshape(6, BLOCK_BYTES)
        async with tier_in(tmp_path / "tier") as tier:
            for row, block in zip(odd, data, strict=True):
                row[:] = block
            reservation = await tier.reserve(keys)
            assert await tier.write(reservation, odd)
            await tier.commit(reservation)
            lease = await tier.acquire(keys)
            assert await tier.read(lease, even) == 6
            np.testing.assert_array_equal(even, data)
            for row in odd:
                row[:] = 0
            assert await tier.read(lease, odd[2:], first=2) == 4
            np.testing.assert_array_equal(odd[2:], data[2:])
            tier.release(lease)

    asyncio.run(run())


def test_buffers_of_another_size_are_refused_before_they_spoil_a_neighbour(tmp_path: Path) -> None:
    async def run() -> None:
        async with tier_in(tmp_path / "tier") as tier:
            reservation = await tier.reserve(chain(1, 2))
            wrongs: list[Any] = [
                np.zeros((2, BLOCK_BYTES + 1), np.uint8),
                np.zeros((2, BLOCK_BYTES), np.int16),
                np.zeros((2, 2 * BLOCK_BYTES), np.uint8)[:, ::2],
            ]
            for wrong in wrongs:
                with pytest.raises(InputError, match="arrays of uint8"):
                    await tier.write(reservation, wrong)
            tier.abort(reservation)

    asyncio.run(run())


def test_a_block_deleted_and_flushed_does_not_come_back(tmp_path: Path) -> None:
    async def run() -> None:
        async with tier_in(tmp_path / "tier") as tier:
            await store(tier, chain(1, 4))
            assert await tier.delete(chain(1, 3)) == 2
        async with tier_in(tmp_path / "tier") as tier:
            assert await load(tier, chain(1, 4)) == 2

    asyncio.run(run())


def test_a_prefix_stored_again_takes_the_place_of_the_one_dropped_before(tmp_path: Path) -> None:
    async def run() -> None:
        path = tmp_path / "tier"
        async with tier_in(path) as tier:
            await store(tier, chain(1, 4))
            await tier.delete(chain(1, 1))
            await store(tier, chain(2, 2))
            await store(tier, chain(1, 3))
            copy = tmp_path / "copy"  # as a killed process leaves it: nothing was flushed
            subprocess.run(["cp", "-a", path, copy], check=True)
        async with tier_in(copy) as tier:
            assert await load(tier, chain(1, 4)) == 3
            assert await load(tier, chain(2, 2)) == 2

    asyncio.run(run())


def test_reopened_smaller_it_keeps_what_fits_and_gives_the_rest_back(tmp_path: Path) -> None:
    async def run() -> None:
        path = tmp_path / "tier"
        async with tier_in(path) as tier:
            for name in range(20):
                await store(tier, chain(name, 5))
        async with SsdTier(path, BLOCK_BYTES, 2**18, extent_bytes=16 * BLOCK_BYTES) as tier:
            assert 0 < tier.stats().blocks < 30
            assert allocated_bytes(path) <= 2**18
            found = [await load(tier, chain(name, 5)) for name in range(20)]
            assert sum(found) == tier.stats().blocks
            assert found[19] == 5, "those stored last are there"

    asyncio.run(run())


def test_blocks_are_found_again_without_reading_them(tmp_path: Path) -> None:
    async def run() -> None:
        path, keys = tmp_path / "tier", chain(1, 100)
        async with tier_in(path) as tier:
            assert await store(tier, keys) == 100
        disks = Disks()
        opened = tier_in(path, disks=disks)

        def refuse_reading_blocks(where: Path) -> FaultyDisk:
            disk = disks(where)
            disk.fault = failing("read", "extent")
            return disk

        opened._open_files = refuse_reading_blocks
        async with opened as tier:
            assert await tier.match(keys) == 100
            assert tier.stats().blocks == 100

    asyncio.run(run())


# What it refuses.


class WatchedIndex(TierIndex):
    """Notes which threads restore it."""

    def __init__(self) -> None:
        super().__init__(0)
        self.threads: list[int] = []

    def restore(self, *arguments: Any) -> None:
        self.threads.append(threading.get_ident())
        super().restore(*arguments)


class WatchedDirectory(KeyDirectory):
    """Notes how many keys it is given at once, and by whom."""

    def __init__(self) -> None:
        super().__init__()
        self.interned: list[int] = []
        self.threads: set[int] = set()

    def intern(self, keys: list[bytes] | bytes) -> NDArray[np.int32]:
        self.interned.append(len(keys) // (KEY_BYTES if isinstance(keys, bytes) else 1))
        self.threads.add(threading.get_ident())
        return super().intern(keys)


def test_finding_many_blocks_again_leaves_the_loop_to_others(tmp_path: Path) -> None:
    """The directory is the cache's, so it is used on the loop alone, but not for long."""
    blocks, block_bytes = 20_000, 1

    def tier(**options: Any) -> SsdTier:
        return SsdTier(tmp_path / "tier", block_bytes, 120 * 2**20, **options)

    async def run() -> None:
        async with tier() as first:
            for name in range(blocks // 1000):
                assert await store(first, chain(name, 1000)) == 1000
        index, directory = WatchedIndex(), WatchedDirectory()
        async with tier(index=index, directory=directory) as again:
            assert again.stats().blocks == blocks
            assert await load(again, chain(3, 1000)) == 1000
        assert sum(directory.interned) == blocks
        assert max(directory.interned) < blocks // 4
        assert directory.threads == {threading.get_ident()}
        assert len(index.threads) == 1
        assert index.threads[0] != threading.get_ident()

    asyncio.run(run())


def test_two_tiers_cannot_share_a_directory(tmp_path: Path) -> None:
    async def run() -> None:
        async with tier_in(tmp_path / "tier"):
            with pytest.raises(TierBusyError):
                await tier_in(tmp_path / "tier").open()
        async with tier_in(tmp_path / "tier"):
            pass

    asyncio.run(run())


def test_a_directory_with_other_files_is_refused_and_left_alone(tmp_path: Path) -> None:
    async def run() -> None:
        path = tmp_path / "home"
        path.mkdir(mode=0o700)
        (path / "thesis.tex").write_text("thesis")
        with pytest.raises(TierError, match="thesis"):
            await tier_in(path).open()
        assert (path / "thesis.tex").read_text() == "thesis"

    asyncio.run(run())


def test_blocks_of_another_model_or_size_are_refused_unless_told_to_start_empty(
    tmp_path: Path,
) -> None:
    async def run() -> None:
        path = tmp_path / "tier"
        async with tier_in(path) as tier:
            await store(tier, chain(1, 4))
        with pytest.raises(TierError, match="another model"):
            await SsdTier(path, BLOCK_BYTES, CAPACITY_BYTES, namespace=b"other model.....").open()
        with pytest.raises(TierError, match="8,192 bytes"):
            await tier_in(path, block_bytes=4096).open()
        async with tier_in(path) as tier:
            assert await load(tier, chain(1, 4)) == 4, "refusing changed nothing"
        async with SsdTier(path, 4096, CAPACITY_BYTES, start_empty=True) as tier:
            assert await load(tier, chain(1, 4)) == 0
            assert await store(tier, chain(1, 4)) == 4
            assert allocated_bytes(path) <= CAPACITY_BYTES

    asyncio.run(run())


def test_more_than_the_disk_has_is_refused(tmp_path: Path) -> None:
    async def run() -> None:
        with pytest.raises(TierError, match="in all"):
            await SsdTier(tmp_path / "tier", BLOCK_BYTES, 2**60).open()
        async with tier_in(tmp_path / "tier") as tier:
            with pytest.raises(TierError, match="in all"):
                await tier.resize(2**60)
            assert tier.stats().capacity_bytes == CAPACITY_BYTES
            assert await store(tier, chain(1, 4)) == 4

    asyncio.run(run())


# Disks that fail.


def test_a_block_that_cannot_be_read_is_a_miss_with_all_that_builds_on_it(tmp_path: Path) -> None:
    async def run() -> None:
        disks = Disks()
        async with tier_in(tmp_path / "tier", disks=disks) as tier:
            await store(tier, chain(1, 6))
            bad = int(tier.index.state.slot_of[tier.directory.find(chain(1, 6))[3]])
            at = bad * BLOCK_BYTES
            disks.disk.fault = lambda doing, name, where: (
                errno.EIO if doing == "read" and at in where else None
            )
            assert await load(tier, chain(1, 6)) == 3
            assert await tier.match(chain(1, 6)) == 3
            assert tier.stats().failures == {"read": 1}
            assert tier.stats().blocks == 3
            disks.disk.fault = failing("nothing")
            assert await store(tier, chain(1, 6)) == 3
            assert await load(tier, chain(1, 6)) == 6

    asyncio.run(run())


def test_a_call_that_fails_for_many_blocks_loses_only_the_bad_ones(tmp_path: Path) -> None:
    async def run() -> None:
        disks, keys = Disks(), chain(1, 8)
        tier = SsdTier(tmp_path / "tier", 4096, CAPACITY_BYTES, depth=1, open_files=disks)
        async with tier:
            await store(tier, keys)
            asked: list[range] = []

            def slot_5(doing: str, name: str, where: range) -> int | None:
                if doing != "read":
                    return None
                asked.append(where)
                return errno.EIO if 5 * 4096 in where else None

            disks.disk.fault = slot_5
            assert await load(tier, keys) == 5
            alone = [range(i * 4096, (i + 1) * 4096) for i in range(8)]
            assert asked == [range(8 * 4096), *alone], "one call for all, then one for each"
            assert tier.stats().failures == {"read": 1}

    asyncio.run(run())


@pytest.mark.parametrize("bit", [0, 1, 7])
def test_a_flipped_bit_is_a_miss(tmp_path: Path, bit: int) -> None:
    async def run() -> None:
        path = tmp_path / "tier"
        async with tier_in(path) as tier:
            await store(tier, chain(1, 4))
            slot = int(tier.index.state.slot_of[tier.directory.find(chain(1, 4))[2]])
        with (path / "extent-000000").open("r+b") as file:
            file.seek(slot * BLOCK_BYTES + 1234)
            byte = file.read(1)[0]
            file.seek(-1, os.SEEK_CUR)
            file.write(bytes([byte ^ 1 << bit]))
        async with tier_in(path) as tier:
            assert await load(tier, chain(1, 4)) == 2
            assert tier.stats().failures == {"checksum": 1}
            assert tier.stats().blocks == 2

    asyncio.run(run())


@pytest.mark.parametrize("length", [0, 1, BLOCK_BYTES, 2 * BLOCK_BYTES + 5000])
def test_what_a_file_was_cut_off_from_is_not_found_again(tmp_path: Path, length: int) -> None:
    async def run() -> None:
        path = tmp_path / "tier"
        async with tier_in(path) as tier:
            await store(tier, chain(1, 4))
        os.truncate(path / "extent-000000", length)
        async with tier_in(path) as tier:
            assert await load(tier, chain(1, 4)) == length // BLOCK_BYTES
            assert await store(tier, chain(1, 4)) == 4 - length // BLOCK_BYTES
            assert await load(tier, chain(1, 4)) == 4
            assert not tier.stats().failures

    asyncio.run(run())


def test_a_file_cut_short_in_use_is_a_miss(tmp_path: Path) -> None:
    async def run() -> None:
        path = tmp_path / "tier"
        async with tier_in(path) as tier:
            await store(tier, chain(1, 4))
            os.truncate(path / "extent-000000", BLOCK_BYTES)
            assert await load(tier, chain(1, 4)) == 1
            assert sum(tier.stats().failures.values()) == 3

    asyncio.run(run())


def test_a_missing_file_takes_its_blocks_with_it(tmp_path: Path) -> None:
    async def run() -> None:
        path = tmp_path / "tier"
        async with tier_in(path) as tier:
            await store(tier, chain(1, 20))  # 16 slots to a file
        (path / "extent-000001").unlink()
        async with tier_in(path) as tier:
            assert await load(tier, chain(1, 20)) == 16

    asyncio.run(run())


@pytest.mark.parametrize(
    ("doing", "file", "number", "counted"),
    [
        ("allocate", "extent", errno.ENOSPC, "claim"),
        ("write", "extent", errno.EIO, "write"),
        ("write", "extent", errno.ENOSPC, "write"),
        ("open", "extent", errno.EMFILE, "claim"),
        ("write", "manifest", errno.EIO, "write"),
    ],
)
def test_what_cannot_be_stored_is_given_up_and_the_tier_goes_on(
    tmp_path: Path, doing: str, file: str, number: int, counted: str
) -> None:
    async def run() -> None:
        disks = Disks()
        async with tier_in(tmp_path / "tier", disks=disks) as tier:
            disks.disk.fault = failing(doing, file, number)
            await store(tier, chain(1, 4))
            assert await tier.match(chain(1, 4)) == 0
            assert tier.stats().failures == {counted: 1}
            assert tier.stats().blocks == 0
            disks.disk.fault = failing("nothing")
            assert await store(tier, chain(1, 4)) == 4
            assert await load(tier, chain(1, 4)) == 4

    asyncio.run(run())


def test_a_file_that_cannot_be_as_long_as_it_should_is_not_left_there(tmp_path: Path) -> None:
    async def run() -> None:
        disks, path = Disks(), tmp_path / "tier"
        async with tier_in(path, disks=disks) as tier:
            assert await store(tier, chain(1, 16)) == 16
            there = sorted(path.iterdir()), len(list(Path("/proc/self/fd").iterdir()))
            disks.disk.fault = failing("truncate", "extent", errno.EFBIG)
            for name in range(2, 5):
                assert await store(tier, chain(name, 4)) == 0
            assert tier.stats().failures == {"claim": 3}
            now = sorted(path.iterdir()), len(list(Path("/proc/self/fd").iterdir()))
            assert now == there
            assert await load(tier, chain(1, 16)) == 16
            disks.disk.fault = failing("nothing")
            assert await store(tier, chain(2, 4)) == 4
            assert (path / "extent-000001").stat().st_size == 16 * BLOCK_BYTES

    asyncio.run(run())


@pytest.mark.parametrize("flush", [False, True])
def test_what_was_given_up_when_it_was_written_is_whole_or_not_there(
    tmp_path: Path, flush: bool
) -> None:
    async def run() -> None:
        async with tier_in(tmp_path / "tier") as tier:
            await store(tier, chain(1, 2))
            reservation = await tier.reserve(chain(1, 4))
            assert await tier.write(reservation, the_bytes(reservation.keys, BLOCK_BYTES))
            tier.abort(reservation)
            assert await tier.match(chain(1, 4)) == 2
            if flush:
                await tier.flush()
            left = killed(tmp_path / "tier")
            assert await store(tier, chain(1, 4)) == 2
            stored = killed(tmp_path / "tier")
        for path, found in ((left, 2 if flush else 4), (stored, 4), (tmp_path / "tier", 4)):
            async with tier_in(path) as tier:
                assert await load(tier, chain(1, 4)) == tier.stats().blocks == found
                assert not tier.stats().failures

    asyncio.run(run())


@pytest.mark.parametrize("file", ["extent", "manifest"])
def test_a_flush_that_fails_says_so_and_is_made_up_for(tmp_path: Path, file: str) -> None:
    async def run() -> None:
        disks = Disks()
        async with tier_in(tmp_path / "tier", disks=disks) as tier:
            await store(tier, chain(1, 4))
            disks.disk.fault = failing("sync", file)
            for _ in range(2):
                with pytest.raises(StorageError, match="mend it"):
                    await tier.flush()
            synced: list[str] = []

            def note(doing: str, name: str, where: range) -> None:
                if doing == "sync":
                    synced.append(name)

            disks.disk.fault = note
            await tier.flush()
            assert "manifest" in {name.split(".")[0] for name in synced}
            assert file in {name.split("-")[0].split(".")[0] for name in synced}

    asyncio.run(run())


def test_space_that_cannot_be_given_back_is_still_counted(tmp_path: Path) -> None:
    async def run() -> None:
        disks = Disks()
        path = tmp_path / "tier"
        async with tier_in(path, disks=disks) as tier:
            for name in range(10):
                await store(tier, chain(name, 10))
            disks.disk.fault = failing("punch")
            await tier.resize(CAPACITY_BYTES // 2)
            assert tier.stats().failures["give back"] > 0
            assert tier.stats().backed_bytes > CAPACITY_BYTES // 2
            disks.disk.fault = failing("nothing")
            await tier.resize(CAPACITY_BYTES // 2)
            assert allocated_bytes(path) <= CAPACITY_BYTES // 2

    asyncio.run(run())


@pytest.mark.parametrize(
    ("doing", "file", "kept"), [("punch", "extent-000004", 96), ("unlink", "extent-000005", 72)]
)
def test_after_giving_space_back_failed_halfway_a_tier_grows_and_stores_again(
    tmp_path: Path, doing: str, file: str, kept: int
) -> None:
    async def run() -> None:
        disks = Disks()
        async with tier_in(tmp_path / "tier", disks=disks) as tier:
            await tier.resize(tier.bytes_for(96))  # six files
            for name in range(6):
                assert await store(tier, chain(name, 16)) == 16
            await tier.delete(chain(5, 1))  # all of the last file
            await tier.delete(chain(4, 9))  # and half of the one before
            disks.disk.fault = failing(doing, file)
            await tier.resize(tier.bytes_for(72))
            assert tier.stats().failures == {"give back": 1}
            backed = tier.stats().backed_bytes - tier._own_bytes()
            assert backed == kept * BLOCK_BYTES
            disks.disk.fault = failing("nothing")
            await tier.resize(tier.bytes_for(96))
            for name in range(10, 16):
                assert await store(tier, chain(name, 16)) == 16
                assert await load(tier, chain(name, 16)) == 16
            assert tier.stats().failures == {"give back": 1}
        assert allocated_bytes(tmp_path / "tier") <= tier.bytes_for(96)

    asyncio.run(run())


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A filesystem of one megabyte."""
    path = tmp_path / "small"
    path.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m,mode=0700", "none", path], capture_output=True
    )
    if mounted.returncode != 0:
        pytest.skip("mounting a small filesystem is not permitted here")
    yield path
    subprocess.run(["umount", "--lazy", path], check=True)


def test_a_full_disk_stores_no_more_and_serves_what_it_has(small_disk: Path) -> None:
    async def run() -> None:
        async with tier_in(small_disk / "tier") as tier:
            others = small_disk / "others"
            others.write_bytes(bytes(2**19))
            for name in range(20):
                await store(tier, chain(name, 5))
            failures = tier.stats().failures
            assert failures["claim"] > 0
            held = tier.stats().blocks
            assert 0 < held < 70
            found = [await load(tier, chain(name, 5)) for name in range(20)]
            assert sum(found) == held
            others.unlink()
            await store(tier, chain(99, 5))
            assert await load(tier, chain(99, 5)) == 5
            assert tier.stats().failures == failures, "there is room again"
        async with tier_in(small_disk / "tier") as tier:
            assert await load(tier, chain(99, 5)) == 5

    asyncio.run(run())


@pytest.mark.parametrize(
    ("doing", "file"),
    [("open", "extent"), ("read", "manifest"), ("write", "manifest"), ("punch", "")],
)
def test_what_cannot_be_opened_is_an_error_and_leaves_nothing_open(
    tmp_path: Path, doing: str, file: str
) -> None:
    path = tmp_path / "tier"
    asyncio.run(_fill(path))
    disks = Disks()

    def failing_disk(where: Path) -> FaultyDisk:
        disk = disks(where)
        disk.fault = failing(doing, file)
        return disk

    async def run() -> None:
        files, threads = len(list(Path("/proc/self/fd").iterdir())), set(threading.enumerate())
        with pytest.raises(StorageError):
            await SsdTier(path, BLOCK_BYTES, CAPACITY_BYTES, open_files=failing_disk).open()
        new = set(threading.enumerate()) - threads
        assert not [each for each in new if each.name.startswith("greencache")]
        assert len(list(Path("/proc/self/fd").iterdir())) == files
        async with SsdTier(path, BLOCK_BYTES, CAPACITY_BYTES) as tier:
            assert await load(tier, chain(1, 4)) == 4

    asyncio.run(run())


@pytest.mark.parametrize(
    ("doing", "file"), [("lock", ""), ("open", "extent"), ("write", "manifest"), ("punch", "")]
)
def test_cancelled_while_it_opens_it_leaves_nothing_open(
    tmp_path: Path, doing: str, file: str
) -> None:
    path = tmp_path / "tier"
    asyncio.run(_fill(path))
    begun, go_on = threading.Event(), threading.Event()

    def wait(does: str, name: str, where: range) -> None:
        if does == doing and name.startswith(file):
            begun.set()
            go_on.wait()

    def slow_disk(where: Path) -> FaultyDisk:
        disk = FaultyDisk(where)
        disk.fault = wait
        disk.check("lock", "", range(0))
        return disk

    async def run() -> None:
        files = len(list(Path("/proc/self/fd").iterdir()))
        slow = SsdTier(path, BLOCK_BYTES, CAPACITY_BYTES, open_files=slow_disk)
        opening = asyncio.create_task(slow.open())
        await asyncio.to_thread(begun.wait)
        opening.cancel()
        await asyncio.sleep(0)
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await opening
        assert len(list(Path("/proc/self/fd").iterdir())) == files
        async with SsdTier(path, BLOCK_BYTES, CAPACITY_BYTES) as tier:
            assert await load(tier, chain(1, 4)) == 4

    asyncio.run(run())


async def _fill(path: Path) -> None:
    async with SsdTier(path, BLOCK_BYTES, CAPACITY_BYTES) as tier:
        await store(tier, chain(1, 4))


# How much it takes.


def test_the_limit_of_disk_space_holds_at_every_instant(tmp_path: Path) -> None:
    path = tmp_path / "tier"
    limits: list[int] = [CAPACITY_BYTES]
    """All limits that hold at an instant: during a resize, the one before and the one after."""
    over: list[tuple[int, int]] = []
    sampled = 0
    done = threading.Event()

    def watch() -> None:
        nonlocal sampled
        while not done.is_set():
            before = max(limits)
            total = 0
            try:
                total = allocated_bytes(path)
            except FileNotFoundError:
                continue  # a file was removed just now
            allowed = max(before, *limits)
            sampled += 1
            if total > allowed:
                over.append((total, allowed))

    async def run() -> None:
        random = np.random.default_rng(5)
        async with tier_in(path) as tier:
            watching = threading.Thread(target=watch)
            watching.start()
            try:
                for step in range(250):
                    await store(tier, chain(int(random.integers(50)), int(random.integers(1, 20))))
                    await load(tier, chain(int(random.integers(50)), 10))
                    if step % 10 == 9:
                        wanted = int(CAPACITY_BYTES * random.choice([0.25, 0.5, 1.0]))
                        limits.append(wanted)
                        await tier.resize(wanted)
                        limits[:] = [wanted]
                        assert allocated_bytes(path) <= wanted
                    if step % 25 == 24:
                        await tier.flush()
            finally:
                done.set()
                watching.join()
            assert not tier.stats().failures

    asyncio.run(run())
    assert not over
    assert sampled > 100


def test_a_shrink_waits_for_leases_and_gives_everything_else_back(tmp_path: Path) -> None:
    async def run() -> None:
        path = tmp_path / "tier"
        async with tier_in(path) as tier:
            for name in range(10):
                await store(tier, chain(name, 10))
            full_bytes = allocated_bytes(path)
            lease = await tier.acquire(chain(9, 10))
            assert len(lease) == 10
            assert await tier.resize(0) == 10 * BLOCK_BYTES
            assert allocated_bytes(path) < full_bytes / 4
            assert await load(tier, chain(9, 10)) == 10
            tier.release(lease)
            while tier.stats().backed_bytes > 2**17:
                await asyncio.sleep(0.001)
            assert tier.stats().blocks == 0
            assert allocated_bytes(path) < 2**17
            await tier.resize(CAPACITY_BYTES)
            assert await store(tier, chain(1, 10)) == 10
            assert await load(tier, chain(1, 10)) == 10

    asyncio.run(run())


def test_a_growth_that_gets_no_space_for_the_manifest_changes_nothing(tmp_path: Path) -> None:
    async def run() -> None:
        disks = Disks()
        async with tier_in(tmp_path / "tier", disks=disks) as tier:
            await store(tier, chain(1, 4))
            slots, backed_bytes = tier.index.capacity_blocks, tier.stats().backed_bytes
            disks.disk.fault = failing("allocate", "manifest", errno.ENOSPC)
            with pytest.raises(StorageError, match="No space left"):
                await tier.resize(4 * CAPACITY_BYTES)
            assert tier.index.capacity_blocks == slots
            assert tier.stats().capacity_bytes == CAPACITY_BYTES
            assert tier.stats().backed_bytes == backed_bytes
            disks.disk.fault = failing("nothing")
            assert await tier.resize(4 * CAPACITY_BYTES) == 0
            assert await store(tier, chain(2, 300)) == 300

    asyncio.run(run())


def test_a_shrink_that_cannot_write_the_manifest_anew_counts_it(tmp_path: Path) -> None:
    async def run() -> None:
        disks, path = Disks(), tmp_path / "tier"
        async with tier_in(path, disks=disks) as tier:
            await tier.resize(64 * CAPACITY_BYTES)
            disks.disk.fault = failing("allocate", "manifest")
            assert await tier.resize(CAPACITY_BYTES) == 0
            assert tier.stats().capacity_bytes == CAPACITY_BYTES
            assert tier.stats().failures == {"manifest": 1}
            disks.disk.fault = failing("nothing")
            assert await tier.resize(CAPACITY_BYTES) == 0
            assert allocated_bytes(path) <= CAPACITY_BYTES // 4

    asyncio.run(run())


def test_a_shrink_that_is_cancelled_goes_on_to_its_end(tmp_path: Path) -> None:
    async def run() -> None:
        disks, path = Disks(), tmp_path / "tier"
        async with tier_in(path, disks=disks) as tier:
            await tier.resize(64 * CAPACITY_BYTES)
            assert await store(tier, chain(1, 16)) == 16
            punching, go_on = threading.Event(), threading.Event()

            def wait(doing: str, name: str, where: range) -> None:
                if doing == "punch":
                    punching.set()
                    go_on.wait()

            disks.disk.fault = wait
            shrinking = asyncio.create_task(tier.resize(2**17))
            await asyncio.to_thread(punching.wait)
            shrinking.cancel()
            await asyncio.sleep(0)
            go_on.set()
            with pytest.raises(asyncio.CancelledError):
                await shrinking
            assert allocated_bytes(path) <= tier.stats().capacity_bytes == 2**17

    asyncio.run(run())


def test_a_shrink_asked_for_while_a_tier_grows_has_the_last_word(tmp_path: Path) -> None:
    async def run() -> None:
        disks, path = Disks(), tmp_path / "tier"
        async with tier_in(path, disks=disks) as tier:
            growing, go_on = threading.Event(), threading.Event()

            def wait(doing: str, name: str, where: range) -> None:
                if doing == "allocate":
                    growing.set()
                    go_on.wait()

            disks.disk.fault = wait
            growth = asyncio.create_task(tier.resize(64 * CAPACITY_BYTES))
            await asyncio.to_thread(growing.wait)
            shrink = asyncio.create_task(tier.resize(2**17))
            for _ in range(3):
                await asyncio.sleep(0)
            go_on.set()
            await asyncio.gather(growth, shrink)
            assert allocated_bytes(path) <= tier.stats().capacity_bytes == 2**17
            assert tier.index.capacity_blocks == tier._slots_in(2**17)

    asyncio.run(run())


def test_a_shrink_asked_for_right_after_a_growth_has_the_last_word(tmp_path: Path) -> None:
    async def run() -> None:
        async with tier_in(tmp_path / "tier") as tier:
            growth = asyncio.create_task(tier.resize(64 * CAPACITY_BYTES))
            await asyncio.sleep(0)
            await asyncio.gather(growth, asyncio.create_task(tier.resize(2**17)))
            assert tier.stats().capacity_bytes == 2**17

    asyncio.run(run())


def test_a_directory_is_free_whatever_closing_its_files_says(tmp_path: Path) -> None:
    async def run() -> None:
        disks = Disks()
        tier = tier_in(tmp_path / "tier", disks=disks)
        await tier.open()
        disks.disk.fault = failing("close", "manifest")
        with pytest.raises(StorageError, match="cannot close"):
            await tier.close()
        async with tier_in(tmp_path / "tier"):
            pass

    asyncio.run(run())


def test_a_reader_that_is_cancelled_has_its_buffers_back_when_it_ends(tmp_path: Path) -> None:
    async def run() -> None:
        disks = Disks()
        async with tier_in(tmp_path / "tier", disks=disks) as tier:
            await store(tier, chain(1, 4))
            reading, go_on = threading.Event(), threading.Event()

            def wait(doing: str, name: str, where: range) -> None:
                if doing == "read":
                    reading.set()
                    go_on.wait()

            disks.disk.fault = wait
            lease = await tier.acquire(chain(1, 4))
            buffers = np.zeros((4, BLOCK_BYTES), np.uint8)
            task = asyncio.create_task(tier.read(lease, buffers))
            while not reading.is_set():
                await asyncio.sleep(0.001)
            for _ in range(3):
                task.cancel()
                await asyncio.sleep(0.01)
            assert not task.done(), "threads may still write to the buffers"
            go_on.set()
            with pytest.raises(asyncio.CancelledError):
                await task
            tier.release(lease)

    asyncio.run(run())
