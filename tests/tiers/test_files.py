"""The directory of a tier: whose it is, who else may use it, and how bytes get to it."""

from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from greencache.errors import TierBusyError, TierError
from greencache.tiers.files import (
    ALIGNMENT,
    Directory,
    address,
    aligned_buffer,
    read_fully,
    write_fully,
)
from tests.processes import process_context
from tests.tiers import killed
from tests.tiers.disks import FaultyDisk

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")


def test_it_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    directory = Directory(tmp_path / "new" / "tier")
    directory.open("file", create=True).close()
    assert (tmp_path / "new" / "tier").stat().st_mode & 0o777 == 0o700
    assert {file.stat().st_mode & 0o777 for file in directory.path.iterdir()} == {0o600}
    directory.close()


def test_a_symbolic_link_in_its_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    (tmp_path / "tier").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(TierError, match="symbolic link"):
        Directory(tmp_path / "tier")
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_file_in_its_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tier").write_text("")
    with pytest.raises(TierError, match="not a directory"):
        Directory(tmp_path / "tier")


@pytest.mark.parametrize("mode", [0o720, 0o702, 0o777])
def test_one_that_others_may_write_to_is_refused(tmp_path: Path, mode: int) -> None:
    (tmp_path / "tier").mkdir()
    (tmp_path / "tier").chmod(mode)
    with pytest.raises(TierError, match="chmod 700"):
        Directory(tmp_path / "tier")


@needs_root
def test_one_of_another_user_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tier").mkdir(mode=0o700)
    os.chown(tmp_path / "tier", 12345, 12345)
    with pytest.raises(TierError, match="belongs to user 12345"):
        Directory(tmp_path / "tier")


def test_a_link_in_place_of_a_file_is_not_followed(tmp_path: Path) -> None:
    directory = Directory(tmp_path / "tier")
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "tier" / "file").symlink_to(tmp_path / "precious")
    with pytest.raises(OSError) as caught:  # noqa: PT011 -- the number says which
        directory.open("file", create=True)
    assert caught.value.errno == errno.ELOOP
    directory.close()
    (tmp_path / "tier" / "lock").unlink()
    (tmp_path / "tier" / "lock").symlink_to(tmp_path / "precious")
    with pytest.raises(TierError, match="lock"):
        Directory(tmp_path / "tier")
    assert (tmp_path / "precious").read_text() == "precious"


def test_what_is_no_file_is_not_opened(tmp_path: Path) -> None:
    directory = Directory(tmp_path / "tier")
    os.mkfifo(tmp_path / "tier" / "file")
    with pytest.raises(OSError, match="regular file"):
        directory.open("file")
    directory.close()


def test_two_processes_cannot_have_it_at_a_time(tmp_path: Path) -> None:
    context = process_context()
    held = context.Event()
    other = context.Process(target=killed.hold_directory, args=(tmp_path / "tier", held))
    other.start()
    assert held.wait(timeout=60)
    with pytest.raises(TierBusyError, match=f"in use by process {other.pid}:"):
        Directory(tmp_path / "tier")
    other.kill()
    other.join()
    Directory(tmp_path / "tier").close()


def test_the_lock_ends_when_it_is_closed(tmp_path: Path) -> None:
    directory = Directory(tmp_path / "tier")
    with pytest.raises(TierBusyError, match=str(os.getpid())):
        Directory(tmp_path / "tier")
    directory.close()
    Directory(tmp_path / "tier").close()


def test_space_is_counted_as_the_system_counts_it(tmp_path: Path) -> None:
    directory = Directory(tmp_path / "tier")
    file = directory.open("file", create=True, direct=True)
    file.truncate(2**30)
    empty_bytes = directory.allocated_bytes()
    assert empty_bytes < 2**20, "it is sparse"
    file.allocate(2**20, 2**20)
    assert directory.allocated_bytes() - empty_bytes == 2**20
    counted = subprocess.run(
        ["du", "-s", "--block-size=1", directory.path], capture_output=True, text=True, check=True
    )
    assert directory.allocated_bytes() == int(counted.stdout.split()[0])
    file.punch(2**20, 2**19)
    assert directory.allocated_bytes() - empty_bytes == 2**19
    assert file.size() == 2**30
    file.close()
    directory.close()


def test_a_filesystem_without_direct_io_is_used_through_the_cache_and_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = os.open

    def refuse(path: str, flags: int, *args: int, **kwargs: int) -> int:
        if flags & os.O_DIRECT:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return opened(path, flags, *args, **kwargs)

    directory = Directory(tmp_path / "tier")
    monkeypatch.setattr(os, "open", refuse)
    for name in ("one", "two"):
        file = directory.open(name, create=True, direct=True)
        assert file.address_alignment == 1
        file.close()
    assert len(caplog.records) == 1
    assert "no direct I/O" in caplog.text
    directory.close()


@pytest.mark.parametrize("at_most", [None, 512, 4096])
def test_many_buffers_are_moved_however_few_bytes_go_at_a_time(
    tmp_path: Path, at_most: int | None
) -> None:
    disk = FaultyDisk(tmp_path / "tier")
    disk.at_most = at_most
    file = disk.open("file", create=True, direct=True)
    count = 1500 if at_most is None else 5  # more than one call takes
    wrote = aligned_buffer(count * ALIGNMENT).reshape(count, ALIGNMENT)
    wrote[:] = (
        np.arange(count * ALIGNMENT, dtype=np.uint64)
        .view(np.uint8)[: wrote.size]
        .reshape(wrote.shape)
    )
    write_fully(file, list(wrote), 8192)
    read = aligned_buffer(wrote.size).reshape(wrote.shape)
    read_fully(file, list(read), 8192)
    np.testing.assert_array_equal(read, wrote)
    with pytest.raises(OSError, match="ends too early"):
        read_fully(file, list(read), 8192 + ALIGNMENT)
    file.close()
    disk.close()


def test_aligned_buffers_are_aligned() -> None:
    for length in (1, 4096, 5000, 2**20):
        buffer = aligned_buffer(length)
        assert address(buffer) % ALIGNMENT == 0
        assert buffer.nbytes == length
        assert not buffer.any()
        buffer[:] = 1
